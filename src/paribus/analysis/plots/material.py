"""What figures are made from, and how variants are told apart in them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from paribus.analysis.cells import Results, Row
from paribus.analysis.plots.canvas import COLOURS, DASHES, GREY, OTHERS, Canvas
from paribus.analysis.plots.fonts import Found, cover
from paribus.analysis.spanned import Spanned, spanned
from paribus.analysis.stats import Sample
from paribus.analysis.tables import Table, table
from paribus.study.measures import Node

if TYPE_CHECKING:
    from paribus.analysis.verdicts import Verdict

Curve = Sequence[tuple[int, float]]
Checks = Mapping[str, Sequence[Mapping[str, Any]]]
Point = dict[str, Any]  # a row of a figure's data
SINGLE = 12  # lines that one panel holds
PANELS = 36
FEW = 12  # panels that are looked at together with ease
SLIM = 4.2  # inches of a narrow figure


class Look(NamedTuple):
    """How a variant is drawn: lines of one label are one entry of the legend."""

    label: str
    colour: str
    dash: Any
    panel: str


class Material:
    """A study, its results, and what else figures need.

    Args:
        records: rows, or `Results`.
        curves: "loss" and "lr" -> trial name -> [(step, value)].
        checks: trial name -> evaluations during training.
        audits: trial name -> the audit of its parameters.
        imports: arms that were measured elsewhere.
    """

    def __init__(
        self,
        study: Node,
        records: Iterable[Row] | Results,
        verdicts: Sequence[Verdict] = (),
        curves: Mapping[str, Mapping[str, Curve]] | None = None,
        checks: Checks | None = None,
        imports: Sequence[Mapping[str, Any]] = (),
        audits: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.study = study
        self.results = records if isinstance(records, Results) else Results(study, records)
        self.verdicts, self.curves = verdicts, curves or {}
        self.checks, self.imports, self.audits = checks or {}, imports, dict(audits or {})
        self._tables: dict[str, Table] = {}
        self.narrow = False  # whether figures are for the width of a phone

    def table(self, metric: str | None = None) -> Table:
        metric = metric or self.study["primary"]
        if metric not in self._tables:
            self._tables[metric] = table(self.study, self.results, metric, imports=self.imports)
        return self._tables[metric]

    @property
    def any(self) -> bool:
        return bool(self.results.best)

    @cached_property
    def spans(self) -> list[Spanned]:
        """How far each arm's memory reaches, along each probe that has an axis."""
        return spanned(self.results, self.chosen)

    @cached_property
    def fonts(self) -> Found:
        """Fonts for everything that a figure may show of this study."""
        texts = list(_texts([self.study["factors"], self.study["metrics"], self.imports]))
        texts += [v["name"] for v in self.study["variants"]]
        texts += [c["evaluation"] for c in self.study["conditions"]]
        texts += [v.name for v in self.verdicts]
        texts += _texts(self.study.get("baselines", {}))
        return cover(texts)

    def canvas(
        self,
        name: str,
        size: tuple[float, float],
        lines: int = 1,
        columns: int = 1,
        **more: Any,
    ) -> Canvas:
        """A canvas of the size that is asked for; of a phone's width where figures are narrow."""
        if self.narrow:
            name, size = f"{name}-slim", (SLIM, max(size[1], 2.6))
        return Canvas(name, size, lines, columns, self.fonts.families, **more)

    @cached_property
    def slim(self) -> Material:
        """The same, whose figures are drawn for the width of a phone."""
        other = copy.copy(self)
        other.narrow = True
        return other

    def across(self, most: int, panels: int) -> int:
        """How many of so many panels stand side by side."""
        return 1 if self.narrow else min(most, panels)

    def levels(self, factor: str) -> list[Any]:
        return next(f["levels"] for f in self.study["factors"] if f["name"] == factor)

    @cached_property
    def chosen(self) -> dict[str, None]:
        """Names of the variants that figures and tables show: under tuned factors, those that
        were chosen; an arm whose choice is not possible yet is shown by its first variant."""
        variants = self.study["variants"]
        return {variants[i]["name"]: None for i in sorted(self.results.chosen)}

    @cached_property
    def of(self) -> dict[str, str]:
        """Trial name -> variant name."""
        return {t["name"]: self.study["variants"][t["variant"]]["name"]
                for t in self.study["trials"]}  # fmt: skip

    @cached_property
    def factors(self) -> list[Node]:
        """Variant factors that tell shown variants apart, tuned ones apart."""
        return [
            f
            for f in self.study["factors"]
            if f["kind"] == "variant" and not f.get("tuned") and len(f["levels"]) > 1
        ]

    @cached_property
    def looks(self) -> dict[str, Look]:
        """How each variant is drawn.  A few have a colour each.  Of many the colour tells the
        level of a factor that has no more levels than there are colours, and the panel the other
        levels: of the first such factor that leaves a few panels, else of the one that leaves
        fewest.  Arms that lack it are grey."""
        names, by = list(self.chosen), self.coloured
        if by is None:
            return {
                n: Look(n, COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)], "")
                for i, n in enumerate(names)
            }
        order = [v["tag"] for v in by["levels"]]
        rest = [f["name"] for f in self.factors if f is not by]
        out = {}
        for v in self.study["variants"]:
            if v["name"] in self.chosen:
                tag = v["levels"].get(by["name"])
                colour = COLOURS[order.index(tag)] if tag in order else GREY
                label = OTHERS if tag is None else f"{by['name']}={tag}"
                panel = ", ".join(
                    f"{f}={v['levels'][f]}" for f in rest if v["levels"].get(f) is not None
                )
                out[v["name"]] = Look(label, colour, "-", panel)
        return out

    @cached_property
    def coloured(self) -> Node | None:
        """The factor whose levels colours tell; None: each variant has its own.  One that most
        variants lack is taken only where there is no other."""
        if len(self.chosen) <= SINGLE:
            return None
        able = [f for f in self.factors if len(f["levels"]) <= len(COLOURS)]
        shown = [v["levels"] for v in self.study["variants"] if v["name"] in self.chosen]
        there = {f["name"]: sum(x.get(f["name"]) is not None for x in shown) for f in able}
        able = [f for f in able if 2 * there[f["name"]] >= len(shown)] or able
        few = (f for f in able if self._panels(f) <= FEW)
        return next(few, min(able, key=self._panels, default=None))

    def _panels(self, by: Node) -> int:
        """Panels where the colour tells the levels of a factor."""
        rest = [f["name"] for f in self.factors if f is not by]
        shown = (v for v in self.study["variants"] if v["name"] in self.chosen)
        return len({tuple(v["levels"].get(f) for f in rest) for v in shown})

    @cached_property
    def planned(self) -> dict[str, int]:
        """Variant name -> its trials."""
        out: dict[str, int] = {}
        for name in self.of.values():
            out[name] = out.get(name, 0) + 1
        return out


def _texts(x: Any) -> Iterable[str]:
    if isinstance(x, str):
        yield x
    elif isinstance(x, Mapping):
        for key, value in x.items():
            yield from _texts(key)
            yield from _texts(value)
    elif isinstance(x, list | tuple):
        for value in x:
            yield from _texts(value)


def is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def finite(x: Any) -> bool:
    return is_number(x) and math.isfinite(x)


def mean_point(values: Sequence[float], of: int, alpha: float = 0.05) -> Point:
    """n of how many, mean, and the 1 − 2 alpha interval where there is one."""
    s = Sample(tuple(values))
    low, high = s.interval(alpha) if s.n > 1 else (None, None)
    return {"n": s.n, "of": of, "y": s.mean, "low": low, "high": high}

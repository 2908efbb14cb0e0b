"""Spans of each arm along the axis of a probe, from a study's records: the seed is the unit.

Of each seed: where its accuracy along the axis, corrected for the control where the probe has one,
falls to a half and to nine tenths (`spans.crossing`, without a form).  Of an arm: the median of its
seeds, between the lowest and the highest, so that a span beyond what was asked ("> 512", "< 4")
keeps its place in the order and is no number.  The effective window is the largest place up to
which, from that of the largest gain on, the lower end of the 90 % t-interval over seeds is above 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from paribus.analysis import slices, spans
from paribus.analysis.cells import Results, condition_label
from paribus.analysis.stats import Sample
from paribus.study.measures import COUNTS as COUNTS
from paribus.study.measures import Node

ALPHA = 0.05  # of each end of an interval over seeds


class Spanned(NamedTuple):
    """An arm along one curve.

    Attributes:
        evaluation: as it is called.
        curve: the level of the slice that tells curves apart (a source); "": there is one.
        seeds, planned: with values at two places or more, and in all.
        found: "L50", "L90" -> the seeds' spans, the lowest first.
        asked: the lowest and the highest place on the axis.
        window: the effective window; None: the probe has no gain, or there is one seed.
        ratios: of the effective window to the model's direct "window" and to its "field".
        unit: what the axis counts.
    """

    evaluation: str
    curve: str
    variant: str
    seeds: int
    planned: int
    found: dict[str, list[spans.Span]]
    asked: tuple[float, float]
    window: spans.Span | None
    ratios: dict[str, float]
    unit: str = "tokens"

    def middle(self, level: str) -> spans.Span:
        """The median seed's span; of an even number the lower of the two in the middle."""
        return self.found[level][(self.seeds - 1) // 2]

    def text(self, level: str) -> str:
        """The median over seeds, and in brackets the lowest and the highest one."""
        own = self.found[level]
        low, middle, high = str(own[0]), str(self.middle(level)), str(own[-1])
        said = middle if low == high else f"{middle} [{low}, {high}]"
        return said if self.unit == "tokens" else f"{said} {self.unit}"

    def cells(self) -> dict[str, str]:
        """What a table shows."""
        window = "–" if self.window is None else self.window.censored or f"{self.window.value:g}"
        return {
            "L50": self.text("L50"),
            "L90": self.text("L90"),
            "effective window": window,
            "/ direct": _ratio(self.ratios.get("window")),
            "/ theoretical": _ratio(self.ratios.get("field")),
        }

    def data(self) -> dict[str, Any]:
        """A row of a table of plain data; a span beyond what was asked is text."""
        row: dict[str, Any] = {"evaluation": self.evaluation, "curve": self.curve,
                               "variant": self.variant, "n": self.seeds,
                               "unit": self.unit}  # fmt: skip
        for level, own in self.found.items():
            for what, one in (("", self.middle(level)), (" lowest", own[0]), (" highest", own[-1])):
                row[f"{level}{what}"] = _plain(one)
        row["effective window"] = None if self.window is None else _plain(self.window)
        return row | {
            "effective / direct": self.ratios.get("window"),
            "effective / theoretical": self.ratios.get("field"),
        }


def _ratio(x: float | None) -> str:
    return "–" if x is None else f"{x:.3g}"


def _plain(span: spans.Span) -> float | str:
    return span.censored or str(span) if span.value is None else round(span.value, 4)


def conditions(results: Results) -> Iterator[Node]:
    """Judged conditions of probes with an axis whose slices are recorded."""
    for c in results.study["conditions"]:
        if c.get("curve") and c["split"] == "test" and places(results, c):
            yield c


def name(condition: Node) -> str:
    label = condition_label(condition)
    evaluation = str(condition["evaluation"])
    return evaluation if label == evaluation else f"{evaluation} {label}"


def places(results: Results, c: Node) -> dict[str, tuple[str, float]]:
    """Slice -> (which curve, place on the axis): of cells "curve@place" where they were recorded,
    else of the axis alone."""
    levels, curve = slices.levels(results, c), c["curve"]
    cells = [x.rpartition("@") for x in levels.get("cell", ())] if curve["by"] else []
    if cells and all(at for _, at, _ in cells):
        return {f"cell={a}@{b}": (a, float(b)) for a, _, b in cells}
    return {f"{curve['axis']}={x}": ("", float(x)) for x in levels.get(curve["axis"], ())}


def spanned(results: Results, arms: Iterable[str]) -> list[Spanned]:
    """Every curve of these arms, in the order of conditions, curves and arms."""
    arms, out = list(arms), []
    for c in conditions(results):
        where = places(results, c)
        for curve in dict.fromkeys(of for of, _ in where.values()):
            at = sorted((x, slice_) for slice_, (of, x) in where.items() if of == curve)
            found = (_arm(results, c, curve, at, arm) for arm in arms if len(at) > 1)
            out += [x for x in found if x is not None]
    return out


def of_seed(
    results: Results, condition: Node, at: Sequence[tuple[float, str]], trial: Node
) -> dict[str, spans.Span] | None:
    """ "L50", "L90" of one trial; None: it has fewer than two values.

    Args:
        at: (place on the axis, slice) of one curve, in order.
    """
    told = condition["curve"]
    y = _values(results, condition, at, trial, told["metric"])
    if len(y) < 2:
        return None
    control = _values(results, condition, at, trial, told["control"]) if told["control"] else {}
    guess = [min(max(control.get(x, 0.0), 0.0), 1 - 1e-6) for x in y]
    return {
        f"L{100 * q:.0f}": spans.crossing(list(y), list(y.values()), guess, q) for q in spans.LEVELS
    }


def of_slice(
    results: Results, condition: Node, level: str, slice: str, trial: Node
) -> spans.Span | None:
    """A trial's span along the curve that a slice names ("source=text"; "": there is one).  None
    where a place has no number, or there are fewer than two."""
    curve = slice.partition("=")[2]
    where = places(results, condition)
    at = sorted((x, name) for name, (of, x) in where.items() if of == curve)
    told = condition["curve"]
    for metric in filter(None, (told["metric"], told["control"])):
        rows = (results.row(trial["name"], metric, condition, name) for _, name in at)
        if any(row is not None and not math.isfinite(row["value"]) for row in rows):
            return None
    found = of_seed(results, condition, at, trial)
    return None if found is None else found[level]


def _values(
    results: Results, condition: Node, at: Sequence[tuple[float, str]], trial: Node, metric: str
) -> dict[float, float]:
    rows = ((x, results.row(trial["name"], metric, condition, s)) for x, s in at)
    return {
        x: float(row["value"]) for x, row in rows if row is not None and math.isfinite(row["value"])
    }


def _arm(
    results: Results, condition: Node, curve: str, at: Sequence[tuple[float, str]], arm: str
) -> Spanned | None:
    study, told = results.study, condition["curve"]
    trials = [t for t in study["trials"] if study["variants"][t["variant"]]["name"] == arm]
    each = [(t, one) for t in trials if (one := of_seed(results, condition, at, t)) is not None]
    if not each:
        return None
    found = {level: sorted((one[level] for _, one in each), key=spans.end) for level in each[0][1]}
    window, ratios = None, dict[str, float]()
    if told["gain"] and len(each) > 1:
        window = _window([_values(results, condition, at, t, told["gain"]) for t, _ in each])
        reach: Mapping[str, Any] = study["variants_info"][arm].get("reach") or {}
        reach = reach if told["axis"] not in COUNTS else {}
        ratios = {k: window.value / x for k, x in reach.items() if x and window.value is not None}
    asked = at[0][0], at[-1][0]
    unit = told["axis"] if told["axis"] in COUNTS else "tokens"
    return Spanned(name(condition), curve, arm, len(each), len(trials), found, asked, window,
                   ratios, unit)  # fmt: skip


def _window(gains: Sequence[Mapping[float, float]]) -> spans.Span:
    """Of the gains of each seed, at the places that all of them have."""
    xs = sorted(set.intersection(*(set(g) for g in gains)))
    each = [Sample(tuple(g[x] for g in gains)) for x in xs]
    return spans.effective(xs, [s.mean for s in each], [s.interval(ALPHA)[0] for s in each])

"""What each arm learned: whether it is above the trivial baselines, and on which slices.

Let d_1 … d_n be a variant's values minus a baseline's at a condition, one a seed, turned so that
more is better.  "Above" is H0: E d <= 0, tested by the one-sided t-test over seeds (`stats`), times
the choices of tuned factors, with Holm's correction over all variants, conditions and baselines
that are shown; "below" is the same in the other direction, a family of its own.  What is not
above, with all seeds within a tolerance of the baseline, is "at" it.  One seed, or fewer than
planned, describe.

Slices are described: above where every seed is, beyond the tolerance.  All of it explores; what is
claimed is judged by hypotheses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from paribus.analysis import slices
from paribus.analysis.plots.axes import Axis, axis_of
from paribus.analysis.plots.material import Material
from paribus.analysis.stats import Sample, holm
from paribus.analysis.tables import Entry, Table
from paribus.study.measures import Node

ALPHA = 0.05  # of each direction, after Holm
LEVEL = 0.9  # of the intervals, two-sided
SHARE = 0.002  # the tolerance of a share
RELATIVE = 0.001  # of any other metric, of the baseline's value


@dataclass(frozen=True)
class Against:
    """A variant and a trivial baseline.

    ``stands``: "above", "below" or "at"; else "open" (above in the mean, not shown) or "short" (not
    even that); "over" and "under" where nothing is tested.  Above is better, whichever direction
    the metric has; ``effect`` is the variant's mean minus the baseline's value as they are.
    """

    baseline: str
    trivial: float
    effect: float
    gain: float  # the effect, turned so that more is better
    low: float | None  # None: one seed
    high: float | None
    n: int
    of: int
    better: int  # seeds that are better than the baseline
    above: float | None  # p-values of both directions; None: not tested
    below: float | None
    close: bool  # every seed is within the tolerance
    stands: str = ""


@dataclass(frozen=True)
class Part:
    """A slice: ``against``: baseline -> (mean difference, +1 where every seed is better, −1 where
    every seed is worse, else 0)."""

    name: str
    mean: float
    items: float | None
    against: Mapping[str, tuple[float, int]]


@dataclass(frozen=True)
class Row:
    """A variant at a judged condition; ``parts`` are of the metric ``Learned.sliced``."""

    variant: str
    condition: Node
    label: str
    mean: float
    against: tuple[Against, ...]
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Learned:
    """``tests``: how many comparisons Holm's correction is over."""

    metric: str
    unit: str
    better: str
    share: bool
    sliced: str
    sliced_better: str
    rows: tuple[Row, ...]
    axis: Axis | None

    @cached_property
    def tests(self) -> int:
        return sum(a.above is not None for r in self.rows for a in r.against)

    @property
    def tolerance(self) -> float:
        return SHARE if self.share else RELATIVE

    def data(self) -> list[dict[str, Any]]:
        """A row for each comparison, as plain data."""
        return [
            {
                "variant": r.variant,
                "condition": r.label,
                "metric": self.metric,
                "baseline": a.baseline,
                "baseline_value": a.trivial,
                "difference": a.effect,
                "low": a.low,
                "high": a.high,
                "level": LEVEL,
                "n": a.n,
                "of": a.of,
                "p": a.above,
                "stands": a.stands,
            }
            for r in self.rows
            for a in r.against
        ]


def learned(m: Material) -> Learned | None:
    """Every shown variant at every judged condition; None where nothing is known to compare."""
    study, results = m.study, m.results
    t = m.table()
    judged = {id(c) for c in results.settings(t.metric)}
    columns = [k for k, c in enumerate(t.conditions) if id(c) in judged]
    known = [v for _, row in t.rows for e in row if e for v in e.values]
    share = not t.unit.startswith("nat") and all(0 <= v <= 1 for v in known)
    shown = {id(c) for c in slices.conditions(results)}
    tries = math.prod(len(f["levels"]) for f in study["factors"] if f.get("tuned"))
    rows: list[Row] = []
    for k in columns:
        c = t.conditions[k]
        parts = _parts(m, c, share) if id(c) in shown else {}
        for name, line in t.rows:
            e = line[k]
            if name not in m.chosen or e is None or not e.values:
                continue
            found = tuple(_against(t, name, k, e, share, tries))
            if found:
                mean = Sample(e.values).mean
                rows.append(Row(name, c, t.columns[k], mean, found, tuple(parts.get(name, ()))))
    if not rows:
        return None
    sliced = next((slices.metric_of(results, c) for c in slices.conditions(results)), t.metric)
    order = {n: i for i, n in enumerate(m.chosen)}
    rows.sort(key=lambda r: order[r.variant])
    turn = study["metrics"][sliced]["better"]
    return Learned(t.metric, t.unit, t.better, share, sliced, turn, _decided(rows), axis_of(m))


def _against(t: Table, name: str, k: int, e: Entry, share: bool, tries: int) -> Iterator[Against]:
    sign = 1 if t.better == "higher" else -1
    for baseline, line in t.trivial.get(name, {}).items():
        if (value := line[k]) is None:
            continue
        d = Sample(tuple(sign * (v - value) for v in e.values))
        tested = d.n > 1 and e.whole
        near = SHARE if share else RELATIVE * abs(value)
        low, high = sorted(sign * x for x in d.interval((1 - LEVEL) / 2)) if d.n > 1 else (0, 0)
        yield Against(
            baseline,
            value,
            sign * d.mean,
            d.mean,
            low if d.n > 1 else None,
            high if d.n > 1 else None,
            d.n,
            e.planned,
            sum(x > 0 for x in d.values),
            min(1.0, tries * d.p_above()) if tested else None,
            min(1.0, tries * d.p_below()) if tested else None,
            max(map(abs, d.values)) <= near,
        )


def _decided(rows: Sequence[Row]) -> tuple[Row, ...]:
    """With what each comparison comes to, after Holm's correction over all of them."""
    tested = [a for r in rows for a in r.against if a.above is not None]
    up = dict(zip(map(id, tested), holm([a.above or 0.0 for a in tested]), strict=True))
    down = dict(zip(map(id, tested), holm([a.below or 0.0 for a in tested]), strict=True))
    out = []
    for r in rows:
        found = []
        for a in r.against:
            if id(a) not in up:
                stands = "at" if a.close else "over" if a.gain > 0 else "under"
                found.append(replace(a, stands=stands))
                continue
            if up[id(a)] < ALPHA:
                stands = "above"
            elif a.close:
                stands = "at"
            else:
                stands = "below" if down[id(a)] < ALPHA else "open" if a.gain > 0 else "short"
            found.append(replace(a, above=up[id(a)], below=down[id(a)], stands=stands))
        out.append(replace(r, against=tuple(found)))
    return tuple(out)


def _parts(m: Material, condition: Node, share: bool) -> dict[str, list[Part]]:
    """Variant -> its slices."""
    study, results = m.study, m.results
    metric = slices.metric_of(results, condition)
    sign = 1 if study["metrics"][metric]["better"] == "higher" else -1
    counts = slices.items(results, metric, condition)
    trials = {trial["variant"]: trial for trial in study["trials"]}
    out: dict[str, list[Part]] = {}
    for i, name, e in slices.entries(results, metric, condition):
        variant = study["variants"][i]["name"]
        against: dict[str, tuple[float, int]] = {}
        for b, of in slices.trivial(results, trials[i], condition).items():
            if (value := of.get(name, {}).get(metric)) is None:
                continue
            near = SHARE if share else RELATIVE * abs(value)
            d = [sign * (v - value) for v in e.values]
            way = 1 if min(d) > near else -1 if max(d) < -near else 0
            against[b] = sign * math.fsum(d) / len(d), way
        part = Part(name, Sample(e.values).mean, counts.get(variant, {}).get(name), against)
        out.setdefault(variant, []).append(part)
    return out

"""Variants of a table against each other: which are best within noise, which beat the trivial
baselines, how far each is from the baseline arm.  All of it describes; verdicts alone test.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from paribus.analysis.cells import Results, Row, perplexity
from paribus.analysis.settings import baseline, references
from paribus.analysis.stats import Sample, benjamini_hochberg
from paribus.analysis.tables import Entry, Table, fixed, table
from paribus.analysis.words import number
from paribus.errors import SpecError
from paribus.study.measures import Node

LEVEL = 0.95  # of the intervals here, two-sided


def best(t: Table, column: int, among: Collection[str]) -> frozenset[str]:
    """The variants that are best within noise at a condition.

    The variant with the best mean, and each other one whose difference to it, paired by seed over
    the seeds common to both, has a 95 % t-interval that includes 0.  Only variants that lack no
    seed take part, so that no mean over what happens to be there wins.  With one seed there is no
    noise to judge by, and with one such variant nothing to be better than: no set.
    """
    here = {name: row[column] for name, row in t.rows if name in among}
    entries = {n: e for n, e in here.items() if e and e.whole and len(e.by_seed) > 1}
    if len(entries) < 2:  # best of one says nothing
        return frozenset()
    sign = -1 if t.better == "higher" else 1
    first = min(entries, key=lambda n: sign * Sample(entries[n].values).mean)
    out = {first}
    for name, entry in entries.items():
        d = paired(entry, entries[first])
        low, high = d.interval((1 - LEVEL) / 2) if d.n > 1 else (1.0, -1.0)
        if low <= 0 <= high:
            out.add(name)
    return frozenset(out)


def paired(a: Entry, b: Entry) -> Sample:
    """a − b by seed, over the seeds common to both."""
    return Sample(tuple(v - b.by_seed[s] for s, v in a.by_seed.items() if s in b.by_seed))


def trivial(t: Table, column: int, name: str) -> bool:
    """Whether a variant's mean is no better than the best trivial baseline there."""
    entry = next(row[column] for n, row in t.rows if n == name)
    sign = -1 if t.better == "higher" else 1
    known = [
        sign * v for line in t.trivial.get(name, {}).values() if (v := line[column]) is not None
    ]
    return bool(known and entry and entry.values) and (
        sign * Sample(entry.values).mean >= min(known)  # type: ignore[union-attr]
    )


@dataclass(frozen=True)
class Difference:
    """A variant minus its baseline arm at a condition, over the seeds that both have."""

    mean: float
    low: float | None  # None: one seed
    high: float | None
    n: int
    of: int
    percent: float | None
    percent_of: str  # "": of the baseline's mean; "PPL": of perplexity
    p: float | None = None  # two-sided, of the paired t-test; None: one seed
    clear: bool = False  # beyond 0 at a false discovery rate of 5 % over the table

    def text(self, decimals: int | None) -> str:
        """ "−0.012 [−0.020, −0.004]"."""
        said = signed(self.mean, decimals)
        if self.low is not None and self.high is not None:
            said += f" [{signed(self.low, decimals)}, {signed(self.high, decimals)}]"
        return said

    def share(self) -> str:
        """ "−1.2 % PPL"."""
        if self.percent is None:
            return ""
        shown = number(self.percent, max(abs(self.percent), 0.1))
        return f"{'+' * (self.percent > 0)}{shown} %{' ' * bool(self.percent_of)}{self.percent_of}"


def signed(x: float, decimals: int | None) -> str:
    text = fixed(x, decimals)
    return f"+{text}" if x > 0 else text


def differences(
    study: Node, t: Table, among: Collection[str] | None = None
) -> dict[str, tuple[str, tuple[Difference | None, ...]]]:
    """Variant -> the variant of the baseline arm that it is held against, and the difference at
    each condition; None where no seed has both.  {} where the study names no baseline arm.

    ``among``: the variants that are compared (default: all); of a tuned study the chosen ones,
    each against what was chosen for the baseline arm.
    """
    import math

    rows = dict(t.rows)
    tuned = {f["name"] for f in study["factors"] if f.get("tuned")}
    shown = [
        {**v, "levels": {f: tag for f, tag in v["levels"].items() if f not in tuned}}
        for v in study["variants"]
        if among is None or v["name"] in among
    ]
    against = references(study if among is None else {**study, "variants": shown})
    of_losses = perplexity({"op": "metric", "metric": t.metric}, study, True)
    out = {}
    for name, row in t.rows:
        base = against.get(name)
        if (
            (among is not None and name not in among)
            or name in t.reference
            or base not in t.reference
            or base not in rows
        ):
            continue
        line: list[Difference | None] = []
        for a, b in zip(row, rows[base], strict=True):
            d = paired(a, b) if a and b else Sample(())
            if not a or not b or not d.n:
                line.append(None)
                continue
            low, high = d.interval((1 - LEVEL) / 2) if d.n > 1 else (None, None)
            level = Sample(tuple(v for s, v in b.by_seed.items() if s in a.by_seed)).mean
            share = 100 * math.expm1(min(d.mean, 50.0)) if of_losses else (
                100 * d.mean / abs(level) if level else None)  # fmt: skip
            p = min(1.0, 2 * min(d.p_below(), d.p_above())) if d.n > 1 else None
            found = Difference(
                d.mean, low, high, d.n, max(a.planned, b.planned), share,
                "PPL" if of_losses else "", p,
            )  # fmt: skip
            line.append(found)
        out[name] = base, tuple(line)
    return _adjusted(out)


Compared = dict[str, tuple[str, tuple[Difference | None, ...]]]


def _adjusted(found: Compared) -> Compared:
    """With ``clear`` by Benjamini and Hochberg (1995) over all cells: of many cells some are
    beyond 0 by chance."""
    tested = [d for _, line in found.values() for d in line if d and d.p is not None]
    ps = benjamini_hochberg([d.p for d in tested if d.p is not None])
    clear = {id(d) for d, p in zip(tested, ps, strict=True) if p < 1 - LEVEL}
    return {
        name: (base, tuple(replace(d, clear=id(d) in clear) if d else None for d in line))
        for name, (base, line) in found.items()
    }


def need(study: Node) -> None:
    """SpecError unless the study names a baseline arm."""
    if not baseline(study):
        raise SpecError(
            f"study {study['name']!r} names no baseline arm, so there are no differences: "
            "baseline=factor[level]"
        )


def rows(study: Node, t: Table, among: Collection[str] | None = None) -> list[dict[str, Any]]:
    """The differences as tidy rows, for files."""
    levels: Mapping[str, Mapping[str, Any]] = {v["name"]: v["levels"] for v in study["variants"]}
    return [
        {
            "study": study["instance"],
            "variant": name,
            "baseline": base,
            **levels[name],
            "evaluation": c["evaluation"],
            **c["levels"],
            "metric": t.metric,
            "difference": d.mean,
            "low": d.low,
            "high": d.high,
            "level": LEVEL,
            "n": d.n,
            "of": d.of,
            "percent": d.percent,
            "percent_of": d.percent_of or "mean",
            "p": d.p,
            "clear": d.clear,
            "unit": t.unit,
        }
        for name, (base, line) in differences(study, t, among).items()
        for c, d in zip(t.conditions, line, strict=True)
        if d is not None
    ]


def of_study(study: Node, records: Iterable[Row], metric: str | None) -> list[dict[str, Any]]:
    """The differences of a metric as tidy rows; under tuned factors those of the chosen variants.

    Raises:
        SpecError: no baseline arm, or no such metric.
    """
    need(study)
    results = Results(study, records)
    chosen = {study["variants"][i]["name"] for i in results.chosen}
    return rows(study, table(study, results, metric), chosen)

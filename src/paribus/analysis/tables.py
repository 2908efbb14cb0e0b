"""Tables: a pivot for the terminal, a wide table by the study's template, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any

from paribus.analysis.cells import Results, Row, condition_label
from paribus.analysis.settings import baseline
from paribus.analysis.stats import Sample
from paribus.errors import ParibusError, SpecError, nearest
from paribus.study.measures import Missing, Node


@dataclass(frozen=True)
class Entry:
    """A variant at a condition: the values of its seeds, and the states of seeds without one."""

    by_seed: Mapping[int, float]
    states: Mapping[str, int]

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(self.by_seed.values())

    @property
    def planned(self) -> int:
        return len(self.by_seed) + sum(self.states.values())

    @property
    def whole(self) -> bool:
        return bool(self.by_seed) and not self.states

    @property
    def lost(self) -> str:
        """ "1 diverged, 2 running"."""
        return ", ".join(f"{k} {state}" for state, k in self.states.items())

    def text(self, n: int, decimals: int | None) -> str:
        """ "3.214 ± 0.012"; with what is missing of ``n`` seeds: "… (4/5; 1 diverged)"."""
        if not self.by_seed:
            return self.lost if len(self.states) > 1 else next(iter(self.states), "–")
        s = Sample(self.values)
        text = fixed(s.mean, decimals) + (f" ± {fixed(s.sd, decimals)}" if s.n > 1 else "")
        states = f"; {self.lost}" if self.states else ""
        return text if s.n == n else f"{text} ({s.n}/{n}{states})"


Line = tuple[str, tuple[Entry | None, ...]]
Trivial = float | tuple[float, float] | None
"""A trivial baseline's value at a condition; its least and largest where arms have their own."""


@dataclass(frozen=True)
class Table:
    """Variants by conditions, for one metric."""

    metric: str
    unit: str
    better: str
    n: int
    columns: tuple[str, ...]
    rows: tuple[Line, ...]  # None: the condition is not its own
    baselines: tuple[tuple[str, tuple[Trivial, ...]], ...]
    reference: tuple[str, ...] = ()  # the variants of the study's baseline arm
    imports: tuple[Line, ...] = ()  # arms that were measured elsewhere
    conditions: tuple[Node, ...] = ()  # of the columns
    trivial: Mapping[str, Mapping[str, tuple[float | None, ...]]] = field(default_factory=dict)
    """Variant -> trivial baseline -> its value at each condition."""
    slices: str = ""  # the condition whose slices the columns are; "": they are conditions
    items: tuple[tuple[str, tuple[Trivial, ...]], ...] = ()  # how many each slice holds

    @cached_property
    def decimals(self) -> int | None:
        """One number of decimals for all cells; None: they are too large or too small for any.

        Four digits at least, because arms share their seeds: differences that count are smaller
        than the spread.  More where that gives the smallest spread two digits, but a spread far
        below the others, of a level that all seeds reach, must not lengthen every number."""
        samples = [Sample(e.values) for _, row in self.rows for e in row if e and e.values]
        if not samples:
            known = (ends(v) for _, row in self.baselines for v in row)
            samples = [Sample((x,)) for pair in known for x in pair]
        spreads = sorted(s.sd for s in samples if s.n > 1 and s.sd > 0)
        means = sorted(abs(s.mean) for s in samples if s.mean)
        if not means or not 1e-4 <= means[len(means) // 2] < 1e7:
            return None if means else 0
        least = places(means[len(means) // 2], 4)
        if self.slices:  # of few items each
            return places(max(1.0, means[-1]), 4)
        if not spreads:
            return least
        return max(least, min(places(spreads[0], 2), places(spreads[len(spreads) // 2], 3)))

    def texts(self, mark: str = " (baseline)") -> list[list[str]]:
        """Rows of text: variants, then trivial baselines; ``mark`` follows the names of the
        baseline arm."""
        d = self.decimals
        out = []
        for name, row in self.rows:
            shown = [e.text(self.n, d) if e else "" for e in row]
            out.append([name + mark * (name in self.reference), *shown])
        for name, row in self.imports:
            shown = [e.text(e.planned, d) if e else "–" for e in row]
            out.append([f"{name} (imported)", *shown])
        for name, values in self.baselines:
            out.append([name, *(spanned(v, d) or "–" for v in values)])
        for name, values in self.items:
            out.append([f"items {name}".rstrip(), *(spanned(v, 0) or "–" for v in values)])
        return out


def places(x: float, digits: int) -> int:
    """Decimals that show so many digits of a number."""
    return max(0, digits - 1 - math.floor(math.log10(x)))


def fixed(x: float, decimals: int | None) -> str:
    text = f"{x:.3e}" if decimals is None or abs(x) >= 1e9 else f"{x:.{decimals}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def judged(conditions: Sequence[Node]) -> list[int]:
    """Which conditions judge: those of the test split; all where there are none."""
    found = [k for k, c in enumerate(conditions) if c.get("split") in (None, "test")]
    return found or list(range(len(conditions)))


def ends(value: Trivial) -> tuple[float, ...]:
    """Least and largest of a trivial baseline's values at a condition; () where there is none."""
    return value if isinstance(value, tuple) else () if value is None else (value,)


def spanned(value: Trivial, decimals: int | None) -> str:
    """ "0.733", or "0.710…0.760" where the arms of a line have values of their own."""
    return "…".join(fixed(x, decimals) for x in ends(value))


def table(
    study: Node,
    records: Iterable[Row] | Results,
    metric: str | None = None,
    *,
    imports: Sequence[Mapping[str, Any]] = (),
) -> Table:
    """The pivot as data; ``metric``: default the primary one; ``imports``: arms that were
    measured elsewhere."""
    results = records if isinstance(records, Results) else Results(study, records)
    metric = metric or study["primary"]
    need(study, metric)
    seen = study["metrics"][metric].get("evaluations") or sorted(results.seen.get(metric, ()))
    conditions = [c for c in study["conditions"] if not seen or c["evaluation"] in seen]
    rows = []
    by_variant: dict[int, list[Node]] = {}
    for trial in study["trials"]:
        by_variant.setdefault(trial["variant"], []).append(trial)
    for i, variant in enumerate(study["variants"]):
        trials = by_variant.get(i, [])
        row = [entry(results, trials, metric, c) for c in conditions]
        rows.append((variant["name"], tuple(row)))
    trivial = _trivial(results, metric, conditions)
    info = study["metrics"][metric]
    several = len({c["evaluation"] for c in conditions}) > 1
    labels = [
        f"{c['evaluation']}: {condition_label(c)}"
        if several and c["levels"]
        else condition_label(c)
        for c in conditions
    ]
    return Table(
        metric,
        info["unit"],
        info["better"],
        len(study["seeds"]),
        tuple(labels),
        tuple(rows),
        tuple(grouped(study, trivial, judged(conditions))),
        tuple(baseline(study)),
        tuple(_imported(arm, metric, conditions) for arm in imports),
        tuple(conditions),
        trivial,
    )


Known = dict[str, dict[str, tuple[float | None, ...]]]


def _trivial(results: Results, metric: str, conditions: Sequence[Node]) -> Known:
    """Variant -> trivial baseline -> its value at each condition."""
    out: dict[str, dict[str, list[float | None]]] = {}
    for k, condition in enumerate(conditions):
        for trial in results.study["trials"]:
            variant = results.study["variants"][trial["variant"]]["name"]
            for name, of in results.baselines(trial, condition).items():
                if metric in of:
                    line = out.setdefault(variant, {}).setdefault(name, [None] * len(conditions))
                    line[k] = of[metric] if line[k] is None else line[k]
    return {v: {n: tuple(line) for n, line in of.items()} for v, of in out.items()}


def grouped(
    study: Node,
    known: Mapping[str, Mapping[str, tuple[float | None, ...]]],
    by: Iterable[int],
) -> Iterator[tuple[str, tuple[Trivial, ...]]]:
    """A line for each trivial baseline; where arms have values of their own, one for each level of
    the factors that decide those at the conditions ``by``."""
    shown = list(by)
    for name in dict.fromkeys(n for of in known.values() for n in of):
        lines = {v: of[name] for v, of in known.items() if name in of}
        for label, who in decided(study, {v: [x[k] for k in shown] for v, x in lines.items()}):
            columns = zip(*(lines[v] for v in who), strict=True)
            yield f"{name} {label}".rstrip(), tuple(span(c) for c in columns)


def span(values: Sequence[float | None]) -> Trivial:
    """The value that all share, or the least and the largest."""
    known = [v for v in values if v is not None]
    if not known:
        return None
    low, high = min(known), max(known)
    return low if low == high else (low, high)


def decided(study: Node, values: Mapping[str, Sequence[Any]]) -> list[tuple[str, list[str]]]:
    """Variants of equal values together, each group with its name: "" for all of them, "at V=5"
    by the fewest factors that decide the values, "of <variant>" where none do."""
    by = deciding(study, values)
    if by is None:
        return [(f"of {v}", [v]) for v in values]
    levels = {v["name"]: v["levels"] for v in study["variants"]}
    groups: dict[tuple[Any, ...], list[str]] = {}
    for v in values:
        groups.setdefault(tuple(levels[v].get(f) for f in by), []).append(v)
    return [(_where(by, place), who) for place, who in groups.items()]


def deciding(study: Node, values: Mapping[str, Sequence[Any]]) -> tuple[str, ...] | None:
    """The fewest factors whose levels decide the values of variants; () where all are equal, None
    where it takes all that tell variants apart.  A value that is not known yet is equal to any."""
    levels = {v["name"]: v["levels"] for v in study["variants"]}
    factors = [f["name"] for f in study["factors"] if f["kind"] == "variant"
               and len({levels[v].get(f["name"]) for v in values}) > 1]  # fmt: skip
    for size in range(max(1, len(factors))):
        for chosen in combinations(factors, size):
            groups: dict[tuple[Any, ...], list[Sequence[Any]]] = {}
            for v, line in values.items():
                groups.setdefault(tuple(levels[v].get(f) for f in chosen), []).append(line)
            if all(map(_equal, groups.values())):
                return chosen
    return None


def _equal(lines: Sequence[Sequence[Any]]) -> bool:
    columns = (({*column} - {None}) for column in zip(*lines, strict=True))
    return all(len(column) <= 1 for column in columns)


def _where(factors: Sequence[str], place: Sequence[Any]) -> str:
    said = ", ".join(f"{f}={x}" for f, x in zip(factors, place, strict=True) if x is not None)
    return f"at {said}" if said else ""


def need(study: Node, metric: str) -> None:
    """SpecError unless the study has the metric."""
    if metric not in study["metrics"]:
        raise SpecError(f"no metric {metric!r}; {nearest(metric, study['metrics'])}")


def _imported(arm: Mapping[str, Any], metric: str, conditions: Sequence[Node]) -> Line:
    """An imported arm at each condition: its rows that name the same evaluation and levels."""
    out: list[Entry | None] = []
    for c in conditions:
        values: dict[int, float] = {}
        for row in arm["rows"]:
            if row.get("metric") != metric or row.get("slice") or row.get("value") is None:
                continue
            same = (row.get("evaluation") or c["evaluation"]) == c["evaluation"]
            if same and all(
                str(row[f]) == str(tag) if row.get(f) is not None else tag is None
                for f, tag in c["levels"].items()
            ):
                values[len(values)] = float(row["value"])
        out.append(Entry(values, {}) if values else None)
    return str(arm["name"]), tuple(out)


def entry(
    results: Results, trials: Sequence[Node], metric: str, condition: Node, slice: str = ""
) -> Entry | None:
    """The trials of a variant at a condition; None where it is not theirs."""
    values: dict[int, float] = {}
    states: dict[str, int] = {}
    for trial in trials:
        if condition.get("key") not in trial.get("cells", [condition.get("key")]):
            continue
        value = results.value(trial, metric, slice, condition, chosen=False)
        if isinstance(value, Missing):
            (lost,) = value.cells
            states[lost.status] = states.get(lost.status, 0) + 1
        else:
            values[trial["seed"]] = value
    return Entry(values, states) if values or states else None


# ── the terminal ────────────────────────────────────────────────────────────────────────────


def pivot(study: Node, records: Iterable[Row], metric: str | None = None, width: int = 100) -> str:
    """Variants by conditions as text, in blocks of columns that fit the width."""
    t = table(study, records, metric)
    seeds = "1 seed" if t.n == 1 else f"mean ± sd over {t.n} seeds"
    return laid(t, t.texts(), seeds, width)


def laid(t: Table, lines: Sequence[Sequence[str]], about: str, width: int = 100) -> str:
    """Lines of cells under the table's columns, in blocks that fit the width."""
    shown = f"{t.metric} ({t.unit})" if t.unit else t.metric
    shown += f" by slice of {t.slices}" if t.slices else ""
    out = [f"{shown}, {t.better} is better; {about}"]
    first = max([_width(line[0]) for line in lines] + [len("variant")])
    sizes = [max(_width(c) for c in (label, *(line[k] for line in lines)))
             for k, label in enumerate(t.columns, 1)]  # fmt: skip
    for block in _blocks(sizes, width - first):
        head = [_pad(t.columns[k], sizes[k]) for k in block]
        out += ["", "  ".join([_pad("variant", first, left=True), *head]).rstrip()]
        for i, line in enumerate(lines):
            if i == len(t.rows):
                out.append("─" * (first + sum(sizes[k] + 2 for k in block)))
            cells = [_pad(line[k + 1], sizes[k]) for k in block]
            out.append("  ".join([_pad(line[0], first, left=True), *cells]).rstrip())
    return "\n".join(out)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of equally many cells under each other; the first column to the left."""
    sizes = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(_pad(c, n, left=not k) for k, (c, n) in enumerate(zip(line, sizes, strict=True)))
        for line in lines
    )


def _blocks(sizes: Sequence[int], room: int) -> list[list[int]]:
    blocks: list[list[int]] = [[]]
    for k, size in enumerate(sizes):
        if blocks[-1] and sum(sizes[i] + 2 for i in blocks[-1]) + size + 2 > room:
            blocks.append([])
        blocks[-1].append(k)
    return blocks


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _pad(text: str, width: int, left: bool = False) -> str:
    space = " " * (width - _width(text))
    return text + space if left else space + text


# ── files ───────────────────────────────────────────────────────────────────────────────────

FIRST = ("study", "variant", "trial", "id", "seed")


def wide(study: Node, records: Iterable[Row]) -> list[dict[str, Any]]:
    """One row for each trial, condition and slice, with a column for each metric.

    The study's template ("heads, hidden=model.width, loss") names columns: a factor, a metric, a
    column of the records, or ``name=path`` of the resolved spec; ``name=a/b`` divides two of them,
    or numbers.  The seed is always there.
    """
    grouped: dict[tuple[Any, ...], dict[str, Any]] = {}
    axes = [f["name"] for f in study["factors"] if f["kind"] == "condition"]
    for row in records:
        where = (row["trial"], row["evaluation"], row.get("slice"), *(row.get(a) for a in axes))
        one = grouped.setdefault(where, dict.fromkeys(study["metrics"]))
        drop = ("metric", "value", "n", "unit", "best", "best_step")
        one |= {k: v for k, v in row.items() if k not in drop}
        if row.get("metric"):
            one[row["metric"]] = row["value"]
    if not study.get("columns"):
        return list(grouped.values())
    return [_columns(study, row) for row in grouped.values()]


def _columns(study: Node, row: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for part in study["columns"].split(","):
        name, _, path = (p.strip() for p in part.partition("="))
        path = path or name
        info = study["variants_info"].get(row["variant"], {})
        top, over, bottom = (p.strip() for p in path.partition("/"))
        found = _column(top, row, info)
        if over and found is not None:
            divisor = _column(bottom, row, info)
            found = found / divisor if divisor else None
        out[name] = found
    return {**out, **{k: row.get(k) for k in ("seed", "status") if k not in out}}


def _column(path: str, row: Mapping[str, Any], info: Mapping[str, Any]) -> Any:
    if path in row:
        return row[path]
    with suppress(ValueError):
        return float(path)
    if "." in path or path in ((info.get("spec") or [{}])[-1].get("spec") or ()):
        return _at(info, path)
    raise SpecError(f"columns: no column {path!r}; {nearest(path, row)}")


def _at(info: Mapping[str, Any], path: str) -> Any:
    """A dotted path of the last phase's resolved spec; None where it is at its default."""
    phases = info.get("spec") or [{}]
    found: Any = phases[-1].get("spec", phases[-1])
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def of_metric(rows: Iterable[Row], metric: str | None, study: Node) -> list[dict[str, Any]]:
    """The rows of one metric, missing cells as missing values of it; None: every row."""
    if metric is None:
        return [dict(row) for row in rows]
    unit = study["metrics"][metric]["unit"]
    every = list(rows)
    seen = study["metrics"][metric].get("evaluations") or {
        r["evaluation"] for r in every if r["metric"] == metric and r.get("value") is not None
    }
    return [
        {**row, "metric": metric, "unit": unit}
        for row in every
        if row["metric"] == metric or (row.get("value") is None and row["evaluation"] in seen)
    ]


def columns_of(rows: Sequence[Row]) -> list[str]:
    every = dict.fromkeys(k for row in rows for k in row)
    if "study" not in every:  # a study's own template, in its order
        return list(every)
    return [*(k for k in FIRST if k in every), *(k for k in every if k not in FIRST)]


def to_csv(rows: Sequence[Row]) -> str:
    """Every column of the rows; a missing number is an empty field beside its status."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns_of(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows([{k: v for k, v in row.items() if v is not None} for row in rows])
    return out.getvalue()


def to_json(rows: Sequence[Row]) -> str:
    names = columns_of(rows)
    return json.dumps([{k: row.get(k) for k in names} for row in rows], indent=1) + "\n"


def to_parquet(rows: Sequence[Row]) -> bytes:
    """Every column of the rows; a column of several types is text."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ParibusError(
            "parquet needs pyarrow, which is not installed: pip install paribus[text]"
        ) from None
    columns: dict[str, Any] = {}
    for name in columns_of(rows):
        values = [row.get(name) for row in rows]
        kinds = {type(v) for v in values if v is not None}
        plain = len(kinds) <= 1 or kinds <= {int, float}
        simple = plain and kinds <= {int, float, str, bool}
        columns[name] = values if simple else [None if v is None else str(v) for v in values]
    raw = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), raw)
    return raw.getvalue()

"""Results by slice of the evaluation items: which slices there are, and tables with a column each.

A slice is named ``by=level`` ("hops=2") in the records.  Trivial baselines have values of slices
where the evaluation recorded them: ``baseline_slices``, {condition id: {baseline: {slice: {metric:
value}}}} in the study's record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from paribus.analysis.cells import Results, condition_label
from paribus.analysis.tables import (
    Entry,
    Table,
    Trivial,
    decided,
    entry,
    grouped,
    need,
    span,
    table,
)
from paribus.study.measures import Node

SHOWN = 4  # conditions of an evaluation whose slices are shown; of more the last alone

Known = Mapping[str, Mapping[str, Mapping[str, float]]]


def conditions(results: Results) -> list[Node]:
    """The judged conditions with slices; of an evaluation with many of them the last."""
    out: list[Node] = []
    found: dict[str, list[Node]] = {}
    for c in results.settings(results.study["primary"]):
        if levels(results, c):
            found.setdefault(c["evaluation"], []).append(c)
    for of in found.values():
        out += of if len(of) <= SHOWN else of[-1:]
    return out


def levels(results: Results, condition: Node) -> dict[str, list[str]]:
    """by -> its levels at a condition, numbers first."""
    out: dict[str, list[str]] = {}
    for name in results.slices.get(results.place(condition["evaluation"], condition["levels"]), ()):
        by, _, level = name.partition("=")
        out.setdefault(by, []).append(level)
    order = [*(condition.get("by") or ()), *out]
    return {by: sorted(out[by], key=natural) for by in dict.fromkeys(order) if by in out}


def natural(level: str) -> tuple[bool, float, tuple[str | float, ...]]:
    """Numbers by size, then words; of numbers within words ("random@16") by size, too."""
    try:
        return False, float(level), (level,)
    except ValueError:
        each = re.split(r"(\d+(?:\.\d+)?)", level)  # words and numbers by turns
        return True, 0.0, tuple(float(x) if k % 2 else x for k, x in enumerate(each))


def metric_of(results: Results, condition: Node) -> str:
    """The metric that slices are shown by: the primary one; where that has a value on fewer slices
    than others, as a mean over classes has none where all items are of one class, the metric in
    the same direction that has one on most, or any where none has."""
    study = results.study
    first: str = study["primary"]
    known = results.slices.get(results.place(condition["evaluation"], condition["levels"]), {})

    def count(metric: str) -> int:
        return sum(metric in of for of in known.values())

    able = [n for n, info in study["metrics"].items() if not info.get("transform")]
    alike = [n for n in able if study["metrics"][n]["better"] == study["metrics"][first]["better"]]
    best: str = max([first, *alike], key=count)
    return best if count(best) else max([first, *able], key=count)


def trivial(results: Results, trial: Node, condition: Node) -> Known:
    """Trivial baseline -> slice -> metric -> value, as far as it was recorded."""
    key = trial.get("cells", {}).get(condition.get("key"), condition.get("id"))
    found: Known = results.study.get("baseline_slices", {}).get(key, {})
    return found


def named(results: Results, condition: Node) -> list[str]:
    return [f"{by}={x}" for by, of in levels(results, condition).items() for x in of]


def entries(results: Results, metric: str, condition: Node) -> Iterator[tuple[int, str, Entry]]:
    """(variant, slice, entry); a slice that none of a variant's seeds has is left out."""
    of: dict[int, list[Node]] = {}
    for trial in results.study["trials"]:
        of.setdefault(trial["variant"], []).append(trial)
    for i, trials in of.items():
        for name in named(results, condition):
            found = entry(results, trials, metric, condition, name)
            if found is not None and found.values:
                yield i, name, found


def items(results: Results, metric: str, condition: Node) -> dict[str, dict[str, float]]:
    """Variant -> slice -> how many items it holds."""
    out: dict[str, dict[str, float]] = {}
    for trial in results.study["trials"]:
        variant = results.study["variants"][trial["variant"]]["name"]
        for name in named(results, condition):
            row = results.row(trial["name"], metric, condition, name)
            if row is not None and row.get("n") is not None:
                out.setdefault(variant, {}).setdefault(name, row["n"])
    return out


def tables(results: Results, wanted: str | None = None) -> Iterator[Table]:
    """A table for each condition with slices: variants by slices.

    Args:
        wanted: the metric; None: the one that slices are shown by.
    """
    study = results.study
    if wanted is not None:
        need(study, wanted)
    for condition in conditions(results):
        metric = wanted or metric_of(results, condition)
        names = named(results, condition)
        whole = table(study, results, metric)
        pseudo = [
            {"evaluation": condition["evaluation"], "split": condition.get("split"),
             "levels": {by: level}}
            for by, of in levels(results, condition).items() for level in of
        ]  # fmt: skip
        found: dict[str, list[Entry | None]] = {
            v["name"]: [None] * len(names) for v in study["variants"]
        }
        for i, name, e in entries(results, metric, condition):
            found[study["variants"][i]["name"]][names.index(name)] = e
        known = _trivial(results, metric, condition, names)
        counts = items(results, metric, condition)
        lines = {v: [of.get(n) for n in names] for v, of in counts.items()}
        label = condition_label(condition)
        yield Table(
            metric, whole.unit, whole.better, whole.n, tuple(names),
            tuple((v, tuple(row)) for v, row in found.items() if any(row)),
            tuple(grouped(study, known, range(len(names)))),
            whole.reference, (), tuple(pseudo), known,
            slices=label, items=tuple(_items(study, lines)),
        )  # fmt: skip


def _trivial(
    results: Results, metric: str, condition: Node, names: Sequence[str]
) -> dict[str, dict[str, tuple[float | None, ...]]]:
    out: dict[str, dict[str, tuple[float | None, ...]]] = {}
    for trial in results.study["trials"]:
        variant = results.study["variants"][trial["variant"]]["name"]
        for name, of in trivial(results, trial, condition).items():
            line = tuple(of.get(s, {}).get(metric) for s in names)
            if any(x is not None for x in line):
                out.setdefault(variant, {}).setdefault(name, line)
    return out


def _items(
    study: Node, lines: Mapping[str, Sequence[Any]]
) -> Iterator[tuple[str, tuple[Trivial, ...]]]:
    for label, who in decided(study, lines):
        columns = zip(*(lines[v] for v in who), strict=True)
        yield label, tuple(span(c) for c in columns)

"""A measure to first order: how much it changes with each of its cells.

The standard error over evaluation items needs it: an effect is a weighted sum of cells, and cells
that were evaluated on the same items go up and down together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paribus.study.measures import CURVES, OPERATORS, Cell, Node, found, number, reduce, select

Weights = dict[int, float]  # id of a cell -> derivative of the measure


def gradient(node: Any, cells: Sequence[Cell], study: Node) -> Weights:
    """The derivative of a measure whose value is known, by cell; of a largest or smallest value
    that of the cell which decides."""
    if not isinstance(node, dict):
        return {}
    op = node["op"]
    if op == "metric":
        mine = found(node, cells)
        return {id(mine[0]): 1.0} if mine else {}
    if op == "prefer":
        return gradient(node["of"], cells, study)
    if op == "at":
        return gradient(node["of"], select(cells, node["arm"]), study)
    if op in OPERATORS:
        (a, b), args = [_value(n, cells, study) for n in node["args"]], node["args"]
        slopes = {"+": (1, 1), "-": (1, -1), "*": (b, a), "/": (1 / (b or 1), -a / (b or 1) ** 2)}
        sides = zip(slopes[op], args, strict=True)
        return _sum([(w, gradient(n, cells, study)) for w, n in sides])
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell.tags[f] for f in node["over"]), []).append(cell)
    there = [(k, g) for k, g in groups.items() if reduce(node["of"], g, study) is not None]
    values = [_value(node["of"], g, study) for _, g in there]
    return _sum(
        [
            (w, gradient(node["of"], g, study))
            for w, (_, g) in zip(_shares(node, there, values, study), there, strict=True)
            if w
        ]
    )


def _shares(
    node: Node, there: Sequence[tuple[Any, ...]], values: list[float], study: Node
) -> list[float]:
    """The derivative of a reduction by each of the values that it reduces."""
    op, n = node["op"], len(values)
    if op == "mean":
        return [1 / n] * n
    if op in CURVES:  # linear in its values: what it makes of one that is 1
        xs = [number(study, node["over"][0], tags[0], node["by"]) for tags, _ in there]
        return [CURVES[op](xs, [float(i == k) for k in range(n)]) for i in range(n)]
    top = [float(k == values.index(max(values))) for k in range(n)]
    low = [float(k == values.index(min(values))) for k in range(n)]
    if op == "span":
        return [t - b for t, b in zip(top, low, strict=True)]
    return top if op == "max" else low


def _value(node: Any, cells: Sequence[Cell], study: Node) -> float:
    value = reduce(node, cells, study)
    return float(value) if isinstance(value, int | float) else 0.0


def _sum(terms: Sequence[tuple[float, Mapping[int, float]]]) -> Weights:
    out: Weights = {}
    for w, weights in terms:
        for cell, x in weights.items():
            out[cell] = out.get(cell, 0.0) + w * x
    return out

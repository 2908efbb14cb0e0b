"""Figures: each is made of its data, rows that are also written as CSV, and drawn from them alone.

A figure is a pair of functions, ``data(material) -> rows`` and ``draw(rows, material) -> Canvas``.
Without rows there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from paribus.analysis import spanned
from paribus.analysis.plots import (
    along,
    axes,
    cost,
    forest,
    heat,
    lines,
    parameters,
    slices,
    spans,
    training,
    tuning,
)
from paribus.analysis.plots.canvas import Canvas, styled
from paribus.analysis.plots.material import Material as Material
from paribus.analysis.plots.material import Point
from paribus.analysis.plots.slices import plain as plain

DRAWN = 220  # variants beyond which no figure tells them apart


class Figure(NamedTuple):
    """``name``: of its files; ``caption``: key of the strings."""

    name: str
    caption: str
    data: Callable[[Material], list[Point]]
    draw: Callable[[Sequence[Point], Material], Canvas]


class Drawn(NamedTuple):
    name: str
    caption: str
    rows: list[Point]
    canvas: Canvas
    draw: Callable[[Sequence[Point], Material], Canvas]


PRIMARY = Figure("primary", "cap_primary", lines.data, lines.draw)
HEAT = Figure("heat", "cap_heat", heat.data, heat.draw)
FIGURES = (
    Figure("forest", "cap_forest", forest.data, forest.draw),
    Figure("tuning", "cap_tuning", tuning.data, tuning.draw),
    Figure("training", "cap_training", training.intervals, training.draw_intervals),
    Figure("curves", "cap_curves", training.losses, training.draw_losses),
    Figure("learning-rate", "cap_lr", training.rates, training.draw_rates),
    Figure("cost", "cap_cost", cost.data, cost.draw),
    Figure("parameters", "cap_parameters", parameters.data, parameters.draw),
)


def primary(m: Material) -> Figure | None:
    """The main figure: lines or rows of points; a heat map where there are too many of them; None
    where that has no two factors either."""
    if not m.any:
        return None
    if len(m.chosen) <= DRAWN and lines.data(m):
        return PRIMARY
    return HEAT if heat.data(m) else None


def sliced(m: Material) -> Iterator[Figure]:
    """A figure for each way in which the evaluation items are sliced."""
    if m.any and len(m.chosen) <= DRAWN:
        for by in slices.kinds(m):
            yield Figure(f"slices-{plain(by)}", "cap_slices", partial(slices.data, by=by),
                         partial(slices.draw, by=by))  # fmt: skip


def probed(m: Material) -> Iterator[Figure]:
    """Of each probe that has an axis what it finds along it, spans of arms, and these against the
    bytes that models carry."""
    if m.any and len(m.chosen) <= DRAWN:
        for c in spanned.conditions(m.results):
            name, axis = spanned.name(c), c["curve"]["axis"]
            own = partial(along.data, condition=c), partial(along.draw, condition=c)
            yield Figure(f"probe-{plain(name)}", "cap_probe", *own)
            yield Figure(
                f"spans-{plain(name)}",
                "cap_spans",
                partial(spans.data, evaluation=name),
                partial(spans.draw, axis=axis),
            )
            yield Figure(f"state-{plain(name)}", "cap_state",
                         partial(spans.state, evaluation=name),
                         partial(spans.draw_state, axis=axis))  # fmt: skip


def figures(m: Material) -> Iterator[Drawn]:
    """Every figure that the study has data for, the main one first."""
    first = primary(m)
    chosen = [first] if first else []
    if m.any and first is PRIMARY and heat.wanted(m):
        chosen.append(HEAT)
    if m.any and len(m.chosen) <= DRAWN and (axis := axes.learning(m)):
        chosen.append(Figure("learning", "cap_learning", partial(lines.data, axis=axis),
                             partial(lines.draw, axis=axis)))  # fmt: skip
    for figure in (*chosen, *probed(m), *sliced(m), *FIGURES):
        if rows := figure.data(m):
            with styled():
                canvas = figure.draw(rows, m)
            yield Drawn(figure.name, figure.caption, rows, canvas, figure.draw)

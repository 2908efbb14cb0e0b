"""Heat maps: the metric by two factors.  A square that lacks seeds is hatched and says how many it
has; an empty one says its state."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from paribus.analysis.plots.axes import conditioned
from paribus.analysis.plots.canvas import FAINT, GREY, PAPER, Canvas, quantity, short
from paribus.analysis.plots.material import Material, Point
from paribus.analysis.stats import Sample
from paribus.analysis.tables import Entry, Table, judged
from paribus.analysis.words import number
from paribus.study.measures import Node

TAGGED = 150  # squares that have room for their number
PANELS = 4
NOISE = 6  # standard deviations over seeds that the colours span at least
LARGEST = 4000  # squares of one figure


def axes_of(m: Material) -> tuple[str, str, str] | None:
    """(rows, columns, panels): the two factors with most levels, and a third with few, or "".

    Variant factors come first; a condition makes the columns where only one factor varies.
    """
    many = sorted(m.factors, key=lambda f: -len(f["levels"]))
    names = [f["name"] for f in many]
    if len(names) >= 2:
        third = next((f["name"] for f in many[2:] if len(f["levels"]) <= PANELS), "")
        return names[0], names[1], third
    axis = conditioned(m.study) or next(
        (f["name"] for f in m.study["factors"]
         if f["kind"] == "condition" and len(f["levels"]) > 1), None)  # fmt: skip
    return (names[0], axis, "") if names and axis else None


def wanted(m: Material) -> bool:
    """Whether it shows more than lines do: two factors of variants, or one by many conditions."""
    axes = axes_of(m)
    if axes is None:
        return False
    rows, columns = (len(m.levels(f)) for f in axes[:2])
    return len(m.factors) >= 2 or (rows >= 5 and columns >= 5)


def data(m: Material, metric: str | None = None) -> list[Point]:
    """A square each: {"panel", "row", "column", "y", "n", "of", "state", "over"}.  ``y`` is the
    mean over everything that the figure does not show, each seed and cell alike."""
    axes, t = axes_of(m), m.table(metric)
    if axes is None or not m.any:
        return []
    levels = {v["name"]: v["levels"] for v in m.study["variants"]}
    shown = set(judged(t.conditions))
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for name, row in t.rows:
        if name not in m.chosen:
            continue
        for k, (c, e) in enumerate(zip(t.conditions, row, strict=True)):
            if e is not None and k in shown:
                tags = {**levels[name], **c["levels"]}
                row_tag, column, panel = (tags.get(f) for f in axes) if axes[2] else (
                    *(tags.get(f) for f in axes[:2]), "")  # fmt: skip
                if row_tag is not None and column is not None:
                    groups.setdefault((panel, row_tag, column), []).append(e)
    if len(groups) > LARGEST:
        return []
    out = []
    for (panel, row_tag, column), entries in groups.items():
        values = [v for e in entries for v in e.values]
        states: dict[str, int] = {}
        for e in entries:
            for state, k in e.states.items():
                states[state] = states.get(state, 0) + k
        out.append({
            "panel": f"{axes[2]}={panel}" if axes[2] else "", "row": row_tag, "column": column,
            "y": math.fsum(values) / len(values) if values else None, "n": len(values),
            "of": sum(e.planned for e in entries),
            "state": ", ".join(f"{k} {s}" for s, k in states.items()),
        })  # fmt: skip
    return out


def averaged(m: Material) -> list[str]:
    """The factors that each square is the mean over."""
    axes = axes_of(m) or ()
    own = [f["name"] for f in m.factors]
    conditions = [f["name"] for f in m.study["factors"]
                  if f["kind"] == "condition" and len(f["levels"]) > 1]  # fmt: skip
    return [f for f in [*own, *conditions] if f not in axes]


def uneven(m: Material) -> list[str]:
    """Those of the averaged factors whose levels differ between squares, as where a study leaves
    cells out: such squares are means of unlike things."""
    axes = axes_of(m) or ()
    shown = [v["levels"] for v in m.study["variants"] if v["name"] in m.chosen]
    out = []
    for factor in (f["name"] for f in m.factors if f["name"] not in axes):
        held: dict[tuple[Any, ...], set[str]] = {}
        for levels in shown:
            if levels.get(factor) is not None:
                held.setdefault(tuple(levels.get(f) for f in axes), set()).add(levels[factor])
        if len({frozenset(tags) for tags in held.values()}) > 1:
            out.append(factor)
    return out


def draw(points: Sequence[Point], m: Material, metric: str | None = None) -> Canvas:
    axes, t = axes_of(m), m.table(metric)
    assert axes is not None
    order = [[v["tag"] for v in m.levels(f)] for f in axes[:2]]
    rows, columns = ([tag for tag in tags if any(p[key] == tag for p in points)]
                     for tags, key in zip(order, ("row", "column"), strict=True))  # fmt: skip
    panels = list(dict.fromkeys(p["panel"] for p in points))
    width = max(1, min(len(panels), 12 // len(columns)))
    lines = math.ceil(len(panels) / width)
    each = max(0.16, min(0.34, 14 / len(rows) / lines))
    canvas = m.canvas("heat", (7.6, min(18.0, lines * (0.75 + each * len(rows)) + 0.6)), lines,
                      width, sharex=True, sharey=True)  # fmt: skip
    known = sorted(p["y"] for p in points if p["y"] is not None)
    low, high = _range(known, _noise(t))
    flat = [ax for line in canvas.axes for ax in line]
    mesh = None
    for ax, panel in zip(flat, panels, strict=False):
        squares = {(p["row"], p["column"]): p for p in points if p["panel"] == panel}
        mesh = _panel(canvas, ax, squares, rows, columns, (low, high), t.better)
        if panel:
            ax.set_title(panel)
    for ax in flat[len(panels) :]:
        ax.set_visible(False)
    canvas.figure.supxlabel(axes[1].replace("_", " "), fontsize=10)
    canvas.figure.supylabel(axes[0].replace("_", " "), fontsize=10)
    if mesh is not None and known:
        ends = ("min" if known[0] < low else "") + ("max" if known[-1] > high else "")
        extend = {"": "neither", "minmax": "both"}.get(ends, ends)
        bar = canvas.figure.colorbar(mesh, ax=flat, extend=extend, pad=0.02, aspect=28)
        bar.ax.yaxis.set_major_formatter(lambda x, _: number(x, (high - low) / 10))
        said = quantity(canvas, t.metric, t.unit, t.better)
        short = canvas.figure.get_size_inches()[1] < 3  # one line would be longer than the bar
        bar.set_label(said.replace(", ", "\n") if short else said, fontsize=9)
        bar.outline.set_visible(False)
        if t.better == "lower":
            bar.ax.invert_yaxis()
    return canvas


def _noise(t: Table) -> float | None:
    """The median standard deviation over seeds of the table's cells; None where no cell has two."""
    entries = [e for _, row in t.rows for e in row if e is not None and len(e.values) > 1]
    return statistics.median(Sample(e.values).sd for e in entries) if entries else None


def _range(known: Sequence[float], noise: float | None = None) -> tuple[float, float]:
    """The ends of the scale: a single far value must not take all colours, and neither must
    differences within the noise: it spans at least `NOISE` standard deviations over seeds, or one
    per cent of the values where no spread is known."""
    if not known:
        return 0.0, 1.0
    low, high = known[0], known[-1]
    if len(known) >= 12:
        a, b = known[len(known) // 10], known[-1 - len(known) // 10]
        low, high = max(low, a - 1.5 * (b - a)), min(high, b + 1.5 * (b - a))
    middle = (low + high) / 2
    least = max(NOISE * noise if noise is not None else 0.01 * abs(middle), 1e-9 * abs(middle))
    if high - low < least:
        low, high = middle - least / 2, middle + least / 2
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _panel(
    canvas: Canvas,
    ax: Any,
    squares: Mapping[tuple[Any, Any], Node],
    rows: Sequence[Any],
    columns: Sequence[Any],
    limits: tuple[float, float],
    better: str,
) -> Any:
    import numpy as np
    from matplotlib.patches import Rectangle

    values = np.full((len(rows), len(columns)), np.nan)
    colours = "YlGnBu_r" if better == "lower" else "YlGnBu"  # the better, the darker
    for (row, column), p in squares.items():
        i, k = rows.index(row), columns.index(column)
        if p["y"] is not None:
            values[i, k] = p["y"]
        if p["n"] < p["of"]:
            ec = FAINT if p["y"] is None else PAPER
            ax.add_patch(Rectangle((k, i), 1, 1, fill=False, hatch="////", ec=ec, lw=0, zorder=3))
    tagged = len(rows) * len(columns) <= TAGGED
    edge = {"edgecolors": "white", "linewidth": 1.0} if tagged else {}
    mesh = ax.pcolormesh(np.ma.masked_invalid(values), cmap=colours, vmin=limits[0],
                         vmax=limits[1], **edge)  # fmt: skip
    small = 8.5 if len(columns) * canvas.axes.shape[1] <= 8 else 7
    for (row, column), p in squares.items() if tagged else ():
        i, k = rows.index(row), columns.index(column)
        text = _label(canvas, p, limits)
        share = 0.0 if p["y"] is None else (p["y"] - limits[0]) / (limits[1] - limits[0])
        dark = p["y"] is not None and (share < 0.5 if better == "lower" else share > 0.5)
        colour = GREY if p["y"] is None else "#fefefe" if dark else "#1b1e22"
        ax.text(
            k + 0.5, i + 0.5, text, ha="center", va="center", fontsize=small, color=colour, zorder=4
        )
    ax.set_xticks([k + 0.5 for k in range(len(columns))], [short(str(x), 16) for x in columns])
    step = math.ceil(len(rows) / 60)
    ax.set_yticks(
        [i + 0.5 for i in range(0, len(rows), step)], [short(str(x), 30) for x in rows[::step]]
    )
    ax.tick_params(length=0)
    ax.set_ylim(len(rows), 0)
    ax.set_xlim(0, len(columns))
    ax.grid(visible=False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    return mesh


def _label(canvas: Canvas, p: Point, limits: tuple[float, float]) -> str:
    if p["y"] is None:
        state = str(p["state"]).partition(" ")[2].split(",")[0]
        return canvas.states(state) if state else "–"
    shown = number(p["y"], max((limits[1] - limits[0]) / 10, abs(p["y"]) / 100))
    return shown if p["n"] == p["of"] else f"{shown} ({p['n']}/{p['of']})"

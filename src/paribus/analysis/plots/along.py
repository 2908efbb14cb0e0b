"""What a probe finds along its axis, a line for each arm; where that counts tokens, vertical lines
at the window and at the field of the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paribus.analysis import slices
from paribus.analysis.plots.canvas import GREY, Canvas, below, counted, short
from paribus.analysis.plots.curve import along as ticked
from paribus.analysis.plots.material import PANELS, SINGLE, Material, Point, mean_point
from paribus.analysis.spanned import COUNTS
from paribus.analysis.spanned import places as placed
from paribus.study.measures import Node

VERTICAL: dict[str, Any] = {"window": (0, (4, 2)), "field": (0, (1, 2))}


def data(m: Material, condition: Node) -> list[Point]:
    """A point for each arm, metric and place: {"panel", "metric", "series", "x", "y", "low",
    "high", "n", "of"}; [] where there are too many lines or panels.  Of many arms the gain alone,
    in panels of their own ("arms")."""
    places, curve = placed(m.results, condition), condition["curve"]
    panels = list(dict.fromkeys(panel for panel, _ in places.values()))
    metrics = [x for x in (curve["metric"], curve["control"], curve["gain"]) if x]
    if many := len(m.chosen) > SINGLE:
        metrics = [curve["gain"] or curve["metric"]]
        own = {m.looks[arm].panel for arm in m.chosen}
        if len(panels) * len(own) > PANELS:
            return []
    elif len(panels) > PANELS:
        return []
    out: list[Point] = []
    for metric in metrics:
        for i, slice_, entry in slices.entries(m.results, metric, condition):
            arm = m.study["variants"][i]["name"]
            if slice_ in places and arm in m.chosen:
                panel, x = places[slice_]
                told = {"panel": panel, "metric": metric, "series": arm, "x": x}
                if many:
                    told["arms"] = m.looks[arm].panel
                out.append({"kind": "mean", **told, **mean_point(entry.values, entry.planned)})
    arms = list(m.chosen)
    out.sort(key=lambda p: (panels.index(p["panel"]), metrics.index(p["metric"]),
                            arms.index(p["series"]), p["x"]))  # fmt: skip
    return out if len({p["x"] for p in out}) > 1 else []


def marks(m: Material, axis: str) -> dict[str, dict[str, float]]:
    """Arm -> {"window": tokens, "field": tokens}, as far as its model tells and the axis counts
    tokens."""
    info: Mapping[str, Any] = m.study["variants_info"]
    if axis in COUNTS:
        return {v: {} for v in m.chosen}
    return {v: {k: x for k, x in (info[v].get("reach") or {}).items() if x} for v in m.chosen}


def draw(points: Sequence[Point], m: Material, condition: Node) -> Canvas:
    """Above the accuracy, dashed its control; below what memory adds."""
    if points and "arms" in points[0]:
        return _apart(points, m, condition["curve"])
    curve = condition["curve"]
    panels = list(dict.fromkeys(p["panel"] for p in points))
    rows = 2 if curve["gain"] else 1
    columns = len(panels) if not m.narrow else 1
    size = (7.6, 0.9 + 2.4 * rows * (1 if columns == len(panels) else len(panels)))
    canvas = m.canvas("probe", size, rows * len(panels) // columns, columns, sharex=True)
    at = marks(m, curve["axis"])
    same = len({tuple(sorted(x.items())) for x in at.values()}) == 1
    drawn = set[str]()
    for k, panel in enumerate(panels):
        for j in range(rows):
            ax = (
                canvas.axes[j][k]
                if columns > 1 or len(panels) == 1
                else canvas.axes[rows * k + j][0]
            )
            shown = [(curve["gain"], "-")] if j else [(curve["metric"], "-"),
                                                      (curve["control"], (0, (4, 2)))]  # fmt: skip
            xs = sorted({p["x"] for p in points if p["panel"] == panel})
            for arm in m.chosen:
                for metric, dash in shown:
                    own = [p for p in points if (p["panel"], p["metric"], p["series"]) ==
                           (panel, metric, arm)]  # fmt: skip
                    label = arm if metric != curve["control"] else "_nolegend_"
                    _line(ax, own, m.looks[arm].colour, dash, label)
            for arm in list(m.chosen)[: 1 if same else None]:
                drawn |= _vertical(ax, at[arm], GREY if same else m.looks[arm].colour, xs)
            if j == 0:
                ax.set_ylim(-0.03, 1.03)
            ticked(ax, xs, 7 if columns == 1 else 5)
            if panel and j == 0:
                ax.set_title(panel)
            if j == rows - 1:
                ax.set_xlabel(counted(canvas, curve["axis"]))
            if k == 0 or columns == 1:
                ax.set_ylabel((curve["gain"] if j else curve["metric"]).replace("_", " "))
    handles, labels = canvas.ax.get_legend_handles_labels()
    said = _said(canvas, drawn, curve["control"])
    below(canvas, [*handles, *said.values()], [*labels, *said], 5, grow=True)
    return canvas


def _said(canvas: Canvas, drawn: set[str], control: str | None = None) -> dict[str, Any]:
    """What dashes mean, for the legend: of the control, and of vertical lines that are there."""
    from matplotlib.lines import Line2D

    out = {}
    if control:
        out[canvas.word("control")] = Line2D([], [], color=GREY, lw=1.7, linestyle=(0, (4, 2)))
    for key in (k for k in VERTICAL if k in drawn):
        out[canvas.word(f"span_{key}")] = Line2D(
            [], [], color=GREY, lw=0.9, linestyle=VERTICAL[key]
        )
    return out


def _apart(points: Sequence[Point], m: Material, curve: Node) -> Canvas:
    """Many arms: what memory adds, in a panel for each set of levels but one factor's."""
    panels: dict[str, list[Point]] = {}
    for p in points:
        panels.setdefault(", ".join(filter(None, [p["panel"], p["arms"]])), []).append(p)
    columns = 1 if m.narrow else min(3, len(panels))
    rows = -(-len(panels) // columns)
    canvas = m.canvas("probe", (7.6, 0.9 + 2.1 * rows), rows, columns, sharex=True, sharey=True)
    at = marks(m, curve["axis"])
    shown, drawn = dict[str, Any](), set[str]()
    for k, (panel, own) in enumerate(panels.items()):
        ax = canvas.axes[k // columns][k % columns]
        xs = sorted({p["x"] for p in own})
        for arm in dict.fromkeys(p["series"] for p in own):
            look = m.looks[arm]
            mine = [p for p in own if p["series"] == arm]
            _line(ax, mine, look.colour, "-", look.label)
            drawn |= _vertical(ax, at[arm], look.colour, xs)
        handles, labels = ax.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
        ticked(ax, xs, 5)
        ax.set_title(short(panel, 44), fontsize=9)
        if k + columns >= len(panels):
            ax.set_xlabel(counted(canvas, curve["axis"]))
            ax.tick_params(labelbottom=True)
        if k % columns == 0:
            ax.set_ylabel((curve["gain"] or curve["metric"]).replace("_", " "))
    for k in range(len(panels), rows * columns):
        canvas.axes[k // columns][k % columns].set_visible(False)
    shown |= _said(canvas, drawn)
    below(canvas, list(shown.values()), list(shown), 5, grow=True)
    return canvas


def _line(ax: Any, points: Sequence[Point], colour: str, dash: Any, label: str) -> None:
    own = sorted((p for p in points if p["n"]), key=lambda p: p["x"])
    whole = [p for p in own if p["n"] == p["of"]]
    if whole and all(p["low"] is not None for p in whole):
        ax.fill_between([p["x"] for p in whole], [p["low"] for p in whole],
                        [p["high"] for p in whole], color=colour, alpha=0.13, lw=0)  # fmt: skip
    if own:
        ax.plot([p["x"] for p in own], [p["y"] for p in own], color=colour, linestyle=dash, lw=1.7,
                marker="o", ms=3.2, mfc=colour if len(whole) == len(own) else "white",
                label=label)  # fmt: skip


def _vertical(ax: Any, marks: Mapping[str, float], colour: str, xs: Sequence[float]) -> set[str]:
    """The window dashed, the field dotted; what lies beyond the axis is left out.  Gives those that
    are there."""
    there = {k: x for k, x in marks.items() if xs and xs[0] <= x <= 1.5 * xs[-1]}
    for key, x in there.items():
        ax.axvline(x, color=colour, lw=0.9, linestyle=VERTICAL[key], zorder=1)
    return {*there}

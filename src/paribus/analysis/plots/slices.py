"""The metric by slice of the evaluation items: a mark with its interval for each arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from paribus.analysis import slices
from paribus.analysis.cells import condition_label
from paribus.analysis.plots.axes import Axis, apart, axis_of, dressed
from paribus.analysis.plots.canvas import COLOURS, GREY, Canvas, below, quantity, short
from paribus.analysis.plots.lines import DOTS
from paribus.analysis.plots.material import FEW, PANELS, SINGLE, Look, Material, Point, mean_point
from paribus.analysis.sheets import counted
from paribus.analysis.tables import span
from paribus.study.measures import Node

LETTER = 0.062  # inches of a letter under the axis
TITLE = 90  # letters of the titles beside each other


def kinds(m: Material) -> list[str]:
    """What the items of judged conditions are sliced by: a figure each."""
    return list(dict.fromkeys(by for c in slices.conditions(m.results)
                              for by in slices.levels(m.results, c)))  # fmt: skip


def data(m: Material, by: str) -> list[Point]:
    """A point for each arm and level, {"kind": "mean", "panel", "label", "series", "along", "x",
    "items", "y", "n", "of", "low", "high"}, and for each trivial baseline.  ``along``: where a
    number that training was given makes an axis, the place on it.  Of the slices of several
    conditions the last where the panels are too many; [] where they still are."""
    found = [c for c in slices.conditions(m.results) if by in slices.levels(m.results, c)]
    axis = axis_of(m)
    looks = _looks(m, axis)
    panels = len({look.panel for look in looks.values()})
    found = found if panels * len(found) <= PANELS else found[-1:]
    if panels > PANELS or len({look.label for look in looks.values()}) > SINGLE:
        return []
    out: list[Point] = []
    for condition in found:
        place = condition_label(condition) if len(found) > 1 else ""
        out += _of(m, by, condition, place, looks, axis)
    return out


def _looks(m: Material, axis: Axis | None) -> dict[str, Look]:
    """Variant -> how it is drawn; the levels of an axis of training look alike."""
    arms = {v["name"]: v["levels"] for v in m.study["variants"] if v["name"] in m.chosen}
    along = axis.name if axis and axis.trained else ""
    names = [f["name"] for f in m.factors if f["name"] != along]
    return dressed(m, arms, names, apart(m, None, names), len(COLOURS))


def _of(
    m: Material,
    by: str,
    condition: Node,
    place: str,
    looks: Mapping[str, Look],
    axis: Axis | None,
) -> list[Point]:
    results, metric = m.results, slices.metric_of(m.results, condition)
    counts = slices.items(results, metric, condition)
    variants = m.study["variants"]
    trials = {trial["variant"]: trial for trial in m.study["trials"]}
    out: list[Point] = []
    trivial: dict[tuple[str, str, str], dict[float, None]] = {}
    for i, name, entry in slices.entries(results, metric, condition):
        kind, _, level = name.partition("=")
        variant = variants[i]["name"]
        look = looks.get(variant)
        if kind != by or look is None:
            continue
        panel = ", ".join(x for x in (look.panel, place) if x)
        one = {"panel": panel, "metric": metric, "x": level}
        along = variants[i]["levels"][axis.name] if axis and axis.trained else None
        out.append({"kind": "mean", **one, "label": look.label or condition["evaluation"],
                    "series": variant, "along": along,
                    "items": counts.get(variant, {}).get(name),
                    **mean_point(entry.values, entry.planned)})  # fmt: skip
        for b, of in slices.trivial(results, trials[i], condition).items():
            if (y := of.get(name, {}).get(metric)) is not None:
                trivial.setdefault((panel, b, level), {})[y] = None
    for (panel, b, level), ys in trivial.items():
        out += [{"kind": "baseline", "panel": panel, "metric": metric, "x": level, "label": b,
                 "series": b, "y": y} for y in ys]  # fmt: skip
    return out


def draw(points: Sequence[Point], m: Material, by: str) -> Canvas:
    axis = axis_of(m)
    inner = [v["tag"] for v in m.levels(axis.name)] if axis and axis.trained else []
    panels = list(dict.fromkeys(p["panel"] for p in points))
    order = sorted({p["x"] for p in points}, key=slices.natural)
    columns = m.across(1 if len(panels) <= 2 else 2 if len(panels) <= FEW else 3, len(panels))
    rows = math.ceil(len(panels) / columns)
    turned = (max(map(len, order)) + 1) * LETTER > (3.6 if m.narrow else 6.8 / columns) / len(order)
    items = {panel: _items(points, panel, order) for panel in panels}
    same = len({tuple(x) for x in items.values()}) == 1
    under = 0.7 if turned else 0.35
    long = max(map(len, panels)) > TITLE / columns  # else it would run into its neighbour's

    def title(panel: str) -> str:
        return panel.replace(", ", "\n") if long else panel

    above = 0.14 * rows * max(title(p).count("\n") for p in panels)
    height = 1.9 * rows + above + under * (1 if same else rows) + 0.9
    canvas = m.canvas(f"slices-{plain(by)}", (7.6, height), rows, columns, sharex=same, sharey=True)
    flat = [ax for line in canvas.axes for ax in line]
    labels = list(dict.fromkeys(p["label"] for p in points if p["kind"] == "mean"))
    looks = _looks(m, axis)
    for ax, panel in zip(flat, panels, strict=False):
        own = [p for p in points if p["panel"] == panel]
        for k, label in enumerate(labels):
            mine = [p for p in own if p["kind"] == "mean" and p["label"] == label]
            if mine:
                places = [order.index(p["x"]) + _shift(p, inner, k, len(labels)) for p in mine]
                _marks(ax, places, mine, looks[mine[0]["series"]].colour, label)
        _baselines(ax, own, order)
        said = [f"{short(x, 14)}{' (' if turned else chr(10)}{n}{')' * turned}"
                for x, n in zip(order, items[panel], strict=True)]  # fmt: skip
        turn: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        ax.set_xticks(range(len(order)), said, fontsize=8, **(turn if turned else {}))
        ax.tick_params(axis="x", length=0)
        ax.set_xlim(-0.5, len(order) - 0.5)
        ax.grid(visible=False, axis="x")
        if panel:
            ax.set_title(title(panel), **({"fontsize": 8.5} if columns > 1 or m.narrow else {}))
    for ax in flat[len(panels) :]:
        ax.set_visible(False)
    for ax in flat[max(0, len(panels) - columns) : len(panels)]:
        ax.set_xlabel(by.replace("_", " "))
        ax.tick_params(labelbottom=True)
    metric = points[0]["metric"]
    info = m.study["metrics"][metric]
    canvas.figure.supylabel(quantity(canvas, metric, info["unit"], info["better"]), fontsize=10)
    shown: dict[str, Any] = {}  # an arm may be in one panel alone
    for ax in flat:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    below(canvas, list(shown.values()), list(shown), 7)
    return canvas


def _shift(p: Point, inner: Sequence[str], k: int, arms: int) -> float:
    """How far from the middle of its level a mark is: by its place on the axis, else by its arm."""
    if inner:
        return 0.66 * (inner.index(p["along"]) / max(1, len(inner) - 1) - 0.5)
    return (k - (arms - 1) / 2) * min(0.22, 0.7 / arms)


def _items(points: Sequence[Point], panel: str, order: Sequence[str]) -> list[str]:
    found: dict[str, list[float | None]] = {}
    for p in points:
        if p["kind"] == "mean" and p["panel"] == panel:
            found.setdefault(p["x"], []).append(p["items"])
    return [counted(span(found.get(x, []))) or "–" for x in order]


def _marks(
    ax: Any, places: Sequence[float], points: Sequence[Point], colour: str, label: str
) -> None:
    """Means with intervals; within a level joined along the axis of training.  Hollow and without
    interval where seeds are missing."""
    from matplotlib.collections import LineCollection

    marks = sorted(zip(places, points, strict=True), key=lambda q: q[0])
    whole = [(x, p) for x, p in marks if p["n"] == p["of"]]
    bars = [[(x, p["low"]), (x, p["high"])] for x, p in whole if p["low"] is not None]
    joined: dict[str, list[tuple[float, float]]] = {}
    for x, p in whole:
        if p["along"] is not None:
            joined.setdefault(p["x"], []).append((x, p["y"]))
    ax.add_collection(LineCollection(bars, colors=colour, linewidths=1.6, alpha=0.6))
    ax.add_collection(LineCollection(list(joined.values()), colors=colour, linewidths=1.2))
    size = 3.2 if joined else 4.5
    for fill, found in ((colour, whole), ("white", [q for q in marks if q not in whole])):
        if found:
            xs, ys = [x for x, _ in found], [p["y"] for _, p in found]
            ax.plot(xs, ys, "o", mfc=fill, mec=colour, ms=size, label=label)
            label = "_nolegend_"


def _baselines(ax: Any, points: Sequence[Point], order: Sequence[str]) -> None:
    """A short line across each level, as trivial baselines are drawn along an axis."""
    from matplotlib.collections import LineCollection

    flat: dict[str, list[Any]] = {}
    for p in (p for p in points if p["kind"] == "baseline"):
        x = order.index(p["x"])
        flat.setdefault(p["label"], []).append([(x - 0.4, p["y"]), (x + 0.4, p["y"])])
    for i, (name, segments) in enumerate(flat.items()):
        ax.add_collection(LineCollection(
            segments, colors=GREY, linewidths=1.2, linestyles=[DOTS[i % len(DOTS)]], label=name
        ))  # fmt: skip
    ax.autoscale_view()


def plain(text: str) -> str:
    """A name for files and for ids of the page."""
    return "".join(c if c.isalnum() else "-" for c in text).strip("-").lower() or "x"

"""The metric against a condition, or one row a variant where there is no such axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from paribus.analysis.plots.canvas import (
    COLOURS,
    DASHES,
    FAINT,
    GREY,
    Canvas,
    direct,
    legend,
    quantity,
    short,
)
from paribus.analysis.plots.material import (
    FEW,
    PANELS,
    SINGLE,
    Material,
    Point,
    is_number,
    mean_point,
)
from paribus.analysis.words import number
from paribus.study.measures import Node

DIRECT = 7  # more lines than this get a legend instead of labels at their ends
TITLE = 84  # letters of titles that stand side by side
SMALL: dict[str, Any] = {"fontsize": 8.5, "linespacing": 1.1}
ROWS = 40  # variants that a figure with a row for each can hold


def axis_of(study: Node) -> str | None:
    """The condition factor that makes an axis: numeric, the one with most levels."""
    numeric = [
        f
        for f in study["factors"]
        if f["kind"] == "condition"
        and len(f["levels"]) > 1
        and all(is_number(v["value"]) for v in f["levels"])
    ]
    best = max(numeric, key=lambda f: len(f["levels"]), default=None)
    return None if best is None else str(best["name"])


def geometric(xs: Sequence[float]) -> bool:
    """Whether the levels are spread by ratios rather than by steps."""
    xs = sorted(set(xs))
    if len(xs) < 3 or xs[0] <= 0:
        return False
    ratios = [b / a for a, b in pairwise(xs)]
    steps = [b - a for a, b in pairwise(xs)]
    return max(ratios) / min(ratios) < max(steps) / min(steps)


def data(m: Material, metric: str | None = None) -> list[Point]:
    """A point for each mean, seed, trivial baseline and imported value: {"kind", "panel",
    "series", "variant", "x", "y", "n", "of", "low", "high", "seed"}.  [] where the lines are too
    many to be told apart."""
    t, axis = m.table(metric), axis_of(m.study)
    values = {v["tag"]: float(v["value"]) for v in m.levels(axis)} if axis else {}
    many = len({c["evaluation"] for c in t.conditions}) > 1
    out: list[Point] = []
    for k, c in enumerate(t.conditions):
        tag = c["levels"].get(axis) if axis else None
        if axis and tag is None:
            continue
        rest = {f: g for f, g in c["levels"].items() if f != axis and g is not None}
        there = ", ".join([c["evaluation"]] * many + [f"{f}={g}" for f, g in rest.items()])
        x: Any = values[tag] if axis else t.columns[k]
        here = {"panel": "", "place": there if axis else "", "x": x}
        for name, row in t.rows:
            e = row[k]
            if e is None or name not in m.chosen:
                continue
            one = here | {"series": name}
            if e.values:
                out.append({"kind": "mean", **one, **mean_point(e.values, e.planned)})
                out += [{"kind": "seed", **one, "seed": s, "y": y}
                        for s, y in e.by_seed.items()] if len(e.values) > 1 else []  # fmt: skip
            else:
                out.append({"kind": "missing", **one, "n": 0, "of": e.planned,
                            "state": e.text(e.planned, None)})  # fmt: skip
        for name, line in t.baselines:
            if (y := line[k]) is not None:
                out.append({"kind": "baseline", **here, "series": name, "y": y})
        for name, row in t.imports:
            if (e := row[k]) is not None and e.values:
                point = {"kind": "imported", **here, "series": name, "n": len(e.values)}
                out.append(point | {"y": math.fsum(e.values) / len(e.values)})
    return _arranged(m, out, axis is not None)


def _arranged(m: Material, points: list[Point], axis: bool) -> list[Point]:
    """Panels and labels by the number of lines; [] where there are too many."""
    own = [p for p in points if p["kind"] in ("mean", "seed", "missing")]
    lines = {(p["series"], p["place"]) for p in own}
    if not axis:
        return points if len({s for s, _ in lines}) <= ROWS else []
    single = len(lines) <= SINGLE
    for p in points:
        if single or p["kind"] in ("baseline", "imported"):
            continue
        p["panel"] = ", ".join(x for x in (m.looks[p["series"]].panel, p["place"]) if x)
    if not single:
        panels = dict.fromkeys(p["panel"] for p in own)
        labels = {m.looks[p["series"]].label for p in own}
        if len(panels) > PANELS or len(labels) > SINGLE:
            return []
        flat = [p for p in points if p["kind"] in ("baseline", "imported")]
        points = [p for p in points if p not in flat] + [
            {**p, "panel": panel} for p in flat for panel in panels
            if not p["place"] or p["place"] in panel
        ]  # fmt: skip
    for p in points:
        label = p["series"] if p["kind"] in ("baseline", "imported") or single else \
            m.looks[p["series"]].label  # fmt: skip
        p["label"] = ", ".join(x for x in (label, p["place"] if single else "") if x)
    return points


def draw(points: Sequence[Point], m: Material, metric: str | None = None) -> Canvas:
    axis = axis_of(m.study)
    return _lines(points, m, metric, axis) if axis else _points(points, m, metric)


# ── lines ───────────────────────────────────────────────────────────────────────────────────


def _lines(points: Sequence[Point], m: Material, metric: str | None, axis: str) -> Canvas:
    t = m.table(metric)
    panels = list(dict.fromkeys(p["panel"] for p in points))
    most = 2 if len(panels) in (2, 4) else 3 if len(panels) <= FEW else 4
    columns = m.across(most, len(panels))
    lines = math.ceil(len(panels) / columns)
    # Long titles go over several lines: one panel's would run into the next one's.
    wide = max(map(len, panels)) > TITLE // columns
    deep = max(panel.count(", ") for panel in panels) if wide else 0
    size = (7.6, 4.3) if len(panels) == 1 else (7.6, 0.9 + (2.1 + 0.12 * deep) * lines)
    canvas = m.canvas("primary", size, lines, columns, sharex=True, sharey=len(panels) > 1)
    flat = [ax for line in canvas.axes for ax in line]
    xs = sorted({p["x"] for p in points})
    trained = m.study.get("trained", {}).get(axis)
    styles = _styles(points, m)
    for ax, panel in zip(flat, panels, strict=False):
        ends = []
        own = [p for p in points if p["panel"] == panel]
        if len(panels) > 1:  # bands say enough where panels are small
            own = [p for p in own if p["kind"] != "seed"]
        for label in dict.fromkeys(p["label"] for p in own if p["kind"] in ("mean", "missing")):
            mine = sorted((p for p in own if p["label"] == label), key=lambda p: p["x"])
            end = line(ax, mine, *styles[label], label)
            ends += [(end, label, styles[label][0])] if end is not None else []
        ends += _imported(ax, own)
        ends += _baselines(canvas, ax, own)
        if geometric(xs):
            ax.set_xscale("log", base=2)
            ax.minorticks_off()
        shown = _thinned(xs, 10 if len(panels) == 1 else 4)
        ax.set_xticks(shown, [f"{x:g}" for x in shown])
        if trained is not None:
            ax.axvline(trained, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
            ax.annotate(canvas.word("trained"), (trained, 1), xycoords=("data", "axes fraction"),
                        color=GREY, fontsize=8, ha="right", va="top", xytext=(-3, 0),
                        textcoords="offset points", rotation=90)  # fmt: skip
        if len(panels) > 1:
            ax.set_title(panel.replace(", ", "\n") if wide else panel, **SMALL if wide else {})
        elif len(ends) <= DIRECT:
            direct(ax, ends)
        else:
            legend(canvas, 4)
    for ax in flat[len(panels) :]:
        ax.set_visible(False)
    if len(panels) > 1:
        legend(canvas, 7)
        for ax in flat[max(0, len(panels) - columns) : len(panels)]:
            ax.set_xlabel(axis.replace("_", " "))
            ax.tick_params(labelbottom=True)
        canvas.figure.supylabel(quantity(canvas, t.metric, t.unit, t.better), fontsize=10)
    else:
        canvas.ax.set_xlabel(axis.replace("_", " "))
        canvas.ax.set_ylabel(quantity(canvas, t.metric, t.unit, t.better))
    return canvas


def _thinned(xs: Sequence[float], most: int) -> Sequence[float]:
    step = math.ceil(len(xs) / most)
    return xs[::step]


def _styles(points: Sequence[Point], m: Material) -> dict[str, tuple[str, Any]]:
    """Label -> colour and dash: those of the variant, or one after the other where a line is a
    variant at one of several conditions."""
    own = [p for p in points if p["kind"] in ("mean", "missing")]
    labels = dict.fromkeys(p["label"] for p in own)
    single = len({p["panel"] for p in own}) == 1 and any(p["place"] for p in own)
    if single:
        return {label: (COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)])
                for i, label in enumerate(labels)}  # fmt: skip
    return {p["label"]: m.looks[p["series"]][1:3] for p in own}


def line(ax: Any, points: Sequence[Point], colour: str, dash: Any, label: str) -> float | None:
    """Means with their t-intervals, and single seeds; the height at which the line ends.  A mean
    of fewer seeds than planned is a hollow point that no line goes through: it is not comparable
    with the others."""
    means = [p for p in points if p["kind"] == "mean"]
    if seeds := [(p["x"], p["y"]) for p in points if p["kind"] == "seed"]:
        ax.plot(*zip(*seeds, strict=True), "o", color=colour, alpha=0.35, ms=3, mew=0)
    whole = [p for p in means if p["n"] == p["of"]]
    named: str | None = label
    for run in _runs(points, whole):
        xs, ys = [p["x"] for p in run], [p["y"] for p in run]
        if all(p["low"] is not None for p in run) and len(run) > 1:
            _band(ax, run, colour)
        ax.plot(xs, ys, linestyle=dash, color=colour, lw=1.8, marker="o", ms=4, label=named)
        named = None
    for p in (p for p in means if p["n"] != p["of"]):
        ax.plot(p["x"], p["y"], "o", mfc="white", mec=colour, ms=5, mew=1.2, label=named)
        named = None
    return means[-1]["y"] if means else None


def _band(ax: Any, run: Sequence[Point], colour: str) -> None:
    """The area between low and high; by hand, since fill_between scales the axes every time."""
    from matplotlib.collections import PolyCollection

    edge = [(p["x"], p["low"]) for p in run] + [(p["x"], p["high"]) for p in reversed(run)]
    ax.add_collection(PolyCollection([edge], fc=colour, alpha=0.14, lw=0), autolim=False)
    ax.update_datalim(edge)


def _runs(points: Sequence[Point], whole: Sequence[Point]) -> list[list[Point]]:
    """Neighbouring complete means: a line does not bridge what is missing."""
    runs: list[list[Point]] = [[]]
    for x in dict.fromkeys(p["x"] for p in points):
        here = next((p for p in whole if p["x"] == x), None)
        if here is not None:
            runs[-1].append(here)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _imported(ax: Any, points: Sequence[Point]) -> list[tuple[float, str, str]]:
    ends = []
    own = [p for p in points if p["kind"] == "imported"]
    for label in dict.fromkeys(p["label"] for p in own):
        mine = sorted((p for p in own if p["label"] == label), key=lambda p: p["x"])
        xs, ys = [p["x"] for p in mine], [p["y"] for p in mine]
        ax.plot(xs, ys, color=GREY, lw=1.2, linestyle=(0, (5, 3)), marker="s", ms=4.5, mfc="white",
                label=label)  # fmt: skip
        ends.append((ys[-1], label, GREY))
    return ends


def _baselines(canvas: Canvas, ax: Any, points: Sequence[Point]) -> list[tuple[float, str, str]]:
    """Dotted lines where they are near; a far one would flatten everything that matters, so it is
    named with its value instead."""
    low, high = ax.get_ylim()
    room = (1.2 if canvas.axes.size == 1 else 0.2) * (high - low)
    shown, far = [], []
    flat: dict[str, list[tuple[float, float]]] = {}
    for p in (p for p in points if p["kind"] == "baseline"):
        flat.setdefault(p["label"], []).append((p["x"], p["y"]))
    others = any(p["kind"] != "baseline" and "y" in p for p in points)
    for name, found in flat.items():
        xs, ys = zip(*sorted(found), strict=True)
        if others and (min(ys) > high + room or max(ys) < low - room):
            far.append(f"{name} {_span(ys)}")
            continue
        ax.plot(xs, ys, color=GREY, lw=1.1, linestyle=(0, (1, 2)), label=name)
        shown.append((ys[-1], name, GREY))
    if far and canvas.axes.size > 1:
        canvas.far |= set(far)
    elif far:
        ax.annotate(f"{canvas.word('beyond')} {', '.join(far)}", (0, 1.02),
                    xycoords="axes fraction", color=GREY, fontsize=8.5, va="bottom")  # fmt: skip
    return shown


def _span(ys: Sequence[float]) -> str:
    low, high = number(min(ys)), number(max(ys))
    return low if low == high else f"{low}…{high}"


# ── rows of points ──────────────────────────────────────────────────────────────────────────


def _points(points: Sequence[Point], m: Material, metric: str | None) -> Canvas:
    """Means with t-intervals, seeds faint; a row a variant, a colour a condition."""
    t = m.table(metric)
    own = [p for p in points if p["kind"] != "baseline"]
    rows = list(dict.fromkeys(p["series"] for p in own))
    columns = list(dict.fromkeys(p["x"] for p in own))
    each = max(0.34, 0.15 * len(columns))
    canvas = m.canvas("primary", (7.6, max(1.8, 1.1 + each * len(rows))))
    ax = canvas.ax
    height = 0.7 / max(1, len(columns))
    named: set[str] = set()
    for p in own:
        k = columns.index(p["x"])
        y = rows.index(p["series"]) + (k - (len(columns) - 1) / 2) * height
        colour = GREY if p["kind"] == "imported" else COLOURS[k % len(COLOURS)]
        if p["kind"] == "seed":
            ax.plot([p["y"]], [y], "o", color=colour, alpha=0.35, ms=3.4, mew=0)
        elif p["kind"] == "imported":
            ax.plot([p["y"]], [y], "s", mfc="white", mec=colour, ms=5.5)
        elif p["kind"] == "mean":
            _interval(ax, p, y, colour, p["x"] if p["x"] not in named else None)
            named.add(p["x"])
        else:
            ax.annotate(canvas.states(p["state"]), (0, y), xycoords=("axes fraction", "data"),
                        va="center", color=GREY, fontsize=8, style="italic", xytext=(4, 0),
                        textcoords="offset points")  # fmt: skip
    _verticals(ax, points)
    ax.set_yticks(range(len(rows)), [short(row) for row in rows])
    if own:
        ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(quantity(canvas, t.metric, t.unit, t.better))
    if len(columns) > 1:
        legend(canvas, 7)
    return canvas


def _interval(ax: Any, p: Mapping[str, Any], y: float, colour: str, label: str | None) -> None:
    whole = p["n"] == p["of"]
    if p["low"] is not None and whole:
        ax.plot([p["low"], p["high"]], [y, y], color=colour, lw=1.8, solid_capstyle="round",
                alpha=0.75)  # fmt: skip
    fill = colour if whole else "white"
    ax.plot([p["y"]], [y], "o", mfc=fill, mec=colour, ms=5.5, label=label)


def _verticals(ax: Any, points: Sequence[Point]) -> None:
    low, high = ax.get_xlim()
    known: dict[str, float] = {}
    for p in (p for p in points if p["kind"] == "baseline"):
        known.setdefault(p["series"], p["y"])
    for name, value in known.items():
        if low - (high - low) < value < high + (high - low):
            ax.axvline(value, color=FAINT, lw=1, linestyle=(0, (4, 3)))
            ax.annotate(name, (value, 1.01), xycoords=("data", "axes fraction"), color=GREY,
                        fontsize=8.5, ha="center")  # fmt: skip

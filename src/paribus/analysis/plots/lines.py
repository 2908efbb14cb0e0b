"""The metric against a number, of a condition or of training, or one row a variant where there is
no such axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from paribus.analysis.plots.axes import Axis, Lines, axis_of, conditioned, geometric, lines
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
from paribus.analysis.plots.material import FEW, PANELS, SINGLE, Material, Point, mean_point
from paribus.analysis.tables import Entry, ends, judged
from paribus.analysis.words import number
from paribus.study.measures import Node

DIRECT = 7  # more lines than this get a legend instead of labels at their ends
TITLE = 84  # letters of titles that stand side by side
DOTS: tuple[Any, ...] = ((0, (1, 2)), (0, (4, 2, 1, 2)), (0, (1, 4)))  # of trivial baselines
SMALL: dict[str, Any] = {"fontsize": 8.5, "linespacing": 1.1}
ROWS = 40  # variants that a figure with a row for each can hold


def data(m: Material, metric: str | None = None, axis: Axis | None = None) -> list[Point]:
    """A point for each mean, seed, trivial baseline and imported value: {"kind", "panel", "series",
    "place", "x", "y", "n", "of", "low", "high", "seed", "label"}; "train" is the mean on the split
    that was trained on.  [] where the lines are too many to be told apart."""
    axis = axis or axis_of(m)
    if axis is None:
        return _rows(m, metric)
    t, drawn = m.table(metric), lines(m, axis, metric)
    out: list[Point] = []
    for k, place, kind in _shown(t.conditions, axis, conditioned(m.study)):
        here: Point = {"panel": "", "place": place}
        tag = t.conditions[k]["levels"].get(axis.name)
        for name, row in t.rows:
            if name in m.chosen:
                x = drawn.places[name] if axis.trained else axis.values[tag]
                one = here | {"x": x, "series": drawn.series[name]}
                out += _values(row[k], one, kind)
                if kind == "mean":
                    out += [{"kind": "baseline", **one, "series": b, "of": one["series"], "y": y}
                            for b, line in t.trivial.get(name, {}).items()
                            if (y := line[k]) is not None]  # fmt: skip
        for name, row in t.imports if kind == "mean" else ():
            for x in [axis.values[tag]] if not axis.trained else sorted({*drawn.places.values()}):
                out += _elsewhere(name, row[k], here | {"x": x})
    return _arranged(m, out, axis, drawn, metric)


def _shown(
    conditions: Sequence[Node], axis: Axis, first: str | None
) -> Iterator[tuple[int, str, str]]:
    """(index, what is special about it, "mean" or "train") of each condition that has a place on
    the axis; on one of training those have it that are not on the ``first``, of conditions.  Where
    one alone judges what was trained, the training split stands beside it."""
    name = first if axis.trained else axis.name
    here = [k for k, c in enumerate(conditions) if bool(c["levels"].get(name)) != axis.trained]
    if axis.trained:
        main = [k for k in judged(conditions) if k in here]
        train = [k for k in here if conditions[k].get("split") == "train" and k not in main]
        yield from ((k, "", "train") for k in train if len(main) == len(train) == 1)
        here = main if len(main) == len(train) == 1 else sorted({*main, *train})
    many = len({conditions[k]["evaluation"] for k in (here if axis.trained else
                range(len(conditions)))}) > 1  # fmt: skip
    for k in here:
        c = conditions[k]
        rest = [f"{f}={g}" for f, g in c["levels"].items() if f != axis.name and g is not None]
        yield k, ", ".join([c["evaluation"]] * many + rest), "mean"


def _values(e: Entry | None, one: Point, kind: str = "mean") -> list[Point]:
    """The mean of a cell and its seeds, or that it is missing."""
    if e is None:
        return []
    if not e.values:
        gone = {"kind": "missing", **one, "n": 0, "of": e.planned, "state": e.text(e.planned, None)}
        return [gone] if kind == "mean" else []
    out = [{"kind": kind, **one, **mean_point(e.values, e.planned)}]
    if kind == "mean" and len(e.values) > 1:
        out += [{"kind": "seed", **one, "seed": s, "y": y} for s, y in e.by_seed.items()]
    return out


def _elsewhere(name: str, e: Entry | None, here: Point) -> list[Point]:
    if e is None or not e.values:
        return []
    point = {"kind": "imported", **here, "series": name, "n": len(e.values)}
    return [point | {"y": math.fsum(e.values) / len(e.values)}]


def _rows(m: Material, metric: str | None) -> list[Point]:
    """Without an axis: a row a variant, ``x`` the condition; [] where there are too many."""
    t = m.table(metric)
    out: list[Point] = []
    for k, label in enumerate(t.columns):
        here = {"panel": "", "place": "", "x": label}
        for name, row in t.rows:
            if name in m.chosen:
                out += _values(row[k], here | {"series": name})
        for name, values in t.baselines:
            out += [{"kind": "baseline", **here, "series": name, "y": y}
                    for y in dict.fromkeys(ends(values[k]))]  # fmt: skip
        for name, row in t.imports:
            out += _elsewhere(name, row[k], here)
    own = {p["series"] for p in out if p["kind"] in ("mean", "seed", "missing")}
    return out if len(own) <= ROWS else []


def _arranged(
    m: Material, points: list[Point], axis: Axis, drawn: Lines, metric: str | None
) -> list[Point]:
    """Panels and labels by the number of lines; [] where there are too many."""
    conditions = m.table(metric).conditions
    what = next((conditions[k]["evaluation"] for k in judged(conditions)), "")
    own = [p for p in points if p["kind"] in ("mean", "seed", "missing", "train")]
    found = {(p["series"], p["place"]) for p in own if p["kind"] != "train"}
    single = not axis.trained and len(found) <= SINGLE
    looks = drawn.looks
    for p in own:
        look = looks[p["series"]]
        if single:
            p["label"] = ", ".join(x for x in (p["series"], p["place"]) if x)
        else:
            p["panel"] = ", ".join(x for x in (look.panel, p["place"]) if x)
            p["label"] = look.label or what
    panels = list(dict.fromkeys(p["panel"] for p in own))
    if not single and (len(panels) > PANELS or len({p["label"] for p in own}) > SINGLE):
        return []
    there: dict[str, set[tuple[str, str]]] = {}
    for p in own:
        there.setdefault(p["panel"], set()).add((p["series"], p["place"]))
    flat = [{**p, "panel": panel} for p in points if p["kind"] == "imported" for panel in panels
            if any(place == p["place"] for _, place in there[panel])]  # fmt: skip
    for panel in panels:
        trivial = [p for p in points if p["kind"] == "baseline"
                   and (p["of"], p["place"]) in there[panel]]  # fmt: skip
        flat += _trivial(trivial, panel)
    for p in flat:
        p["label"] = ", ".join(x for x in (p["series"], p["place"] if single else "") if x)
    return own + flat


def _trivial(points: Sequence[Point], panel: str) -> Iterator[Point]:
    """Each trivial baseline once, named after its arm where arms of a panel have their own."""
    found: dict[tuple[str, str], dict[float, dict[str, float]]] = {}
    for p in points:
        found.setdefault((p["series"], p["place"]), {}).setdefault(p["x"], {})[p["of"]] = p["y"]
    for (name, place), xs in found.items():
        shared = all(len({*by.values()}) == 1 for by in xs.values())
        for arm in [None] if shared else dict.fromkeys(a for by in xs.values() for a in by):
            label = name if arm is None else f"{name} of {arm}"
            for x, by in xs.items():
                y = next(iter(by.values())) if arm is None else by.get(arm)
                if y is not None:
                    yield {"kind": "baseline", "panel": panel, "place": place, "x": x,
                           "series": label, "y": y}  # fmt: skip


def draw(
    points: Sequence[Point], m: Material, metric: str | None = None, axis: Axis | None = None
) -> Canvas:
    axis = axis or axis_of(m)
    return _lines(points, m, metric, axis) if axis else _points(points, m, metric)


# ── lines ───────────────────────────────────────────────────────────────────────────────────


def _lines(points: Sequence[Point], m: Material, metric: str | None, axis: Axis) -> Canvas:
    t = m.table(metric)
    panels = list(dict.fromkeys(p["panel"] for p in points))
    most = 2 if len(panels) in (2, 4) else 3 if len(panels) <= FEW else 4
    columns = m.across(most, len(panels))
    rows = math.ceil(len(panels) / columns)
    # Long titles go over several lines: one panel's would run into the next one's.
    wide = max(map(len, panels)) > TITLE // columns
    deep = max(panel.count(", ") for panel in panels) if wide else 0
    each = 2.9 if axis.trained and len(panels) <= 4 else 2.1
    size = (7.6, 4.3) if len(panels) == 1 else (7.6, 0.9 + (each + 0.12 * deep) * rows)
    # What is asked may be another task in each panel, as its trivial baselines tell.
    sharey = len(panels) > 1 and not (axis.trained and _own_baselines(points))
    name = "learning" if axis.trained and conditioned(m.study) else "primary"
    canvas = m.canvas(name, size, rows, columns, sharex=True, sharey=sharey)
    flat = [ax for line in canvas.axes for ax in line]
    xs = sorted({p["x"] for p in points})
    trained = None if axis.trained else m.study.get("trained", {}).get(axis.name)
    styles = _styles(points, m, axis, metric)
    for ax, panel in zip(flat, panels, strict=False):
        ends = []
        own = [p for p in points if p["panel"] == panel]
        if len(panels) > 1:  # bands say enough where panels are small
            own = [p for p in own if p["kind"] != "seed"]
        for label in dict.fromkeys(p["label"] for p in own if p["kind"] in ("mean", "missing")):
            mine = sorted((p for p in own if p["label"] == label), key=lambda p: p["x"])
            colour, dash, mark = styles[label]
            said = f"{label} {canvas.word('reference')}" if mark else label
            end = line(ax, mine, colour, dash, said)
            ends += [(end, said, colour)] if end is not None else []
            ends += _beside(canvas, ax, mine, label if len(styles) > 1 else "", colour)
        ends += _imported(ax, own)
        if geometric(xs):
            ax.set_xscale("log", base=2)
            ax.minorticks_off()
        ends += _baselines(canvas, ax, own, axis)
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
            ax.set_xlabel(axis.name.replace("_", " "))
            ax.tick_params(labelbottom=True)
        said = quantity(canvas, t.metric, t.unit, t.better)
        if rows == 1:  # in the middle of the figure it would run into the legend
            canvas.ax.set_ylabel(said)
        else:
            canvas.figure.supylabel(said, fontsize=10)
    else:
        canvas.ax.set_xlabel(axis.name.replace("_", " "))
        canvas.ax.set_ylabel(quantity(canvas, t.metric, t.unit, t.better))
    return canvas


def _own_baselines(points: Sequence[Point]) -> bool:
    """Whether trivial baselines differ between panels."""
    found: dict[tuple[str, float], set[float]] = {}
    for p in (p for p in points if p["kind"] == "baseline"):
        found.setdefault((p["label"], p["x"]), set()).add(p["y"])
    return any(len(ys) > 1 for ys in found.values())


def _beside(
    canvas: Canvas, ax: Any, points: Sequence[Point], label: str, colour: str
) -> list[tuple[float, str, str]]:
    """The same arm on the split that it was trained on: thin and dashed, without a band."""
    found = [p for p in points if p["kind"] == "train"]
    if not found:
        return []
    name = (f"{label}, " if label else "") + canvas.word("train_split")
    ax.plot([p["x"] for p in found], [p["y"] for p in found], color=colour, lw=1.0, alpha=0.8,
            linestyle=(0, (4, 2.5)), label=name)  # fmt: skip
    return [(found[-1]["y"], name, colour)]


def _thinned(xs: Sequence[float], most: int) -> Sequence[float]:
    step = math.ceil(len(xs) / most)
    return xs[::step]


def _styles(
    points: Sequence[Point], m: Material, axis: Axis, metric: str | None
) -> dict[str, tuple[str, Any, bool]]:
    """Label -> colour, dash and whether it is the baseline arm's: those of the line, or one after
    the other where a line is a variant at one of several conditions."""
    own = [p for p in points if p["kind"] in ("mean", "missing")]
    labels = dict.fromkeys(p["label"] for p in own)
    single = len({p["panel"] for p in own}) == 1 and any(p["place"] for p in own)
    if single and not axis.trained:
        return {label: (COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)], False)
                for i, label in enumerate(labels)}  # fmt: skip
    drawn = lines(m, axis, metric)
    marked: dict[str, bool] = {}
    for p in own:  # a label is the baseline arm's where each of its lines is
        first = axis.trained and p["series"] in drawn.reference
        marked[p["label"]] = marked.get(p["label"], True) and first
    return {p["label"]: (*drawn.looks[p["series"]][1:3], marked[p["label"]]) for p in own}


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


def _baselines(
    canvas: Canvas, ax: Any, points: Sequence[Point], axis: Axis
) -> list[tuple[float, str, str]]:
    """Dotted lines where they are near; a far one would flatten everything that matters, so it is
    named with its value instead.  Along an axis of training all shares are shown: how far an arm
    is from a trivial rule is what its curve tells."""
    low, high = ax.get_ylim()
    panels = canvas.axes.size > 1
    room = (0.2 if panels else 1.2) * (high - low)
    if axis.trained:
        shares = all(-1e-9 <= p["y"] <= 1 + 1e-9 for p in points if "y" in p)
        room = math.inf if shares else 1.2 * (high - low)
    shown, far = [], []
    flat: dict[str, list[tuple[float, float]]] = {}
    for p in (p for p in points if p["kind"] == "baseline"):
        flat.setdefault(p["label"], []).append((p["x"], p["y"]))
    others = any(p["kind"] != "baseline" and "y" in p for p in points)
    together: dict[tuple[float, ...], list[str]] = {}  # lines that lie on one another
    for i, (name, found) in enumerate(flat.items()):
        xs, ys = zip(*sorted(found), strict=True)
        if others and (min(ys) > high + room or max(ys) < low - room):
            far.append(f"{name} {_span(ys)}")
            continue
        ax.plot(xs, ys, color=GREY, lw=1.1, linestyle=DOTS[i % len(DOTS)], label=name)
        shown.append((ys[-1], name, GREY))
        together.setdefault((xs[0], ys[0], xs[-1], ys[-1]), []).append(name)
    for (x0, y0, x1, y1), names in together.items() if axis.trained and panels else ():
        # Each panel has its own, so the name stands at the line.
        left = _farther(points, (x0, y0), (x1, y1))
        y = y0 if left else y1
        ax.annotate(f"{', '.join(names)} {y:.4g}", (1 - left, y), color=GREY, fontsize=7.5,
                    xycoords=("axes fraction", "data"), va="bottom", ha="left" if left else "right",
                    xytext=(3 * left, 1), textcoords="offset points")  # fmt: skip
    if far and panels:
        canvas.far |= set(far)
    elif far:
        ax.annotate(f"{canvas.word('beyond')} {', '.join(far)}", (0, 1.02),
                    xycoords="axes fraction", color=GREY, fontsize=8.5, va="bottom")  # fmt: skip
    return shown


def _farther(points: Sequence[Point], one: tuple[float, float], two: tuple[float, float]) -> bool:
    """Whether the arms pass farther from the one place than from the other."""
    arms = [p for p in points if p["kind"] in ("mean", "train")]
    gaps = [min((abs(p["y"] - y) for p in arms if p["x"] == x), default=0) for x, y in (one, two)]
    return gaps[0] > gaps[1]


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

"""Figures, as SVG text (or PNG bytes), drawn without a display."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from paribus.analysis.cells import Results, Row, condition_label, names
from paribus.analysis.stats import Sample
from paribus.analysis.tables import Entry, Table, table
from paribus.analysis.words import number
from paribus.study.measures import Node

# Okabe and Ito's palette (2008), which stays apart under the common forms of colour blindness,
# without its yellow, which is too light for lines; then dashes tell further lines apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
GREY, FAINT = "#5f6368", "#d9dce1"
DIRECT_LABELS = 6  # more lines than this get a legend instead

STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.edgecolor": "#9aa0a6",
    "axes.labelcolor": "#202124",
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceff1",
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",  # text stays text: searchable, small
    "svg.hashsalt": "paribus",  # the same figure is the same file
}


@contextmanager
def _axes(width: float, height: float) -> Iterator[tuple[Any, Any]]:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.add_subplot()


def _save(figure: Any, png: bool) -> Any:
    if png:
        raw = io.BytesIO()
        figure.savefig(raw, format="png", dpi=160)
        return raw.getvalue()
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]  # without the prologue it can stand inside a page
    # A page's font where it has one; without fallbacks, viewers fall back to serifs.
    return svg.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, Arial, sans-serif")


def axis_of(study: Node) -> str | None:
    """The condition factor that makes an axis: numeric, the one with most levels."""
    numeric = [
        f
        for f in study["factors"]
        if f["kind"] == "condition"
        and len(f["levels"]) > 1
        and all(_is_number(v["value"]) for v in f["levels"])
    ]
    best = max(numeric, key=lambda f: len(f["levels"]), default=None)
    return None if best is None else str(best["name"])


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _geometric(xs: Sequence[float]) -> bool:
    """Whether the levels are spread by ratios rather than by steps."""
    xs = sorted(set(xs))
    if len(xs) < 3 or xs[0] <= 0:
        return False
    ratios = [b / a for a, b in pairwise(xs)]
    steps = [b - a for a, b in pairwise(xs)]
    return max(ratios) / min(ratios) < max(steps) / min(steps)


def primary(
    study: Node,
    records: Iterable[Row],
    metric: str | None = None,
    *,
    trained: float | None = None,
    png: bool = False,
) -> Any:
    """The metric against the condition axis, or one row a variant where there is no such axis.
    ``trained`` marks the value of the axis that training used; default: the study's own."""
    results = Results(study, records)
    t = table(study, results, metric)
    name = axis_of(study)
    if name is None:
        return _points(t, png)
    if trained is None:
        trained = study.get("trained", {}).get(name)
    return _lines(study, results, t, name, trained, png)


def _lines(
    study: Node, results: Results, t: Table, name: str, trained: float | None, png: bool
) -> Any:
    values = {
        v["tag"]: float(v["value"])
        for f in study["factors"]
        if f["name"] == name
        for v in f["levels"]
    }
    others = [f for f in names(study, "condition") if f != name]
    labels = {condition_label(c): c for c in study["conditions"]}
    series: dict[str, list[tuple[float, Entry]]] = {}
    flat: dict[str, list[tuple[float, float]]] = {}
    for k, column in enumerate(t.columns):
        c = labels[column.split(": ")[-1]]
        if c["levels"].get(name) is None:
            continue
        x = values[c["levels"][name]]
        rest = ", ".join(f"{f}={c['levels'][f]}" for f in others if c["levels"].get(f) is not None)
        for variant, row in t.rows:
            if (e := row[k]) is not None:
                series.setdefault(f"{variant}, {rest}" if rest else variant, []).append((x, e))
        for baseline, line in t.baselines:
            if (y := line[k]) is not None:
                flat.setdefault(baseline, []).append((x, y))
    with _axes(7.6, 4.4) as (figure, ax):
        ends: list[tuple[float, str, str]] = []
        for i, (label, points) in enumerate(series.items()):
            colour = COLOURS[i % len(COLOURS)]
            dash = DASHES[i // len(COLOURS) % len(DASHES)]
            end = _line(ax, sorted(points, key=lambda p: p[0]), colour, dash, label)
            ends += [(end, label, colour)] if end is not None else []
        xs = sorted({x for points in series.values() for x, _ in points})
        shown = _baselines(ax, flat)
        if xs and _geometric(xs):
            ax.set_xscale("log", base=2)
            ax.minorticks_off()
        ax.set_xticks(xs, [f"{x:g}" for x in xs])
        if trained is not None:
            ax.axvline(trained, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
            ax.annotate("trained", (trained, 1), xycoords=("data", "axes fraction"), color=GREY,
                        fontsize=8.5, ha="right", va="top", xytext=(-3, 0),
                        textcoords="offset points", rotation=90)  # fmt: skip
        ax.set_xlabel(name.replace("_", " "))
        _label_y(ax, t)
        if len(ends) <= DIRECT_LABELS:
            _direct(ax, ends + shown)
        else:
            figure.legend(loc="outside right upper", fontsize=8.5)
        return _save(figure, png)


def _line(
    ax: Any, points: Sequence[tuple[float, Entry]], colour: str, dash: Any, label: str
) -> float | None:
    """Mean, t-interval and single seeds of a variant; the height at which its line ends."""
    there = [(x, Sample(e.values)) for x, e in points if e.values]
    if not there:
        return None
    xs, means = [x for x, _ in there], [s.mean for _, s in there]
    if all(s.n > 1 for _, s in there):
        low, high = zip(*(s.interval(0.05) for _, s in there), strict=True)
        ax.fill_between(xs, low, high, color=colour, alpha=0.14, linewidth=0)
    for x, s in there:
        if s.n > 1:
            ax.plot([x] * s.n, s.values, "o", color=colour, alpha=0.35, ms=3.2, mew=0)
    ax.plot(xs, means, linestyle=dash, color=colour, lw=1.9, marker="o", ms=4.2, label=label)
    return means[-1]


def _baselines(
    ax: Any, flat: Mapping[str, Sequence[tuple[float, float]]]
) -> list[tuple[float, str, str]]:
    """Dashed lines where they are near; a far one would flatten everything that matters, so it is
    named with its value instead."""
    low, high = ax.get_ylim()
    room = 1.2 * (high - low)
    shown, far = [], []
    for name, points in flat.items():
        xs, ys = zip(*sorted(points), strict=True)
        if min(ys) > high + room or max(ys) < low - room:
            value = number(ys[0]) if min(ys) == max(ys) else f"{number(min(ys))}…{number(max(ys))}"
            far.append(f"{name} {value}")
            continue
        ax.plot(xs, ys, color=GREY, lw=1.1, linestyle=(0, (4, 3)), label=name)
        shown.append((ys[-1], name, GREY))
    if far:
        ax.annotate("beyond the axis: " + ", ".join(far), (0, 1.02), xycoords="axes fraction",
                    color=GREY, fontsize=8.5, va="bottom")  # fmt: skip
    return shown


def _direct(ax: Any, ends: Sequence[tuple[float, str, str]]) -> None:
    """Labels at the right ends of the lines, pushed apart where they would overlap."""
    low, high = ax.get_ylim()
    gap = (high - low) * 0.052
    heights: list[float] = []
    for y, _, _ in sorted(ends):
        heights.append(max(y, heights[-1] + gap) if heights else y)
    for (y, label, colour), height in zip(sorted(ends), heights, strict=True):
        ax.annotate(label, (1, y), xycoords=("axes fraction", "data"), xytext=(1.015, height),
                    textcoords=("axes fraction", "data"), color=colour, va="center", fontsize=9.5,
                    annotation_clip=False)  # fmt: skip


def _label_y(ax: Any, t: Table) -> None:
    unit = f" ({t.unit})" if t.unit else ""
    ax.set_ylabel(f"{t.metric.replace('_', ' ')}{unit}, {t.better} is better")


def _points(t: Table, png: bool) -> Any:
    """Rows of points: means with t-intervals, seeds faint; a colour a condition."""
    rows = [name for name, _ in t.rows]
    with _axes(7.6, max(1.8, 0.9 + 0.34 * len(rows) * max(1, len(t.columns) / 2))) as (figure, ax):
        height = 0.7 / max(1, len(t.columns))
        for k, column in enumerate(t.columns):
            colour = COLOURS[k % len(COLOURS)]
            for i, (_, row) in enumerate(t.rows):
                y = i + (k - (len(t.columns) - 1) / 2) * height
                entry = row[k]
                if entry is None or not entry.values:
                    continue
                s = Sample(entry.values)
                low, high = s.interval(0.05)
                if math.isfinite(high - low):
                    ax.plot([low, high], [y, y], color=colour, lw=1.9, solid_capstyle="round")
                    ax.plot(s.values, [y] * s.n, "o", color=colour, alpha=0.35, ms=3.6, mew=0)
                first = not any(e[k] and e[k].values for _, e in t.rows[:i])  # type: ignore[union-attr]
                ax.plot([s.mean], [y], "o", color=colour, ms=5.5, label=column if first else None)
        for name, line in t.baselines:
            known = [v for v in line if v is not None]
            low, high = ax.get_xlim()
            if known and low - (high - low) < known[0] < high + (high - low):
                ax.axvline(known[0], color=GREY, lw=1, linestyle=(0, (4, 3)))
                ax.annotate(name, (known[0], 1.01), xycoords=("data", "axes fraction"),
                            color=GREY, fontsize=8.5, ha="center")  # fmt: skip
        ax.set_yticks(range(len(rows)), rows)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.grid(visible=False, axis="y")
        unit = f" ({t.unit})" if t.unit else ""
        ax.set_xlabel(f"{t.metric.replace('_', ' ')}{unit}, {t.better} is better")
        if len(t.columns) > 1:
            figure.legend(loc="outside right upper", fontsize=8.5)
        return _save(figure, png)


def learning(
    curves: Mapping[str, Sequence[tuple[int, float]]],
    variant_of: Mapping[str, str] | None = None,
    *,
    ylabel: str = "training loss",
    png: bool = False,
) -> Any:
    """Training curves by trial; a colour a variant, where ``variant_of`` names the trial's."""
    groups = dict.fromkeys((variant_of or {}).get(name, name) for name in curves)
    number = {group: i for i, group in enumerate(groups)}
    with _axes(7.6, 4.0) as (figure, ax):
        ends: dict[str, list[float]] = {}
        for name, points in curves.items():
            group = (variant_of or {}).get(name, name)
            i = number[group]
            finite = [(x, y) for x, y in points if math.isfinite(y)]
            if not finite:
                continue
            xs, ys = zip(*finite, strict=True)
            ax.plot(xs, ys, color=COLOURS[i % len(COLOURS)], lw=1, alpha=0.75,
                    linestyle=DASHES[i // len(COLOURS) % len(DASHES)],
                    label=None if group in ends else group)  # fmt: skip
            ends.setdefault(group, []).append(ys[-1])
        ax.set_xlabel("step")
        ax.set_ylabel(ylabel)
        ax.margins(x=0.01)
        if len(ends) <= DIRECT_LABELS:
            _direct(ax, [(math.fsum(y) / len(y), g, COLOURS[number[g] % len(COLOURS)])
                         for g, y in ends.items()])  # fmt: skip
        else:
            figure.legend(loc="outside right upper", fontsize=8.5)
        return _save(figure, png)


Checks = Mapping[str, Sequence[Mapping[str, Any]]]


def interval_series(study: Node, checks: Checks) -> dict[str, dict[str, list[Any]]]:
    """Panel -> variant -> its seeds' curves [(step, value)], one panel for each condition that was
    evaluated during training: of the primary metric, else of the first that it has."""
    of = {t["name"]: study["variants"][t["variant"]]["name"] for t in study["trials"]}
    metrics = dict.fromkeys([study["primary"], *study["metrics"]])
    out: dict[str, dict[str, list[Any]]] = {}
    for c in study["conditions"]:
        for metric in metrics:
            key = f"{c['key']} {metric}"
            panel: dict[str, list[Any]] = {}
            for trial, rows in checks.items():
                points = [(r["step"], r[key]) for r in rows if _finite(r.get(key))]
                if points and trial in of:
                    panel.setdefault(of[trial], []).append(points)
            if panel:
                label = f"{c['evaluation']} {condition_label(c)}" if c["levels"] else c["key"]
                out[f"{label}: {metric}"] = panel
                break
    return out


def _finite(x: Any) -> bool:
    return _is_number(x) and math.isfinite(x)


def intervals(study: Node, checks: Checks, *, png: bool = False) -> Any:
    """Metrics against the step of training, a panel a condition; None where there are none.  A
    mean is drawn where all seeds of the variant have a value: never over those that are left."""
    series = interval_series(study, checks)
    if not series:
        return None
    order = [v["name"] for v in study["variants"]]
    due = Counter(order[t["variant"]] for t in study["trials"])
    columns = min(2, len(series))
    lines = math.ceil(len(series) / columns)
    with _axes(7.6, 0.6 + 2.9 * lines) as (figure, first):
        first.remove()
        panels = list(figure.subplots(lines, columns, squeeze=False).flat)
        named: set[str] = set()
        for ax, (title, panel) in zip(panels, series.items(), strict=False):
            for variant, seeds in panel.items():
                i = order.index(variant)
                style = {"color": COLOURS[i % len(COLOURS)],
                         "linestyle": DASHES[i // len(COLOURS) % len(DASHES)]}  # fmt: skip
                at: dict[float, list[float]] = {}
                for step, value in (p for points in seeds for p in points):
                    at.setdefault(step, []).append(value)
                mean = [(s, math.fsum(v) / len(v)) for s, v in sorted(at.items())
                        if len(v) == due[variant]]  # fmt: skip
                drawn = [(p, {"lw": 0.8, "alpha": 0.4}) for p in seeds if p != mean]
                drawn = [(mean, {"lw": 1.8}), *drawn] if mean else drawn
                for points, weight in drawn:
                    xs, ys = zip(*points, strict=True)
                    label = None if variant in named else variant
                    named.add(variant)
                    mark = "o" if len(points) == 1 else ""
                    ax.plot(xs, ys, label=label, marker=mark, ms=3.6, **weight, **style)
            ax.set_title(title, fontsize=9.5, loc="left")
            ax.set_xlabel("step")
        for ax in panels[len(series) :]:
            ax.set_visible(False)
        figure.legend(loc="outside right upper", fontsize=8.5)
        return _save(figure, png)

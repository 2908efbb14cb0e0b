"""What quality costs: FLOPs, or seconds where all arms take the same FLOPs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from paribus.analysis.plots.canvas import GREY, Canvas, legend, quantity, short
from paribus.analysis.plots.material import Material, Point, is_number, mean_point
from paribus.analysis.tables import judged

NAMED = 12


def data(m: Material) -> list[Point]:
    """A variant each: {"variant", "cost": "flops" or "seconds", "x", "y", "n", "of", "low",
    "high"}; ``y`` is the mean over the conditions that judge.  Only variants that lack no value; []
    where all cost about the same: a few seconds tell of the machine."""
    t = m.table()
    shown = set(judged(t.conditions))
    ends: dict[str, Any] = {}
    for (trial, *_), result in m.results.best.items():
        ends.setdefault(trial, result)
    for kind, apart in (("flops", 1.005), ("seconds", 1.25)):
        out = []
        for name, row in t.rows:
            entries = [e for k, e in enumerate(row) if e is not None and k in shown]
            if name not in m.chosen or not entries or not all(e.whole for e in entries):
                continue
            costs = [ends.get(trial, {}).get(kind) for trial, v in m.of.items() if v == name]
            if not costs or not all(is_number(c) and c > 0 for c in costs):
                continue
            seeds = set.intersection(*({*e.by_seed} for e in entries))
            values = [math.fsum(e.by_seed[s] for e in entries) / len(entries) for s in seeds]
            out.append({"variant": name, "cost": kind, "x": math.fsum(costs) / len(costs),
                        **mean_point(values, m.planned[name])})  # fmt: skip
        xs = [p["x"] for p in out]
        if len(xs) > 1 and max(xs) > apart * min(xs):
            return out
    return []


def draw(points: Sequence[Point], m: Material) -> Canvas:
    from matplotlib.collections import LineCollection

    t = m.table()
    canvas = m.canvas("cost", (7.6, 3.8))
    ax = canvas.ax
    few = len(points) <= NAMED
    xs = [p["x"] for p in points]
    groups: dict[str, list[Point]] = {}
    for p in points:
        groups.setdefault(m.looks[p["variant"]].label, []).append(p)
    for label, mine in groups.items():
        colour = m.looks[mine[0]["variant"]].colour
        bars = [[(p["x"], p["low"]), (p["x"], p["high"])] for p in mine if p["low"] is not None]
        ax.add_collection(LineCollection(bars, colors=colour, linewidths=1.2, alpha=0.5))
        ax.plot([p["x"] for p in mine], [p["y"] for p in mine], "o", color=colour, ms=5,
                label=None if few else label)  # fmt: skip
    if max(xs) > 8 * min(xs):
        _ratios(ax)
    if few:
        _names(ax, points, m)
    else:
        legend(canvas, 7)
    front = _front(points, t.better)
    if len(front) > 1:
        ax.plot([p["x"] for p in front], [p["y"] for p in front], color=GREY, lw=0.9,
                linestyle=(0, (2, 2)), drawstyle="steps-post", zorder=1)  # fmt: skip
    ax.set_xlabel(canvas.word(points[0]["cost"]))
    ax.set_ylabel(quantity(canvas, t.metric, t.unit, t.better))
    return canvas


def _ratios(ax: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.2g}"))


def _names(ax: Any, points: Sequence[Point], m: Material) -> None:
    """Names beside their points, a line apart where points are close."""
    ax.margins(x=0.12, y=0.12)
    low, high = ax.get_ylim()
    used: list[tuple[float, float]] = []
    wide = ax.get_xlim()[1] - ax.get_xlim()[0]
    for p in sorted(points, key=lambda p: p["y"]):
        y = p["y"]
        while any(abs(p["x"] - a) < 0.22 * wide and abs(y - b) < 0.055 * (high - low)
                  for a, b in used):  # fmt: skip
            y += 0.02 * (high - low)
        used.append((p["x"], y))
        ax.annotate(short(p["variant"], 30), (p["x"], y), xytext=(7, 0), textcoords="offset points",
                    va="center", fontsize=8.5, color=m.looks[p["variant"]].colour)  # fmt: skip


def _front(points: Sequence[Point], better: str) -> list[Point]:
    """Points that no other beats in both."""
    sign = -1 if better == "higher" else 1
    out: list[Point] = []
    for p in sorted(points, key=lambda p: (p["x"], sign * p["y"])):
        if not out or sign * p["y"] < sign * out[-1]["y"]:
            out.append(p)
    return out

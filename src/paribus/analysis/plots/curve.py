"""Curves of a probe: accuracy with and without what is to be remembered, and what memory adds,
along its axis; where that counts tokens, vertical lines at the window and at the field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paribus.analysis.plots.axes import geometric
from paribus.analysis.plots.canvas import COLOURS, GREY, Canvas, counted, legend, styled
from paribus.analysis.plots.fonts import cover
from paribus.readers import Curve
from paribus.study.measures import COUNTS

Data = Mapping[str, Any]
MARKS = {"work": "work", "window": "direct window", "field": "theoretical field"}


def data(conditions: Sequence[Data], labels: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each point of each metric: {"condition", "curve", "metric", "x", "y", "low",
    "high", "items"}."""
    out = []
    for label, c in zip(labels, conditions, strict=True):
        for curve in c["curves"]:
            for p in curve["points"]:
                for metric, found in p.items():
                    if metric not in ("x", "items"):
                        y, low, high = found
                        out.append({"condition": label, "curve": curve["curve"], "metric": metric,
                                    "x": p["x"], "y": y, "low": low, "high": high,
                                    "items": p["items"]})  # fmt: skip
    return out


def draw(rows: Sequence[Data], curve: Curve, marks: Mapping[str, float], title: str = "") -> Canvas:
    """A panel for each curve and condition: the metric and, dashed, its control; below them the
    gain, where there is one."""
    panels = list(dict.fromkeys((r["condition"], r["curve"]) for r in rows))
    several = len({c for c, _ in panels}) > 1
    lines = 2 if curve.gain else 1
    with styled():
        size = (max(4.2, 3.1 * len(panels)), 2.6 * lines + 0.9)
        families = cover([title, *(x for panel in panels for x in panel)]).families
        canvas = Canvas("curve", size, lines, len(panels), families, sharex=True, sharey="row")
        for i, panel in enumerate(panels):
            own = [r for r in rows if (r["condition"], r["curve"]) == panel]
            for j, ax in enumerate(canvas.axes[k][i] for k in range(lines)):
                for metric, colour, dash in (
                    [(curve.metric, COLOURS[0], "-"), (curve.control, COLOURS[1], "--")]
                    if j == 0
                    else [(curve.gain, COLOURS[2], "-")]
                ):
                    _line(ax, [r for r in own if r["metric"] == metric], colour, dash, metric)
                _marks(ax, marks, [r["x"] for r in own], j == 0)
                low = min((r["low"] for r in own if r["metric"] == curve.gain), default=0)
                ax.set_ylim((-0.03 if j == 0 else min(-0.1, low - 0.02)), 1.03)
                if i == 0:
                    ax.set_ylabel("accuracy" if j == 0 else "gain")
                if j == lines - 1:
                    ax.set_xlabel(counted(canvas, curve.axis))
            name = ", ".join(x for x in (panel[0] if several else "", panel[1]) if x)
            canvas.axes[0][i].set_title(name or title)
        if title and any(panels[0]):
            canvas.figure.suptitle(title, fontsize=10)
        legend(canvas, 4)
    return canvas


def _line(ax: Any, rows: Sequence[Data], colour: str, dash: str, label: str | None) -> None:
    if not rows:
        return
    xs = [r["x"] for r in rows]
    ax.fill_between(xs, [r["low"] for r in rows], [r["high"] for r in rows], color=colour,
                    alpha=0.18, lw=0)  # fmt: skip
    ax.plot(xs, [r["y"] for r in rows], color=colour, linestyle=dash, lw=1.8, marker="o", ms=3.5,
            label=label)  # fmt: skip
    along(ax, xs)


def along(ax: Any, xs: Sequence[float], most: int = 7) -> None:
    """An axis of numbers of tokens: by ratios where they are spread so, ticks where points are."""
    places = sorted({*xs})
    if geometric(places) or (places[0] > 0 and places[-1] > 16 * places[0]):
        ax.set_xscale("log", base=2)
        ax.minorticks_off()
        places = [x for x in places if math.log2(x).is_integer()] or places
    shown = places[:: math.ceil(len(places) / most)]
    ax.set_xticks(shown, [f"{x:g}" for x in shown])


def powers(ax: Any, ends: tuple[float, float], most: int, of: str = "x") -> None:
    """An axis of numbers of tokens by ratios, from end to end, with ticks at powers of two.

    Args:
        of: "x" or "y".
    """
    axis = getattr(ax, f"{of}axis")
    getattr(ax, f"set_{of}scale")("log", base=2)
    getattr(ax, f"set_{of}lim")(*ends)
    low, high = math.ceil(math.log2(ends[0])), math.floor(math.log2(ends[1]))
    step = max(1, math.ceil((high - low + 1) / most))
    ticks = [2.0**k for k in range(low, high + 1, step)]
    axis.set_ticks(ticks, [f"{x:g}" for x in ticks])
    axis.set_ticks([], minor=True)


def _marks(ax: Any, marks: Mapping[str, float], xs: Sequence[float], named: bool) -> None:
    """Vertical lines at declared numbers of tokens, those off the axis at its edge by name."""
    for k, (name, x) in enumerate(marks.items()):
        if not xs or not x > 0:
            continue
        ax.axvline(x, color=GREY, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        if named:
            left = x * x > min(xs) * max(xs)  # where more room is
            ax.annotate(f"{name} {x:g}", (x, 1 - 0.34 * (k % 2)), color=GREY, fontsize=7.5,
                        xycoords=("data", "axes fraction"), ha="right" if left else "left",
                        va="top", rotation=90, xytext=(-2 if left else 2, -2),
                        textcoords="offset points")  # fmt: skip


def marks_of(conditions: Sequence[Data]) -> dict[str, float]:
    """Where vertical lines stand: what the records tell of window and field, where all agree."""
    out: dict[str, float] = {}
    for key, name in MARKS.items():
        found = {c["realised"].get(key) for c in conditions}
        if len(found) == 1 and (x := found.pop()) and float(x) not in out.values():
            out[name] = float(x)
    return out


def write(
    path: Path, conditions: Sequence[Data], labels: Sequence[str], curve: Curve, title: str
) -> None:
    """A picture of every curve: .svg, .png or .pdf."""
    marks = {} if curve.axis in COUNTS else marks_of(conditions)
    canvas = draw(data(conditions, labels), curve, marks, title)
    form = path.suffix[1:].lower()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(canvas.svg().encode() if form == "svg" else getattr(canvas, form)())

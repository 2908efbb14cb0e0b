"""The tuning curve of each arm: what was tried, what was chosen, and whether the choice lies at
the edge of its grid, where something better may lie beyond."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from paribus.analysis.cells import Lost
from paribus.analysis.plots.axes import geometric
from paribus.analysis.plots.canvas import COLOURS, DASHES, GREY, PAPER, Canvas, direct, legend
from paribus.analysis.plots.lines import DIRECT
from paribus.analysis.plots.material import Material, Point, is_number


def data(m: Material) -> list[Point]:
    """A tried value each: {"arm", "factor", "level", "x", "y", "state", "chosen", "edge"}; ``y``
    is the selection metric in its own direction.  Where several factors are tuned, each is shown
    at the chosen levels of the others."""
    tuned = [f for f in m.study["factors"] if f.get("tuned")]
    if not tuned:
        return []
    rule = tuned[0]["tuned"]
    metric = m.study["metrics"].get(rule.rpartition("/")[2], {})
    sign = -1 if metric.get("better") == "higher" else 1
    skip = {f["name"] for f in tuned}
    grids: dict[str, list[int]] = {}
    for i, v in enumerate(m.study["variants"]):
        rest = [str(t) for f, t in v["levels"].items() if f not in skip and t is not None]
        grids.setdefault("-".join(rest) or m.study["name"], []).append(i)
    out: list[Point] = []
    for arm, grid in grids.items():
        scores = {i: m.results.selection(i, rule) for i in grid}
        best = next((i for i in grid if m.results.chosen.get(i, "") is None), None)
        for f in tuned:
            out += _curve(m, arm, f, grid, best, scores, sign)
    return out


def _curve(
    m: Material, arm: str, f: Any, grid: Sequence[int], best: int | None, scores: Any, sign: int
) -> list[Point]:
    variants = m.study["variants"]
    order = [v["tag"] for v in f["levels"]]
    numeric = all(is_number(v["value"]) for v in f["levels"])
    value = {v["tag"]: float(v["value"]) if numeric else float(i)
             for i, v in enumerate(f["levels"])}  # fmt: skip
    keep = best if best is not None else grid[0]
    rest = {g: t for g, t in variants[keep]["levels"].items() if g != f["name"]}
    mine = [i for i in grid if {g: t for g, t in variants[i]["levels"].items()
                                if g != f["name"]} == rest]  # fmt: skip
    tags = sorted((variants[i]["levels"][f["name"]] for i in mine), key=lambda t: value[t])
    out = []
    for i in sorted(mine, key=lambda i: order.index(variants[i]["levels"][f["name"]])):
        tag, score = variants[i]["levels"][f["name"]], scores[i]
        lost = isinstance(score, Lost)
        edge = i == best and numeric and len(tags) > 1 and tag in (tags[0], tags[-1])
        out.append({"arm": arm, "factor": f["name"], "level": tag, "x": value[tag],
                    "y": None if lost else sign * score, "state": str(score) if lost else "",
                    "chosen": i == best, "edge": edge})  # fmt: skip
    return out


def edges(points: Sequence[Point]) -> list[Point]:
    """The choices that lie at the edge of their grid."""
    return [p for p in points if p["edge"]]


def draw(points: Sequence[Point], m: Material) -> Canvas:
    factors = list(dict.fromkeys(p["factor"] for p in points))
    arms = list(dict.fromkeys(p["arm"] for p in points))
    canvas = m.canvas("tuning", (7.6, 0.5 + 3.3 * len(factors)), len(factors), 1)
    rule = next(f["tuned"] for f in m.study["factors"] if f.get("tuned"))
    for (ax,), factor in zip(canvas.axes, factors, strict=True):
        here = [p for p in points if p["factor"] == factor]
        ends = []
        for i, arm in enumerate(arms):
            mine = sorted((p for p in here if p["arm"] == arm and p["y"] is not None),
                          key=lambda p: p["x"])  # fmt: skip
            if not mine or not all(math.isfinite(p["y"]) for p in mine):
                continue
            colour = COLOURS[i % len(COLOURS)]
            ax.plot([p["x"] for p in mine], [p["y"] for p in mine], color=colour, lw=1.5,
                    linestyle=DASHES[i // len(COLOURS) % len(DASHES)], marker="o", ms=4, mfc=PAPER,
                    label=arm)  # fmt: skip
            for p in (p for p in mine if p["chosen"]):
                ax.plot([p["x"]], [p["y"]], "D" if not p["edge"] else "s", color=colour, ms=8)
                if p["edge"]:
                    ax.annotate(canvas.word("edge"), (p["x"], p["y"]), xytext=(0, 9), ha="center",
                                textcoords="offset points", fontsize=8, color=colour)  # fmt: skip
            ends.append((mine[-1]["y"], arm, colour))
        ticks = {p["x"]: p["level"] for p in here}
        if geometric(list(ticks)):
            ax.set_xscale("log")
            ax.minorticks_off()
        ax.set_xticks(list(ticks), list(ticks.values()))
        ax.margins(x=0.06, y=0.12)
        ax.set_xlabel(factor.replace("_", " "), color=GREY)
        ax.set_ylabel(rule)
        if 1 < len(ends) <= DIRECT:
            direct(ax, ends)
    if len(arms) > DIRECT:
        legend(canvas, 7)
    return canvas

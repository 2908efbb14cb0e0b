"""How far memories reach: spans of each arm over its seeds, and the same against the bytes that a
model carries.

A span beyond what was asked ("> 512", "< 4") is an arrow at that place and no number: the data have
it as text, the number is left empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paribus.analysis.plots.canvas import (
    FAINT,
    GREY,
    GRID,
    INK,
    PAPER,
    Canvas,
    below,
    counted,
    short,
)
from paribus.analysis.plots.curve import powers
from paribus.analysis.plots.material import Material, Point
from paribus.analysis.spanned import COUNTS, Spanned
from paribus.analysis.spans import Span

LEVEL = "L50"
ROWS = 120  # of a figure; of more arms the table alone tells
FAR = 4.0  # times the highest place asked: windows and fields beyond are left out
SAME = 0.01  # share by which bytes of arms may differ and still be called equal
ARROWS = {">": 9, "≥": 9, "<": 8}  # matplotlib's carets, their base at the place
UPRIGHT = {">": 10, "≥": 10, "<": 11}
MARKERS = "os^Dv"
NAMED = 24  # points of a picture that bear their arms' names


def _put(name: str, span: Span | None) -> Point:
    """A span as two columns: its number, and on which side of what was asked it lies."""
    value = None if span is None or span.value is None else round(span.value, 4)
    return {name: value, f"{name} censored": "" if span is None else span.censored}


def _place(p: Point, name: str) -> tuple[float, str] | None:
    """(tokens, side) of a span; the side is "" where the number stands.  None: there is none."""
    said = p[f"{name} censored"]
    if said:
        side, _, edge = said.partition(" ")
        return float(edge), side
    return None if p[name] is None else (p[name], "")


# ── a row an arm ────────────────────────────────────────────────────────────────────────────


def data(m: Material, evaluation: str) -> list[Point]:
    """A row each: {"kind": "arm", "panel" (the curve), "series", "n", "of", "L50", "lowest",
    "highest" and "effective" (each with "… censored"), "window", "field", "first", "last"}, and
    {"kind": "seed", "panel", "series", "L50", "L50 censored"}; [] where there are too many."""
    found = [s for s in m.spans if s.evaluation == evaluation]
    return [] if len(found) > ROWS else [p for s in found for p in _rows(m, s)]


def _rows(m: Material, s: Spanned) -> list[Point]:
    own = s.found[LEVEL]
    reach = m.study["variants_info"][s.variant].get("reach") or {}
    told: Mapping[str, Any] = reach if s.unit == "tokens" else {}
    first = {"panel": s.curve, "series": s.variant}
    arm = {
        "kind": "arm", **first, "n": s.seeds, "of": s.planned, **_put(LEVEL, s.middle(LEVEL)),
        **_put("lowest", own[0]), **_put("highest", own[-1]), **_put("effective", s.window),
        "window": told.get("window"), "field": told.get("field"),
        "first": s.asked[0], "last": s.asked[1],
    }  # fmt: skip
    return [arm, *({"kind": "seed", **first, **_put(LEVEL, x)} for x in own if s.seeds > 1)]


def draw(points: Sequence[Point], m: Material, axis: str) -> Canvas:
    """Arms in rows, a panel for each curve."""
    rows = [p for p in points if p["kind"] == "arm"]
    panels: dict[str, list[Point]] = {}
    for p in rows:
        panels.setdefault(p["panel"], []).append(p)
    sizes = [len(own) + 1.6 for own in panels.values()]
    canvas = m.canvas("spans", (7.6, 1.2 + 0.27 * sum(sizes)), len(panels), 1,
                      height_ratios=sizes, sharex=True)  # fmt: skip
    marked = axis not in COUNTS
    shown: dict[str, Any] = {}
    ends = _ends(rows, marked)
    for (ax,), (panel, own) in zip(canvas.axes, panels.items(), strict=True):
        _edges(ax, own, ends)
        for i, p in enumerate(own):
            seeds = [q for q in points if q["kind"] == "seed"
                     and (q["panel"], q["series"]) == (panel, p["series"])]  # fmt: skip
            shown |= _row(ax, i, p, seeds, m.looks[p["series"]].colour, marked, ends)
        names = [short(p["series"], 30 if m.narrow else 40) for p in own]
        ax.set_yticks(range(len(own)), names, fontsize=7 if m.narrow else 8.5)
        ax.set_ylim(len(own) - 0.4, -0.6)
        ax.grid(visible=False, axis="y")
        powers(ax, ends, 5 if m.narrow else 9)
        if panel:
            ax.set_title(panel)
    canvas.axes[-1][0].set_xlabel(_tokens(canvas, axis))
    order = [k for k in ("seed", "median", "range", "beyond", "effective", "window", "field")
             if k in shown]  # fmt: skip
    below(canvas, [shown[k] for k in order], [canvas.word(f"span_{k}") for k in order], 4)
    return canvas


def _tokens(canvas: Canvas, axis: str, what: str = "") -> str:
    return f"{what}: {counted(canvas, axis)}" if what else counted(canvas, axis)


def _ends(rows: Sequence[Point], marked: bool) -> tuple[float, float]:
    """The axis: what was asked and a little more, with windows and fields that are not far off."""
    first, last = min(p["first"] for p in rows), max(p["last"] for p in rows)
    near = [x for p in rows for x in (p["window"], p["field"]) if marked and x]
    high = max([last, *(x for x in near if x <= FAR * last)])
    low = min([first, *(x for x in near if x >= first / FAR)])
    return low / 1.4, high * 1.4


def _edges(ax: Any, rows: Sequence[Point], ends: tuple[float, float]) -> None:
    """What nobody asked is shaded."""
    ax.axvspan(ends[0], min(p["first"] for p in rows), color=GRID, lw=0, zorder=0)
    ax.axvspan(max(p["last"] for p in rows), ends[1], color=GRID, lw=0, zorder=0)


def _row(
    ax: Any, i: int, p: Point, seeds: Sequence[Point], colour: str, marked: bool,
    ends: tuple[float, float],
) -> dict[str, Any]:  # fmt: skip
    """One arm; what of it stands in the legend."""
    from matplotlib.lines import Line2D

    shown: dict[str, Any] = {}
    for key, dash in (("window", (0, (2.5, 1))), ("field", (0, (0.8, 1)))):
        if marked and p[key] and ends[0] <= p[key] <= ends[1]:
            ax.plot([p[key]] * 2, [i - 0.34, i + 0.34], color=INK, lw=1.3, linestyle=dash, zorder=2)
            shown[key] = Line2D([], [], color=INK, lw=1.3, linestyle=dash)
    for q in seeds:
        x, side = _place(q, LEVEL) or (None, "")
        if x is not None:
            ax.plot([x], [i], marker=ARROWS.get(side, "o"), color=colour, alpha=0.35, mew=0,
                    ms=6 if side else 4, zorder=3)  # fmt: skip
            shown["seed"] = Line2D([], [], marker="o", color=GREY, alpha=0.35, mew=0, ms=4, lw=0)
    low, high = _place(p, "lowest"), _place(p, "highest")
    if low and high and low != high:
        ax.plot([low[0], high[0]], [i, i], color=colour, lw=1.8, alpha=0.8, zorder=4,
                solid_capstyle="butt")  # fmt: skip
        shown["range"] = Line2D([], [], color=GREY, lw=1.8)
        for x, side in (low, high):
            if side:
                ax.plot(
                    [x], [i], marker=ARROWS[side], color=colour, ms=7, mew=0, alpha=0.8, zorder=4
                )
                shown["beyond"] = _arrow()
    if (found := _place(p, "effective")) is not None:
        x, side = found
        if side:
            ax.plot([x], [i + 0.25], marker=ARROWS[side], color=INK, ms=6.5, mew=0, zorder=6)
        if side in ("", "≥"):
            ax.plot([x], [i + 0.25], marker="D", mfc=PAPER, mec=INK, ms=4.6, mew=1, zorder=7)
        shown["effective"] = Line2D([], [], marker="D", mfc=PAPER, mec=INK, ms=4.6, lw=0)
    if (found := _place(p, LEVEL)) is not None:
        x, side = found
        hollow = p["n"] < p["of"]
        ax.plot([x], [i], marker=ARROWS.get(side, "o"), color=colour, mec=colour, zorder=5,
                mfc=PAPER if hollow else colour, ms=9 if side else 6)  # fmt: skip
        shown["beyond" if side else "median"] = (
            _arrow() if side else Line2D([], [], marker="o", color=GREY, ms=6, lw=0)
        )
    return shown


def _arrow() -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], marker=9, color=GREY, mec=GREY, ms=8, lw=0)


# ── against bytes ───────────────────────────────────────────────────────────────────────────


def state(m: Material, evaluation: str) -> list[Point]:
    """A row an arm and curve: {"panel", "series", "bytes", "span" ("L50" or "effective window", for
    all arms the same), "n", "of", "y", "low", "high" (each with "… censored"; low and high of L50
    alone), "first", "last"}.  [] where no two arms carry different numbers of bytes."""
    info: Mapping[str, Any] = m.study["variants_info"]
    found = [s for s in m.spans if s.evaluation == evaluation
             and info[s.variant].get("state_bytes")]  # fmt: skip
    sizes = [info[s.variant]["state_bytes"] for s in found]
    if not sizes or max(sizes) - min(sizes) <= SAME * max(sizes):
        return []
    gained = all(s.window is not None for s in found)
    out = []
    for s, size in zip(found, sizes, strict=True):
        own = s.found[LEVEL]
        spread = (None, None) if gained else (own[0], own[-1])
        out.append({
            "panel": s.curve, "series": s.variant, "bytes": size,
            "span": "effective window" if gained else LEVEL, "n": s.seeds, "of": s.planned,
            **_put("y", s.window if gained else s.middle(LEVEL)),
            **_put("low", spread[0]), **_put("high", spread[1]),
            "first": s.asked[0], "last": s.asked[1],
        })  # fmt: skip
    return out


def draw_state(points: Sequence[Point], m: Material, axis: str) -> Canvas:
    """By ratios on both axes, a panel for each curve; arms of equal bytes stand side by side."""
    from matplotlib.lines import Line2D

    panels: dict[str, list[Point]] = {}
    for p in points:
        panels.setdefault(p["panel"], []).append(p)
    columns = m.across(2, len(panels))
    lines = -(-len(panels) // columns)
    names = dict.fromkeys(m.looks[arm].label for arm in m.chosen
                          if any(p["series"] == arm for p in points))  # fmt: skip
    listed = len(names) / max(1, (60 if m.narrow else 105) // (max(map(len, names)) + 7))
    size = (7.6, 1.1 + 2.7 * lines + 0.19 * listed)
    canvas = m.canvas("state", size, lines, columns, sharex=True, sharey=True)
    handles: dict[str, Any] = {}
    ends = min(p["first"] for p in points) / 1.6, max(p["last"] for p in points) * 1.6
    for k, (panel, own) in enumerate(panels.items()):
        ax = canvas.axes[k // columns][k % columns]
        ax.set_xscale("log", base=2)
        powers(ax, ends, 9, "y")
        for edge in (min(p["first"] for p in own), max(p["last"] for p in own)):
            ax.axhline(edge, color=FAINT, lw=0.8, linestyle=(0, (1, 2)), zorder=1)
        for carried in dict.fromkeys(p["bytes"] for p in own):
            beside = [p for p in own if p["bytes"] == carried]
            for i, p in enumerate(beside):
                handle = _point(ax, p, m, 6.0 * (i - (len(beside) - 1) / 2))
                handles.setdefault(m.looks[p["series"]].label, handle)
        if len(panels) == 1 and len(own) <= NAMED and not m.narrow:
            _named(ax, own, m)
        _bytes(ax, [p["bytes"] for p in points], 4 if columns > 1 or m.narrow else 8)
        if panel:
            ax.set_title(panel)
        if k + columns >= len(panels):
            ax.set_xlabel(canvas.word("state_bytes"))
            ax.tick_params(labelbottom=True)
        if k % columns == 0:
            span = points[0]["span"]
            what = span if span == LEVEL else canvas.word("span_effective")
            ax.set_ylabel(_tokens(canvas, axis, what))
    for k in range(len(panels), lines * columns):
        canvas.axes[k // columns][k % columns].set_visible(False)
    asked = Line2D([], [], color=FAINT, lw=0.8, linestyle=(0, (1, 2)))
    shown = [*(handles[x] for x in names), asked]
    below(canvas, shown, [*names, canvas.word("span_asked")], 5)
    return canvas


def _named(ax: Any, points: Sequence[Point], m: Material) -> None:
    """Each point's arm beside it, by turns above and below, for many stand at the same place of the
    grid."""
    turn: dict[Any, int] = {}
    for p in sorted(points, key=lambda p: p["bytes"]):
        y, _ = _place(p, "y") or (p["first"], "<")
        turn[y] = turn.get(y, 0) + 1
        up = turn[y] % 2
        ax.annotate(p["series"], (p["bytes"], y), (0, 7 if up else -7), ha="center",
                    va="bottom" if up else "top", textcoords="offset points", fontsize=7,
                    color=m.looks[p["series"]].colour)  # fmt: skip


def _point(ax: Any, p: Point, m: Material, right: float) -> Any:
    """An arm, so many points to the right of its bytes; its handle in the legend."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation

    look, arms = m.looks[p["series"]], list(m.chosen)
    moved = ax.transData + ScaledTranslation(right / 72, 0, ax.figure.dpi_scale_trans)
    marker = MARKERS[arms.index(p["series"]) // 7 % len(MARKERS)]
    low, high = _place(p, "low"), _place(p, "high")
    if low and high and low != high:
        ax.plot([p["bytes"]] * 2, [low[0], high[0]], color=look.colour, lw=1.4, alpha=0.6,
                transform=moved)  # fmt: skip
        for y, side in (low, high):
            if side:
                ax.plot([p["bytes"]], [y], marker=UPRIGHT[side], color=look.colour, ms=6, mew=0,
                        alpha=0.6, transform=moved)  # fmt: skip
    y, side = _place(p, "y") or (p["first"], "<")
    fill = PAPER if p["n"] < p["of"] else look.colour
    how = {"color": look.colour, "mfc": fill, "transform": moved}
    if side in ("", "≥"):
        ax.plot([p["bytes"]], [y], marker=marker, ms=6, **how)
    if side:
        ax.plot([p["bytes"]], [y], marker=UPRIGHT[side], ms=9, **how)
    return Line2D([], [], marker=marker, color=look.colour, ms=6, lw=0)


def _bytes(ax: Any, sizes: Sequence[float], most: int) -> None:
    """An axis of bytes: ticks at powers of two, with room at both ends."""
    from math import ceil, floor, log2

    low, high = floor(log2(min(sizes))) - 1, ceil(log2(max(sizes))) + 1
    step = -(-(high - low) // most)
    ticks = [2.0**k for k in range(low, high + 1, step)]
    ax.set_xlim(2.0**low, 2.0**high)
    ax.minorticks_off()
    ax.set_xticks(ticks, [size(x) for x in ticks])


def size(x: float) -> str:
    """512 B, 4 KiB, 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if x < 1024 or unit == "GiB":
            return f"{x:.4g} {unit}"
        x /= 1024
    raise AssertionError

"""The contrasts of all hypotheses, each with its interval, its seeds and the size it claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from paribus.analysis.plots.canvas import FAINT, GREY, INK, VERDICTS, Canvas, short
from paribus.analysis.plots.material import Material, Point, finite
from paribus.analysis.words import arm, measure
from paribus.errors import SpecError
from paribus.study.measures import Node, margin, units_of

PARTS = 12  # comparisons of one claim that are shown; rows of the figure are twice as many
ROWS = 40
LONG = 40  # characters of a row's name


def data(m: Material) -> list[Point]:
    """A row each: {"kind": "claim", "part" or "seed", "name", "unit", "y", "low", "high", "level",
    "n", "verdict", "edges"}; ``edges`` are the sizes that the claim is about."""
    found = [v for v in m.verdicts if v.kind == "hypothesis" and v.claim["claim"] != "stated"]
    out = [p for v in found for p in _rows(m, v, v.name, "claim")]
    parts = [p for v in found for p in _parts(m, v)]
    if len([p for p in [*out, *parts] if p["kind"] != "seed"]) <= ROWS:
        out = [p for v in found for p in (*_rows(m, v, v.name, "claim"), *_parts(m, v))]
    return out if any(p["y"] is not None for p in out) else []


def _parts(m: Material, v: Any) -> Iterator[Point]:
    names = [_name(v, part.claim) for part in v.parts]
    if len(v.parts) < 2:
        return
    for name, part in list(zip(names, v.parts, strict=True))[:PARTS]:
        if names.count(name) > 1:  # the same arms, on something else
            name = measure(part.claim["on"])
        yield from _rows(m, part, name if len(name) <= LONG else f"{name[:LONG]}…", "part")


def _name(v: Any, claim: Any) -> str:
    if v.claim["claim"] == "best":
        return f"− {arm(claim.get('than'))}"
    than = f" − {arm(claim['than'])}" if claim.get("than") else ""
    return f"{arm(claim.get('arm'))}{than}"


def _rows(m: Material, v: Any, name: str, kind: str) -> Iterator[Point]:
    joint = kind == "claim" and len(v.parts) > 1
    ends = [x if x is not None and finite(x) else None for x in (v.low, v.high)]
    yield {
        "kind": kind, "name": name, "claim": v.name, "unit": v.unit, "y": v.effect,
        "low": ends[0], "high": ends[1], "level": v.level, "n": v.n, "verdict": v.verdict,
        "edges": [] if joint else edges(m.study, v.claim, v.better),
    }  # fmt: skip
    if v.n > 1:
        for seed, y in v.per_seed.items():
            yield {"kind": "seed", "name": name, "claim": v.name, "unit": v.unit, "seed": seed,
                   "y": y}  # fmt: skip


def edges(study: Node, node: Node, better: str) -> list[float]:
    """The sizes that decide a claim: a margin, or the claimed effect; none where it is zero.
    ``better``: "lower" or "higher", of what the claim is about."""
    try:
        units = units_of(node["on"], study)
        if node["claim"] == "same":
            down, up = margin(node["within"], units)
            return [-down, up]
        turn = -1 if node["claim"] == "increasing" else 1
        if node["claim"] in ("better", "no_worse", "best") and better == "higher":
            turn = -1
        down, up = margin(node["within"] if "within" in node else node["by"], units)
        edge = turn * (up if "within" in node else -down)
    except (SpecError, KeyError, TypeError):
        return []
    return [edge] if edge else []


def draw(points: Sequence[Point], m: Material) -> Canvas:
    rows = [p for p in points if p["kind"] != "seed"]
    units = list(dict.fromkeys(p["unit"] for p in rows))
    groups = {u: [p for p in rows if p["unit"] == u] for u in units}
    sizes = [len(g) + 1.6 for g in groups.values()]
    canvas = m.canvas("forest", (7.6, 0.4 + 0.27 * sum(sizes)), len(units), 1,
                      height_ratios=sizes)  # fmt: skip
    for (ax,), (unit, group) in zip(canvas.axes, groups.items(), strict=True):
        _panel(canvas, ax, group, [p for p in points if p["kind"] == "seed"], unit)
    return canvas


def _panel(
    canvas: Canvas, ax: Any, group: Sequence[Point], seeds: Sequence[Mapping[str, Any]], unit: str
) -> None:
    for i, p in enumerate(group):
        colour = VERDICTS.get(p["verdict"], GREY)
        main = p["kind"] == "claim"
        colour = colour if main else GREY
        mine = [s["y"] for s in seeds if (s["claim"], s["name"]) == (p["claim"], p["name"])]
        if p["y"] is None:
            ax.annotate(canvas.word("no_value"), (0, i), xycoords=("axes fraction", "data"),
                        va="center", color=GREY, fontsize=8, style="italic", xytext=(4, 0),
                        textcoords="offset points")  # fmt: skip
            continue
        ax.plot(mine, [i] * len(mine), "o", color=colour, alpha=0.3, ms=3, mew=0)
        if p["low"] is not None and p["high"] is not None:
            ax.plot([p["low"], p["high"]], [i, i], color=colour, lw=2.2 if main else 1.3,
                    solid_capstyle="round", alpha=0.8)  # fmt: skip
        known = p["low"] is not None
        ax.plot([p["y"]], [i], "D" if main else "o", mfc=colour if known else "white", mec=colour,
                ms=5.5 if main else 4)  # fmt: skip
        for edge in p["edges"]:
            ax.plot([edge] * 2, [i - 0.35, i + 0.35], color=INK, lw=1.1)
    ax.axvline(0, color=FAINT, lw=1, zorder=0)
    ax.set_yticks(range(len(group)), [short(p["name"]) for p in group])
    for text, p in zip(ax.get_yticklabels(), group, strict=True):
        text.set_color(INK if p["kind"] == "claim" else GREY)
        text.set_fontsize(9.5 if p["kind"] == "claim" else 8)
    ax.set_ylim(len(group) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(f"{canvas.word('effect')} ({unit})" if unit else canvas.word("effect"))

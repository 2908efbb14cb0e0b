"""What each arm trains and what it freezes, by category of parameter; where arms differ in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paribus.analysis.plots.canvas import COLOURS, FAINT, GREY, PAPER, Canvas, below, short
from paribus.analysis.plots.material import Material, Point

MERGED = 16  # bars beyond which variants of equal ones share one
SMALL = 0.01  # of all parameters: a category that is less everywhere is one of the others
OTHERS = "other"
MINOR = ("position", "norm")  # shown apart only where something of them is frozen


def data(m: Material) -> list[Point]:
    """A category of a variant each: {"variant", "n", "category", "trained", "frozen"}, as recorded;
    ``n``: how many variants the bar stands for.  [] where all freeze the same, or nothing."""
    audits = {m.of[trial]: audit for trial, audit in reversed(m.audits.items()) if trial in m.of}
    found = {name: _counts(audits[name]) for name in m.chosen if name in audits}
    held = {frozenset(_frozen(audits[name])) for name in found}
    if len(held) < 2:
        return []
    whole = max(sum(map(sum, of.values())) for of in found.values())
    large = {
        c for of in found.values() for c, (trained, frozen) in of.items()
        if frozen or (trained > SMALL * whole and c not in MINOR)
    }  # fmt: skip
    bars: dict[Any, list[str]] = {}
    for name, of in found.items():
        merged: dict[str, list[int]] = {}
        for category, pair in of.items():
            into = merged.setdefault(category if category in large else OTHERS, [0, 0])
            into[0] += pair[0]
            into[1] += pair[1]
        key = tuple(sorted((c, *pair) for c, pair in merged.items()))
        bars.setdefault((key, "" if len(found) > MERGED else name), []).append(name)
    return [
        {"variant": names[0], "n": len(names), "category": c, "trained": trained, "frozen": frozen}
        for (key, _), names in bars.items()
        for c, trained, frozen in key
    ]


def _counts(audit: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Category -> (trained, frozen)."""
    out: dict[str, tuple[int, int]] = {}
    for row in audit["tensors"]:
        n = row["numel"] * len(row.get("layers", [None]))
        trained, frozen = out.get(row["category"], (0, 0))
        out[row["category"]] = (trained, frozen + n) if row["frozen"] else (trained + n, frozen)
    return out


def _frozen(audit: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    rows = (row for row in audit["tensors"] if row["frozen"])
    return [(row["name"], *row.get("layers", ())) for row in rows]


def draw(points: Sequence[Point], m: Material) -> Canvas:
    from matplotlib.patches import Patch

    names = list(dict.fromkeys(p["variant"] for p in points))
    sums: dict[str, int] = {}
    for p in points:
        sums[p["category"]] = sums.get(p["category"], 0) + p["trained"] + p["frozen"]
    order = sorted(sums, key=lambda c: (c == OTHERS, *_place(c)))
    # Twice round the palette: the second time paler.
    colours = {c: (COLOURS[i % len(COLOURS)], 1.0 if i < len(COLOURS) else 0.45)
               for i, c in enumerate(order)} | {OTHERS: (GREY, 1.0)}  # fmt: skip
    canvas = m.canvas("parameters", (7.6, 1.4 + 0.46 * len(names)))
    ax, labels = canvas.ax, []
    for y, name in enumerate(names):
        mine = {p["category"]: p for p in points if p["variant"] == name}
        at, frozen = 0, 0
        for category in (c for c in order if c in mine):
            for kind in ("trained", "frozen"):
                if not (n := mine[category][kind]):
                    continue
                colour, alpha = colours[category]
                how: dict[str, Any] = {"color": colour, "alpha": alpha}
                if kind == "frozen":
                    frozen += n
                    how = {"facecolor": PAPER, "edgecolor": colour, "hatch": "/////"}
                ax.barh(y, n, left=at, height=0.5, linewidth=0.6, **how)
                at += n
        share = f"{frozen:,} ({100 * frozen / at:.1f} %)" if frozen else "0"
        told = canvas.word("kept", trained=f"{at - frozen:,}", frozen=share)
        ax.text(0, y - 0.27, f" {told}", va="bottom", fontsize=8, color=GREY)
        more = mine[next(iter(mine))]["n"] - 1
        labels.append(short(name, 30) + (f" + {more}" if more else ""))
    ax.set_yticks(range(len(names)), labels)
    ax.set_ylim(len(names) - 0.6, -0.7)
    ax.grid(visible=False, axis="y")
    ax.xaxis.set_major_formatter(lambda x, _: _millions(x))
    ax.set_xlabel(canvas.word("parameters"))
    handles = [Patch(color=colours[c][0], alpha=colours[c][1]) for c in order]
    handles.append(Patch(facecolor=PAPER, edgecolor=FAINT, hatch="/////"))
    said = [canvas.word("others") if c == OTHERS else c.replace("_", " ") for c in order]
    below(canvas, handles, [*said, canvas.word("frozen")], 8)
    return canvas


FLOW = (
    *("embedding", "position", "attn_q", "attn_k", "attn_v", "attn_o"),
    *("mlp_gate", "mlp_up", "mlp_down", "mlp", "norm", "head"),
)


def _place(category: str) -> tuple[int, str]:
    """Categories in the order of the forward pass."""
    known = (i for i, c in enumerate(FLOW) if category == c or category.startswith(f"{c}_"))
    return next(known, len(FLOW)), category


def _millions(x: float) -> str:
    return f"{x / 1e6:g} M" if x >= 1e6 else f"{x / 1e3:g} k" if x >= 1e3 else f"{x:g}"

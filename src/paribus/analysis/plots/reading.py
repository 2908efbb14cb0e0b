"""What each token may read: a square for each group of layers, dark where reading is allowed.

Rows are the tokens that read, columns those that are read.  Large rows are drawn coarsely: then a
cell stands for a square of pairs and is as dark as the share of them that is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from paribus.analysis.plots.canvas import COLOURS, FAINT, GRID, PAPER, Canvas, spread, styled
from paribus.analysis.plots.fonts import cover

FINEST = 256  # cells a side; a row with more tokens is drawn coarsely
NAMED = 40  # tokens that have room for all their names
TICKS = 12  # numbers at an axis of more, in one of these steps
STEPS = (4, 5, 8, 10, 16, 20, 25, 32, 50, 64, 100, 128, 200, 256)
LINED = 64  # tokens whose cells are told apart by lines
LINE = 7.5  # points that a name takes across its line


def coarse(tokens: int) -> int:
    """Tokens a side of a cell."""
    return -(-tokens // FINEST)


def counts(panel: Mapping[str, Any]) -> tuple[int, int]:
    """(pairs that are allowed, all pairs)."""
    return int(panel["allowed"].sum()), panel["allowed"].size


def layers(numbers: Sequence[int]) -> str:
    """Numbers from 0 as people count: ``1–2, 5``."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(f"{a + 1}–{b + 1}" if b > a else str(a + 1) for a, b in runs)


def share(ones: int, pairs: int) -> str:
    return f"{100 * ones / pairs:.2f} %"


def draw(read: Mapping[str, Any]) -> Canvas:
    """A picture of what `engine.reading` found."""
    panels, names = read["panels"], read["names"]
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    families = cover(names).families
    size = (7.6, 4.55 * lines) if columns > 1 else (5.6, 6.2)
    with styled():
        canvas = Canvas("mask", size, lines, columns, families)
        flat = [ax for line in canvas.axes for ax in line]
        side = 72 * (3.35 if columns > 1 else 5)  # points, nearly
        places, said = _ticks(names, read["blocks"], side)
        for n, (ax, panel) in enumerate(zip(flat, panels, strict=False)):
            ax.set_xticks(places, said, rotation=90, fontsize=7)
            ax.set_yticks(places, said if n % columns == 0 else [""] * len(said), fontsize=7)
            ax.tick_params(length=0, pad=2)
            _panel(canvas, ax, panel, read["blocks"])
        for ax in flat[len(panels) :]:
            ax.set_visible(False)
        canvas.figure.supxlabel(canvas.word("is_read"), fontsize=10)
        canvas.figure.supylabel(canvas.word("reads"), fontsize=10)
    return canvas


def _panel(canvas: Canvas, ax: Any, panel: Mapping[str, Any], blocks: Sequence[int]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    allowed = panel["allowed"]
    T, each = len(allowed), coarse(len(allowed))
    shades = LinearSegmentedColormap.from_list("mask", [PAPER, COLOURS[0]])
    cells = _shares(allowed, each)
    end = len(cells) * each - 0.5
    ax.imshow(cells, shades, vmin=0, vmax=1, interpolation="none", extent=(-0.5, end, end, -0.5))
    ax.set_xlim(-0.5, T - 0.5)
    ax.set_ylim(T - 0.5, -0.5)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(True)
    between = [i - 0.5 for i in range(1, T)] if T <= LINED else []
    edges = [i - 0.5 for i in blocks if i]
    for places, colour in ((between, GRID), (edges, FAINT if between else GRID)):
        for at in places:
            ax.axhline(at, color=colour, linewidth=0.5)
            ax.axvline(at, color=colour, linewidth=0.5)
    key = "layers" if len(panel["layers"]) > 1 else "layer"
    ax.set_title(canvas.word(key, n=layers(panel["layers"])))
    ones, pairs = counts(panel)
    told = canvas.word("pairs", ones=f"{ones:,}", pairs=f"{pairs:,}", share=share(ones, pairs))
    ax.set_title(told, loc="right")


def _shares(allowed: Any, each: int) -> Any:
    """The share of each cell's pairs that is allowed; at the edges of those that there are."""
    import numpy as np

    if each == 1:
        return allowed.astype(float)
    starts = range(0, len(allowed), each)
    sums = np.add.reduceat(np.add.reduceat(allowed, starts, 0, dtype=float), starts, 1)
    of = np.diff([*starts, len(allowed)])
    return sums / np.outer(of, of)


def _ticks(
    names: Sequence[str], blocks: Sequence[int], side: float
) -> tuple[list[float], list[str]]:
    """Where names stand and what they are: all, else one a block, else some."""
    T = len(names)
    if T <= NAMED:
        chosen = list(range(T))
    elif blocks and len(blocks) < T:
        chosen = list(blocks)
    else:
        chosen = list(range(0, T, next((s for s in STEPS if s * TICKS >= T), -(-T // TICKS))))
    gap = LINE / side * T
    if len(chosen) * gap > T:  # more than have room
        chosen = chosen[:: math.ceil(len(chosen) * gap / T)]
    apart = spread([float(i) for i in chosen], gap)
    last = T - 1 - gap * (len(chosen) - 1)  # where the first may be, so that the last is inside
    places = [min(at, last + gap * k) for k, at in enumerate(apart)]
    return places, [names[i] for i in chosen]

"""Fonts that have the characters of a study: Chinese tags must not come out as empty boxes.

SVG keeps text as text, and the reader's machine finds a font.  PNG and PDF are drawn here, so a
font that has the characters must be installed here; what no installed font has is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

BASE = "DejaVu Sans"
"""Comes with matplotlib, and is as wide as any: a text that fits in it fits in others."""

PREFERRED = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "PingFang SC",
    "Hiragino Sans GB", "Heiti SC", "STHeiti", "Microsoft YaHei", "SimHei", "Arial Unicode MS",
)  # fmt: skip
FALLBACK = (
    f"'{BASE}', Verdana, Arial, 'PingFang SC', 'Hiragino Sans GB', 'Microsoft YaHei', "
    "'Noto Sans CJK SC', 'Noto Sans SC', 'WenQuanYi Micro Hei', 'Droid Sans Fallback', sans-serif"
)
"""What an SVG asks its viewer for."""

LIMIT = 3  # fonts beside the base


class Found(NamedTuple):
    """Families to draw with, the base first; characters that none of them has, sorted."""

    families: tuple[str, ...]
    missing: str


def cover(texts: Iterable[str]) -> Found:
    """Installed fonts that together have every character of the texts, as far as there are any."""
    return _cover(frozenset(c for text in texts for c in text if c.isprintable() and c > "~"))


@cache
def _cover(characters: frozenset[str]) -> Found:
    from matplotlib import font_manager

    manager = font_manager.fontManager
    base = {f.name: f.fname for f in manager.ttflist if f.name == BASE}.get(BASE, "")
    left = characters - _characters(base)
    families = [BASE]
    if not left:
        return Found((BASE,), "")
    rank = {name: i for i, name in enumerate(PREFERRED)}
    # Fonts of last resort have a box for every character there is.
    known: dict[str, str] = {}
    for f in manager.ttflist:
        if "last resort" not in f.name.lower():
            known.setdefault(f.fname, f.name)  # of a collection the first face
    order = sorted(known, key=lambda p: (rank.get(known[p], len(rank)), p))
    # matplotlib keeps a list of fonts; what was installed since then is not in it.
    for unlisted in (False, True):
        listed = {f.fname for f in manager.ttflist}
        paths = sorted({*font_manager.findSystemFonts()} - listed) if unlisted and left else order
        while left and len(families) <= LIMIT:
            best = _best(paths, left)
            if not best:
                break
            if best not in known:
                manager.addfont(best)
                names = [f.name for f in manager.ttflist if f.fname == best]
                known[best] = min(names, key=lambda n: (rank.get(n, len(rank)), names.index(n)))
            families.append(known[best])
            left -= _characters(best)
    return Found(tuple(families), "".join(sorted(left)))


def _best(paths: Iterable[str], wanted: frozenset[str]) -> str:
    """The first font with all of them, else the one with most; "" where none has any."""
    best, most = "", 0
    for path in paths:
        if (found := len(wanted & _characters(path))) > most:
            best, most = path, found
        if most == len(wanted):
            break
    return best


@cache
def _characters(path: str) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    found: Any = ()
    if path and Path(path).is_file():
        with suppress(RuntimeError, OSError):  # a bitmap font, or a damaged one
            found = FT2Font(path).get_charmap()
    return frozenset(map(chr, found))

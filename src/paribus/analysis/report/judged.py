"""Verdicts as a report shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paribus.analysis import words
from paribus.analysis.plots.forest import edges
from paribus.analysis.report import states
from paribus.study.measures import Node

if TYPE_CHECKING:
    from paribus.analysis.verdicts import Verdict

LANGUAGES = ("en", "zh")


def said(v: Verdict) -> dict[str, Any]:
    """A verdict in both languages: claim, effect, reason, and what stands beside."""
    numbers = []
    if v.p is not None:
        numbers.append(f"p = {words.p_value(v.p)}".replace("= <", "<"))
        numbers.append(f"Holm p = {words.p_value(v.p_adjusted)}".replace("= <", "<"))
        if v.p_flips is not None:
            numbers.append(f"sign-flip p = {words.p_value(v.p_flips)}".replace("= <", "<"))
    if v.dz is not None and v.n > 1:
        numbers.append(f"d_z = {words.number(v.dz)}")
    if v.kind == "hypothesis" and v.n:
        numbers.append(f"n = {v.n}")
    return {
        "v": v,
        "claim": {g: words.claim(v.claim, v.better, v.unit, g) for g in LANGUAGES},
        "effect": {g: words.effect(v, g) for g in LANGUAGES},
        "reason": {g: states.reason(v, g) for g in LANGUAGES},
        "about": {g: words.about(v, g) for g in LANGUAGES},
        "seeds": {g: words.seeds(v, g) for g in LANGUAGES},
        "beside": {g: "; ".join(words.beside(v, g)) for g in LANGUAGES},
        "note": {g: _note(v, g) for g in LANGUAGES},
        "numbers": numbers,
        "parts": [said(p) for p in v.parts],
    }


def _note(v: Verdict, lang: str) -> str:
    bits = [words.about(v, lang), states.reason(v, lang), *words.beside(v, lang)]
    return ("；" if lang == "zh" else "; ").join(b for b in bits if b)


def shown(study: Node, found: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Every verdict as `said`, with the drawing of each hypothesis as its "strip"; the drawings of
    one unit have one scale, so that their lengths can be compared."""
    own = [v for v in found if v.kind == "hypothesis" and v.effect is not None]
    ends: dict[str, list[float]] = {}
    for v in own:
        ends.setdefault(v.unit, [0.0]).extend(_points(study, v))
    return [
        said(v) | {"strip": strip(study, v, min(ends[v.unit]), max(ends[v.unit])) if v in own
                   else None}
        for v in found
    ]  # fmt: skip


def _boundaries(study: Node, v: Verdict) -> list[float]:
    """The sizes that decide; of a joint claim those of its closest call, whose effect it shows."""
    return edges(study, v.about or v.claim, v.better)


def _points(study: Node, v: Verdict) -> list[float]:
    found = [v.effect, v.low, v.high, *v.per_seed.values(), *_boundaries(study, v)]
    return [x for x in found if x is not None and math.isfinite(x)]


def strip(study: Node, v: Verdict, low: float, high: float) -> dict[str, Any]:
    """Positions of a small drawing, 190 wide: the interval, the seeds, zero and the sizes that
    decide, with their numbers.  ``low`` and ``high``: the ends of its scale."""
    width = (high - low) or 1.0

    def x(value: float) -> float:
        return round(10 + 170 * (value - low) / width, 1)

    def inside(position: float) -> float:
        return min(max(position, 24.0), 166.0)

    assert v.effect is not None
    seeds = list(v.per_seed.values())
    ends = [e for e in (v.low, v.high) if e is not None and math.isfinite(e)]
    sizes = _boundaries(study, v)
    close = len(sizes) == 2 and x(sizes[1]) - x(sizes[0]) < 40
    texts = [(inside(x(e)), words.number(e, max(abs(e), 1e-3)).rstrip("0").rstrip(".")
              if "." in words.number(e) else words.number(e)) for e in sizes]  # fmt: skip
    if close:  # two numbers would overlap
        middle = inside((x(sizes[0]) + x(sizes[1])) / 2)
        texts = [(middle, " … ".join(t for _, t in texts))]
    label = f"{words.number(v.effect)} {v.unit}".strip()
    decides = ", ".join(t for _, t in texts) or "0"
    return {
        "zero": x(0.0),
        "zero_text": x(0.0),
        "dot": x(v.effect),
        "dot_text": inside(x(v.effect)),
        "apart": abs(inside(x(v.effect)) - x(0.0)) > 26,
        "low": x(ends[0]) if len(ends) == 2 else None,
        "high": x(ends[1]) if len(ends) == 2 else None,
        "seeds": [x(s) for s in seeds] if len(seeds) > 1 else [],
        "edges": [x(e) for e in sizes],
        "edge_texts": texts,
        "label": words.number(v.effect),
        "aria": {
            "en": f"effect {label}, decided at {decides}",
            "zh": f"效应 {label}，以 {decides} 为界",
        },
    }

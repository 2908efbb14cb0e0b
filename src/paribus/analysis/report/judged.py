"""Verdicts as a report shows them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from paribus.analysis import words

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
        "reason": {g: words.reason(v, g) for g in LANGUAGES},
        "about": {g: words.about(v, g) for g in LANGUAGES},
        "seeds": {g: words.seeds(v, g) for g in LANGUAGES},
        "beside": {g: "; ".join(words.beside(v, g)) for g in LANGUAGES},
        "note": {g: _note(v, g) for g in LANGUAGES},
        "numbers": numbers,
        "parts": [said(p) for p in v.parts],
        "strip": strip(v) if v.kind == "hypothesis" else None,
    }


def _note(v: Verdict, lang: str) -> str:
    bits = [words.about(v, lang), words.reason(v, lang), *words.beside(v, lang)]
    return ("；" if lang == "zh" else "; ").join(b for b in bits if b)


def strip(v: Verdict) -> dict[str, Any] | None:
    """Positions of a small drawing: the interval, the seeds and zero."""
    if v.effect is None:
        return None
    seeds = list(v.per_seed.values())
    ends = [x for x in (v.low, v.high) if x is not None and math.isfinite(x)]
    points = [0.0, v.effect, *seeds, *ends]
    low, high = min(points), max(points)
    width = (high - low) or 1.0

    def x(value: float) -> float:
        return round(10 + 170 * (value - low) / width, 1)

    def inside(position: float) -> float:
        return min(max(position, 24.0), 166.0)

    return {
        "zero": x(0.0),
        "zero_text": x(0.0),
        "dot": x(v.effect),
        "dot_text": inside(x(v.effect)),
        "apart": abs(inside(x(v.effect)) - x(0.0)) > 30,
        "low": x(ends[0]) if len(ends) == 2 else None,
        "high": x(ends[1]) if len(ends) == 2 else None,
        "seeds": [x(s) for s in seeds] if len(seeds) > 1 else [],
        "label": words.number(v.effect),
    }

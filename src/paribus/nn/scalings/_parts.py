"""What several scalings share: interpolation by parts, and YaRN's temperature.

F pairs of a head, the fastest first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from paribus.errors import SpecError
from paribus.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def blend(own_F: Tensor, factor: float, slowed_F: Tensor) -> Tensor:
    """Frequencies between RoPE's own (``slowed`` = 0) and its own / factor (1); at factor 1 they
    are its own to the bit."""
    return own_F * (1 - slowed_F * (1 - 1 / factor))


def by_rotations(own_F: Tensor, original: int, fast: float, slow: float) -> Tensor:
    """1 − γ(r) of Peng et al. 2024 (YaRN, eqs. 17–18): linear in the turns r that a pair makes in
    ``original`` tokens, 0 from ``fast`` turns on and 1 up to ``slow``."""
    turns_F = original * own_F / (2 * math.pi)
    return 1 - ((turns_F - slow) / (fast - slow)).clamp(0, 1)


def by_dimension(
    own_F: Tensor, base: float, original: int, fast: float, slow: float, truncate: bool
) -> Tensor:
    """The ramp of YaRN's code: linear in the pair's number, so in log r, between the pairs that
    make ``fast`` and ``slow`` turns.  Its upper end is held below 2F, as there; OLMo-core holds it
    below F, which slows the last pairs where even they make more than ``slow`` turns."""
    F = len(own_F)

    def pair(turns: float) -> float:
        return F * math.log(original / (turns * 2 * math.pi)) / math.log(base)

    low, high = pair(fast), pair(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * F - 1)
    if low == high:
        high += 0.001
    number_F = torch.arange(F, dtype=torch.float64, device=own_F.device)
    return ((number_F - low) / (high - low)).clamp(0, 1)


def mscale(factor: float, weight: float = 1.0) -> float:
    """0.1 · weight · ln(factor) + 1 (Peng et al. 2024, eq. 22); 1 where nothing is extended."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def in_order(name: str, slow: float, fast: float, fields: str) -> None:
    """Refuse bounds of a ramp that are not in order."""
    if not slow < fast:
        raise SpecError(f"scalings.{name}: {fields} must be in order, not {slow:g} and {fast:g}")


def declared(name: str, length: int | None) -> int:
    """The length that a dynamic form's frequencies are made for."""
    if length is None:
        raise SpecError(
            f"scalings.{name}.length: rows have no fixed length here, and its frequencies depend "
            "on it; give it"
        )
    return length

"""Llama 3.1's scaling: interpolation by wavelength."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Scaling
from paribus.nn.scalings import _parts

if TYPE_CHECKING:
    from torch import Tensor


class Llama3(Scaling, frozen=True, kw_only=True):
    """Wavelengths below original / high stay, those above original / low are ``factor`` times as
    long, and between, frequencies are mixed linearly in the turns that a pair makes in ``original``
    tokens: NTK-by-parts with other bounds.

    Attributes:
        factor: how many times longer rows get (8 in Llama 3.1).
        original: tokens of the rows that were trained on (8,192 there).
        low, high: turns in ``original`` tokens at the ends of the ramp.
    """

    factor: Annotated[float, Meta(ge=1)]
    original: Annotated[int, Meta(ge=2)]
    low: Annotated[float, Meta(gt=0)] = 1.0
    high: Annotated[float, Meta(gt=0)] = 4.0

    example: ClassVar[dict[str, Any]] = {"factor": 8.0, "original": 64}

    def validate(self) -> None:
        _parts.in_order(self.name, self.low, self.high, "low and high")

    def frequencies(self, own_F: Tensor, base: float) -> Tensor:
        slowed = _parts.by_rotations(own_F, self.original, self.high, self.low)
        return _parts.blend(own_F, self.factor, slowed)

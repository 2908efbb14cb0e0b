"""A constant learning rate."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from paribus.contracts import Schedule


class Constant(Schedule, frozen=True, kw_only=True):
    """Full rate from the end of the warm-up.

    Attributes:
        warmup: steps of warm-up, or below 1 a fraction of all; its step i has (i + 1) / warmup.
    """

    warmup: Annotated[float, Meta(ge=0)] = 0.0

    flat: ClassVar[bool] = True

    def factor(self, step: int, total: int) -> float:
        warm = round(self.warmup if self.warmup >= 1 else self.warmup * total)
        if step < warm:
            return (step + 1) / warm
        return 1.0

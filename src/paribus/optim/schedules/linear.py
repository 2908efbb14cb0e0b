"""Linear decay of the learning rate."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paribus.contracts import Schedule


class Linear(Schedule, frozen=True, kw_only=True):
    """Straight from 1 at the end of the warm-up to the floor at the last step.

    Attributes:
        warmup: steps of warm-up, or below 1 a fraction of all; its step i has (i + 1) / warmup.
        floor: factor of the last step.
        reach: whether the last update has the floor; False counts progress as s/S, so the floor
            would come one update after the end.
    """

    warmup: Annotated[float, Meta(ge=0)] = 0.0
    floor: Annotated[float, Meta(ge=0, le=1)] = 0.0
    reach: bool = True

    def factor(self, step: int, total: int) -> float:
        warm = round(self.warmup if self.warmup >= 1 else self.warmup * total)
        if step < warm:
            return (step + 1) / warm
        done = min((step + self.reach - warm) / max(total - warm, 1), 1.0)
        return 1 - (1 - self.floor) * done

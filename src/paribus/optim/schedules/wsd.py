"""Warm-up, stable, decay (Hu et al. 2024)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paribus.contracts import Schedule


class Wsd(Schedule, frozen=True, kw_only=True):
    """Full rate, then straight down to the floor at the last step.

    Attributes:
        warmup: steps of warm-up, or below 1 a fraction of all; its step i has (i + 1) / warmup.
        decay: steps of the decay (one at least), or below 1 a fraction of all.
        floor: factor of the last step.
        reach: whether the last update has the floor; False counts what is left as (S − s) / decay,
            so the floor would come one update after the end, as in nanochat.
    """

    warmup: Annotated[float, Meta(ge=0)] = 0.0
    decay: Annotated[float, Meta(gt=0)] = 0.2
    floor: Annotated[float, Meta(ge=0, le=1)] = 0.0
    reach: bool = True

    def factor(self, step: int, total: int) -> float:
        warm = round(self.warmup if self.warmup >= 1 else self.warmup * total)
        if step < warm:
            return (step + 1) / warm
        last = max(round(self.decay if self.decay >= 1 else self.decay * total), 1)
        done = (step + self.reach - max(total - last, warm)) / max(min(last, total - warm), 1)
        return 1 - (1 - self.floor) * min(max(done, 0.0), 1.0)

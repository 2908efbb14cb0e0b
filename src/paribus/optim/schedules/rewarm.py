"""Warming up again, to go on from where an earlier phase ended (Ibrahim et al. 2024)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paribus.contracts import Schedule
from paribus.errors import SpecError

Share = Annotated[float, Meta(ge=0, le=1)]


class Rewarm(Schedule, frozen=True, kw_only=True):
    """Up to a share of the rate, then straight down to another at the last step.

    A base that ended at a rate of 0 goes on with ``peak`` 0.1 … 0.3, as a rule.  One whose number
    of steps is raised in nanochat (21,400 by 5,000 more) jumps to 0.947 and then falls to 0:
    ``rewarm(peak=0.946970, reach=False)``.

    Attributes:
        warmup: steps of warm-up, or below 1 a fraction of all; its step i has
            peak · (i + 1) / warmup.
        peak: share of the rate at its end.
        to: factor of the last step; at most ``peak``.
        reach: whether the last update has ``to``; False counts progress as s/S, so it would come
            one update after the end, as in nanochat.
    """

    warmup: Annotated[float, Meta(ge=0)] = 0.0
    peak: Share = 1.0
    to: Share = 0.0
    reach: bool = True

    def validate(self) -> None:
        if self.to > self.peak:
            raise SpecError(f"schedules.rewarm.to: {self.to:g} is above the peak {self.peak:g}")

    def factor(self, step: int, total: int) -> float:
        warm = round(self.warmup if self.warmup >= 1 else self.warmup * total)
        if step < warm:
            return self.peak * (step + 1) / warm
        done = min((step + self.reach - warm) / max(total - warm, 1), 1.0)
        return self.peak + (self.to - self.peak) * done

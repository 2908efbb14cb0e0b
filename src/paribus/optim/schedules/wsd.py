"""Warm-up, stable, decay (Hu et al. 2024; shapes of the decay: Hägele et al. 2024)."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from msgspec import Meta

from paribus.contracts import Schedule
from paribus.errors import SpecError


class Wsd(Schedule, frozen=True, kw_only=True):
    """Full rate, then down to the floor at the last step.

    Attributes:
        warmup: steps of warm-up, or below 1 a fraction of all; its step i has (i + 1) / warmup.
        decay: steps of the decay (one at least), or below 1 a fraction of all.
        floor: factor of the last step.
        reach: whether the last update has the floor; False counts what is left as (S − s) / decay,
            so the floor would come one update after the end, as in nanochat.
        shape: of the decay, x of it being done and r = 1 − floor: "linear", 1 − r · x; "sqrt",
            1 − r · √x; "cosine", 1 − r · (1 − cos πx) / 2; "exponential", floor^x, which needs a
            floor above 0 (MiniCPM's 0.5^(steps / T) over a decay of n steps is 0.5^(n / T)).
    """

    warmup: Annotated[float, Meta(ge=0)] = 0.0
    decay: Annotated[float, Meta(gt=0)] = 0.2
    floor: Annotated[float, Meta(ge=0, le=1)] = 0.0
    reach: bool = True
    shape: Literal["linear", "sqrt", "cosine", "exponential"] = "linear"

    def validate(self) -> None:
        if self.shape == "exponential" and not self.floor:
            raise SpecError(
                "schedules.wsd.floor: 0, which an exponential decay never reaches; give floor=0.1, "
                "say"
            )

    def factor(self, step: int, total: int) -> float:
        warm = round(self.warmup if self.warmup >= 1 else self.warmup * total)
        if step < warm:
            return (step + 1) / warm
        last = max(round(self.decay if self.decay >= 1 else self.decay * total), 1)
        done = (step + self.reach - max(total - last, warm)) / max(min(last, total - warm), 1)
        done = min(max(done, 0.0), 1.0)
        if self.shape == "exponential":
            return float(self.floor**done)
        if self.shape == "sqrt":
            done = math.sqrt(done)
        elif self.shape == "cosine":
            done = 0.5 - 0.5 * math.cos(math.pi * done)
        return 1 - (1 - self.floor) * done

    def unfelt(self, total: int) -> str | None:
        warm = round(self.warmup if self.warmup >= 1 else self.warmup * total)
        if warm < total:
            return None
        return f"decay: {self.decay:g}, and the warm-up takes all of {total} steps; give it fewer"

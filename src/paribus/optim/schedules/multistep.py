"""A learning rate that falls at given steps."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paribus.contracts import Schedule
from paribus.errors import SpecError


class Multistep(Schedule, frozen=True, kw_only=True):
    """Full rate from the end of the warm-up, times ``by`` at each milestone.

    Attributes:
        warmup: steps of warm-up, or below 1 a fraction of all; its step i has (i + 1) / warmup.
        milestones: steps from which on it is lower, or below 1 fractions of all; they rise.
        by: factor of each fall.
    """

    warmup: Annotated[float, Meta(ge=0)] = 0.0
    milestones: tuple[Annotated[float, Meta(gt=0)], ...] = (0.8, 0.9)
    by: Annotated[float, Meta(gt=0, lt=1)] = 0.1

    def validate(self) -> None:
        if list(self.milestones) != sorted(set(self.milestones)) or not self.milestones:
            raise SpecError(
                f"schedules.multistep.milestones: {self.milestones}; give one at least, each above "
                "the one before"
            )

    def factor(self, step: int, total: int) -> float:
        warm = round(self.warmup if self.warmup >= 1 else self.warmup * total)
        if step < warm:
            return (step + 1) / warm
        falls = sum(step >= round(m if m >= 1 else m * total) for m in self.milestones)
        return float(self.by**falls)

    def unfelt(self, total: int) -> str | None:
        late = [m for m in self.milestones if round(m if m >= 1 else m * total) >= total]
        if not late:
            return None
        said = ", ".join(f"{m:g}" for m in late)
        return f"milestones: {said}, and there are {total} steps; give steps below it, or shares"

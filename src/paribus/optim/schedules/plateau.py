"""A learning rate that falls where the loss no longer does (ReduceLROnPlateau)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from msgspec import Meta

from paribus.contracts import Schedule

Share = Annotated[float, Meta(ge=0, lt=1)]


class Decision(NamedTuple):
    """What was made of one value: the best one so far, whether it is better than that before, and
    the factor from now on."""

    value: float
    best: float
    improved: bool
    factor: float


class Plateau(Schedule, frozen=True, kw_only=True):
    """Full rate from the end of the warm-up; times ``by`` where the loss has not improved for more
    than ``patience`` looks.  Every decision is in the record.

    Stepped on the loss of single batches it falls all the time, for noise alone keeps a new best
    away: so it looks at the mean of the training loss, or at the loss of held-out rows.

    Attributes:
        warmup: steps of warm-up, or below 1 a fraction of all; its step i has (i + 1) / warmup.
            Looks begin after it.
        on: what it looks at: "train", the exponential mean of the phase's training loss; or
            "validation", the loss of the task's first ``examples`` validation rows.
        every: steps from one look to the next.
        by: factor of each fall.
        patience: looks without improvement that are let pass.
        threshold: relative: better is below best · (1 − threshold).
        cooldown: looks after a fall that count for nothing.
        least: the factor below which it does not fall.
        memory: of the exponential mean, a step.
        examples: of "validation"; None: all of them.
    """

    warmup: Annotated[float, Meta(ge=0)] = 0.0
    on: Literal["train", "validation"] = "train"
    every: Annotated[int, Meta(ge=1)] = 100
    by: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    patience: Annotated[int, Meta(ge=0)] = 10
    threshold: Share = 1e-4
    cooldown: Annotated[int, Meta(ge=0)] = 0
    least: Share = 0.0
    memory: Share = 0.99
    examples: Annotated[int, Meta(ge=1)] | None = None

    flat: ClassVar[bool] = True
    adapts: ClassVar[bool] = True
    example: ClassVar[dict[str, Any]] = {"every": 2, "patience": 1}

    def factor(self, step: int, total: int) -> float:
        warm = self.warm(total)
        return (step + 1) / warm if step < warm else 1.0

    def unfelt(self, total: int) -> str | None:
        # The first look is the best one so far; patience ends with the look after it.
        first = self.warm(total) + self.every * (self.patience + 2)
        if first < total:
            return None
        return (
            f"every: {self.every}, and with patience {self.patience} the rate could first fall "
            f"after step {first:,} of {total:,}; give a smaller every= or patience="
        )

    def warm(self, total: int) -> int:
        """Steps of warm-up."""
        return round(self.warmup if self.warmup >= 1 else self.warmup * total)

    def mean(self, losses: Sequence[float]) -> float:
        """The exponential mean of losses, the newest last, corrected for its beginning."""
        kept = weight = 0.0
        for x in losses:
            kept = self.memory * kept + (1 - self.memory) * x
            weight = self.memory * weight + (1 - self.memory)
        return kept / weight

    def decisions(self, values: Sequence[float]) -> list[Decision]:
        """What is decided at each look, in order; pure."""
        out: list[Decision] = []
        by, patience, cooldown, least = self.by, self.patience, self.cooldown, self.least
        better = 1 - self.threshold
        best, bad, cooling, factor = float("inf"), 0, 0, 1.0
        for value in values:
            improved = value < best * better
            best = value if improved else best
            bad = 0 if improved else bad + 1
            if cooling:
                cooling, bad = cooling - 1, 0
            if bad > patience:
                factor, bad, cooling = max(factor * by, least), 0, cooldown
            out.append(Decision(value, best, improved, factor))
        return out

"""A stand-in: from a share of the peak down."""

from paribus.contracts import Schedule


class Rewarm(Schedule, frozen=True, kw_only=True):
    peak: float = 1.0
    to: float = 0.0

    def factor(self, step: int, total: int) -> float:
        return self.peak + (self.to - self.peak) * step / total

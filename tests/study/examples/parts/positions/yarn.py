"""A stand-in: a scaling of RoPE."""

from paribus.contracts import Position


class Yarn(Position, frozen=True, kw_only=True):
    s: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0

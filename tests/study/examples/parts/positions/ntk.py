"""A stand-in: a scaling of RoPE."""

from paribus.contracts import Position


class Ntk(Position, frozen=True, kw_only=True):
    s: float
    multiplier: float = 1.0

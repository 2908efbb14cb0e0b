"""A stand-in: a scaling of RoPE."""

from paribus.contracts import Position


class Pi(Position, frozen=True, kw_only=True):
    s: float

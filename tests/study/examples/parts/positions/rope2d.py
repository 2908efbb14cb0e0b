"""A stand-in: RoPE over (branch, time)."""

from paribus.contracts import Position


class Rope2d(Position, frozen=True, kw_only=True):
    ratio: float = 0.5

"""A stand-in: RoPE with a scaling of its own."""

from paribus.contracts import Position


class ScaledRope(Position, frozen=True, kw_only=True):
    base: float = 10000.0
    scaling: Position | None = None

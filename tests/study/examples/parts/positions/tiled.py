"""A stand-in: shared rows tiled, then rows of their own."""

from paribus.contracts import Position


class Tiled(Position, frozen=True, kw_only=True):
    own: int = 3

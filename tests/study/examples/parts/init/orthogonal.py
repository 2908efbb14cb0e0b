"""A stand-in."""

from paribus.contracts import Init


class Orthogonal(Init, frozen=True, kw_only=True):
    per: str = "matrix"

"""A stand-in: columnar branches."""

from paribus.contracts import Mask


class Branch(Mask, frozen=True, kw_only=True):
    pass

"""A stand-in: logits grow with the logarithm of the keys."""

from paribus.contracts import Scale


class LogN(Scale, frozen=True, kw_only=True):
    pass

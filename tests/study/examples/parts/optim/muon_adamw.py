"""A stand-in."""

from paribus.contracts import Optimizer


class MuonAdamw(Optimizer, frozen=True, kw_only=True):
    lr: float = 0.02

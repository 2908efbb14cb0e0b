"""A stand-in."""

from paribus.contracts import Metric, Probe


class Core(Probe, frozen=True, kw_only=True):
    metrics = {"core": Metric("", better="higher")}

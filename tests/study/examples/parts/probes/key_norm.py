"""A stand-in."""

from paribus.contracts import Metric, Probe


class KeyNorm(Probe, frozen=True, kw_only=True):
    metrics = {"key_norm": Metric("", better="higher")}

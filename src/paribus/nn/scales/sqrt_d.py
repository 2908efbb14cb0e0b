"""Attention logits divided by the root of the head size (Vaswani et al. 2017)."""

from __future__ import annotations

from paribus.contracts import Dims, Scale


class SqrtD(Scale, frozen=True, kw_only=True):
    """1 / √(head size): logits of unit variance for queries and keys of unit variance."""

    def factor(self, d: Dims) -> float:
        return float(d.head_dim**-0.5)

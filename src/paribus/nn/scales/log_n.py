"""Attention logits that grow with the logarithm of the keys (Su 2021; Chiang & Cholak 2022)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Dims, Scale, View

if TYPE_CHECKING:
    from torch import Tensor


class LogN(Scale, frozen=True, kw_only=True):
    """max(1, ln n / ln original) · value for the query at place n of its text (from 1):
    among more keys than were trained on, logits grow as their softmax flattens.  Without a position
    encoding (``position=None``, NoPE) it is what Wang et al. 2024 extend the context with.

    Attributes:
        original: tokens of the rows that were trained on; up to there the factor is ``value``.
        value: None: 1 / √(head size), as ``sqrt_d``; 1 goes with keys of unit length
            (``norms.l2``).
    """

    original: Annotated[int, Meta(ge=2)]
    value: Annotated[float, Meta(gt=0)] | None = None

    example: ClassVar[dict[str, Any]] = {"original": 8}

    def factor(self, d: Dims) -> float:
        return float(d.head_dim**-0.5) if self.value is None else self.value

    def queries(self, pos: View) -> Tensor:
        place: Tensor = pos.token.double() + 1
        return (place.clamp(min=1).log() / math.log(self.original)).clamp(min=1)

"""Attention logits times a fixed number."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paribus.contracts import Dims, Scale


class Fixed(Scale, frozen=True, kw_only=True):
    """A factor that does not depend on the model.

    Attributes:
        value: the factor; 1 leaves the products of queries and keys as they are.
    """

    value: Annotated[float, Meta(gt=0)] = 1.0

    def factor(self, d: Dims) -> float:
        return self.value

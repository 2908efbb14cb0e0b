"""One normal distribution for everything.

embeddings, matrices, position tables   N(0, std)
biases                                  zeros
gains                                   ones
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paribus.contracts import Dims, Init, P


class Normal(Init, frozen=True, kw_only=True):
    """Normal draws of one standard deviation, whatever the depth."""

    std: Annotated[float, Meta(gt=0)] = 0.02

    def rule(self, p: P, d: Dims) -> tuple[str, float]:
        if p.role == "bias":
            return "constant", 0.0
        if p.role == "gain":
            return "constant", 1.0
        return "normal", self.std

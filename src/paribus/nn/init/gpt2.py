"""The initialisation of GPT-2.

embeddings, matrices, position tables   N(0, std)
o and down                              N(0, std / √(2 · layers)): they write to the residual
biases                                  zeros
gains                                   ones
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paribus.contracts import Dims, Init, P


class Gpt2(Init, frozen=True, kw_only=True):
    """Normal draws, with projections onto the residual stream scaled down by depth."""

    std: Annotated[float, Meta(gt=0)] = 0.02

    def rule(self, p: P, d: Dims) -> tuple[str, float]:
        if p.role == "bias":
            return "constant", 0.0
        if p.role == "gain":
            return "constant", 1.0
        if p.role in ("o", "down"):
            return "normal", self.std / (2 * d.layers) ** 0.5
        return "normal", self.std

"""What torch's own modules draw.

matrices                        U(±1/√fan_in) (Kaiming uniform with a = √5, worked out)
biases                          U(±1/√fan_in) of their matrix
embeddings, position tables     N(0, 1)
tied embedding                  as a linear map or as an embedding, by ``tied_embedding``
gains                           ones
"""

from __future__ import annotations

from typing import Literal

from paribus.contracts import Dims, Init, P


class TorchDefault(Init, frozen=True, kw_only=True):
    """nn.Linear's and nn.Embedding's defaults.

    Attributes:
        tied_embedding: which module's draw a tied table keeps: "linear" where the embedding takes
            over the head's tensor, "embedding" where the head takes over the embedding's.
    """

    tied_embedding: Literal["linear", "embedding"] = "linear"

    def rule(self, p: P, d: Dims) -> tuple[str, float]:
        if p.role == "gain":
            return "constant", 1.0
        if p.role == "embedding":
            if p.fan_in and self.tied_embedding == "linear":
                return "uniform", p.fan_in**-0.5
            return "normal", 1.0
        if p.role == "position":
            return "normal", 1.0
        if p.role == "bias" and not p.fan_in:
            return "constant", 0.0
        return "uniform", (p.fan_in or p.shape[-1]) ** -0.5

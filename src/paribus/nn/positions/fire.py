"""FIRE (Li et al. 2024): a small network of the distance over the query's own place.

c       0.1                     layers.in   U(−1, 1), layers.in_bias U(−1, 1)
length  1, times ``original``   layers.out  U(−1/√hidden, 1/√hidden), its bias too (torch's Linear)

E trials, b 1 or rows, T queries, S keys, H heads, R hidden units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Dims, P, Position, View
from paribus.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class Fire(Position, frozen=True, kw_only=True):
    """f(ψ(i − j) / ψ(max(L, i))) on the logits of query i and key j, ψ(x) = ln(|c| x + 1), f a
    network of one hidden layer (ReLU) with an output for each head; c, L and f are learned, in each
    layer.

    Places count from 0, as in the paper's code.  It adds 2 + 2R + H(R + 1) numbers a layer, so arms
    with it and arms without differ in parameters.

    Attributes:
        hidden: units of the network.
        original: L at the start; below it, distances are divided by ψ(L).
    """

    hidden: Annotated[int, Meta(ge=1)] = 32
    original: Annotated[float, Meta(gt=0)] = 512.0

    per_layer: ClassVar[bool] = True

    def params(self, d: Dims) -> dict[str, P]:
        R, bound = self.hidden, self.hidden**-0.5
        out = f"uniform:{-bound!r}:{bound!r}"

        def of(*shape: int, init: str) -> P:
            return P(shape, init=init, decay=False, role="position")

        return {
            "c": of(1, init="value:0.1"),
            "length": of(1, init="ones"),
            "in": of(R, init="uniform:-1:1"),
            "in_bias": of(R, init="uniform:-1:1"),
            "out": of(d.heads, R, init=out),
            "out_bias": of(d.heads, init=out),
        }

    def bias(
        self, t: Mapping[str, Tensor], p: Mapping[str, Tensor], e: Any, h: Any, q: View, k: View
    ) -> Tensor:
        one = p["c"]
        c, length = (p[name].view(-1, 1, 1, 1, 1) for name in ("c", "length"))
        distance = (q.token - k.token).abs().to(one.dtype)
        longest = torch.maximum(q.token.to(one.dtype), (length * self.original).abs())
        x = (c * distance).abs().log1p() / ((c * longest).abs().log1p() + 1e-6)
        w, b = (p[name].view(len(one), 1, 1, 1, 1, -1) for name in ("in", "in_bias"))
        unit_eb1TSR = (x[..., None] * w + b).relu()
        # One product a trial: a broadcast one rounds otherwise in a stack than alone.
        out = (unit_eb1TSR.flatten(1, 4) @ p["out"].mT).unflatten(1, unit_eb1TSR.shape[1:5])
        return out.movedim(-1, 2)[:, :, :, 0] + p["out_bias"][e, h]

"""Squared ReLU (So et al. 2021, Primer): down(ReLU(up(x))²)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from paribus.contracts import Dims, Mlp, P
from paribus.lazy import torch
from paribus.nn.linear import linear, one_by_one

if TYPE_CHECKING:
    from torch import Tensor


class Relu2(Mlp, frozen=True, kw_only=True):
    """Two linear maps with a squared ReLU between them.

    Attributes:
        ratio: hidden units per unit of width.
        hidden: hidden units, where they are to be fixed; None: ratio · width, rounded.
        bias: whether both maps have biases.
    """

    ratio: Annotated[float, Meta(gt=0)] = 4.0
    hidden: Annotated[int, Meta(ge=1)] | None = None
    bias: bool = False

    def hidden_size(self, d: Dims) -> int:
        return self.hidden or max(1, round(d.width * self.ratio))

    def params(self, d: Dims) -> dict[str, P]:
        D, H = d.width, self.hidden_size(d)
        out = {"up": P((H, D), role="up"), "down": P((D, H), role="down")}
        if self.bias:
            out["up_bias"] = P((H,), decay=False, role="bias", fan_in=D)
            out["down_bias"] = P((D,), decay=False, role="bias", fan_in=H)
        return out

    def forward(self, p: Mapping[str, Tensor], x_EBTD: Tensor) -> Tensor:
        # One output alone is torch's to pad, in ``linear``.
        if one_by_one(x_EBTD) and not self.bias and min(p["up"].shape[1:]) > 1:
            from paribus.nn._cpu import SquaredReluMaps

            return SquaredReluMaps.of(x_EBTD, p["up"], p["down"])
        u = linear(x_EBTD, p["up"], p.get("up_bias"))
        if one_by_one(u):
            from paribus.nn._cpu import SquaredRelu

            h = SquaredRelu.apply(u)
        else:
            h = torch.relu(u).square()
        return linear(h, p["down"], p.get("down_bias"))

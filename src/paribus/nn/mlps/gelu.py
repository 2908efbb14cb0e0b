"""The feed-forward block of GPT-2: down(GELU(up(x)))."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from paribus.contracts import Dims, Mlp, P
from paribus.lazy import F, torch
from paribus.nn.linear import linear, on_gpu, summed

if TYPE_CHECKING:
    from torch import Tensor


class Gelu(Mlp, frozen=True, kw_only=True):
    """Two linear maps with a GELU between them.

    Attributes:
        ratio: hidden units per unit of width.
        hidden: hidden units, where they are to be fixed; None: ratio · width, rounded.
        exact: the error function instead of the tanh approximation.
        bias: whether both maps have biases.
    """

    ratio: Annotated[float, Meta(gt=0)] = 4.0
    hidden: Annotated[int, Meta(ge=1)] | None = None
    exact: bool = False
    bias: bool = True

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
        if self.bias and not self.exact and summed(x_EBTD):
            from paribus.nn._sums import biased_gelu

            y = linear(x_EBTD, p["up"])
            h = biased_gelu(y.flatten(1, 2), p["up_bias"]).view(y.shape)
            return linear(h, p["down"], p["down_bias"])
        h = linear(x_EBTD, p["up"], p.get("up_bias"))
        if on_gpu(h) and torch.compiler.is_compiling() and not self.exact:
            from paribus.nn._cuda import gelu

            h = gelu(h)
        else:
            h = F.gelu(h, approximate="none" if self.exact else "tanh")
        return linear(h, p["down"], p.get("down_bias"))

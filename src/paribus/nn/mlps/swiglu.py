"""SwiGLU (Shazeer 2020): down(SiLU(gate(x)) · up(x))."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from paribus.contracts import Dims, Mlp, P
from paribus.lazy import F
from paribus.nn.linear import linear

if TYPE_CHECKING:
    from torch import Tensor


class SwiGlu(Mlp, frozen=True, kw_only=True):
    """A gated block of three linear maps.

    Attributes:
        ratio: hidden units per unit of width; 8/3 has as many weights as two maps of ratio 4.
        multiple: the hidden size is multiple · ⌈⌊width · ratio⌋ / multiple⌉.
        hidden: hidden units, where they are to be fixed; None: by that rule.
        bias: whether the three maps have biases.
    """

    ratio: Annotated[float, Meta(gt=0)] = 8 / 3
    multiple: Annotated[int, Meta(ge=1)] = 64
    hidden: Annotated[int, Meta(ge=1)] | None = None
    bias: bool = False

    def hidden_size(self, d: Dims) -> int:
        return self.hidden or self.multiple * -(-int(d.width * self.ratio) // self.multiple)

    def params(self, d: Dims) -> dict[str, P]:
        D, H = d.width, self.hidden_size(d)
        out = {
            "gate": P((H, D), role="gate"),
            "up": P((H, D), role="up"),
            "down": P((D, H), role="down"),
        }
        if self.bias:
            out["gate_bias"] = P((H,), decay=False, role="bias", fan_in=D)
            out["up_bias"] = P((H,), decay=False, role="bias", fan_in=D)
            out["down_bias"] = P((D,), decay=False, role="bias", fan_in=H)
        return out

    def forward(self, p: Mapping[str, Tensor], x_EBTD: Tensor) -> Tensor:
        gate = F.silu(linear(x_EBTD, p["gate"], p.get("gate_bias")))
        h = gate * linear(x_EBTD, p["up"], p.get("up_bias"))
        return linear(h, p["down"], p.get("down_bias"))

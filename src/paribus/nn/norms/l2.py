"""Euclidean normalisation of keys or queries (Henry et al. 2020; KeyNorm: of keys alone).

gain  start, one number or one a channel
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from paribus.contracts import Norm, P
from paribus.errors import SpecError
from paribus.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor


class L2(Norm, frozen=True, kw_only=True):
    """x / max(‖x‖₂, eps) over the last axis, in fp32 at least; a zero vector stays zero.

    KeyNorm is ``k_norm=norms.l2(), logit_scale=scales.fixed(value=1.0)``: logits q · k / ‖k‖, which
    are those of ``scales.sqrt_d`` times √d / ‖k‖.  A learned scale is ``gain="scalar"``, one that
    grows with the keys ``scales.log_n(original=…, value=1.0)``.

    Attributes:
        eps: the smallest length that is divided by.
        gain: what is learned to multiply the unit vector: nothing, one number of the layer, or one
            of each channel.
        start: the gain's first value; Henry et al. begin at log₂(L² − L) for rows of L tokens.
        after_rotation: whether it follows RoPE in place of going before.  A rotation keeps lengths,
            so it matters with a gain of each channel alone.
    """

    eps: Annotated[float, Meta(gt=0)] = 1e-6
    gain: Literal["none", "scalar", "channel"] = "none"
    start: Annotated[float, Meta(gt=0)] = 1.0
    after_rotation: bool = False  # type: ignore[misc]

    def validate(self) -> None:
        if self.gain == "none" and self.start != 1:
            raise SpecError(
                f'norms.l2.start: {self.start:g}, but nothing is learned; give gain="scalar", or '
                "scales.fixed(value=…) as the model's logit_scale"
            )

    def params(self, n: int) -> dict[str, P]:
        if self.gain == "none":
            return {}
        shape = (1,) if self.gain == "scalar" else (n,)
        return {"gain": P(shape, init=f"value:{self.start!r}", decay=False, role="gain")}

    def forward(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        y = F.normalize(x, dim=-1, eps=self.eps)
        return y if self.gain == "none" else y * p["gain"]

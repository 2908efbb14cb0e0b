"""Adjusted base frequency (Xiong et al. 2023): training goes on with a larger base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Scaling
from paribus.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class Abf(Scaling, frozen=True, kw_only=True):
    """Another base in the place of RoPE's: 500,000 where 10,000 was trained with (Llama 2 Long).

    Attributes:
        to: the new base.
    """

    to: Annotated[float, Meta(gt=0)]

    example: ClassVar[dict[str, Any]] = {"to": 5e5}

    def frequencies(self, own_F: Tensor, base: float) -> Tensor:
        F = len(own_F)
        return self.to ** -(torch.arange(F, dtype=torch.float64, device=own_F.device) / F)

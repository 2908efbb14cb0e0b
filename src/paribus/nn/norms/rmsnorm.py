"""Root-mean-square normalisation (Zhang and Sennrich 2019).

gain  ones
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from paribus.contracts import Norm, P
from paribus.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor


class RMSNorm(Norm, frozen=True, kw_only=True):
    """x / √(mean x² + eps) · gain, in fp32 at least.

    Attributes:
        eps: added to the mean square.
        gain: whether it is learned; without it it is 1.
    """

    eps: Annotated[float, Meta(gt=0)] = 1e-5
    gain: bool = True

    def params(self, n: int) -> dict[str, P]:
        return {"gain": P((n,), init="ones", decay=False, role="gain")} if self.gain else {}

    def forward(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        y = F.rms_norm(x, x.shape[-1:], eps=self.eps)
        return y * p["gain"] if self.gain else y

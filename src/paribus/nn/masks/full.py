"""Each token reads its whole row."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from paribus.contracts import Mask, View

if TYPE_CHECKING:
    from torch import Tensor


class Full(Mask, frozen=True, kw_only=True):
    """Every key."""

    sdpa: ClassVar[str | None] = "full"
    causal: ClassVar[bool] = False

    def allowed(self, layer: int, q: View, k: View) -> Tensor:
        return (q.index == q.index) & (k.index == k.index)  # the shape of both, all true

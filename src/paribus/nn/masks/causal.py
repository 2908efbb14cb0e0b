"""Each token reads itself and what stands before it in its row."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from paribus.contracts import Mask, View

if TYPE_CHECKING:
    from torch import Tensor


class Causal(Mask, frozen=True, kw_only=True):
    """Keys up to the query's own place."""

    sdpa: ClassVar[str | None] = "causal"

    def allowed(self, layer: int, q: View, k: View) -> Tensor:
        return k.index <= q.index

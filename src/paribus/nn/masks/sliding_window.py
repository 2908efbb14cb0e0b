"""Causal attention over the last tokens only (Beltagy et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Mask, View

if TYPE_CHECKING:
    from torch import Tensor


class SlidingWindow(Mask, frozen=True, kw_only=True):
    """The last ``size`` keys, the query's own place included.

    Attributes:
        size: keys that a query may read in one layer; L layers see L · (size − 1) tokens back.
    """

    size: Annotated[int, Meta(ge=1)]

    example: ClassVar[dict[str, Any]] = {"size": 4}

    def allowed(self, layer: int, q: View, k: View) -> Tensor:
        return (k.index <= q.index) & (q.index - k.index < self.size)

    def window(self) -> int:
        return self.size

    def mean_keys(self, length: int) -> float:
        w = min(self.size, length)
        return w - w * (w - 1) / 2 / length

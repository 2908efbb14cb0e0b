"""Causal attention inside documents: rows of packed text without reads across their ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paribus.contracts import Mask, View

if TYPE_CHECKING:
    from torch import Tensor


class Document(Mask, frozen=True, kw_only=True):
    """Keys of the query's own document up to its own place.  It reads the coordinate ``segment``,
    which a task gives where it is asked to (``tasks.lm(segments=True)``)."""

    def allowed(self, layer: int, q: View, k: View) -> Tensor:
        return (k.index <= q.index) & (k.segment == q.segment)

    def mean_keys(self, length: int) -> float:
        return (length + 1) / 2  # where a row is one document

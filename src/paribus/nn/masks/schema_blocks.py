"""Attention along the structure of a serialised schema: first within blocks, then between what
stands for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Mask, View

if TYPE_CHECKING:
    from torch import Tensor


class SchemaBlocks(Mask, frozen=True, kw_only=True):
    """Early layers: each block by itself.  Later ones: among summaries, that is the last token of
    each block and the tokens outside of blocks; all other tokens read nothing more.
    Reads the coordinates ``block`` and ``summary``.

    With two local layers a question outside of the blocks first sees the schema in the third, so L
    layers leave L − 2 rounds of messages between blocks.

    Attributes:
        causal: whether, besides, no token reads a later one.  In the original the kernel decided
            that: transformers up to 4.57 with eager attention was causal, with SDPA it was not.
        local_layers: layers that stay within blocks.
    """

    causal: bool  # type: ignore[misc]  # here a setting
    local_layers: Annotated[int, Meta(ge=0)] = 2

    per_layer: ClassVar[bool] = True
    examples: ClassVar[list[dict[str, Any]]] = [
        {"causal": True, "local_layers": 1},
        {"causal": False, "local_layers": 1},
    ]

    def allowed(self, layer: int, q: View, k: View) -> Tensor:
        if layer < self.local_layers:
            keep = q.block == k.block
        else:
            keep = (q.summary > 0) & (k.summary > 0)
        return keep & (k.index <= q.index) if self.causal else keep

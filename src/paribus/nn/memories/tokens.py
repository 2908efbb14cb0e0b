"""Recurrent memory tokens (Bulatov et al. 2022): a segment hands vectors on to the next.

tokens [m, D]  normal  the memory before the first segment
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Dims, P
from paribus.errors import SpecError
from paribus.parts import describe
from paribus.sequence import Memory, Reach

if TYPE_CHECKING:
    from paribus.spec import Model


class Tokens(Memory, frozen=True, kw_only=True):
    """Each segment is read between two copies of the memory, under one causal mask: its tokens
    read the copy before them, and what the copy behind them becomes, normed as outputs are, is the
    memory of the next segment.  Nothing else is carried.

    Attributes:
        segment: tokens of a segment, without the memory.
        tokens: vectors of the memory.
        through: segments that gradients flow through; None: all of the row.
    """

    segment: Annotated[int, Meta(ge=1)]  # type: ignore[misc]
    tokens: Annotated[int, Meta(ge=1)]  # type: ignore[misc]
    through: Annotated[int, Meta(ge=1)] | None = None  # type: ignore[misc]

    examples: ClassVar[Any] = [
        {"segment": 8, "tokens": 2},
        {"segment": 6, "tokens": 3, "through": 2},
    ]

    def params(self, d: Dims) -> dict[str, P]:
        return {"tokens": P((self.tokens, d.width), decay=False, role="embedding")}

    def mean_keys(self, length: int) -> float:
        # All that a segment computes, per token of text: its own tokens and both copies.
        n = min(self.segment, length) + 2 * self.tokens
        return n * (n + 1) / 2 / min(self.segment, length)

    def passed(self, length: int) -> float:
        n = min(self.segment, length)
        return (n + 2 * self.tokens) / n

    def field(self, d: Dims, length: int, size: int) -> Reach:
        return Reach(self.segment, None, self.tokens * d.width * size)  # tokens of text

    def check(self, model: Model) -> None:
        super().check(model)
        position = model.position
        if position is not None and position.embed is not None:
            raise SpecError(
                f"model.position: {describe(position)} is added to tokens, and those of "
                f"{describe(self)} have no place of their own; use positions.rope(), alibi() or "
                "None"
            )

"""Segment recurrence: keys and values of the tokens before a segment are kept (Dai et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from paribus.contracts import Dims, View
from paribus.errors import SpecError
from paribus.sequence import Memory, Reach

if TYPE_CHECKING:
    from torch import Tensor


class Recurrence(Memory, frozen=True, kw_only=True):
    """A row is read in segments; each sees the keys and values of the last ``cache`` tokens before
    it, in every layer, turned by their own places (positions go on counting).

    Attributes:
        segment: tokens of a segment.
        cache: tokens before it whose keys and values are kept; 0: segments are read by themselves;
            None: as many as a segment has.
        form: "full_cache": each query sees the whole cache and what stands before it in its segment
            (Transformer-XL), ``cache`` + 1 … ``cache`` + ``segment`` tokens; "sliding": exactly
            the last ``cache`` + 1 tokens, wherever segments end.
        through: segments that gradients flow through; 1: keys and values of earlier segments are
            numbers (Transformer-XL); None: all.  Either way the row is one masked pass.
    """

    segment: Annotated[int, Meta(ge=1)]  # type: ignore[misc]
    cache: Annotated[int, Meta(ge=0)] | None = None
    form: Literal["full_cache", "sliding"] = "full_cache"
    through: Annotated[int, Meta(ge=1)] | None = None  # type: ignore[misc]

    examples: ClassVar[Any] = [
        {"segment": 8},
        {"segment": 6, "cache": 9, "through": 2},
        {"segment": 8, "cache": 5, "form": "sliding", "through": 1},
    ]

    def validate(self) -> None:
        if self.form == "sliding" and self.cache == 0:
            raise SpecError("memories.recurrence.cache: 0 tokens to slide over; give one at least")

    @property
    def held(self) -> int:
        """Tokens in the cache."""
        return self.segment if self.cache is None else self.cache

    def allowed(self, q: View, k: View) -> Tensor:
        before: Tensor = k.index <= q.index
        if self.form == "sliding":
            return before & (q.index - k.index <= self.held)
        return before & (k.index >= q.index // self.segment * self.segment - self.held)

    def kept(self) -> int:
        return self.held

    def mean_keys(self, length: int) -> float:
        if self.form == "sliding":
            w = min(self.held + 1, length)
            return w - w * (w - 1) / 2 / length
        starts = range(0, length, self.segment)
        sizes = [min(self.segment, length - a) for a in starts]
        read = (min(a, self.held) * n + n * (n + 1) / 2 for a, n in zip(starts, sizes, strict=True))
        return sum(read) / length

    def reach(self, layers: int) -> tuple[int, int]:
        """(tokens kept beside those read at a time, these); exact where the cache is whole
        segments, or slides."""
        return self.held, 1 if self.form == "sliding" else self.segment

    def field(self, d: Dims, length: int, size: int) -> Reach:
        """N layers see N · cache + segment tokens where the cache is whole segments; else each
        layer below the last reads from where the segment starts that the cache begins in."""
        W, C = self.segment, self.held
        if self.form == "sliding":
            direct, far = C + 1, d.layers * C + 1
        else:
            direct, far = C + W, W + C + (d.layers - 1) * -(-C // W) * W
        state = 2 * d.layers * d.kv_heads * d.head_dim * min(C, length) * size
        return Reach(direct, far, state)

"""T5's relative bias (Raffel et al. 2020): a learned number for each bucket of distances and head.

table  N(0, 1/√width), as in T5's code
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from paribus.contracts import Dims, P, Position, View
from paribus.errors import SpecError
from paribus.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class T5(Position, frozen=True, kw_only=True):
    """Half of the buckets are one distance each, the others grow as its logarithm up to
    ``longest``; what is farther shares the last.  All layers share the table.

    T5 does not divide its logits by √(head size): with ``scales.fixed(value=1)`` the whole is T5's.

    Attributes:
        buckets: of all distances.
        longest: the distance from which on there is one bucket.
        bidirectional: later keys have half of the buckets for themselves (an encoder); else they
            count as distance 0.
    """

    buckets: Annotated[int, Meta(ge=4)] = 32
    longest: Annotated[int, Meta(ge=2)] = 128
    bidirectional: bool = False

    def validate(self) -> None:
        if self.buckets % (4 if self.bidirectional else 2) or self.longest <= self._single():
            raise SpecError(
                f"positions.t5: buckets={self.buckets} must be a multiple of "
                f"{4 if self.bidirectional else 2}, and longest={self.longest} beyond the "
                "distances that have a bucket of their own"
            )

    def _single(self) -> int:
        """Distances that have a bucket of their own."""
        return self.buckets // (4 if self.bidirectional else 2)

    def starts(self) -> list[int]:
        """The least distance of each bucket of one direction: the smallest n with
        ln(n/e) / ln(longest/e) · e ≥ j for the j-th bucket after the first e, in whole numbers,
        where
        floats may round to either side."""
        e = self._single()
        out = list(range(e + 1))
        for j in range(1, e):
            bound, n = self.longest**j * e ** (e - j), out[-1]
            while n**e < bound:
                n += 1
            out.append(n)
        return out

    def params(self, d: Dims) -> dict[str, P]:
        init = f"normal:{d.width**-0.5!r}"
        return {"table": P((self.buckets, d.heads), init=init, decay=False, role="position")}

    def tables(self, d: Dims, pos: View) -> dict[str, Tensor]:
        starts = torch.tensor(self.starts()[1:], device=pos.token.device)
        return {"starts": starts[None]}

    def bias(
        self, t: Mapping[str, Tensor], p: Mapping[str, Tensor], e: Any, h: Any, q: View, k: View
    ) -> Tensor:
        back = (q.token - k.token).long()
        distance = back.abs() if self.bidirectional else back.clamp(min=0)
        bucket = torch.bucketize(distance, t["starts"][0], right=True)
        if self.bidirectional:
            bucket = bucket + (back < 0) * (self.buckets // 2)
        return p["table"][e, bucket, h]

"""Learned absolute positions (GPT-2): one vector a place, added to the embeddings.

table  N(0, std), or by the init scheme (gpt2: N(0, 0.02))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Dims, P, Position, View
from paribus.errors import Refused, SpecError
from paribus.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor


class Learned(Position, frozen=True, kw_only=True):
    """A table of one vector a place.

    Attributes:
        length: places of the table; a longer row is refused.  None: as many as the task's rows
            have tokens.
        std: standard deviation at the start; None: by the init scheme.
    """

    length: Annotated[int, Meta(ge=1)] | None = 1024
    std: Annotated[float, Meta(gt=0)] | None = None

    example: ClassVar[dict[str, Any]] = {"length": 32}

    def params(self, d: Dims) -> dict[str, P]:
        if self.length is None:
            raise SpecError("positions.learned.length: rows have no fixed length here; give it")
        init = None if self.std is None else f"normal:{self.std!r}"
        return {"table": P((self.length, d.width), init=init, role="position")}

    def tables(self, d: Dims, pos: View) -> dict[str, Tensor]:
        assert self.length is not None, "params() comes first"
        if pos.token.numel() and int(pos.token.max()) >= self.length:
            raise Refused(f"learned positions end at {self.length} tokens")
        return {"place": pos.token.long()}

    def embed(self, t: Mapping[str, Tensor], p: Mapping[str, Tensor], x_EBTD: Tensor) -> Tensor:
        E, L, D = p["table"].shape
        place_EbT = t["place"]
        if E > 1:
            place_EbT = place_EbT + torch.arange(0, E * L, L, device=place_EbT.device).view(E, 1, 1)
        return x_EBTD + F.embedding(place_EbT, p["table"].reshape(E * L, D))

    def fitted(self, length: int | None) -> Learned:
        return self if self.length is not None else Learned(length=length, std=self.std)

    def limit(self) -> int | None:
        return self.length

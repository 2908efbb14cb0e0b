"""Learned positions that repeat: every block has the same vector at the same slot.

table  N(0, std), or by the init scheme (gpt2: N(0, 0.02))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Dims, P, Position, View
from paribus.errors import Refused
from paribus.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor


class Tiled(Position, frozen=True, kw_only=True):
    """One vector a slot, whichever block it is in; tokens outside of blocks have their own slots.
    Reads the coordinate ``slot``.

    For V blocks of C + 1 tokens and three more the matrix of all positions, V(C+1)+3 by width, has
    rank C + 4 at most, hence the name "low-rank" of the original.

    Attributes:
        period: slots of a block: C + 1 for tables of C columns.
        own: slots of the tokens that are in no block.
        std: standard deviation at the start; None: by the init scheme.
    """

    period: Annotated[int, Meta(ge=1)] = 4
    own: Annotated[int, Meta(ge=0)] = 3
    std: Annotated[float, Meta(gt=0)] | None = None

    example: ClassVar[dict[str, Any]] = {"period": 28, "own": 4}

    def params(self, d: Dims) -> dict[str, P]:
        init = None if self.std is None else f"normal:{self.std!r}"
        return {"table": P((self.period + self.own, d.width), init=init, role="position")}

    def tables(self, d: Dims, pos: View) -> dict[str, Tensor]:
        most = int(pos.slot.max()) + 1 if pos.slot.numel() else 0
        if most > self.period + self.own:
            raise Refused(
                f"tiled positions have {self.period} + {self.own} slots (period, own), and the "
                f"tokens {most}: period is the columns of a table and one more"
            )
        return {"slot": pos.slot.long()}

    def embed(self, t: Mapping[str, Tensor], p: Mapping[str, Tensor], x_EBTD: Tensor) -> Tensor:
        E, L, D = p["table"].shape
        slot_EbT = t["slot"]
        if E > 1:
            slot_EbT = slot_EbT + torch.arange(0, E * L, L, device=slot_EbT.device).view(E, 1, 1)
        return x_EBTD + F.embedding(slot_EbT, p["table"].reshape(E * L, D))

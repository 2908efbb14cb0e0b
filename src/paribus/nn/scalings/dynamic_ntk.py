"""Dynamic NTK scaling (emozilla 2023; Peng et al. 2024, section 3.3): the base grows with the
row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Scaling
from paribus.lazy import torch
from paribus.nn.scalings import _parts
from paribus.parts import changed

if TYPE_CHECKING:
    from torch import Tensor


class DynamicNtk(Scaling, frozen=True, kw_only=True):
    """base · (factor · L / original − (factor − 1))^(F/(F−1)) for F pairs and rows of L tokens, L
    at least ``original``: up to there it is RoPE.  Hugging Face's "dynamic".

    One L serves all tokens of a row, the length that the task or the condition declares; so a cache
    gives what a full pass gives.  Hugging Face takes the longest row seen so far, and keeps keys
    that were turned before: its decoding is no full pass.  ``positions.growing`` makes L grow with
    each query.

    Attributes:
        factor: how fast it grows; 1 makes the base grow with L / original.
        original: tokens of the rows that were trained on.
        length: L, filled in with what rows have, of the task and then of each condition; to be
            given only where rows have no fixed length.
    """

    factor: Annotated[float, Meta(ge=1)]
    original: Annotated[int, Meta(ge=2)]
    length: Annotated[int, Meta(ge=1)] | None = None

    example: ClassVar[dict[str, Any]] = {"factor": 4.0, "original": 8, "length": 20}

    def fitted(self, length: int | None) -> DynamicNtk:
        out: DynamicNtk = self if length is None else changed(self, {"length": length})
        return out

    def frequencies(self, own_F: Tensor, base: float) -> Tensor:
        F, longest = len(own_F), max(_parts.declared(self.name, self.length), self.original)
        times = self.factor * longest / self.original - (self.factor - 1)
        pair_F = torch.arange(F, dtype=torch.float64, device=own_F.device)
        return (base * times ** (F / max(F - 1, 1))) ** -(pair_F / F)

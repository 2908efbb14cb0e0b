"""NTK-aware scaling (bloc97 2023; Peng et al. 2024, definition 1): a larger base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Scaling
from paribus.errors import SpecError
from paribus.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class Ntk(Scaling, frozen=True, kw_only=True):
    """base · factor^(F/(F−1)) for F pairs: the slowest pair turns ``factor`` times slower and the
    fastest as before.

    The founding study's "ntk, scale 4" multiplies by s² − s + 1 = 13 where the rule has s = 4: it
    is ``dynamic_ntk(factor=4)`` frozen at the length 4 · original, after vLLM.  ``multiplier=13``
    gives it.

    Attributes:
        factor: how many times longer rows get.
        multiplier: in its place, what the base is multiplied by, to the power F/(F−1); give one of
            the two.
    """

    factor: Annotated[float, Meta(ge=1)] | None = None
    multiplier: Annotated[float, Meta(gt=0)] | None = None

    example: ClassVar[dict[str, Any]] = {"factor": 4.0}

    def validate(self) -> None:
        if (self.factor is None) == (self.multiplier is None):
            raise SpecError("scalings.ntk: give factor or multiplier, one of them")

    def frequencies(self, own_F: Tensor, base: float) -> Tensor:
        F = len(own_F)
        times = self.factor if self.multiplier is None else self.multiplier
        assert times is not None, "validate() comes first"
        pair_F = torch.arange(F, dtype=torch.float64, device=own_F.device)
        return (base * times ** (F / max(F - 1, 1))) ** -(pair_F / F)

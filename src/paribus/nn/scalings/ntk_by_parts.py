"""NTK-by-parts (Peng et al. 2024, definition 2): fast pairs as they are, slow ones interpolated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Scaling
from paribus.nn.scalings import _parts

if TYPE_CHECKING:
    from torch import Tensor


class NtkByParts(Scaling, frozen=True, kw_only=True):
    """(1 − γ(r)) θ_i / factor + γ(r) θ_i, γ linear in the turns r of a pair in ``original`` tokens:
    YaRN's frequencies as its paper has them, without its temperature.

    Attributes:
        factor: how many times longer rows get.
        original: tokens of the rows that were trained on.
        beta_fast: pairs that turn so many times and more stay as they are (the paper's β).
        beta_slow: those that turn so many times at most are slowed by ``factor`` (its α).
    """

    factor: Annotated[float, Meta(ge=1)]
    original: Annotated[int, Meta(ge=2)]
    beta_fast: Annotated[float, Meta(gt=0)] = 32.0
    beta_slow: Annotated[float, Meta(gt=0)] = 1.0

    example: ClassVar[dict[str, Any]] = {"factor": 4.0, "original": 256}

    def validate(self) -> None:
        _parts.in_order(self.name, self.beta_slow, self.beta_fast, "beta_slow and beta_fast")

    def frequencies(self, own_F: Tensor, base: float) -> Tensor:
        slowed = _parts.by_rotations(own_F, self.original, self.beta_fast, self.beta_slow)
        return _parts.blend(own_F, self.factor, slowed)

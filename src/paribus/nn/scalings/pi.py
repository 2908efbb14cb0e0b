"""Position interpolation (Chen et al. 2023): every pair turns ``factor`` times slower."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Scaling

if TYPE_CHECKING:
    from torch import Tensor


class Pi(Scaling, frozen=True, kw_only=True):
    """θ_i / factor: places of a row ``factor`` times as long fall between those trained on.
    Hugging Face's "linear".

    Attributes:
        factor: how many times longer rows get.
    """

    factor: Annotated[float, Meta(ge=1)]

    example: ClassVar[dict[str, Any]] = {"factor": 4.0}

    def frequencies(self, own_F: Tensor, base: float) -> Tensor:
        return own_F / self.factor

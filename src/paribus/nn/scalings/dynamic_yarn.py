"""Dynamic YaRN (Peng et al. 2024, section 3.3): YaRN whose factor is the row's length over the
original one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Scaling
from paribus.nn.scalings import _parts
from paribus.parts import changed

if TYPE_CHECKING:
    from torch import Tensor


class DynamicYarn(Scaling, frozen=True, kw_only=True):
    """YaRN with factor = max(1, L / original) for rows of L tokens; up to ``original`` it is RoPE.

    As of ``dynamic_ntk``, one L serves all tokens of a row; ``positions.growing`` makes it grow.

    Attributes:
        original: tokens of the rows that were trained on.
        beta_fast, beta_slow, truncate, temperature: as of ``yarn``.
        length: L, filled in with what rows have, of the task and then of each condition; to be
            given only where rows have no fixed length.
    """

    original: Annotated[int, Meta(ge=2)]
    beta_fast: Annotated[float, Meta(gt=0)] = 32.0
    beta_slow: Annotated[float, Meta(gt=0)] = 1.0
    truncate: bool = True
    temperature: Annotated[float, Meta(gt=0)] | None = None
    length: Annotated[int, Meta(ge=1)] | None = None

    example: ClassVar[dict[str, Any]] = {"original": 8, "length": 20}

    def validate(self) -> None:
        _parts.in_order(self.name, self.beta_slow, self.beta_fast, "beta_slow and beta_fast")

    def fitted(self, length: int | None) -> DynamicYarn:
        out: DynamicYarn = self if length is None else changed(self, {"length": length})
        return out

    def factor(self) -> float:
        """L / original, at least 1."""
        return max(1.0, _parts.declared(self.name, self.length) / self.original)

    def frequencies(self, own_F: Tensor, base: float) -> Tensor:
        slowed = _parts.by_dimension(
            own_F, base, self.original, self.beta_fast, self.beta_slow, self.truncate
        )
        return _parts.blend(own_F, self.factor(), slowed)

    def attention_factor(self) -> float:
        return _parts.mscale(self.factor()) if self.temperature is None else self.temperature

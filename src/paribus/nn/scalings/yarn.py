"""YaRN (Peng et al. 2024): interpolation by parts, and an attention temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from paribus.contracts import Scaling
from paribus.errors import SpecError
from paribus.nn.scalings import _parts

if TYPE_CHECKING:
    from torch import Tensor


class Yarn(Scaling, frozen=True, kw_only=True):
    """Pairs that turn often in ``original`` tokens stay as they are, those that hardly turn are
    slowed by ``factor``, with a ramp between; q and k are each multiplied by 0.1 ln(factor) + 1.

    The temperature acts after QK-norm and on whole heads.  Folded into cos and sin before such a
    norm, as Hugging Face and vLLM have it, it would do nothing.  What of a gain is frequencies and
    what is temperature, ``temperature=1`` here and ``temperature=…`` of the model tell apart.

    Attributes:
        factor: how many times longer rows get.
        original: tokens of the rows that were trained on.
        beta_fast: pairs that turn so many times and more stay as they are.
        beta_slow: those that turn so many times at most are slowed by ``factor``.
        ramp: "dimension", linear in the pair's number (the authors' code, Hugging Face), or
            "rotation", linear in its turns (the paper, eq. 18); they differ by up to 1.76 in
            frequency.
        truncate: whether the ramp "dimension" begins and ends at whole pairs (Hugging Face; gpt-oss
            does not).
        temperature: what q and k are each multiplied by; None: by the rule.
        mscale, mscale_all_dim: where both are given, the rule is
            (0.1 · mscale · ln(factor) + 1) / (0.1 · mscale_all_dim · ln(factor) + 1) (DeepSeek).
    """

    factor: Annotated[float, Meta(ge=1)]
    original: Annotated[int, Meta(ge=2)]
    beta_fast: Annotated[float, Meta(gt=0)] = 32.0
    beta_slow: Annotated[float, Meta(gt=0)] = 1.0
    ramp: Literal["dimension", "rotation"] = "dimension"
    truncate: bool = True
    temperature: Annotated[float, Meta(gt=0)] | None = None
    mscale: Annotated[float, Meta(gt=0)] | None = None
    mscale_all_dim: Annotated[float, Meta(gt=0)] | None = None

    example: ClassVar[dict[str, Any]] = {"factor": 4.0, "original": 256}

    def validate(self) -> None:
        _parts.in_order(self.name, self.beta_slow, self.beta_fast, "beta_slow and beta_fast")
        if (self.mscale is None) != (self.mscale_all_dim is None):
            raise SpecError(
                f"scalings.{self.name}: mscale and mscale_all_dim: give both, or neither"
            )

    def frequencies(self, own_F: Tensor, base: float) -> Tensor:
        fast, slow = self.beta_fast, self.beta_slow
        if self.ramp == "rotation":
            slowed = _parts.by_rotations(own_F, self.original, fast, slow)
        else:
            slowed = _parts.by_dimension(own_F, base, self.original, fast, slow, self.truncate)
        return _parts.blend(own_F, self.factor, slowed)

    def attention_factor(self) -> float:
        if self.temperature is not None:
            return self.temperature
        if self.mscale is None or self.mscale_all_dim is None:
            return _parts.mscale(self.factor)
        return _parts.mscale(self.factor, self.mscale) / _parts.mscale(
            self.factor, self.mscale_all_dim
        )

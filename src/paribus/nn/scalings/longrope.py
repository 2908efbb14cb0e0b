"""LongRoPE (Ding et al. 2024): a factor for each pair, found by search."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Scaling
from paribus.errors import SpecError
from paribus.lazy import torch
from paribus.nn.scalings import _parts
from paribus.parts import changed

if TYPE_CHECKING:
    from torch import Tensor


class Longrope(Scaling, frozen=True, kw_only=True):
    """θ_i / long_i in rows longer than ``original``, θ_i / short_i in others; q and k are each
    multiplied by √(1 + ln(factor) / ln(original)), in rows of any length (as Phi-3 and Hugging
    Face).

    Attributes:
        factor: how many times longer rows get; the temperature's.
        original: tokens of the rows that were trained on.
        long, short: a factor for each pair, the fastest first; short () is 1 everywhere.
        start: tokens at the start of a text that keep RoPE's own frequencies (the paper's n̂;
            Hugging Face has none).
        temperature: what q and k are each multiplied by; None: by the rule.
        length: what rows have, filled in, of the task and then of each condition; to be given only
            where rows have no fixed length.
    """

    factor: Annotated[float, Meta(ge=1)]
    original: Annotated[int, Meta(ge=2)]
    long: tuple[Annotated[float, Meta(gt=0)], ...]
    short: tuple[Annotated[float, Meta(gt=0)], ...] = ()
    start: Annotated[int, Meta(ge=0)] = 0
    temperature: Annotated[float, Meta(gt=0)] | None = None
    length: Annotated[int, Meta(ge=1)] | None = None

    example: ClassVar[dict[str, Any]] = {
        "factor": 4.0, "original": 8, "long": (1.0, 1.5, 2.5, 4.0), "start": 2, "length": 20,
    }  # fmt: skip

    def fitted(self, length: int | None) -> Longrope:
        out: Longrope = self if length is None else changed(self, {"length": length})
        return out

    def frequencies(self, own_F: Tensor, base: float) -> Tensor:
        is_long = _parts.declared(self.name, self.length) > self.original
        each = self.long if is_long else self.short or (1.0,) * len(own_F)
        if len(each) != len(own_F):
            which = "long" if is_long else "short"
            raise SpecError(f"scalings.longrope.{which}: {len(each)} for {len(own_F)} pairs")
        return own_F / torch.tensor(each, dtype=torch.float64, device=own_F.device)

    def attention_factor(self) -> float:
        if self.temperature is not None:
            return self.temperature
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original))

    def untouched(self) -> int:
        return self.start

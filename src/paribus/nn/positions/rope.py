"""Rotary positions (Su et al. 2021): pairs of a head turn by an angle that grows with the place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from paribus.contracts import Dims, P, Position, View
from paribus.errors import SpecError
from paribus.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class Rope(Position, frozen=True, kw_only=True):
    """Pair i of n turns by token · base^(−i/n) radians.

    Attributes:
        base: ratio of the slowest to the fastest wavelength (nearly).
        layout: "half" pairs number i with number i + n (Llama in Hugging Face's form);
            "interleaved" pairs 2i with 2i + 1 (the paper, GPT-J).
        fraction: the first part of each head that turns; the rest carries no position.
    """

    base: Annotated[float, Meta(gt=0)] = 10000.0
    layout: Literal["half", "interleaved"] = "half"
    fraction: Annotated[float, Meta(gt=0, le=1)] = 1.0

    stackable: ClassVar[frozenset[str]] = frozenset({"base"})

    def turning(self, d: Dims) -> int:
        """Numbers of a head that turn."""
        return round(d.head_dim * self.fraction)

    def params(self, d: Dims) -> dict[str, P]:
        n = self.turning(d)
        if n < 2 or n % 2:
            raise SpecError(
                f"positions.rope: {n} of {d.head_dim} numbers of a head would turn; "
                "they turn in pairs, so make it even (heads, head_dim or fraction)"
            )
        return {}

    def tables(self, d: Dims, pos: View) -> dict[str, Tensor]:
        n = self.turning(d)
        pair = torch.arange(0, n, 2, dtype=torch.float64, device=pos.token.device)
        angle = pos.token[..., None] * self.base ** -(pair / n)
        return {"cos": angle.cos(), "sin": angle.sin()}

    def rotate(self, t: Mapping[str, Tensor], p: Mapping[str, Tensor], x_EBHTd: Tensor) -> Tensor:
        cos, sin = t["cos"].unsqueeze(2), t["sin"].unsqueeze(2)
        n, rest = 2 * cos.shape[-1], None
        if n < x_EBHTd.shape[-1]:
            x_EBHTd, rest = x_EBHTd.split([n, x_EBHTd.shape[-1] - n], -1)
        if self.layout == "half":
            a, b = x_EBHTd.chunk(2, -1)
            out = [a * cos - b * sin, b * cos + a * sin]
        else:
            a, b = x_EBHTd[..., 0::2], x_EBHTd[..., 1::2]
            out = [torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)]
        return torch.cat(out if rest is None else [*out, rest.to(out[0].dtype)], -1)

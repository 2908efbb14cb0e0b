"""Rotary positions (Su et al. 2021): pairs of a head turn by an angle that grows with the place.

F pairs of a head that turn, the fastest first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from paribus.contracts import Dims, P, Position, Scaling, View
from paribus.errors import SpecError
from paribus.lazy import torch
from paribus.parts import changed

if TYPE_CHECKING:
    from torch import Tensor


class Rope(Position, frozen=True, kw_only=True):
    """Pair i of F turns by token · base^(−i/F) radians, or as ``scaling`` says.

    Attributes:
        base: ratio of the slowest to the fastest wavelength (nearly).
        layout: "half" pairs number i with number i + F (Llama in Hugging Face's form);
            "interleaved" pairs 2i with 2i + 1 (the paper, GPT-J).
        fraction: the first part of each head that turns; the rest carries no position, and the
            exponents are over the part (partial rotary, GPT-NeoX).
        p: share of the pairs, the fastest first, that turn; the others stand still, and exponents
            are over all (p-RoPE, Barbero et al. 2025).
        scaling: what becomes of the frequencies in rows longer than those trained on; its attention
            factor multiplies whole heads of q and of k, after their norms.
    """

    base: Annotated[float, Meta(gt=0)] = 10000.0
    layout: Literal["half", "interleaved"] = "half"
    fraction: Annotated[float, Meta(gt=0, le=1)] = 1.0
    p: Annotated[float, Meta(ge=0, le=1)] = 1.0
    scaling: Scaling | None = None

    stackable: ClassVar[frozenset[str]] = frozenset({"base", "p", "scaling"})

    def fitted(self, length: int | None) -> Rope:
        if self.scaling is None:
            return self
        out: Rope = changed(self, {"scaling": self.scaling.fitted(length)})
        return out

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

    def attention_factor(self) -> float:
        return 1.0 if self.scaling is None else self.scaling.attention_factor()

    def frequencies(self, d: Dims, device: Any = None) -> tuple[Tensor, Tensor]:
        """Radians a token [F], float64: as ``scaling`` has them, and without it."""
        n = self.turning(d)
        pair_F = torch.arange(0, n, 2, dtype=torch.float64, device=device)
        own_F = self.base ** -(pair_F / n)
        scaled_F = own_F if self.scaling is None else self.scaling.frequencies(own_F, self.base)
        turns_F = pair_F < 2 * int(self.p * n // 2)
        return scaled_F * turns_F, own_F * turns_F

    def tables(self, d: Dims, pos: View) -> dict[str, Tensor]:
        token = pos.token[..., None]
        scaled_F, own_F = self.frequencies(d, pos.token.device)
        angle = token * scaled_F
        start = 0 if self.scaling is None else self.scaling.untouched()
        if start:
            angle = torch.where(token < start, token * own_F, angle)
        a = self.attention_factor()
        out = {"cos": angle.cos() * a, "sin": angle.sin() * a}
        if self.turning(d) < d.head_dim:
            out["rest"] = torch.full_like(angle[:, :1, :1, :1], a)
        return out

    def rotate(self, t: Mapping[str, Tensor], p: Mapping[str, Tensor], x_EBHTd: Tensor) -> Tensor:
        cos, sin = t["cos"].unsqueeze(2), t["sin"].unsqueeze(2)
        n, rest = 2 * cos.shape[-1], None
        if n < x_EBHTd.shape[-1]:
            x_EBHTd, rest = x_EBHTd.split([n, x_EBHTd.shape[-1] - n], -1)
        if self.layout == "half" and not x_EBHTd.is_cuda:
            # The same products and sums in whole heads: halves are slow to go through one by one.
            cos, sin = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
            out = [x_EBHTd * cos + x_EBHTd.roll(n // 2, -1) * sin]
        elif self.layout == "half":
            a, b = x_EBHTd.chunk(2, -1)
            out = [a * cos - b * sin, b * cos + a * sin]
        else:
            a, b = x_EBHTd[..., 0::2], x_EBHTd[..., 1::2]
            out = [torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)]
        if rest is not None:
            out.append((rest * t["rest"]).to(out[0].dtype))
        return out[0] if len(out) == 1 else torch.cat(out, -1)

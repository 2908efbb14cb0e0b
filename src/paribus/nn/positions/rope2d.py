"""Rotary positions over (branch, time): of a head's pairs some turn with the branch, some with the
time, and the rest with the place in the packed row (ParallelMind).

F pairs a head, B rows, T tokens, H query or key heads, d head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from paribus.contracts import Dims, P, Position, View
from paribus.errors import SpecError
from paribus.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

BRANCH, TIME, FLAT = 0, 1, 2


class Rope2d(Position, frozen=True, kw_only=True):
    """Pair i of F turns by base^(−i/F) radians for each step of its coordinate.

    n = round(F · ratio) pairs are chosen (half to even, as Python rounds); along them branch and
    time alternate, branch first.  So a ratio of 1 gives half of the pairs to the branch and half to
    the time, and leaves none to the flat index: ``ratio`` moves three things at once, which
    ``residual``, ``choice`` and ``stride`` tell apart.  Without branches (one row, one text)
    branch is 0 and time and flat index are the token's place.

    Attributes:
        base: ratio of the slowest to the fastest wavelength (nearly).
        ratio: share of the pairs that are chosen; 0: plain RoPE on the residual coordinate.
        residual: what the other pairs turn with: "flat", the index in the packed row (the
            document's: a branch's stride then grows with the number of branches), or "time".
        choice: the pairs chosen: "slowest" (the document's), "fastest", "interleaved" (spread
            evenly over all), or "per_head": the slowest, all for the branch in even key heads and
            all for the time in odd ones.
        stride: the branch coordinate of branch b is b · stride.
        least: pairs chosen at any ratio; 1 is what the document's first results called ratio 0.
    """

    base: Annotated[float, Meta(gt=0)] = 1e6
    ratio: Annotated[float, Meta(ge=0, le=1)] = 0.5
    residual: Literal["flat", "time"] = "flat"
    choice: Literal["slowest", "fastest", "interleaved", "per_head"] = "slowest"
    stride: Annotated[float, Meta(ge=0)] = 128.0
    least: Annotated[int, Meta(ge=0, le=1)] = 0

    stackable: ClassVar[frozenset[str]] = frozenset(
        {"base", "ratio", "residual", "choice", "stride", "least"}
    )

    def params(self, d: Dims) -> dict[str, P]:
        if d.head_dim % 2:
            raise SpecError(f"positions.rope2d: head size {d.head_dim} is odd; it turns in pairs")
        if self.choice == "per_head" and d.kv_heads < 2:
            raise SpecError('positions.rope2d: choice="per_head" needs two key heads at least')
        return {}

    def allocation(self, pairs: int) -> list[int]:
        """Of each pair, fastest first, what it turns with: BRANCH, TIME or FLAT (the residual);
        of even key heads, where heads differ."""
        n = min(pairs, max(self.least, round(pairs * self.ratio)))
        chosen = {
            "fastest": range(n),
            "interleaved": [(2 * j + 1) * pairs // (2 * n) for j in range(n)],
        }.get(self.choice, range(pairs - n, pairs))
        out = [FLAT] * pairs
        for j, i in enumerate(chosen):
            out[i] = BRANCH if self.choice == "per_head" else j % 2
        return out

    def tables(self, d: Dims, pos: View) -> dict[str, Tensor]:
        """cos and sin [1,b,h,T,F], h = 1 or the key heads; float64."""
        F = d.head_dim // 2
        rest = pos.index if self.residual == "flat" else pos.time
        coordinates = torch.stack(
            torch.broadcast_tensors(pos.branch * self.stride, pos.time, rest), -1
        ).double()
        of_F = torch.tensor(self.allocation(F), device=coordinates.device)
        of_hF = of_F[None]
        if self.choice == "per_head":
            odd = torch.where(of_F == BRANCH, TIME, of_F)
            of_hF = torch.stack([of_F, odd]).repeat(d.kv_heads // 2 + 1, 1)[: d.kv_heads]
        pair = torch.arange(F, dtype=torch.float64, device=coordinates.device)
        turn_bhTF = coordinates[0][..., of_hF].movedim(-2, -3) * self.base ** -(pair / F)
        return {"cos": turn_bhTF.cos()[None], "sin": turn_bhTF.sin()[None]}

    def rotate(self, t: Mapping[str, Tensor], p: Mapping[str, Tensor], x_EBHTd: Tensor) -> Tensor:
        cos, sin = (self._heads(t[name], x_EBHTd.shape[2]) for name in ("cos", "sin"))
        a, b = x_EBHTd.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def _heads(self, table: Tensor, H: int) -> Tensor:
        """Query heads turn as their key head does."""
        shared = table.shape[2]
        return table if shared in (1, H) else table.repeat_interleave(H // shared, 2)

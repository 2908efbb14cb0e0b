"""ALiBi (Press et al. 2022): logits fall linearly with distance, at a slope of each head's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paribus.contracts import Dims, Position, View
from paribus.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def slopes(heads: int) -> list[float]:
    """The paper's slopes: 2^(−8i/heads), i = 1 … heads, where heads is a power of two; otherwise
    those of the next lower power n, then every other one of 2n from its steepest on."""
    n = 1 << (heads.bit_length() - 1)
    own = [2.0 ** (-8.0 * i / n) for i in range(1, n + 1)]
    between = [2.0 ** (-4.0 * i / n) for i in range(1, 2 * n + 1, 2)]
    return own + between[: heads - n]


class Alibi(Position, frozen=True, kw_only=True):
    """−slope · distance on the logits; under a full mask the distance counts both ways."""

    def tables(self, d: Dims, pos: View) -> dict[str, Tensor]:
        slope = torch.tensor(slopes(d.heads), dtype=torch.float64, device=pos.token.device)
        return {"slope": slope[None]}

    def bias(
        self, t: Mapping[str, Tensor], p: Mapping[str, Tensor], e: Any, h: Any, q: View, k: View
    ) -> Tensor:
        return -t["slope"][e, h] * (q.token - k.token).abs()

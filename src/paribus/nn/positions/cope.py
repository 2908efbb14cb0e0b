"""CoPE (Golovneva et al. 2024): a query counts the keys that it finds worth counting.

table  0, or N(0, std)

E trials, B rows, H heads, T queries, S keys, d head size, N positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Dims, P, Position, View
from paribus.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class Cope(Position, frozen=True, kw_only=True):
    """Key j is at the position p = Σ σ(s_m) over the keys m ≥ j that query i reads, s_m its scaled
    logits; q_i · e[p] is added to its logit, e[p] between the learned vectors of the whole numbers
    around p.  The paper's formula has q·k in the gate where its code has the scaled logits; this
    follows the code.

    It replaces the score, so it runs on the reference kernel alone, with a handful of [T,S] tensors
    for each head.

    Attributes:
        positions: N; what is counted beyond N − 1 stays there (the paper's p_max).
        std: standard deviation of the vectors at the start; the paper's are 0.
    """

    positions: Annotated[int, Meta(ge=2)] = 64
    std: Annotated[float, Meta(ge=0)] = 0.0

    per_layer: ClassVar[bool] = True
    example: ClassVar[dict[str, Any]] = {"positions": 8, "std": 0.5}

    def params(self, d: Dims) -> dict[str, P]:
        init = f"normal:{self.std!r}" if self.std else "zeros"
        return {"table": P((self.positions, d.head_dim), init=init, decay=False, role="position")}

    def scores(
        self,
        t: Mapping[str, Tensor],
        p: Mapping[str, Tensor],
        q_EBHTd: Tensor,
        k_EBHSd: Tensor,
        scale: float,
        mask: Tensor | None,
        q: View,
        k: View,
    ) -> Tensor:
        table_ENd = p["table"]
        high = torch.promote_types(q_EBHTd.dtype, torch.float32)
        s_EBHTS = (q_EBHTd @ k_EBHSd.mT).to(high) * scale
        gate = s_EBHTS.sigmoid()
        gate = gate if mask is None else gate * mask
        place = gate.flip(-1).cumsum(-1).flip(-1).clamp(max=self.positions - 1)
        below = place.detach().floor()
        # One product a trial: a broadcast one rounds otherwise in a stack than alone.
        of_N = q_EBHTd.flatten(1, 3) @ table_ENd.mT.to(q_EBHTd.dtype)
        of_N = of_N.unflatten(1, q_EBHTd.shape[1:4]).to(high)
        low = of_N.gather(-1, below.long())
        above = of_N.gather(-1, place.detach().ceil().long())
        return s_EBHTS + low + (above - low) * (place - below)

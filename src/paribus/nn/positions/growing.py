"""Dynamic RoPE whose frequencies grow with each query (Peng et al. 2024, section 3.3).

E trials, B rows, H heads, T queries, S keys, d head size, F pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Dims, P, Position, Scaling, View
from paribus.errors import SpecError
from paribus.lazy import torch
from paribus.parts import hints

if TYPE_CHECKING:
    from torch import Tensor


class Growing(Position, frozen=True, kw_only=True):
    """Query number n of its text turns itself and every key as ``scaling`` has it for rows of n
    tokens: what decoding does that keeps its keys unturned.  Row by row it is so in a full pass
    too, and a cache gives what a full pass gives.

    With one set of frequencies for the whole row (``positions.rope``) the last query of one layer
    reads the same; in deeper layers it does not, for there the keys and values of earlier tokens
    were made while rows were shorter.  It replaces the score, so it runs on the reference kernel
    alone, one query after another.

    Attributes:
        base: as of ``rope``.
        scaling: one that depends on the row's length (``dynamic_ntk``, ``dynamic_yarn``,
            ``longrope``).
    """

    base: Annotated[float, Meta(gt=0)] = 10000.0
    scaling: Scaling

    example: ClassVar[dict[str, Any]] = {
        "scaling": {"part": "dynamic_ntk", "factor": 4.0, "original": 8}
    }

    def validate(self) -> None:
        if self.scaling.fitted(1) == self.scaling.fitted(2):
            raise SpecError(
                f"positions.growing: scalings.{self.scaling.name} is the same at every length; "
                "use positions.rope"
            )

    def params(self, d: Dims) -> dict[str, P]:
        if d.head_dim % 2:
            raise SpecError(f"positions.growing: head size {d.head_dim} is odd; it turns in pairs")
        return {}

    def tables(self, d: Dims, pos: View) -> dict[str, Tensor]:
        """Each query's frequencies [1,b,T,F] and the factor of its logits [1,b,T]."""
        F, device = d.head_dim // 2, pos.token.device
        own_F = self.base ** -(torch.arange(F, dtype=torch.float64, device=device) / F)
        lengths, at = (pos.token.long() + 1).clamp(min=1).unique(return_inverse=True)
        each = [self.scaling.fitted(n) for n in lengths.tolist()]
        for field in hints(type(self.scaling)):  # what copies of it read is read of itself
            getattr(self.scaling, field)
        theta = torch.stack([s.frequencies(own_F, self.base) for s in each])
        heat = torch.tensor([s.attention_factor() ** 2 for s in each], device=device).double()
        return {"theta": theta[at], "heat": heat[at]}

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
        apart_ebTS = (q.token - k.token)[:, :, 0].to(t["theta"].dtype)
        ka, kb = k_EBHSd.chunk(2, -1)
        rows = []
        for i in range(q_EBHTd.shape[3]):
            qa, qb = q_EBHTd[..., i : i + 1, :].chunk(2, -1)
            angle_eb1SF = (apart_ebTS[:, :, i, :, None] * t["theta"][:, :, i, None, :])[:, :, None]
            cos, sin = angle_eb1SF.cos(), angle_eb1SF.sin()
            score = ((qa * ka + qb * kb) * cos + (qa * kb - qb * ka) * sin).sum(-1)
            rows.append(score * t["heat"][:, :, i, None, None])
        return torch.stack(rows, 3) * scale

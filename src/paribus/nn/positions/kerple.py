"""KERPLE, logarithmic form (Chi et al. 2022): −r₁ · log(1 + r₂ · distance) on the logits.

r₁ and r₂ are learned, one pair for each head of each layer.

    r1  U(0, 2)
    r2  U(0, 1)

The paper needs both positive.  Its code resets stored values below 0.01 in the forward pass; here
|r| is used, so that a parameter changes in the optimizer's step alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from paribus.contracts import Dims, P, Position, View

if TYPE_CHECKING:
    from torch import Tensor


class Kerple(Position, frozen=True, kw_only=True):
    """A learned logarithmic decay of attention with distance."""

    per_layer: ClassVar[bool] = True

    def params(self, d: Dims) -> dict[str, P]:
        return {
            "r1": P((d.heads,), init="uniform:0:2", decay=False, role="position"),
            "r2": P((d.heads,), init="uniform:0:1", decay=False, role="position"),
        }

    def bias(
        self, t: Mapping[str, Tensor], p: Mapping[str, Tensor], e: Any, h: Any, q: View, k: View
    ) -> Tensor:
        distance = (q.token - k.token).abs()
        return -p["r1"].abs()[e, h] * (p["r2"].abs()[e, h] * distance).log1p()

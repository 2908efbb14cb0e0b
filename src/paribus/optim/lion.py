"""Lion (Chen et al. 2023, Algorithm 2): the sign of a mean of gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from paribus.contracts import Optimizer, P
from paribus.lazy import torch
from paribus.optim._wide import wide, zeros

if TYPE_CHECKING:
    from torch import Tensor

Beta = Annotated[float, Meta(ge=0, lt=1)]


class Lion(Optimizer, frozen=True, kw_only=True):
    """w ← w · (1 − lr · weight_decay) − lr · sign(β₁ m + (1 − β₁) g), then m ← β₂ m + (1 − β₂) g.

    Attributes:
        lr: peak learning rate; three to ten times smaller than AdamW's, by the paper.
        betas: weight of the memory in a step, and what of the memory stays.
        weight_decay: decay per unit of lr.
        decay: what decays: "matrices" (and embeddings; no biases, no gains), or "all".
    """

    lr: Annotated[float, Meta(ge=0)]
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    decay: Literal["matrices", "all"] = "matrices"

    stackable: ClassVar[frozenset[str]] = frozenset({"lr", "weight_decay"})
    elementwise: ClassVar[bool] = True
    example: ClassVar[dict[str, Any]] = {"lr": 1e-3}

    def states(self, p: P) -> int:
        return 1

    def state(
        self, params: Mapping[str, Tensor], declared: Mapping[str, P]
    ) -> dict[str, dict[str, Tensor]]:
        return {"momentum": zeros(params, params)}

    def update(
        self,
        v: Mapping[str, Tensor],
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: dict[str, dict[str, Tensor]],
        step: int,
        declared: Mapping[str, P],
    ) -> None:
        paths = list(params)
        w, g = [params[path] for path in paths], [grads[path] for path in paths]
        memory = [state["momentum"][path] for path in paths]
        decaying = [params[path] for path in paths if self.decay == "all" or declared[path].decay]
        if decaying:
            torch._foreach_mul_(decaying, wide(1 - v["lr"] * v["weight_decay"], decaying))
        change = torch._foreach_lerp(memory, g, 1 - self.betas[0])
        torch._foreach_sign_(change)
        torch._foreach_addcmul_(w, change, wide(v["lr"], w), value=-1)
        torch._foreach_lerp_(memory, g, 1 - self.betas[1])

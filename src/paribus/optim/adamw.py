"""AdamW (Loshchilov and Hutter 2019): Adam with decay of the weights themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from paribus.contracts import Optimizer, P
from paribus.lazy import torch
from paribus.optim import _adam
from paribus.optim._wide import wide, zeros

if TYPE_CHECKING:
    from torch import Tensor

Beta = Annotated[float, Meta(ge=0, lt=1)]


class AdamW(Optimizer, frozen=True, kw_only=True):
    """w ← w · (1 − lr · weight_decay) − lr · m̂ / (√v̂ + eps), moments in fp32 at least.

    Attributes:
        lr: peak learning rate.
        betas: memory of the mean and of the mean square.
        eps: added to the root of the corrected mean square.
        weight_decay: decay per unit of lr.
        decay: what decays: "matrices" (and embeddings; no biases, no gains), or "all".
    """

    lr: Annotated[float, Meta(ge=0)]
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: Annotated[float, Meta(gt=0)] = 1e-8
    weight_decay: Annotated[float, Meta(ge=0)] = 0.1
    decay: Literal["matrices", "all"] = "matrices"

    stackable: ClassVar[frozenset[str]] = frozenset({"lr", "weight_decay"})
    elementwise: ClassVar[bool] = True
    example: ClassVar[dict[str, Any]] = {"lr": 1e-3}

    def states(self, p: P) -> int:
        return 2

    def state(
        self, params: Mapping[str, Tensor], declared: Mapping[str, P]
    ) -> dict[str, dict[str, Tensor]]:
        return {"mean": zeros(params, params), "square": zeros(params, params)}

    def numbers(self, step: int) -> dict[str, float]:
        return _adam.numbers(self.betas, self.eps, step)

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
        decaying = [params[path] for path in paths if self.decay == "all" or declared[path].decay]
        if decaying:
            torch._foreach_mul_(decaying, wide(1 - v["lr"] * v["weight_decay"], decaying))
        _adam.update(v, v["lr"], self.betas, params, grads, state, paths)

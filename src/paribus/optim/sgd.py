"""Stochastic gradient descent, with momentum as torch has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from paribus.contracts import Optimizer, P
from paribus.errors import SpecError
from paribus.lazy import torch
from paribus.optim._wide import wide, zeros

if TYPE_CHECKING:
    from torch import Tensor


class Sgd(Optimizer, frozen=True, kw_only=True):
    """b ← momentum · b + g, w ← w − lr · b, where g is the gradient plus weight_decay · w.

    Attributes:
        lr: peak learning rate.
        momentum: memory of earlier gradients; the first step starts from its own gradient.
        nesterov: step along g + momentum · b instead of b.
        weight_decay: added to the gradient (L2), not applied to the weights themselves.
        decay: what decays: "matrices" (and embeddings; no biases, no gains), or "all".
    """

    lr: Annotated[float, Meta(ge=0)]
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    nesterov: bool = False
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    decay: Literal["matrices", "all"] = "matrices"

    stackable: ClassVar[frozenset[str]] = frozenset({"lr", "weight_decay"})
    elementwise: ClassVar[bool] = True
    example: ClassVar[dict[str, Any]] = {"lr": 0.1}

    def validate(self) -> None:
        if self.nesterov and not self.momentum:
            raise SpecError("optim.sgd.nesterov: needs momentum above 0")

    def states(self, p: P) -> int:
        return 1 if self.momentum else 0

    def state(
        self, params: Mapping[str, Tensor], declared: Mapping[str, P]
    ) -> dict[str, dict[str, Tensor]]:
        return {"momentum": zeros(params, params)} if self.momentum else {}

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
        w = [params[path] for path in paths]
        decays = [self.decay == "all" or declared[path].decay for path in paths]
        decays_by = wide(v["weight_decay"], w)
        g = [
            grads[path].addcmul(x, wd) if decaying else grads[path].clone()
            for path, x, wd, decaying in zip(paths, w, decays_by, decays, strict=True)
        ]
        if self.momentum:  # zeros times momentum plus g is g: the first step needs no other rule
            memory = [state["momentum"][path] for path in paths]
            torch._foreach_mul_(memory, self.momentum)
            torch._foreach_add_(memory, g)
            if self.nesterov:
                torch._foreach_add_(g, memory, alpha=self.momentum)
            else:
                g = torch._foreach_add(memory, 0.0)
        torch._foreach_mul_(g, wide(v["lr"], g))
        torch._foreach_sub_(w, g)

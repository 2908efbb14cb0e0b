"""Schedule-free AdamW (Defazio et al. 2024): a mean of the iterates in the place of a decay."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from paribus.contracts import Optimizer, P
from paribus.lazy import torch
from paribus.optim._wide import wide, zeros

if TYPE_CHECKING:
    from torch import Tensor

Beta = Annotated[float, Meta(gt=0, lt=1)]


class ScheduleFree(Optimizer, frozen=True, kw_only=True):
    """Gradients are taken at y = (1 − β₁) z + β₁ x, steps are made by z, and x, the mean of all z
    so far, is what is evaluated and kept:

        g ← g / (√v̂ + eps) + weight_decay · y,   z ← z − lr · g,   x ← (1 − c) x + c z

    with c the step's share of all squared rates so far.  While it trains the parameters are y.  It
    goes with ``schedules.constant()``, has a warm-up of its own, which weighs the mean, and needs
    no number of steps beforehand.  A schedule multiplies the rate and not the weights.

    Attributes:
        lr: learning rate after the warm-up; more than AdamW's with a schedule, as a rule.
        betas: β₁, how near gradients are taken to the mean; and memory of the mean square.
        eps: added to the root of the corrected mean square.
        weight_decay: decay per unit of lr, at y.
        warmup: steps in which the rate rises, straight.
        decay: what decays: "matrices" (and embeddings; no biases, no gains), or "all".
    """

    lr: Annotated[float, Meta(ge=0)]
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: Annotated[float, Meta(gt=0)] = 1e-8
    weight_decay: Annotated[float, Meta(ge=0)] = 0.1
    warmup: Annotated[int, Meta(ge=0)] = 0
    decay: Literal["matrices", "all"] = "matrices"

    stackable: ClassVar[frozenset[str]] = frozenset({"lr", "weight_decay"})
    elementwise: ClassVar[bool] = True
    example: ClassVar[dict[str, Any]] = {"lr": 1e-2}

    def states(self, p: P) -> int:
        return 2

    def state(
        self, params: Mapping[str, Tensor], declared: Mapping[str, P]
    ) -> dict[str, dict[str, Tensor]]:
        square = zeros(params, params)
        return {"z": {k: t + params[k].detach() for k, t in square.items()}, "square": square}

    def numbers(self, step: int) -> dict[str, float]:
        c2 = (1 - self.betas[1] ** (step + 1)) ** 0.5
        share = _weight(step, self.warmup) / _weights(step, self.warmup)
        rate = min((step + 1) / self.warmup, 1.0) if self.warmup else 1.0
        return {"rate": rate, "share": share, "root": c2}

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
        y, g = [params[k] for k in paths], [grads[k] for k in paths]
        z, square = [state["z"][k] for k in paths], [state["square"][k] for k in paths]
        b1, b2 = self.betas
        lr_E = v["lr"] * v["rate"]
        share_E = torch.where(v["lr"] > 0, v["share"], 0.0)  # a trial that has ended stays
        torch._foreach_mul_(square, b2)
        torch._foreach_addcmul_(square, g, g, 1 - b2)
        size = torch._foreach_sqrt(square)
        torch._foreach_div_(size, wide(v["root"], size))
        torch._foreach_add_(size, self.eps)
        change = torch._foreach_div(g, size)
        for k, c, w in zip(paths, change, y, strict=True):
            if self.decay == "all" or declared[k].decay:
                c.addcmul_(w, *wide(v["weight_decay"], [w]))
        for w, c, own in zip(y, change, z, strict=True):
            w.copy_(torch.lerp(w, own.to(w.dtype), *wide(share_E, [w])))
            w.addcmul_(c, *wide(lr_E * (b1 * (1 - share_E) - 1), [w]))
            own.addcmul_(c, *wide(lr_E, [own]), value=-1)

    def weights(
        self, params: Mapping[str, Tensor], state: Mapping[str, Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """x = y + (1 − 1/β₁) (z − y) of what is trained."""
        z, b1 = state.get("z", {}), self.betas[0]
        with torch.no_grad():
            return {
                k: torch.lerp(y, z[k].to(y.dtype), 1 - 1 / b1) if k in z else y
                for k, y in params.items()
            }


def _weight(step: int, warmup: int) -> float:
    """The weight of a step (from 0) in the mean: its rate squared, of a rate of 1."""
    return min((step + 1) / warmup, 1.0) ** 2 if warmup else 1.0


@functools.lru_cache(maxsize=64)
def _rise(n: int, warmup: int) -> float:
    return sum(_weight(i, warmup) for i in range(n))


def _weights(step: int, warmup: int) -> float:
    """The weights of all steps up to this one."""
    n = step + 1
    return _rise(n, warmup) if n <= warmup else _rise(warmup, warmup) + (n - warmup)

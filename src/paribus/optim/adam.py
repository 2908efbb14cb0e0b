"""Adam (Kingma and Ba 2015), without weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Optimizer, P
from paribus.lazy import torch
from paribus.optim._wide import wide

if TYPE_CHECKING:
    from torch import Tensor

Beta = Annotated[float, Meta(ge=0, lt=1)]


class Adam(Optimizer, frozen=True, kw_only=True):
    """w ← w − lr · m̂ / (√v̂ + eps), moments in fp32 at least.

    Attributes:
        lr: peak learning rate.
        betas: memory of the mean and of the mean square.
        eps: added to the root of the corrected mean square.
    """

    lr: Annotated[float, Meta(ge=0)]
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Annotated[float, Meta(gt=0)] = 1e-8

    stackable: ClassVar[frozenset[str]] = frozenset({"lr"})
    elementwise: ClassVar[bool] = True
    example: ClassVar[dict[str, Any]] = {"lr": 1e-3}

    def state(self, params: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        def zeros() -> dict[str, Tensor]:
            return {
                path: torch.zeros_like(w, dtype=torch.promote_types(w.dtype, torch.float32))
                for path, w in params.items()
            }

        return {"mean": zeros(), "square": zeros()}

    def numbers(self, step: int) -> dict[str, float]:
        # Both corrections go into eps and lr: fewer passes over the parameters, the same number.
        c1, c2 = (1 - b ** (step + 1) for b in self.betas)
        return {"rate": c2**0.5 / c1, "eps": self.eps * c2**0.5}

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
        mean = [state["mean"][path] for path in paths]
        square = [state["square"][path] for path in paths]
        b1, b2 = self.betas
        torch._foreach_lerp_(mean, g, 1 - b1)
        torch._foreach_mul_(square, b2)
        torch._foreach_addcmul_(square, g, g, 1 - b2)
        size = torch._foreach_sqrt(square)
        torch._foreach_add_(size, wide(v["eps"], size))
        change = torch._foreach_div(mean, size)
        torch._foreach_addcmul_(w, change, wide(v["lr"] * v["rate"], w), value=-1)

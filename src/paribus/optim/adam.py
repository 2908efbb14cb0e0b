"""Adam (Kingma and Ba 2015), without weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Optimizer, P
from paribus.optim import _adam
from paribus.optim._wide import zeros

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
        _adam.update(v, v["lr"], self.betas, params, grads, state, list(params))

"""Adam's step, which several optimizers take with some of their parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from paribus.lazy import torch
from paribus.optim._wide import wide

if TYPE_CHECKING:
    from torch import Tensor


def numbers(betas: tuple[float, float], eps: float, step: int) -> dict[str, float]:
    """Of a step (from 0): ``rate``, a factor of lr, and ``eps``.  Both corrections of the
    moments go into them: fewer passes over the parameters, the same number."""
    c1, c2 = (1 - b ** (step + 1) for b in betas)
    return {"rate": c2**0.5 / c1, "eps": eps * c2**0.5}


def update(
    v: Mapping[str, Tensor],
    lr_E: Tensor,
    betas: tuple[float, float],
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: dict[str, dict[str, Tensor]],
    paths: Sequence[str],
) -> None:
    """w ← w − lr · m̂ / (√v̂ + eps) in place, of these paths [E, …].

    Args:
        v: has the step's ``numbers`` [E].
        state: has ``mean`` and ``square`` of each path.
    """
    w, g = [params[path] for path in paths], [grads[path] for path in paths]
    mean = [state["mean"][path] for path in paths]
    square = [state["square"][path] for path in paths]
    b1, b2 = betas
    torch._foreach_lerp_(mean, g, 1 - b1)
    torch._foreach_mul_(square, b2)
    torch._foreach_addcmul_(square, g, g, 1 - b2)
    size = torch._foreach_sqrt(square)
    torch._foreach_add_(size, wide(v["eps"], size))
    change = torch._foreach_div(mean, size)
    torch._foreach_addcmul_(w, change, wide(lr_E * v["rate"], w), value=-1)

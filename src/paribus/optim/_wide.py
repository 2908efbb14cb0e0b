"""What the optimizers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def wide(x_E: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """A number a trial, in the shape and precision of each tensor [E, …]."""
    by_rank = {n: x_E.view(-1, *[1] * (n - 1)) for n in {t.ndim for t in like}}
    return [by_rank[t.ndim].to(t.dtype) for t in like]

"""What the optimizers share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from paribus.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def wide(x_E: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """A number a trial, in the shape and precision of each tensor [E, …]."""
    by_rank = {n: x_E.view(-1, *[1] * (n - 1)) for n in {t.ndim for t in like}}
    return [by_rank[t.ndim].to(t.dtype) for t in like]


def zeros(params: Mapping[str, Tensor], paths: Iterable[str]) -> dict[str, Tensor]:
    """A state tensor for each of these paths, in fp32 at least."""
    return {
        path: torch.zeros_like(w, dtype=torch.promote_types(w.dtype, torch.float32))
        for path, w in ((path, params[path]) for path in paths)
    }

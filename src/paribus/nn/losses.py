"""Losses of stacked outputs.  E trials, B rows, T tokens, V vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paribus.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = -100


def nats(logits_EBTV: Tensor, targets_EBT: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each target in nats, 0 where it is IGNORE, and whether it counts;
    fp32 at least."""
    wide = logits_EBTV if logits_EBTV.dtype == torch.float64 else logits_EBTV.float()
    flat = F.cross_entropy(
        wide.flatten(0, 2), targets_EBT.flatten(), ignore_index=IGNORE, reduction="none"
    )
    return flat.view(targets_EBT.shape), targets_EBT != IGNORE

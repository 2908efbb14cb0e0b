"""Losses of stacked outputs.  E trials, B rows, T tokens, V vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paribus.contracts import IGNORE as IGNORE
from paribus.lazy import F, torch
from paribus.lazy import numpy as np
from paribus.nn.linear import on_gpu

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def nats(logits_EBTV: Tensor, targets_EBT: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each target in nats, 0 where it is IGNORE, and whether it counts;
    fp32 at least."""
    wide = logits_EBTV if logits_EBTV.dtype == torch.float64 else logits_EBTV.float()
    flat_NV, flat_N = wide.flatten(0, 2), targets_EBT.flatten()
    if on_gpu(wide):
        from paribus.nn._cuda import Surprisal

        found = Surprisal.apply(flat_NV, flat_N)
    else:
        found = F.cross_entropy(flat_NV, flat_N, ignore_index=IGNORE, reduction="none")
    return found.view(targets_EBT.shape), targets_EBT != IGNORE


def language(logits_EBTV: Tensor, batch: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """(sum_EB, count_EB) of a language model's metrics: ``loss`` in nats a token and, where the
    batch has ``bytes`` of its targets, ``bpb`` in bits a byte."""
    nats_EBT, counted_EBT = nats(logits_EBTV, batch["targets"])
    nats_EBT = nats_EBT.double()
    out = {"loss": (nats_EBT.sum(2), counted_EBT.sum(2))}
    if "bytes" in batch:  # tokens of no bytes (BOS, EOS) count in neither sum
        bytes_EBT = batch["bytes"] * counted_EBT
        bits_EB = (nats_EBT * (bytes_EBT > 0)).sum(2) / np.log(2.0)
        out["bpb"] = (bits_EB, bytes_EBT.sum(2))
    return out

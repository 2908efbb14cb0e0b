"""Rows without their padding: the tokens of a batch end to end, for kernels that read by row.

E trials, B rows, T tokens of a row, N tokens of a packed row.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from paribus.contracts import Io
from paribus.nn import flops
from paribus.nn.flex import BLOCK
from paribus.spec import Model, Spec

LENGTHS = 8  # lengths of packed rows at most: each is compiled, which takes tens of seconds
# Rows are packed where less than half of them is text, and, where that spares these operations of
# one trial (four minutes of a GPU, as long as eight lengths take to be compiled), less than nine
# tenths.
HALF, MOST, LONG = 0.5, 0.9, 1e17


def worth(batch: Mapping[str, Tensor], spec: Spec) -> bool:
    """Whether enough of the rows is padding.  How many trials there are has no say: each is packed
    as it would be alone."""
    held = share(batch, spec.task.io())
    spared = 0.0
    if isinstance(spec.model, Model):  # attention passes padding by in any case
        tokens = (spec.steps or 0) * batch["inputs"].shape[1] * batch["inputs"].shape[2]
        spared = (1 - held) * tokens * flops.training(spec.model, 1)
    return held < HALF or (held < MOST and spared > LONG)


def share(batch: Mapping[str, Tensor], io: Io) -> float:
    """How much of the rows is no padding: as the task says, else in this batch; 1 where not all of
    a batch goes by token, so that it cannot be packed."""
    valid, shape = batch.get("valid"), batch["inputs"].shape[:3]
    if valid is None or any(t.shape[:3] != shape for t in batch.values()):
        return 1.0
    if io.tokens and io.length and not io.ragged:
        return io.tokens / io.length
    return float(valid.double().mean())


def pack(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One row [E,1,N] a trial of a batch [E,B,T].  Sums over tokens stay what they were; the
    coordinate ``row`` keeps rows apart, and ``index`` and ``token`` stay those of the row."""
    E, B, T = batch["inputs"].shape[:3]
    device = batch["inputs"].device
    valid_EN = batch["valid"].reshape(E, B * T)
    step = -(-B * T // (LENGTHS * BLOCK)) * BLOCK
    N = -(-int(valid_EN.sum(1).max()) // step) * step
    order_EN = valid_EN.int().argsort(dim=1, descending=True, stable=True)[:, : min(N, B * T)]
    place = torch.arange(B * T, device=device).expand(E, B * T).view(E, B, T)
    whole = {"pos.index": place % T, "pos.token": place % T, **batch, "pos.row": place // T}
    out = {}
    for name, t in whole.items():
        flat = t.reshape(E, B * T, *t.shape[3:])
        index = order_EN.view(*order_EN.shape, *[1] * (t.ndim - 3))
        out[name] = torch.take_along_dim(flat, index, 1)[:, None]
    return out

"""Rows without their padding: the tokens of a batch end to end, for kernels that read by row.

E trials, B rows, T tokens of a row, N tokens of a packed row.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from paribus.contracts import Io
from paribus.nn.flex import BLOCK

# Share of tokens that are no padding, above which rows stay as they are.  At half, six trials whose
# rows have 1 to 31 branches took as long packed (H200, 8 layers of 512): a stack is as long as its
# longest, three quarters of what it was.  Where it begins to pay has not been measured.
WORTH = 0.5
LENGTHS = 8  # lengths of packed rows at most: each is compiled, which takes tens of seconds


def worth(batch: Mapping[str, Tensor], io: Io) -> bool:
    """Whether enough of the rows is padding, and all of it goes by token; as the task says, else
    as in this batch."""
    valid, shape = batch.get("valid"), batch["inputs"].shape[:3]
    if valid is None or any(t.shape[:3] != shape for t in batch.values()):
        return False
    if io.tokens and io.length and not io.ragged:
        return io.tokens / io.length < WORTH
    return bool(valid.double().mean() < WORTH)


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

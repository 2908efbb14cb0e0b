"""Products, GELU and cross-entropy whose gradients are made as a GPU wants them.

E trials, N tokens, D inputs, F outputs, V vocabulary, P pieces of it.  What a CPU gains by is in
_cpu.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from paribus.contracts import IGNORE


def gelu(x: Tensor) -> Tensor:
    """GELU by tanh, x (1 + tanh u) / 2, written x σ(2u): an exponential takes a third of the
    instructions of tanh, of which there were so many that memory waited for them.  To be compiled,
    so that nothing between is kept."""
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    u = math.sqrt(2 / math.pi) * (y + 0.044715 * y * y * y)
    return (y * torch.sigmoid(2 * u)).to(x.dtype)


class Product(torch.autograd.Function):
    """x wᵀ + b.  The gradient of the weight lies as the weight does: torch's is transposed, and
    gathering it cost as much as the whole update.  That of the bias is summed from what the
    products read, not from a second making of it."""

    @staticmethod
    def forward(ctx: Any, x_END: Tensor, w_EFD: Tensor, b_EF: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_END, w_EFD)
        ctx.biased = b_EF is not None
        if b_EF is None:
            return torch.bmm(x_END, w_EFD.mT)
        if len(w_EFD) == 1:  # a product of one trial adds it as it writes; of several none does
            return torch.addmm(b_EF[0], x_END[0], w_EFD[0].mT)[None]
        return torch.bmm(x_END, w_EFD.mT) + b_EF.unsqueeze(1)

    @staticmethod
    def backward(ctx: Any, g_ENF: Tensor) -> tuple[Tensor | None, ...]:
        x_END, w_EFD = ctx.saved_tensors
        x, w, b = ctx.needs_input_grad
        dx = torch.bmm(g_ENF, w_EFD) if x else None
        dw = torch.bmm(g_ENF.mT, x_END) if w else None
        db = g_ENF.sum(1) if b and ctx.biased else None
        return dx, dw, db


class Products(torch.autograd.Function):
    """x wᵀ of several weights side by side, as one product: x is read once, and its gradient is
    summed within one."""

    @staticmethod
    def forward(ctx: Any, x_END: Tensor, *ws_EFD: Tensor) -> Tensor:
        ctx.save_for_backward(x_END, *ws_EFD)
        return torch.bmm(x_END, torch.cat(ws_EFD, 1).mT)

    @staticmethod
    def backward(ctx: Any, g_ENF: Tensor) -> tuple[Tensor | None, ...]:
        x_END, *ws_EFD = ctx.saved_tensors
        x, *ws = ctx.needs_input_grad
        dx = torch.bmm(g_ENF, torch.cat(ws_EFD, 1)) if x else None
        parts = g_ENF.split([w.shape[1] for w in ws_EFD], 2)
        # One by one: each then lies as its weight lies.
        return dx, *(torch.bmm(g.mT, x_END) if w else None for g, w in zip(parts, ws, strict=True))


def log_total(z_NV: Tensor) -> Tensor:
    """log Σ exp of rows [N,1], by pieces of a row that a compiled kernel holds as it reads them: of
    a whole row of a vocabulary it keeps a running maximum for every lane, with two exponentials a
    number, which took twice as long."""
    V = z_NV.shape[1]
    piece = min(1024, V & -V)  # the largest power of two that divides it
    if piece < 64:
        most_N1 = z_NV.amax(1, keepdim=True)
        return (z_NV - most_N1).exp().sum(1, keepdim=True).log() + most_N1
    z_NPp = z_NV.unflatten(1, (V // piece, piece))
    most_NP = z_NPp.amax(2).clamp(min=torch.finfo(z_NV.dtype).min)  # a piece may be all −∞
    totals_NP = (z_NPp - most_NP.unsqueeze(2)).exp().sum(2)
    most_N1 = most_NP.amax(1, keepdim=True)
    return ((most_NP - most_N1).exp() * totals_NP).sum(1, keepdim=True).log() + most_N1


class Surprisal(torch.autograd.Function):
    """Cross-entropy [N] of logits [N,V]; 0 where the target is IGNORE.  Its gradient is one pass
    over the logits: compiled, it is written in the dtype that the products before it read, and
    nothing as large as the logits is kept in fp32."""

    @staticmethod
    def forward(ctx: Any, z_NV: Tensor, of_N: Tensor) -> Tensor:
        total_N1 = log_total(z_NV)
        ctx.save_for_backward(z_NV, total_N1, of_N)
        said_N1 = z_NV.gather(1, of_N.clamp(min=0).unsqueeze(1))
        return (total_N1 - said_N1).squeeze(1).masked_fill(of_N == IGNORE, 0.0)

    @staticmethod
    def backward(ctx: Any, g_N: Tensor) -> tuple[Tensor, None]:
        z_NV, total_N1, of_N = ctx.saved_tensors
        g_N1 = g_N.masked_fill(of_N == IGNORE, 0.0).unsqueeze(1)
        right_NV = torch.arange(z_NV.shape[1], device=z_NV.device) == of_N.unsqueeze(1)
        return ((z_NV - total_N1).exp() - right_NV.to(z_NV.dtype)) * g_N1, None

"""Linear maps of a stack of trials: one batched product over the trial axis.

E trials, B rows, T tokens, D inputs, F outputs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

from paribus.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor


TRITON = importlib.util.find_spec("triton") is not None
ODD = 1024  # outputs up to which an odd number costs little


def cast(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The one place where compute precision is chosen; None keeps x as it is."""
    return x if dtype is None or x.dtype == dtype else x.to(dtype)


def linear(x_EBTD: Tensor, w_EFD: Tensor, b_EF: Tensor | None = None) -> Tensor:
    """x wᵀ + b for each trial, in w's dtype."""
    outputs = w_EFD.shape[1]
    if outputs > ODD and outputs % 8 and on_gpu(x_EBTD):  # GPT-2's 50,257: a slow product
        more = -outputs % 64
        b_EF = None if b_EF is None else F.pad(b_EF, (0, more))
        return linear(x_EBTD, F.pad(w_EFD, (0, 0, 0, more)), b_EF)[..., :outputs]
    if outputs == 1:  # torch takes another kernel for one such product than for several
        b_EF = None if b_EF is None else F.pad(b_EF, (0, 1))
        return linear(x_EBTD, F.pad(w_EFD, (0, 0, 0, 1)), b_EF)[..., :1]
    B, T = x_EBTD.shape[1:3]
    x_END = cast(x_EBTD, w_EFD.dtype).flatten(1, 2)
    if x_END.shape[0] != w_EFD.shape[0]:
        x_END = x_END.expand(w_EFD.shape[0], -1, -1)
    b_EF = None if b_EF is None else cast(b_EF, w_EFD.dtype)
    if on_gpu(x_END):
        from paribus.nn._cuda import Product

        y_ENF = Product.apply(x_END, w_EFD, b_EF)
    else:
        y_ENF = _product(x_END, w_EFD)
        if b_EF is not None:  # fused with what follows; baddbmm would first write it out
            y_ENF = y_ENF + b_EF.unsqueeze(1)
    return y_ENF.unflatten(1, (B, T))


def linears(x_EBTD: Tensor, ws_EFD: Sequence[Tensor]) -> Tensor:
    """x wᵀ of several weights [E,B,T,ΣF], on a GPU, in their dtype."""
    from paribus.nn._cuda import Products

    B, T = x_EBTD.shape[1:3]
    x_END = cast(x_EBTD, ws_EFD[0].dtype).flatten(1, 2).expand(len(ws_EFD[0]), -1, -1)
    y_ENF: Tensor = Products.apply(x_END, *ws_EFD)
    return y_ENF.unflatten(1, (B, T))


def _product(x_END: Tensor, w_EFD: Tensor) -> Tensor:
    if one_by_one(x_END):
        from paribus.nn._cpu import Product, suits

        if suits(x_END, w_EFD):
            return Product.apply(x_END, w_EFD)
    return torch.bmm(x_END, w_EFD.mT)


def on_gpu(x: Tensor) -> bool:
    """Whether the gradients of _cuda.py are worth it."""
    return x.is_cuda


def summed(x: Tensor) -> bool:
    """Whether gradients that sum over tokens on their way (_sums.py) are worth it."""
    return TRITON and on_gpu(x) and torch.compiler.is_compiling() and x.dtype != torch.float64


def one_by_one(x: Tensor) -> bool:
    """Whether operations run one by one on a CPU, so that those of _cpu.py are worth it."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def embed(ids_EBT: Tensor, table_EVD: Tensor) -> Tensor:
    """Rows of each trial's own table; ids may be shared by the trials (first axis 1)."""
    E, V, D = table_EVD.shape
    if E > 1:
        ids_EBT = ids_EBT + torch.arange(0, E * V, V, device=ids_EBT.device).view(E, 1, 1)
    return F.embedding(ids_EBT, table_EVD.reshape(E * V, D))

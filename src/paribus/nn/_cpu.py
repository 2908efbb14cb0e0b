"""Small operations in fewer passes over memory, and products by the faster of torch's two
libraries, for a CPU that runs them one by one.

E trials, N tokens, D inputs, F outputs.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LEAST = 1 << 18  # multiplications of a product below which a call is what costs


@functools.cache
def by_onednn() -> bool:
    """Whether fp32 products of oneDNN are faster here.  MKL, which torch takes for them, keeps to
    AVX2 on AMD's processors.  Those from family 26 (Zen 5) on compute 512 bits at a time, and
    oneDNN is twice as fast there; Zen 4 has AVX-512 too, but halves it, and MKL is the faster one
    by a tenth."""
    able = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return able and wide and _amd_family() >= 26


def _amd_family() -> int:
    """0 where the processor is not AMD's, or where that cannot be told."""
    found = Path("/proc/cpuinfo")
    text = found.read_text() if found.exists() else ""
    family = re.search(r"^cpu family\s*: (\d+)", text, re.MULTILINE)
    return int(family[1]) if family and "AuthenticAMD" in text else 0


def suits(x_END: Tensor, w_EFD: Tensor) -> bool:
    """Whether ``Product`` is for it; by what a trial has, so that stacks are like trials alone."""
    known = x_END.dtype == w_EFD.dtype == torch.float32
    large = x_END[0].numel() * w_EFD.shape[1] >= LEAST
    # Whoever watches operations, as torch's counter of FLOPs does, knows torch's own alone.
    return known and large and by_onednn() and not torch._C._len_torch_dispatch_stack()


def _product(x_ND: Tensor, w_FD: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x_ND, w_FD, None, "none", [], "")  # type: ignore[no-any-return]


def _each(x: Tensor, w: Tensor) -> Tensor:
    if x.shape[0] == 1:
        return _product(x[0], w[0]).unsqueeze(0)
    return torch.stack([_product(a, b) for a, b in zip(x, w, strict=True)])


def _weights(g_ENF: Tensor, x_END: Tensor) -> Tensor:
    """gᵀ x; the first factor is copied, so it is the smaller one."""
    if g_ENF.shape[2] > x_END.shape[2]:
        return _each(x_END.mT, g_ENF.mT).mT
    return _each(g_ENF.mT, x_END.mT)


class Product(torch.autograd.Function):
    """x wᵀ of each trial, by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x_END: Tensor, w_EFD: Tensor) -> Tensor:
        ctx.save_for_backward(x_END, w_EFD)
        return _each(x_END, w_EFD)

    @staticmethod
    def backward(ctx: Any, g_ENF: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_END, w_EFD = ctx.saved_tensors
        x, w = ctx.needs_input_grad
        return _each(g_ENF, w_EFD.mT) if x else None, _weights(g_ENF, x_END) if w else None


def product(x_END: Tensor, w_EFD: Tensor) -> Tensor:
    """x wᵀ of each trial by the faster library, without its gradients."""
    return _each(x_END, w_EFD) if suits(x_END, w_EFD) else torch.bmm(x_END, w_EFD.mT)


def gradients(
    g_ENF: Tensor, x_END: Tensor, w_EFD: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Those of a product, of x and of w, by the same library."""
    x, w = wanted
    if suits(x_END, w_EFD):
        return _each(g_ENF, w_EFD.mT) if x else None, _weights(g_ENF, x_END) if w else None
    return torch.bmm(g_ENF, w_EFD) if x else None, torch.bmm(g_ENF.mT, x_END) if w else None


class SquaredReluMaps(torch.autograd.Function):
    """max(x upᵀ, 0)² downᵀ of each trial, to the bits of its operations one by one; passes over
    the hidden units are made in place."""

    @staticmethod
    def of(x_EBTD: Tensor, up_EHD: Tensor, down_EDH: Tensor) -> Tensor:
        E, (B, T, D) = up_EHD.shape[0], x_EBTD.shape[1:]
        x_END = x_EBTD.to(up_EHD.dtype).reshape(-1, B * T, D)
        if x_END.shape[0] != E:
            x_END = x_END.expand(E, -1, -1)
        y_END: Tensor = SquaredReluMaps.apply(x_END, up_EHD, down_EDH)
        return y_END.view(E, B, T, D)

    @staticmethod
    def forward(ctx: Any, x_END: Tensor, up_EHD: Tensor, down_EDH: Tensor) -> Tensor:
        r_ENH = product(x_END, up_EHD).clamp_min_(0)
        h_ENH = r_ENH * r_ENH
        ctx.save_for_backward(x_END, up_EHD, down_EDH, r_ENH, h_ENH)
        return product(h_ENH, down_EDH)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_END: Tensor) -> tuple[Tensor | None, ...]:
        x_END, up_EHD, down_EDH, r_ENH, h_ENH = ctx.saved_tensors
        x, up, down = ctx.needs_input_grad
        g_ENH, d_down = gradients(g_END, h_ENH, down_EDH, (x or up, down))
        if g_ENH is None:
            return None, None, d_down
        g_ENH = torch.addcmul(g_ENH.new_zeros(()), g_ENH, r_ENH, value=2, out=g_ENH)
        return *gradients(g_ENH, x_END, up_EHD, (x, up)), d_down


class SquaredRelu(torch.autograd.Function):
    """max(x, 0)², to the bits of torch's two operations, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        r = x.clamp_min(0)
        ctx.save_for_backward(r)
        return r * r

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (r,) = ctx.saved_tensors
        return torch.addcmul(g.new_zeros(()), g, r, value=2)

"""Small operations in fewer passes over memory, for a CPU that runs them one by one: to the same
bits, forward and backward, as torch's composite ones (a compiler fuses those itself)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Turned(torch.autograd.Function):
    """[a cos − b sin, b cos + a sin] of x = [a, b], halves of the last axis; cos and sin are as
    wide as a half, and constants."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        cos, sin = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
        ctx.save_for_backward(cos, sin)
        return x.roll(x.shape[-1] // 2, -1).mul_(sin).add_(x * cos)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return g.roll(g.shape[-1] // 2, -1).mul_(-sin).add_(g * cos), None, None


class SquaredRelu(torch.autograd.Function):
    """max(x, 0)²."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        r = x.clamp_min(0)
        ctx.save_for_backward(r)
        return r * r

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (r,) = ctx.saved_tensors
        return (g * r).mul_(2)

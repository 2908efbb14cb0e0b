"""xformers' memory-efficient attention, where that library is installed.

N trials × rows, T queries, S keys, H heads, d head size.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from paribus.errors import Refused


def library() -> Any:
    """``xformers.ops``, or a refusal that says what to do."""
    try:
        return importlib.import_module("xformers.ops")
    except ImportError as error:
        raise Refused(
            f"kernel xformers: {error}; install xformers for this torch, or use the sdpa kernel"
        ) from None


def attend(
    q_NHTd: Tensor, k_NHSd: Tensor, v_NHSd: Tensor, given: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """o_NHTd; ``given`` is a mask (bool, true where allowed) or a bias [n,h,T,S]."""
    ops = library()
    bias: Any = ops.LowerTriangularMask() if causal else None
    if given is not None:
        N, H, T, _ = q_NHTd.shape
        S = k_NHSd.shape[2]
        if given.dtype == torch.bool:
            given = torch.zeros_like(given, dtype=q_NHTd.dtype).masked_fill(~given, float("-inf"))
        # Rows of a bias must begin at multiples of 8 numbers.
        wide = F.pad(given.expand(N, H, T, S).to(q_NHTd.dtype), (0, -S % 8))
        bias = wide[..., :S]
    q, k, v = (x.transpose(1, 2) for x in (q_NHTd, k_NHSd, v_NHSd))
    o: Tensor = ops.memory_efficient_attention(q, k, v, attn_bias=bias, scale=scale)
    return o.transpose(1, 2)

"""Attention of short sequences (at most 128 tokens) in Triton: a row and a head in a program.

The fused kernels of torch are made for long sequences: on 23 tokens FlashAttention fills tiles of
64 × 128.  Here a softmax is whole, and the backward pass computes it again, for which one number of
each query is kept.

N rows (trials × rows), H heads, T queries, S keys, d head size; e and b of what is given are 1 or
their capital.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from paribus.nn.linear import TRITON

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # on the CPU, number by number

LONGEST = 128  # tokens
WIDEST = 128  # numbers of a head
KNOWN = (torch.float32, torch.bfloat16, torch.float16)
# Tokens · numbers in fp32, each padded to a power of two; there products are written out
# multiplication by multiplication: 64 · 32 compile for 16 s, 83 · 32 for a minute, 64 · 64 longer.
EXACT = 64 * 32


def fits(length: int, head_dim: int, dtype: torch.dtype) -> bool:
    """Whether there are kernels here for rows and heads of this size."""
    if dtype == torch.float32 and not INTERPRETED and _padded(length) * _padded(head_dim) > EXACT:
        return False
    return TRITON and length <= LONGEST and head_dim <= WIDEST


def unable(cuda: bool, length: int | None, head_dim: int, dtype: torch.dtype) -> str:
    """Why so many tokens at once (None: any number) cannot be trained with these kernels; ""
    where they can."""
    if not (cuda or INTERPRETED):
        return "it runs on CUDA alone"
    if not TRITON:
        return "Triton is not installed"
    if dtype not in KNOWN:
        return f"it knows no {str(dtype).removeprefix('torch.')}"
    if length is None or length > LONGEST:
        return f"{length or 'any number of'} tokens at once; it takes up to {LONGEST}"
    if fits(length, head_dim, dtype):
        return ""
    more = " in fp32" if dtype == torch.float32 and head_dim <= WIDEST else ""
    return f"{length} tokens with heads of {head_dim} are too large for it{more}"


def _padded(n: int) -> int:
    return max(16, 1 << (n - 1).bit_length())


def able(q: Tensor, k: Tensor, bias: Tensor | None) -> bool:
    """Whether these kernels can do it: on a GPU, short, of a dtype that they know, and with a bias
    that needs no gradient."""
    small = fits(max(q.shape[-2], k.shape[-2]), q.shape[-1], q.dtype)
    learned = bias is not None and bias.requires_grad
    return small and (q.is_cuda or INTERPRETED) and q.dtype in KNOWN and not learned


def attend(
    q_EBHTd: Tensor,
    k_EBHSd: Tensor,
    v_EBHSd: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    bias: Tensor | None,
    scale: float,
) -> Tensor:
    """o_EBHTd, of as many key heads as query heads.

    Args:
        mask: bool [e,b,h,T,S], true where a query may read; each query reads some key.
        bias: [e,b,h,T,S], added to the scaled logits, in place of a mask.
    """
    from paribus.nn import _short  # Triton takes a second to load, which the CPU need not wait for

    E, B = q_EBHTd.shape[:2]
    given = mask if bias is None else bias
    o, _ = _short.attention(
        *(_rows(x) for x in (q_EBHTd, k_EBHSd, v_EBHSd)), given, B, causal, scale
    )
    return o.unflatten(0, (E, B))


def attend_packed(
    x_EBT3Hd: Tensor,
    add_3EHd: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    bias: Tensor | None,
    scale: float,
) -> Tensor:
    """o_EBHTd of queries, keys and values side by side, as one product gives them, and of their
    biases, which are not yet in them: here they cost nothing, and their gradients are summed on the
    way.  That of the keys' is 0: no softmax sees it.  The gradient of x lies as x does.  ``mask``
    and ``bias`` as of ``attend``."""
    from paribus.nn import _short

    E, B = x_EBT3Hd.shape[:2]
    given = mask if bias is None else bias
    o, _ = _short.packed(x_EBT3Hd.flatten(0, 1), add_3EHd, given, B, causal, scale)
    return o.unflatten(0, (E, B))


def _rows(x: Tensor) -> Tensor:
    x = x.flatten(0, 1)
    return x if x.stride(-1) == 1 else x.contiguous()

"""Attention behind one call: a naive reference, the fused kernels of torch, and our own for short
sequences.

E trials, B rows, T queries, S keys, H query heads, G key heads, d head size.  A lower-case e, b or
h is either its capital or 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from paribus.errors import Refused
from paribus.nn import flex, short, xformers

if TYPE_CHECKING:
    from paribus.nn.dropout import Dropout

KERNELS = ("reference", "sdpa", "flex", "short")
# Kernels that are chosen by hand alone: torch's own by name, and xformers'.
BACKENDS = {
    "sdpa-math": "MATH",
    "sdpa-flash": "FLASH_ATTENTION",
    "sdpa-efficient": "EFFICIENT_ATTENTION",
    "sdpa-cudnn": "CUDNN_ATTENTION",
}
CHOSEN = (*BACKENDS, "xformers")


class Pattern(NamedTuple):
    """What a query may read, and what is added to its logits.

    Attributes:
        causal: the lower triangle of a square; then there is no mask.
        mask: [e,b,h,T,S], true where allowed; None: everything, or what the bias says.
        bias: [e,b,h,T,S], added to the scaled logits; −∞ where the mask forbids.
        dead: [e,b,h,T,1], true where a query may read no key; None: there is none such.
        block: of the flex kernel, torch's BlockMask; then mask, bias and dead are None.
        score: of the flex kernel, a function that adds the bias to a score.
        scores: of the reference kernel, what makes the scores in the place of scale · q·k, from q,
            k, the scale and the mask.
    """

    causal: bool = False
    mask: Tensor | None = None
    bias: Tensor | None = None
    dead: Tensor | None = None
    block: Any = None
    score: Any = None
    scores: Any = None


def pattern(
    mask: Tensor | None = None, bias: Tensor | None = None, causal: bool = False
) -> Pattern:
    """The pattern of a mask (or the causal triangle of a square) and a bias.

    A query that may read nothing gets zeros: it is let to read every key, so that no kernel meets
    a row of −∞ (their answers differ), and its output is cleared afterwards.
    """
    if causal and bias is not None:  # kernels take either the triangle or a bias
        T, S = bias.shape[-2:]
        assert T == S, "a causal pattern is square"
        keep = torch.ones(T, S, dtype=torch.bool, device=bias.device).tril()
        return Pattern(bias=bias.masked_fill(~keep, float("-inf")))
    if mask is None:
        return Pattern(causal=causal, bias=bias)
    dead = ~mask.any(-1, keepdim=True)
    if bias is None:
        return Pattern(mask=mask | dead, dead=dead)
    return Pattern(bias=bias.masked_fill(~(mask | dead), float("-inf")), dead=dead)


def settle(at: Pattern) -> Pattern:
    """A pattern that will serve many steps: looks once whether any query is dead."""
    if at.dead is not None and not bool(at.dead.any()):
        return at._replace(dead=None)
    return at


def alike(a: Pattern, b: Pattern) -> bool:
    """Whether two patterns hold the same values."""
    return (
        a.causal == b.causal
        and a.scores == b.scores
        and all(
            x is y or (x is not None and y is not None and x.shape == y.shape and torch.equal(x, y))
            for x, y in zip(a[1:4], b[1:4], strict=True)
        )
    )


def attend(
    q_EBHTd: Tensor,
    k_EBGSd: Tensor,
    v_EBGSd: Tensor,
    at: Pattern,
    *,
    scale: float,
    kernel: str = "sdpa",
    dropout: float = 0.0,
    drop: Dropout | None = None,
    site: int = 0,
) -> Tensor:
    """o_EBHTd.  Softmax statistics are fp32 at least on every kernel; what the short kernel cannot
    do, torch's does."""
    if kernel not in KERNELS + CHOSEN:
        raise Refused(f"no attention kernel {kernel!r}; there are: {', '.join(KERNELS + CHOSEN)}")
    dropping = dropout > 0 and drop is not None
    if dropping and kernel != "reference":
        raise Refused("dropout of attention probabilities needs the reference kernel")
    H, G = q_EBHTd.shape[2], k_EBGSd.shape[2]
    if G != H:
        k_EBGSd, v_EBGSd = (repeated(x, H // G) for x in (k_EBGSd, v_EBGSd))
    if at.scores is not None and kernel != "reference":
        raise Refused("a position that replaces the scores needs the reference kernel")
    if at.block is not None:
        return flex.attend(q_EBHTd, k_EBGSd, v_EBGSd, at.block, at.score, scale)
    if kernel == "reference":
        o = _reference(q_EBHTd, k_EBGSd, v_EBGSd, at, scale, dropout if dropping else 0, drop, site)
    elif kernel == "short" and short.able(q_EBHTd, k_EBGSd, at.bias):
        o = short.attend(
            q_EBHTd, k_EBGSd, v_EBGSd, causal=at.causal, mask=at.mask, bias=at.bias, scale=scale
        )
    else:
        o = _sdpa(q_EBHTd, k_EBGSd, v_EBGSd, at, scale, kernel)
    return o if at.dead is None else o.masked_fill(at.dead, 0.0)


def attend_packed(x_EBT3Hd: Tensor, add_3EHd: Tensor, at: Pattern, *, scale: float) -> Tensor:
    """o_EBHTd of queries, keys and values side by side and their biases, which are not yet in them,
    by the short kernel; by torch's where it cannot."""
    q_EBHTd, k_EBHTd, v_EBHTd = (x.transpose(2, 3) for x in x_EBT3Hd.unbind(3))
    if short.able(q_EBHTd, k_EBHTd, at.bias):
        o = short.attend_packed(
            x_EBT3Hd, add_3EHd, causal=at.causal, mask=at.mask, bias=at.bias, scale=scale
        )
        return o if at.dead is None else o.masked_fill(at.dead, 0.0)
    q, k, v = (
        x + b[:, None, :, None] for x, b in zip((q_EBHTd, k_EBHTd, v_EBHTd), add_3EHd, strict=True)
    )
    return attend(q, k, v, at, scale=scale)


def repeated(x_EBGSd: Tensor, times: int) -> Tensor:
    """Key heads as often as query heads read them [E,B,G·times,S,d]."""
    E, B, G, S, d = x_EBGSd.shape
    return x_EBGSd.unsqueeze(3).expand(E, B, G, times, S, d).reshape(E, B, G * times, S, d)


def logits(q: Tensor, k: Tensor, at: Pattern, scale: float) -> Tensor:
    """s_EBHTS as the softmax of the reference kernel takes them, in fp32 at least."""
    at_least = torch.promote_types(q.dtype, torch.float32)
    if at.scores is not None:
        s_EBHTS = at.scores(q, k, scale, at.mask).to(at_least)
    else:
        s_EBHTS = (q @ k.mT).to(at_least) * scale
    if at.bias is not None:
        s_EBHTS = s_EBHTS + at.bias
    elif at.causal:
        T, S = s_EBHTS.shape[-2:]
        keep = torch.ones(T, S, dtype=torch.bool, device=q.device).tril()
        s_EBHTS = s_EBHTS.masked_fill(~keep, float("-inf"))
    elif at.mask is not None:
        s_EBHTS = s_EBHTS.masked_fill(~at.mask, float("-inf"))
    return s_EBHTS


def _reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    at: Pattern,
    scale: float,
    dropout: float,
    drop: Dropout | None,
    site: int,
) -> Tensor:
    p_EBHTS = logits(q, k, at, scale).softmax(-1)
    if dropout and drop is not None:
        p_EBHTS = drop.apply(p_EBHTS, dropout, site)
    return p_EBHTS.to(v.dtype) @ v


def _sdpa(
    q: Tensor, k: Tensor, v: Tensor, at: Pattern, scale: float, kernel: str = "sdpa"
) -> Tensor:
    if kernel == "sdpa" and q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # Of bf16 the CPU's kernel makes gradients five times as slowly.
        return _sdpa(q.float(), k.float(), v.float(), at, scale, kernel).to(q.dtype)
    E, B = q.shape[:2]
    given = at.mask if at.bias is None else at.bias.to(q.dtype)
    if given is not None:
        given = _fold(given, E, B)
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    if kernel == "xformers":
        return xformers.attend(q, k, v, given, at.causal, scale).unflatten(0, (E, B))
    with _chosen(kernel):
        o = F.scaled_dot_product_attention(
            q, k, v, attn_mask=given, is_causal=at.causal, scale=scale
        )
    return o.unflatten(0, (E, B))


@contextmanager
def _chosen(kernel: str) -> Iterator[None]:
    """That one of torch's fused kernels, or a refusal."""
    if kernel not in BACKENDS:
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    try:
        with sdpa_kernel(getattr(SDPBackend, BACKENDS[kernel])):
            yield
    except RuntimeError as error:
        if "kernel" not in str(error).lower():
            raise
        raise Refused(
            f"kernel {kernel}: torch has none for this device, precision or mask; use the sdpa "
            "kernel, which takes one that it has"
        ) from None


def _fold(x: Tensor, E: int, B: int) -> Tensor:
    """[e,b,h,T,S] -> [E·B,h,T,S], or [1,h,T,S] where e = b = 1: a kernel that wants another
    alignment then copies one row."""
    e, b, h, T, S = x.shape
    if e == b == 1:
        return x[0]
    return x.expand(E, B, h, T, S).reshape(E * B, h, T, S)

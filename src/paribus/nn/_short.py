"""The Triton kernels of short.py, and torch's operators of them; imported where there is Triton.

A program holds one row and one head.  N rows (trials × rows), H heads, T queries, S keys, d head
size; M queries a block, and all S keys and d numbers in one tile, padded to powers of two.
"""
# Annotations must be values here: Triton reads them.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, library

LOW = tl.constexpr(-1.0e30)  # of what may not be read; a difference of two is a number, unlike −∞


@triton.jit
def _scores(
    q_Md, k_Sd, at, T, S, h, n, B, t_M, s_S,
    se, sb, sh, st, ss,
    SCALE: tl.constexpr, CAUSAL: tl.constexpr, GIVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Probabilities [M,S] in fp32; zero for keys that may not be read."""
    x_MS = tl.dot(q_Md, tl.trans(k_Sd), input_precision=PRECISION) * SCALE
    real_S = s_S[None, :] < S
    if GIVEN != "none":
        place = (n // B) * se + (n % B) * sb + h * sh + t_M[:, None] * st + s_S[None, :] * ss
        inside = (t_M[:, None] < T) & real_S
        if GIVEN == "mask":
            x_MS = tl.where(tl.load(at + place, mask=inside, other=0) != 0, x_MS, LOW)
        else:
            x_MS += tl.load(at + place, mask=inside, other=0.0).to(tl.float32)
    if CAUSAL:
        x_MS = tl.where(s_S[None, :] <= t_M[:, None], x_MS, LOW)
    x_MS = tl.where(real_S, x_MS, float("-inf"))
    x_MS = tl.exp(x_MS - tl.max(x_MS, 1)[:, None])
    return x_MS / tl.sum(x_MS, 1)[:, None]


@triton.jit
def forward(
    q, k, v, at, o, B, H, T, S,
    qn, qh, qt, kn, kh, kt, vn, vh, vt, on, oh, ot,
    se, sb, sh, st, ss,
    D: tl.constexpr, PT: tl.constexpr, PS: tl.constexpr, PD: tl.constexpr, M: tl.constexpr,
    SCALE: tl.constexpr, CAUSAL: tl.constexpr, GIVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    n, h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    s_S, d_d = tl.arange(0, PS), tl.arange(0, PD)
    there_Sd = (s_S[:, None] < S) & (d_d[None, :] < D)
    k_Sd = tl.load(k + n * kn + h * kh + s_S[:, None] * kt + d_d[None, :], there_Sd, other=0.0)
    v_Sd = tl.load(v + n * vn + h * vh + s_S[:, None] * vt + d_d[None, :], there_Sd, other=0.0)
    for first in range(0, PT, M):
        t_M = first + tl.arange(0, M)
        there_Md = (t_M[:, None] < T) & (d_d[None, :] < D)
        q_Md = tl.load(q + n * qn + h * qh + t_M[:, None] * qt + d_d[None, :], there_Md, other=0.0)
        p_MS = _scores(
            q_Md, k_Sd, at, T, S, h, n, B, t_M, s_S, se, sb, sh, st, ss,
            SCALE, CAUSAL, GIVEN, PRECISION,
        )  # fmt: skip
        o_Md = tl.dot(p_MS.to(v_Sd.dtype), v_Sd, input_precision=PRECISION)
        tl.store(
            o + n * on + h * oh + t_M[:, None] * ot + d_d[None, :],
            o_Md.to(o.dtype.element_ty),
            there_Md,
        )


@triton.jit
def backward(
    q, k, v, at, g, dq, dk, dv, B, H, T, S,
    qn, qh, qt, kn, kh, kt, vn, vh, vt, gn, gh, gt, an, ah, a_t, bn, bh, bt,
    se, sb, sh, st, ss,
    D: tl.constexpr, PT: tl.constexpr, PS: tl.constexpr, PD: tl.constexpr, M: tl.constexpr,
    SCALE: tl.constexpr, CAUSAL: tl.constexpr, GIVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """g: gradient of the output; strides a of dq, b of dk and of dv."""
    n, h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    s_S, d_d = tl.arange(0, PS), tl.arange(0, PD)
    there_Sd = (s_S[:, None] < S) & (d_d[None, :] < D)
    k_Sd = tl.load(k + n * kn + h * kh + s_S[:, None] * kt + d_d[None, :], there_Sd, other=0.0)
    v_Sd = tl.load(v + n * vn + h * vh + s_S[:, None] * vt + d_d[None, :], there_Sd, other=0.0)
    dk_Sd = tl.zeros([PS, PD], tl.float32)
    dv_Sd = tl.zeros([PS, PD], tl.float32)
    for first in range(0, PT, M):
        t_M = first + tl.arange(0, M)
        there_Md = (t_M[:, None] < T) & (d_d[None, :] < D)
        q_Md = tl.load(q + n * qn + h * qh + t_M[:, None] * qt + d_d[None, :], there_Md, other=0.0)
        g_Md = tl.load(g + n * gn + h * gh + t_M[:, None] * gt + d_d[None, :], there_Md, other=0.0)
        p_MS = _scores(
            q_Md, k_Sd, at, T, S, h, n, B, t_M, s_S, se, sb, sh, st, ss,
            SCALE, CAUSAL, GIVEN, PRECISION,
        )  # fmt: skip
        dv_Sd += tl.dot(tl.trans(p_MS.to(g_Md.dtype)), g_Md, input_precision=PRECISION)
        dp_MS = tl.dot(g_Md, tl.trans(v_Sd), input_precision=PRECISION)
        ds_MS = p_MS * (dp_MS - tl.sum(p_MS * dp_MS, 1)[:, None])
        ds_MS = (ds_MS * SCALE).to(q_Md.dtype)
        dq_Md = tl.dot(ds_MS, k_Sd, input_precision=PRECISION)
        dk_Sd += tl.dot(tl.trans(ds_MS), q_Md, input_precision=PRECISION)
        tl.store(
            dq + n * an + h * ah + t_M[:, None] * a_t + d_d[None, :],
            dq_Md.to(dq.dtype.element_ty),
            there_Md,
        )
    place_Sd = n * bn + h * bh + s_S[:, None] * bt + d_d[None, :]
    tl.store(dk + place_Sd, dk_Sd.to(dk.dtype.element_ty), there_Sd)
    tl.store(dv + place_Sd, dv_Sd.to(dv.dtype.element_ty), there_Sd)


@library.triton_op("paribus::short_attention", mutates_args={})
def attention(
    q: Tensor, k: Tensor, v: Tensor, given: Tensor | None, rows: int, causal: bool, scale: float
) -> Tensor:
    N, H, T, d = q.shape
    o = _empty(q, T)
    library.wrap_triton(forward)[(N * H,)](
        q, k, v, q if given is None else given, o, rows, H, T, k.shape[2],
        *_strides(q, k, v, o), *_five(given), **_sizes(T, k.shape[2], d, given, causal, scale, q),
    )  # fmt: skip
    return o


@library.triton_op("paribus::short_attention_backward", mutates_args={})
def _backward(
    g: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    given: Tensor | None,
    rows: int,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    N, H, T, d = q.shape
    S = k.shape[2]
    g = g if g.stride(-1) == 1 else g.contiguous()
    dq, dk, dv = _empty(q, T), _empty(k, S), _empty(v, S)
    library.wrap_triton(backward)[(N * H,)](
        q, k, v, q if given is None else given, g, dq, dk, dv, rows, H, T, S,
        *_strides(q, k, v, g, dq, dk), *_five(given), **_sizes(T, S, d, given, causal, scale, q),
    )  # fmt: skip
    return dq, dk, dv


def _context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, v, given, rows, causal, scale = inputs
    ctx.save_for_backward(q, k, v, given)
    ctx.rest = (rows, causal, scale)


def _gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, given = ctx.saved_tensors
    dq, dk, dv = _backward(g, q, k, v, given, *ctx.rest)
    return dq, dk, dv, None, None, None, None


attention.register_autograd(_gradients, setup_context=_context)


def _empty(like: Tensor, T: int) -> Tensor:
    """[N,H,T,d], laid out as the products before and after want it: token by token."""
    N, H, _, d = like.shape
    return like.new_empty(N, T, H, d).transpose(1, 2)


def _strides(*tensors: Tensor) -> list[int]:
    return [x.stride(i) for x in tensors for i in range(3)]


def _five(given: Tensor | None) -> tuple[int, ...]:
    """Strides of [e,b,h,T,S]; 0 of an axis that is repeated."""
    if given is None:
        return (0,) * 5
    return tuple(0 if n == 1 else s for n, s in zip(given.shape, given.stride(), strict=True))


def _sizes(
    T: int, S: int, d: int, given: Tensor | None, causal: bool, scale: float, q: Tensor
) -> dict[str, Any]:
    kind = "none" if given is None else "mask" if given.dtype == torch.bool else "bias"
    PS, M, warps = tile(T, S)
    return {
        "D": d,
        "PT": -(-T // M) * M,
        "PS": PS,
        "PD": max(16, 1 << (d - 1).bit_length()),
        "M": M,
        "SCALE": scale,  # a number that is no constant would be made one of 64 bits
        "CAUSAL": causal,
        "GIVEN": kind,
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
        "num_warps": warps,
        "num_stages": 1,
    }


def tile(T: int, S: int) -> tuple[int, int, int]:
    """Keys of a tile, queries of a block, and warps: what was fastest on an H200 at
    15, 23 and 83 tokens (bench/attention.py); others are between these."""
    PS = max(16, 1 << (S - 1).bit_length())
    M = 16 if T <= 16 else 32
    return PS, M, 1 if PS <= 32 else 2

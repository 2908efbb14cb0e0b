"""The Triton kernels of short.py, and torch's operators of them; imported where there is Triton.

A program holds one row and one head.  N rows (trials × rows), H heads, T queries, S keys, d head
size; M queries a block; keys in one tile A, or in two, A and B, all padded to powers of two: 83
keys are 64 and 32, and the first 64 queries of causal rows never look at B.
"""
# Annotations must be values here: Triton reads them.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, library

from paribus.nn._operators import namespace

OURS = namespace(__file__)
LOW = tl.constexpr(-1.0e30)  # of what may not be read; a difference of two is a number, unlike −∞


@triton.jit
def _logits(
    q_Md, k_Sd, at, T, S, h, n, B, t_M, s_S,
    se, sb, sh, st, ss,
    SCALE: tl.constexpr, CAUSAL: tl.constexpr, GIVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Logits [M,S] of a tile of keys in fp32; −∞ of keys that are none."""
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
    return tl.where(real_S, x_MS, float("-inf"))


@triton.jit
def _tile(of, t_M, many, step, D: tl.constexpr, PD: tl.constexpr):
    """Numbers [M,d] of some tokens of a row and a head, of which there are `many`, else 0."""
    d_d = tl.arange(0, PD)
    there_Md = (t_M[:, None] < many) & (d_d[None, :] < D)
    return tl.load(of + t_M[:, None] * step + d_d[None, :], there_Md, other=0.0)


@triton.jit
def _biased(x_Md, bias, PACKED: tl.constexpr, D: tl.constexpr, PD: tl.constexpr):
    """With the bias of the head, rounded as torch rounds a sum; as it is where there is none."""
    if PACKED:
        d_d = tl.arange(0, PD)
        b_d = tl.load(bias + d_d, d_d < D, other=0.0).to(tl.float32)
        x_Md = (x_Md.to(tl.float32) + b_d[None, :]).to(x_Md.dtype)
    return x_Md


@triton.jit
def _keep(to, x_Md, t_M, many, step, D: tl.constexpr, PD: tl.constexpr):
    """Write what `_tile` reads."""
    d_d = tl.arange(0, PD)
    there_Md = (t_M[:, None] < many) & (d_d[None, :] < D)
    tl.store(to + t_M[:, None] * step + d_d[None, :], x_Md.to(to.dtype.element_ty), there_Md)


@triton.jit
def forward(
    q, k, v, add, at, o, B, H, T, S,
    qn, qh, qt, kn, kh, kt, vn, vh, vt, on, oh, ot,
    ai, ae, ah,
    se, sb, sh, st, ss,
    D: tl.constexpr, PT: tl.constexpr, PA: tl.constexpr, PB: tl.constexpr, PD: tl.constexpr,
    M: tl.constexpr, PACKED: tl.constexpr,
    SCALE: tl.constexpr, CAUSAL: tl.constexpr, GIVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    n, h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    q, o, k, v = q + n * qn + h * qh, o + n * on + h * oh, k + n * kn + h * kh, v + n * vn + h * vh
    to_q = add + (n // B) * ae + h * ah
    to_k, to_v = to_q + ai, to_q + 2 * ai
    a_A = tl.arange(0, PA)
    k_Ad, v_Ad = _tile(k, a_A, S, kt, D, PD), _tile(v, a_A, S, vt, D, PD)
    k_Ad, v_Ad = _biased(k_Ad, to_k, PACKED, D, PD), _biased(v_Ad, to_v, PACKED, D, PD)
    if PB > 0:
        b_B = PA + tl.arange(0, PB)
        k_Bd, v_Bd = _tile(k, b_B, S, kt, D, PD), _tile(v, b_B, S, vt, D, PD)
        k_Bd, v_Bd = _biased(k_Bd, to_k, PACKED, D, PD), _biased(v_Bd, to_v, PACKED, D, PD)
    for first in tl.static_range(0, PT, M):
        t_M = first + tl.arange(0, M)
        q_Md = _biased(_tile(q, t_M, T, qt, D, PD), to_q, PACKED, D, PD)
        x_MA = _logits(
            q_Md, k_Ad, at, T, S, h, n, B, t_M, a_A, se, sb, sh, st, ss,
            SCALE, CAUSAL, GIVEN, PRECISION,
        )  # fmt: skip
        most_M = tl.max(x_MA, 1)
        if PB > 0 and (not CAUSAL or first + M > PA):
            x_MB = _logits(
                q_Md, k_Bd, at, T, S, h, n, B, t_M, b_B, se, sb, sh, st, ss,
                SCALE, CAUSAL, GIVEN, PRECISION,
            )  # fmt: skip
            most_M = tl.maximum(most_M, tl.max(x_MB, 1))
            p_MA, p_MB = tl.exp(x_MA - most_M[:, None]), tl.exp(x_MB - most_M[:, None])
            total_M = tl.sum(p_MA, 1) + tl.sum(p_MB, 1)
            p_MA, p_MB = p_MA / total_M[:, None], p_MB / total_M[:, None]
            o_Md = tl.dot(p_MA.to(v_Ad.dtype), v_Ad, input_precision=PRECISION)
            o_Md += tl.dot(p_MB.to(v_Bd.dtype), v_Bd, input_precision=PRECISION)
        else:
            p_MA = tl.exp(x_MA - most_M[:, None])
            p_MA = p_MA / tl.sum(p_MA, 1)[:, None]
            o_Md = tl.dot(p_MA.to(v_Ad.dtype), v_Ad, input_precision=PRECISION)
        _keep(o, o_Md, t_M, T, ot, D, PD)


@triton.jit
def backward(
    q, k, v, add, at, g, dq, dk, dv, sums, jump, B, H, T, S,
    qn, qh, qt, kn, kh, kt, vn, vh, vt, gn, gh, gt, xn, xh, xt, yn, yh, yt,
    ai, ae, ah,
    se, sb, sh, st, ss,
    D: tl.constexpr, PT: tl.constexpr, PA: tl.constexpr, PB: tl.constexpr, PD: tl.constexpr,
    M: tl.constexpr, PACKED: tl.constexpr,
    SCALE: tl.constexpr, CAUSAL: tl.constexpr, GIVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """g: gradient of the output; strides x of dq, y of dk and of dv.  Packed, with biases: dk
    and dv stand at jumps from dq, and the sums of all three over the row's tokens go to sums
    [N,H,3,d]: tokens that are none have gradients of 0."""
    n, h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    q, g, k, v = q + n * qn + h * qh, g + n * gn + h * gh, k + n * kn + h * kh, v + n * vn + h * vh
    if PACKED:  # all three in one tensor, which is written through one argument
        dk, dv = dq + jump, dq + 2 * jump
    dq, dk, dv = dq + n * xn + h * xh, dk + n * yn + h * yh, dv + n * yn + h * yh
    to_q = add + (n // B) * ae + h * ah
    to_k, to_v = to_q + ai, to_q + 2 * ai
    a_A = tl.arange(0, PA)
    k_Ad, v_Ad = _tile(k, a_A, S, kt, D, PD), _tile(v, a_A, S, vt, D, PD)
    k_Ad, v_Ad = _biased(k_Ad, to_k, PACKED, D, PD), _biased(v_Ad, to_v, PACKED, D, PD)
    sum_d = tl.zeros([PD], tl.float32)
    dk_Ad = tl.zeros([PA, PD], tl.float32)
    dv_Ad = tl.zeros([PA, PD], tl.float32)
    if PB > 0:
        b_B = PA + tl.arange(0, PB)
        k_Bd, v_Bd = _tile(k, b_B, S, kt, D, PD), _tile(v, b_B, S, vt, D, PD)
        k_Bd, v_Bd = _biased(k_Bd, to_k, PACKED, D, PD), _biased(v_Bd, to_v, PACKED, D, PD)
        dk_Bd = tl.zeros([PB, PD], tl.float32)
        dv_Bd = tl.zeros([PB, PD], tl.float32)
    for first in tl.static_range(0, PT, M):
        t_M = first + tl.arange(0, M)
        q_Md = _biased(_tile(q, t_M, T, qt, D, PD), to_q, PACKED, D, PD)
        g_Md = _tile(g, t_M, T, gt, D, PD)
        x_MA = _logits(
            q_Md, k_Ad, at, T, S, h, n, B, t_M, a_A, se, sb, sh, st, ss,
            SCALE, CAUSAL, GIVEN, PRECISION,
        )  # fmt: skip
        most_M = tl.max(x_MA, 1)
        dp_MA = tl.dot(g_Md, tl.trans(v_Ad), input_precision=PRECISION)
        if PB > 0 and (not CAUSAL or first + M > PA):
            x_MB = _logits(
                q_Md, k_Bd, at, T, S, h, n, B, t_M, b_B, se, sb, sh, st, ss,
                SCALE, CAUSAL, GIVEN, PRECISION,
            )  # fmt: skip
            most_M = tl.maximum(most_M, tl.max(x_MB, 1))
            p_MA, p_MB = tl.exp(x_MA - most_M[:, None]), tl.exp(x_MB - most_M[:, None])
            total_M = tl.sum(p_MA, 1) + tl.sum(p_MB, 1)
            p_MA, p_MB = p_MA / total_M[:, None], p_MB / total_M[:, None]
            dp_MB = tl.dot(g_Md, tl.trans(v_Bd), input_precision=PRECISION)
            mean_M = tl.sum(p_MA * dp_MA, 1) + tl.sum(p_MB * dp_MB, 1)
            ds_MB = (p_MB * (dp_MB - mean_M[:, None]) * SCALE).to(q_Md.dtype)
            dq_Md = tl.dot(ds_MB, k_Bd, input_precision=PRECISION)
            dk_Bd += tl.dot(tl.trans(ds_MB), q_Md, input_precision=PRECISION)
            dv_Bd += tl.dot(tl.trans(p_MB.to(g_Md.dtype)), g_Md, input_precision=PRECISION)
        else:
            p_MA = tl.exp(x_MA - most_M[:, None])
            p_MA = p_MA / tl.sum(p_MA, 1)[:, None]
            mean_M = tl.sum(p_MA * dp_MA, 1)
            dq_Md = tl.zeros([M, PD], tl.float32)
        ds_MA = (p_MA * (dp_MA - mean_M[:, None]) * SCALE).to(q_Md.dtype)
        dq_Md += tl.dot(ds_MA, k_Ad, input_precision=PRECISION)
        dk_Ad += tl.dot(tl.trans(ds_MA), q_Md, input_precision=PRECISION)
        dv_Ad += tl.dot(tl.trans(p_MA.to(g_Md.dtype)), g_Md, input_precision=PRECISION)
        _keep(dq, dq_Md, t_M, T, xt, D, PD)
        if PACKED:
            sum_d += tl.sum(dq_Md, 0)
    _keep(dk, dk_Ad, a_A, S, yt, D, PD)
    _keep(dv, dv_Ad, a_A, S, yt, D, PD)
    if PB > 0:
        _keep(dk, dk_Bd, b_B, S, yt, D, PD)
        _keep(dv, dv_Bd, b_B, S, yt, D, PD)
    if PACKED:
        d_d = tl.arange(0, PD)
        to_d, there_d = sums + (n * H + h) * 3 * D + d_d, d_d < D
        k_d, v_d = tl.sum(dk_Ad, 0), tl.sum(dv_Ad, 0)
        if PB > 0:
            k_d, v_d = k_d + tl.sum(dk_Bd, 0), v_d + tl.sum(dv_Bd, 0)
        tl.store(to_d, sum_d, there_d)
        tl.store(to_d + D, k_d, there_d)
        tl.store(to_d + 2 * D, v_d, there_d)


@library.triton_op(f"{OURS}::short_attention", mutates_args={})
def attention(
    q: Tensor, k: Tensor, v: Tensor, given: Tensor | None, rows: int, causal: bool, scale: float
) -> Tensor:
    return _forward([q, k, v], None, given, rows, causal, scale)


@library.triton_op(f"{OURS}::short_attention_backward", mutates_args={})
def _attention_backward(
    g: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    given: Tensor | None,
    rows: int,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (_empty(x, x.shape[2]) for x in (q, k, v))
    _backward(g, [q, k, v], None, given, rows, causal, scale, [dq, dk, dv, g], 0, _strides(dq, dk))
    return dq, dk, dv


def _attention_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, v, given, *ctx.rest = inputs
    ctx.save_for_backward(q, k, v, given)


def _attention_gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    return (*_attention_backward(g, *ctx.saved_tensors, *ctx.rest), None, None, None, None)


attention.register_autograd(_attention_gradients, setup_context=_attention_context)


@library.triton_op(f"{OURS}::short_packed", mutates_args={})
def packed(
    x: Tensor, add: Tensor, given: Tensor | None, rows: int, causal: bool, scale: float
) -> Tensor:
    """x: q, k and v [N,T,3,H,d] without their biases [3,E,H,d]."""
    return _forward(_parts(x), add, given, rows, causal, scale)


@library.triton_op(f"{OURS}::short_packed_backward", mutates_args={})
def _packed_backward(
    g: Tensor,
    x: Tensor,
    add: Tensor,
    given: Tensor | None,
    rows: int,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    N, _, _, H, d = x.shape
    dx, sums = x.new_empty(x.shape), x.new_empty((N, H, 3, d), dtype=torch.float32)
    steps = (dx.stride(0), d, dx.stride(1))
    _backward(
        g, _parts(x), add, given, rows, causal, scale, [dx, g, g, sums], H * d, [*steps, *steps]
    )
    sums = sums.unflatten(0, (add.shape[1], -1)).sum(1)
    return dx, sums.permute(2, 0, 1, 3).to(add.dtype, memory_format=torch.contiguous_format)


def _packed_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, add, given, *ctx.rest = inputs
    ctx.save_for_backward(x, add, given)


def _packed_gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    return (*_packed_backward(g, *ctx.saved_tensors, *ctx.rest), None, None, None, None)


packed.register_autograd(_packed_gradients, setup_context=_packed_context)


def _parts(x: Tensor) -> list[Tensor]:
    """q, k and v [N,H,T,d] of [N,T,3,H,d]."""
    return [part.transpose(1, 2) for part in x.unbind(2)]


def _forward(
    qkv: list[Tensor],
    add: Tensor | None,
    given: Tensor | None,
    rows: int,
    causal: bool,
    scale: float,
) -> Tensor:
    q, k, v = qkv
    N, H, T, d = q.shape
    o = _empty(q, T)
    library.wrap_triton(forward)[(N * H,)](
        q, k, v, q if add is None else add, q if given is None else given, o, rows, H, T,
        k.shape[2], *_strides(q, k, v, o), *_three(add), *_five(given),
        **_sizes(T, k.shape[2], d, add is not None, given, causal, scale, q),
    )  # fmt: skip
    return o


def _backward(
    g: Tensor,
    qkv: list[Tensor],
    add: Tensor | None,
    given: Tensor | None,
    rows: int,
    causal: bool,
    scale: float,
    to: list[Tensor],
    jump: int,
    steps: list[int],
) -> None:
    """Write the gradients of q, k and v and their sums to where the kernel writes."""
    q, k, v = qkv
    N, H, T, d = q.shape
    S = k.shape[2]
    g = g if g.stride(-1) == 1 else g.contiguous()
    library.wrap_triton(backward)[(N * H,)](
        q, k, v, q if add is None else add, q if given is None else given, g, *to, jump,
        rows, H, T, S, *_strides(q, k, v, g), *steps, *_three(add), *_five(given),
        **_sizes(T, S, d, add is not None, given, causal, scale, q),
    )  # fmt: skip


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


def _three(add: Tensor | None) -> tuple[int, ...]:
    """Strides of [3,E,H]."""
    return (0,) * 3 if add is None else add.stride()[:3]


def _sizes(
    T: int,
    S: int,
    d: int,
    packed: bool,
    given: Tensor | None,
    causal: bool,
    scale: float,
    q: Tensor,
) -> dict[str, Any]:
    kind = "none" if given is None else "mask" if given.dtype == torch.bool else "bias"
    PA, PB, M, warps = tile(T, S)
    return {
        "D": d,
        "PT": -(-T // M) * M,
        "PA": PA,
        "PB": PB,
        "PD": max(16, 1 << (d - 1).bit_length()),
        "M": M,
        "PACKED": packed,
        "SCALE": scale,  # a number that is no constant would be made one of 64 bits
        "CAUSAL": causal,
        "GIVEN": kind,
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
        "num_warps": warps,
        "num_stages": 1,
    }


def tile(T: int, S: int) -> tuple[int, int, int, int]:
    """Keys of the tiles A and B, queries of a block, and warps: what was fastest on an H200 at
    15, 23 and 83 tokens (bench/attention.py); others are between these."""
    A = max(16, 1 << (min(S, 64) - 1).bit_length())
    B = max(16, 1 << (S - A - 1).bit_length()) if S > A else 0
    M = 16 if T <= 16 else 32 if S <= 64 else 64
    return A, B, M, 4 if M == 64 else 1 if S <= 32 else 2

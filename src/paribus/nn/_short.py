"""The Triton kernels of short.py, and torch's operators of them; imported where there is Triton.

A program holds one row and one head.  N rows (trials × rows), H heads, T queries, S keys, d head
size; keys in one tile A or in two, A and B, queries in one tile M or in two, M and L, all padded
to powers of two (see `tiles`); of causal rows M never looks at B.

Exponentials are to the base of 2.  The backward pass makes them again, keys × queries, so that
what its products read next lies where those before wrote it.  Every pair of tiles is done by
itself there, given of each query its log-total, which the forward pass keeps, and o · g, where o
is what was rounded, as in FlashAttention.
"""
# Annotations must be values here: Triton reads them.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, library

from paribus.nn._operators import namespace

OURS = namespace(__file__)
LOG2E = tl.constexpr(1.4426950408889634)
LOW = tl.constexpr(-1.0e30)  # of what may not be read


@triton.jit
def _seen(
    x, at, T, S, h, n, B, t, s,
    se, sb, sh, st, ss,
    SCALE: tl.constexpr, CAUSAL: tl.constexpr, GIVEN: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """From q · k of a pair of tiles what a softmax is to see, in fp32 and before SCALE; EDGE: there
    may be keys that are none, which get −∞.  Numbers of queries that are none mean nothing."""
    if GIVEN != "none":
        place = (n // B) * se + (n % B) * sb + h * sh + t * st + s * ss
        inside = (t < T) & (s < S)
        if GIVEN == "mask":
            x = tl.where(tl.load(at + place, mask=inside, other=0) != 0, x, LOW)
        else:
            x += tl.load(at + place, mask=inside, other=0.0).to(tl.float32) * (1.0 / SCALE)
            x = tl.where(x < LOW, LOW, x)  # however low a row is throughout, it is a number
    if CAUSAL:
        x = tl.where(s <= t, x, LOW)
    if EDGE:
        x = tl.where(s < S, x, float("-inf"))
    return x


@triton.jit
def _tile(of, t_M, many, step, D: tl.constexpr, PD: tl.constexpr):
    """Numbers [M,d] of some tokens of a row and a head, of which there are `many`, else 0."""
    d_d = tl.arange(0, PD)
    there_Md = (t_M[:, None] < many) & (d_d[None, :] < D)
    return tl.load(of + t_M[:, None] * step + d_d[None, :], there_Md, other=0.0)


@triton.jit
def _bias(at, D: tl.constexpr, PD: tl.constexpr):
    """Biases [d] of a head in fp32."""
    d_d = tl.arange(0, PD)
    return tl.load(at + d_d, d_d < D, other=0.0).to(tl.float32)


@triton.jit
def _query(q, t_M, T, qt, to_q, BIASED: tl.constexpr, D: tl.constexpr, PD: tl.constexpr):
    """A tile of queries, with their bias, rounded as torch rounds a sum."""
    q_Md = _tile(q, t_M, T, qt, D, PD)
    if BIASED:
        q_Md = (q_Md.to(tl.float32) + _bias(to_q, D, PD)[None, :]).to(q_Md.dtype)
    return q_Md


@triton.jit
def _keep(to, x_Md, t_M, many, step, D: tl.constexpr, PD: tl.constexpr):
    """Write what `_tile` reads."""
    d_d = tl.arange(0, PD)
    there_Md = (t_M[:, None] < many) & (d_d[None, :] < D)
    tl.store(to + t_M[:, None] * step + d_d[None, :], x_Md.to(to.dtype.element_ty), there_Md)


@triton.jit
def _block(
    q, k_Ad, v_Ad, k_Bd, v_Bd, to_q, to_v, at, o, totals, mosts, B, T, S, h, n,
    first: tl.constexpr, qt, ot,
    se, sb, sh, st, ss,
    D: tl.constexpr, PA: tl.constexpr, PB: tl.constexpr, PD: tl.constexpr,
    M: tl.constexpr, ALL: tl.constexpr, BIASED: tl.constexpr, SCALE: tl.constexpr,
    CAUSAL: tl.constexpr, GIVEN: tl.constexpr, EDGE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Outputs and log-totals of M queries from `first` on; ALL: they look at B, too.  A bias may
    take a row so far down that a log-total would lose the total: then the most is kept apart."""
    t_M = first + tl.arange(0, M)
    q_Md = _query(q, t_M, T, qt, to_q, BIASED, D, PD)
    x_MA = tl.dot(q_Md, tl.trans(k_Ad), input_precision=PRECISION)
    x_MA = _seen(
        x_MA, at, T, S, h, n, B, t_M[:, None], tl.arange(0, PA)[None, :], se, sb, sh, st, ss,
        SCALE, CAUSAL and first < PA, GIVEN, EDGE,
    )  # fmt: skip
    most_M = tl.max(x_MA, 1)
    if ALL:
        x_MB = tl.dot(q_Md, tl.trans(k_Bd), input_precision=PRECISION)
        x_MB = _seen(
            x_MB, at, T, S, h, n, B, t_M[:, None], PA + tl.arange(0, PB)[None, :],
            se, sb, sh, st, ss, SCALE, CAUSAL, GIVEN, EDGE,
        )  # fmt: skip
        most_M = tl.maximum(most_M, tl.max(x_MB, 1))
    if GIVEN == "bias":
        tl.store(mosts + t_M, most_M, t_M < T)
        x_MA -= most_M[:, None]
        if ALL:
            x_MB -= most_M[:, None]
        most_M = tl.zeros([M], tl.float32)
    most_M = most_M * (SCALE * LOG2E)
    p_MA = tl.exp2(x_MA * (SCALE * LOG2E) - most_M[:, None])
    total_M = tl.sum(p_MA, 1)
    o_Md = tl.dot(p_MA.to(v_Ad.dtype), v_Ad, input_precision=PRECISION)
    if ALL:
        p_MB = tl.exp2(x_MB * (SCALE * LOG2E) - most_M[:, None])
        total_M += tl.sum(p_MB, 1)
        o_Md += tl.dot(p_MB.to(v_Bd.dtype), v_Bd, input_precision=PRECISION)
    o_Md = o_Md * (1.0 / total_M)[:, None]
    if BIASED:
        o_Md += _bias(to_v, D, PD)[None, :]
    _keep(o, o_Md, t_M, T, ot, D, PD)
    tl.store(totals + t_M, most_M + tl.log2(total_M), t_M < T)


@triton.jit
def forward(
    q, k, v, add, at, o, totals, B, H, T, S,
    qn, qh, qt, kn, kh, kt, vn, vh, vt, on, oh, ot,
    ai, ae, ah,
    se, sb, sh, st, ss,
    D: tl.constexpr, PM: tl.constexpr, PL: tl.constexpr, PA: tl.constexpr, PB: tl.constexpr,
    PD: tl.constexpr, PACKED: tl.constexpr, SCALE: tl.constexpr,
    CAUSAL: tl.constexpr, GIVEN: tl.constexpr, EDGE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    n, h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    q, o, k, v = q + n * qn + h * qh, o + n * on + h * oh, k + n * kn + h * kh, v + n * vn + h * vh
    to_q = add + (n // B) * ae + h * ah
    to_v = to_q + 2 * ai
    totals += (n * H + h) * T
    mosts = totals + tl.num_programs(0).to(tl.int64) * T
    a_A = tl.arange(0, PA)
    k_Ad, v_Ad = _tile(k, a_A, S, kt, D, PD), _tile(v, a_A, S, vt, D, PD)
    k_Bd, v_Bd = k_Ad, v_Ad
    if PB > 0:
        b_B = PA + tl.arange(0, PB)
        k_Bd, v_Bd = _tile(k, b_B, S, kt, D, PD), _tile(v, b_B, S, vt, D, PD)
    _block(
        q, k_Ad, v_Ad, k_Bd, v_Bd, to_q, to_v, at, o, totals, mosts, B, T, S, h, n, 0, qt, ot,
        se, sb, sh, st, ss, D, PA, PB, PD, PM, PB > 0 and (not CAUSAL or PM > PA), PACKED,
        SCALE, CAUSAL, GIVEN, EDGE, PRECISION,
    )  # fmt: skip
    if PL > 0:
        _block(
            q, k_Ad, v_Ad, k_Bd, v_Bd, to_q, to_v, at, o, totals, mosts, B, T, S, h, n, PM, qt, ot,
            se, sb, sh, st, ss, D, PA, PB, PD, PL, PB > 0, PACKED,
            SCALE, CAUSAL, GIVEN, EDGE, PRECISION,
        )  # fmt: skip


@triton.jit
def _queries(
    q, to_q, to_v, g, o, totals, mosts, first, T, qt, gt, ot,
    D: tl.constexpr, PD: tl.constexpr, M: tl.constexpr, BIASED: tl.constexpr, ONE: tl.constexpr,
    GIVEN: tl.constexpr,
):  # fmt: skip
    """q and g [M,d] of a tile of queries, their log-totals, mosts (of a bias), and, unless ONE, the
    sums of o · g [M].  Of one that is none the log-total is ∞, so that it reads nothing."""
    t_M = first + tl.arange(0, M)
    q_Md = _query(q, t_M, T, qt, to_q, BIASED, D, PD)
    g_Md, total_M = _tile(g, t_M, T, gt, D, PD), tl.load(totals + t_M, t_M < T, other=float("inf"))
    mean_M, most_M = total_M, total_M
    if GIVEN == "bias":
        most_M = tl.load(mosts + t_M, t_M < T, other=0.0)
    if not ONE:
        o_Md = _tile(o, t_M, T, ot, D, PD).to(tl.float32)
        if BIASED:
            o_Md -= _bias(to_v, D, PD)[None, :]
        mean_M = tl.sum(g_Md.to(tl.float32) * o_Md, 1)
    return q_Md, g_Md, total_M, most_M, mean_M


@triton.jit
def _pair(
    k_Sd, v_Sd, q_Md, g_Md, total_M, most_M, mean_M, at, T, S, h, n, B, t, s,
    se, sb, sh, st, ss,
    SCALE: tl.constexpr, CAUSAL: tl.constexpr, GIVEN: tl.constexpr, EDGE: tl.constexpr,
    PRECISION: tl.constexpr, ONE: tl.constexpr,
):  # fmt: skip
    """Probabilities and the gradients of logits [S,M], for products of the dtype of q.  ONE: all
    keys are here, so that the sums of o · g are those of p · dp."""
    s_S1, t_1M = s + tl.arange(0, k_Sd.shape[0])[:, None], t + tl.arange(0, q_Md.shape[0])[None, :]
    x_SM = tl.dot(k_Sd, tl.trans(q_Md), input_precision=PRECISION)
    x_SM = _seen(
        x_SM, at, T, S, h, n, B, t_1M, s_S1, se, sb, sh, st, ss, SCALE, CAUSAL, GIVEN, EDGE
    )
    if GIVEN == "bias":
        x_SM -= most_M[None, :]
    p_SM = tl.exp2(x_SM * (SCALE * LOG2E) - total_M[None, :])
    dp_SM = tl.dot(v_Sd, tl.trans(g_Md), input_precision=PRECISION)
    if ONE:
        mean_M = tl.sum(p_SM * dp_SM, 0)
    ds_SM = p_SM * (dp_SM - mean_M[None, :])
    return p_SM.to(q_Md.dtype), ds_SM.to(q_Md.dtype)


@triton.jit
def backward(
    q, k, v, add, at, o, totals, g, dq, dk, dv, sums, jump, B, H, T, S,
    qn, qh, qt, kn, kh, kt, vn, vh, vt, on, oh, ot, gn, gh, gt, xn, xh, xt, yn, yh, yt,
    ai, ae, ah,
    se, sb, sh, st, ss,
    D: tl.constexpr, PM: tl.constexpr, PL: tl.constexpr, PA: tl.constexpr, PB: tl.constexpr,
    PD: tl.constexpr, PACKED: tl.constexpr, SCALE: tl.constexpr,
    CAUSAL: tl.constexpr, GIVEN: tl.constexpr, EDGE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """g: gradient of the output o; strides x of dq, y of dk and of dv.  Packed, with biases: dk
    and dv stand at jumps from dq, and the sums of dq and of dv over the row's tokens go to sums
    [N,H,2,d].  The keys' bias is not read and has a gradient of 0, for a softmax does not see it;
    that of the values is added to outputs, whose weights sum to 1."""
    n, h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    q, g, k, v = q + n * qn + h * qh, g + n * gn + h * gh, k + n * kn + h * kh, v + n * vn + h * vh
    if PACKED:  # all three in one tensor, which is written through one argument
        dk, dv = dq + jump, dq + 2 * jump
    dq, dk, dv = dq + n * xn + h * xh, dk + n * yn + h * yh, dv + n * yn + h * yh
    to_q, o = add + (n // B) * ae + h * ah, o + n * on + h * oh
    to_v = to_q + 2 * ai
    totals += (n * H + h) * T
    mosts = totals + tl.num_programs(0).to(tl.int64) * T
    ONE: tl.constexpr = PB == 0
    MORE: tl.constexpr = PB > 0 and (not CAUSAL or PM > PA)  # M looks at B
    a_A = tl.arange(0, PA)
    k_Ad, v_Ad = _tile(k, a_A, S, kt, D, PD), _tile(v, a_A, S, vt, D, PD)
    q_Md, g_Md, total_M, most_M, mean_M = _queries(
        q, to_q, to_v, g, o, totals, mosts, 0, T, qt, gt, ot, D, PD, PM, PACKED, ONE, GIVEN
    )
    p_AM, ds_AM = _pair(
        k_Ad, v_Ad, q_Md, g_Md, total_M, most_M, mean_M, at, T, S, h, n, B, 0, 0,
        se, sb, sh, st, ss, SCALE, CAUSAL, GIVEN, EDGE, PRECISION, ONE,
    )  # fmt: skip
    dv_Ad = tl.dot(p_AM, g_Md, input_precision=PRECISION)
    dk_Ad = tl.dot(ds_AM, q_Md, input_precision=PRECISION)
    dq_Md = tl.dot(tl.trans(ds_AM), k_Ad, input_precision=PRECISION)
    if not MORE:
        dq_Md = dq_Md * SCALE
        _keep(dq, dq_Md, tl.arange(0, PM), T, xt, D, PD)
        if PACKED:
            q_d = tl.sum(dq_Md, 0)
    if PL > 0:
        q_Ld, g_Ld, total_L, most_L, mean_L = _queries(
            q, to_q, to_v, g, o, totals, mosts, PM, T, qt, gt, ot, D, PD, PL, PACKED, ONE, GIVEN
        )
        p_AL, ds_AL = _pair(
            k_Ad, v_Ad, q_Ld, g_Ld, total_L, most_L, mean_L, at, T, S, h, n, B, PM, 0,
            se, sb, sh, st, ss, SCALE, CAUSAL and PM < PA, GIVEN, EDGE, PRECISION, ONE,
        )  # fmt: skip
        dv_Ad += tl.dot(p_AL, g_Ld, input_precision=PRECISION)
        dk_Ad += tl.dot(ds_AL, q_Ld, input_precision=PRECISION)
        dq_Ld = tl.dot(tl.trans(ds_AL), k_Ad, input_precision=PRECISION)
    _keep(dk, dk_Ad * SCALE, a_A, S, yt, D, PD)
    _keep(dv, dv_Ad, a_A, S, yt, D, PD)
    if PB > 0:
        b_B = PA + tl.arange(0, PB)
        k_Bd, v_Bd = _tile(k, b_B, S, kt, D, PD), _tile(v, b_B, S, vt, D, PD)
        dk_Bd, dv_Bd = tl.zeros([PB, PD], tl.float32), tl.zeros([PB, PD], tl.float32)
        if MORE:
            p_BM, ds_BM = _pair(
                k_Bd, v_Bd, q_Md, g_Md, total_M, most_M, mean_M, at, T, S, h, n, B, 0, PA,
                se, sb, sh, st, ss, SCALE, CAUSAL, GIVEN, EDGE, PRECISION, ONE,
            )  # fmt: skip
            dv_Bd += tl.dot(p_BM, g_Md, input_precision=PRECISION)
            dk_Bd += tl.dot(ds_BM, q_Md, input_precision=PRECISION)
            dq_Md += tl.dot(tl.trans(ds_BM), k_Bd, input_precision=PRECISION)
        if PL > 0:
            p_BL, ds_BL = _pair(
                k_Bd, v_Bd, q_Ld, g_Ld, total_L, most_L, mean_L, at, T, S, h, n, B, PM, PA,
                se, sb, sh, st, ss, SCALE, CAUSAL, GIVEN, EDGE, PRECISION, ONE,
            )  # fmt: skip
            dv_Bd += tl.dot(p_BL, g_Ld, input_precision=PRECISION)
            dk_Bd += tl.dot(ds_BL, q_Ld, input_precision=PRECISION)
            dq_Ld += tl.dot(tl.trans(ds_BL), k_Bd, input_precision=PRECISION)
        _keep(dk, dk_Bd * SCALE, b_B, S, yt, D, PD)
        _keep(dv, dv_Bd, b_B, S, yt, D, PD)
        if PACKED:
            v_d = tl.sum(dv_Ad + dv_Bd, 0) if PA == PB else tl.sum(dv_Ad, 0) + tl.sum(dv_Bd, 0)
    elif PACKED:
        v_d = tl.sum(dv_Ad, 0)
    if MORE:
        dq_Md = dq_Md * SCALE
        _keep(dq, dq_Md, tl.arange(0, PM), T, xt, D, PD)
        if PACKED:
            q_d = tl.sum(dq_Md, 0)
    if PL > 0:
        dq_Ld = dq_Ld * SCALE
        _keep(dq, dq_Ld, PM + tl.arange(0, PL), T, xt, D, PD)
        if PACKED:
            q_d += tl.sum(dq_Ld, 0)
    if PACKED:
        d_d = tl.arange(0, PD)
        to_d, there_d = sums + (n * H + h) * 2 * D + d_d, d_d < D
        tl.store(to_d, q_d, there_d)
        tl.store(to_d + D, v_d, there_d)


# The operators give the log-totals (and mosts) besides, for the gradients; these have none.


@library.triton_op(f"{OURS}::short_attention", mutates_args={})
def attention(
    q: Tensor, k: Tensor, v: Tensor, given: Tensor | None, rows: int, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    return _forward([q, k, v], None, given, rows, causal, scale)


@library.triton_op(f"{OURS}::short_attention_backward", mutates_args={})
def _attention_backward(
    g: Tensor,
    o: Tensor,
    totals: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    given: Tensor | None,
    rows: int,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (_empty(x, x.shape[2]) for x in (q, k, v))
    made, steps = [dq, dk, dv, totals], _strides(dq, dk)
    _backward([g, o, totals], [q, k, v], None, given, rows, causal, scale, made, 0, steps)
    return dq, dk, dv


def _attention_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, given, *ctx.rest = inputs
    ctx.save_for_backward(*output, q, k, v, given)


def _attention_gradients(ctx: Any, g: Tensor, none: Tensor) -> tuple[Tensor | None, ...]:
    return (*_attention_backward(g, *ctx.saved_tensors, *ctx.rest), None, None, None, None)


attention.register_autograd(_attention_gradients, setup_context=_attention_context)


@library.triton_op(f"{OURS}::short_packed", mutates_args={})
def packed(
    x: Tensor, add: Tensor, given: Tensor | None, rows: int, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """x: q, k and v [N,T,3,H,d] without their biases [3,E,H,d]."""
    return _forward(_parts(x), add, given, rows, causal, scale)


@library.triton_op(f"{OURS}::short_packed_backward", mutates_args={})
def _packed_backward(
    g: Tensor,
    o: Tensor,
    totals: Tensor,
    x: Tensor,
    add: Tensor,
    given: Tensor | None,
    rows: int,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    N, _, _, H, d = x.shape
    dx, sums = x.new_empty(x.shape), x.new_empty((N, H, 2, d), dtype=torch.float32)
    steps, made = [dx.stride(0), d, dx.stride(1)], [dx, g, g, sums]
    _backward(
        [g, o, totals], _parts(x), add, given, rows, causal, scale, made, H * d, [*steps, *steps]
    )
    q, v = sums.unflatten(0, (add.shape[1], -1)).sum(1).to(add.dtype).unbind(2)
    return dx, torch.stack([q, torch.zeros_like(q), v])


def _packed_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, add, given, *ctx.rest = inputs
    ctx.save_for_backward(*output, x, add, given)


def _packed_gradients(ctx: Any, g: Tensor, none: Tensor) -> tuple[Tensor | None, ...]:
    return (*_packed_backward(g, *ctx.saved_tensors, *ctx.rest), None, None, None, None)


packed.register_autograd(_packed_gradients, setup_context=_packed_context)


def _parts(x: Tensor) -> list[Tensor]:
    """q, k and v [N,H,T,d] of [N,T,3,H,d]."""
    return [part.transpose(1, 2) for part in x.unbind(2)]


def _forward(
    qkv: list[Tensor], add: Tensor | None,
    given: Tensor | None, rows: int, causal: bool, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    q, k, v = qkv
    N, H, T, d = q.shape
    biased = given is not None and given.dtype != torch.bool
    o, totals = _empty(q, T), q.new_empty((1 + biased, N, H, T), dtype=torch.float32)
    library.wrap_triton(forward)[(N * H,)](
        q, k, v, q if add is None else add, q if given is None else given, o, totals, rows, H, T,
        k.shape[2], *_strides(q, k, v, o), *_three(add), *_five(given),
        **_sizes(T, k.shape[2], d, add is not None, given, causal, scale, q, False),
    )  # fmt: skip
    return o, totals


def _backward(
    of: list[Tensor], qkv: list[Tensor], add: Tensor | None,
    given: Tensor | None, rows: int, causal: bool, scale: float,
    to: list[Tensor], jump: int, steps: list[int],
) -> None:  # fmt: skip
    """Write the gradients of q, k and v and their sums to where the kernel writes; of: the gradient
    of the output, the output, its log-totals."""
    (g, o, totals), (q, k, v) = of, qkv
    N, H, T, d = q.shape
    S = k.shape[2]
    g = g if g.stride(-1) == 1 else g.contiguous()
    library.wrap_triton(backward)[(N * H,)](
        q, k, v, q if add is None else add, q if given is None else given, o, totals, g, *to, jump,
        rows, H, T, S, *_strides(q, k, v, o, g), *steps, *_three(add), *_five(given),
        **_sizes(T, S, d, add is not None, given, causal, scale, q, True),
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
    T: int, S: int, d: int, packed: bool,
    given: Tensor | None, causal: bool, scale: float, q: Tensor, backward: bool,
) -> dict[str, Any]:  # fmt: skip
    kind = "none" if given is None else "mask" if given.dtype == torch.bool else "bias"
    PM, PL, PA, PB, warps = tiles(T, S, backward)
    return {
        "D": d,
        "PM": PM,
        "PL": PL,
        "PA": PA,
        "PB": PB,
        "PD": max(16, 1 << (d - 1).bit_length()),
        "PACKED": packed,
        "SCALE": scale,  # a number that is no constant would be made one of 64 bits
        "CAUSAL": causal,
        "GIVEN": kind,
        # of causal rows those that are none alone look at keys that are none
        "EDGE": not (causal and T == S) and S < PA + PB,
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
        "num_warps": warps,
        "num_stages": 1,
    }


def tiles(T: int, S: int, backward: bool) -> tuple[int, int, int, int, int]:
    """Queries of the tiles M and L, keys of A and B, and warps: what was fastest on an H200 at 15
    to 128 tokens.  Tensor cores take no fewer than 64 rows of a tile that four warps share: of 19
    tokens beyond 64 those of the tile that stands as rows are padded to 64."""
    M, A = (max(16, 1 << (min(n, 64) - 1).bit_length()) for n in (T, S))
    small_L, small_B = (32 if n <= 96 else 64 for n in (T, S))
    L = 0 if T <= M else small_L if backward else 64
    B = 0 if S <= A else 64 if backward else small_B
    return M, L, A, B, 4 if max(M, A) == 64 else 1

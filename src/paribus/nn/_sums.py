"""Gradients of elementwise passes in Triton, and torch's operators of them, that sum over tokens on
the way: what a compiler makes of a stack reads everything once more for the sums, which biases and
gains want.  Imported where there is Triton.

E trials, N tokens of each, D width, F hidden units, R tokens a program, P programs a trial, M
tokens at a time, C columns a program.
"""
# Annotations must be values here: Triton reads them.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, library

from paribus.nn import _cuda
from paribus.nn._operators import namespace

OURS = namespace(__file__, _cuda.__file__)
# What was fastest on an H200, or nearly, at widths of 256 and 512.
TILE = 2048  # numbers at a time
GELU_TOKENS, COLUMNS = 64, 1024
NORM_TOKENS = 32

SLOPE = tl.constexpr(1.5957691216057308)  # 2 √(2/π)
TO_2 = tl.constexpr(-1.5957691216057308 * 1.4426950408889634)  # −SLOPE / ln 2


@triton.jit
def gelu_kernel(
    g, y, bias, dy, sums, step, N, F, P,
    R: tl.constexpr, M: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Of gelu(y + bias), by tanh; see _cuda.gelu."""
    e, piece = (tl.program_id(0) // P).to(tl.int64), tl.program_id(0) % P
    c_C = tl.program_id(1) * C + tl.arange(0, C)
    there_C = c_C < F
    b_C = tl.load(bias + e * step + c_C, there_C, other=0.0).to(tl.float32)
    sum_MC = tl.zeros([M, C], tl.float32)
    row, many = e * N + piece * R, N - piece * R
    g, y, dy = g + row * F, y + row * F, dy + row * F
    for first in range(0, R, M):
        n_M = first + tl.arange(0, M)
        at_MC = n_M[:, None] * F + c_C[None, :]
        there_MC = (n_M[:, None] < many) & there_C[None, :]
        g_MC = tl.load(g + at_MC, there_MC, other=0.0).to(tl.float32)
        x_MC = tl.load(y + at_MC, there_MC, other=0.0).to(tl.float32) + b_C[None, :]
        # x σ(2u), u = √(2/π) (x + 0.044715 x³), by few instructions: σ is a square of 1/√
        xx_MC = x_MC * x_MC
        t_MC = tl.exp2(tl.minimum(x_MC * TO_2 * (1.0 + 0.044715 * xx_MC), 126.0))
        r_MC = tl.rsqrt(1.0 + t_MC)
        s_MC = r_MC * r_MC
        slope_MC = x_MC * (xx_MC * (0.134145 * SLOPE) + SLOPE)
        d_MC = g_MC * s_MC * (1.0 + slope_MC * (t_MC * s_MC))  # 1 − σ = t σ, to the last digit
        tl.store(dy + at_MC, d_MC.to(dy.dtype.element_ty), there_MC)
        sum_MC += d_MC
    to_C = sums + (e * P + piece) * F + c_C
    tl.store(to_C, tl.sum(sum_MC, 0), there_C)


@triton.jit
def norm_kernel(
    dn, ds, s, mean, rstd, gain, dx, low, gains, biases, step, N, P,
    D: tl.constexpr, PD: tl.constexpr, R: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Of s ↦ (s, layer norm of s), whose outputs have the gradients ds and dn."""
    e, piece = (tl.program_id(0) // P).to(tl.int64), tl.program_id(0) % P
    # Four at a time: fp32 and bf16 in one layout, with no way through shared memory between.
    d_D = tl.max_contiguous(tl.arange(0, PD), 4)
    there_D = d_D < D
    gain_D = tl.load(gain + e * step + d_D, there_D, other=0.0).to(tl.float32)
    gains_MD, biases_MD = tl.zeros([M, PD], tl.float32), tl.zeros([M, PD], tl.float32)
    for first in range(0, R, M):
        n_M = piece * R + first + tl.arange(0, M)
        row_M = e * N + n_M
        at_MD = row_M[:, None] * D + d_D[None, :]
        there_MD = (n_M[:, None] < N) & there_D[None, :]
        mean_M = tl.load(mean + row_M, n_M < N, other=0.0)
        rstd_M = tl.load(rstd + row_M, n_M < N, other=0.0)
        n_MD = tl.load(dn + at_MD, there_MD, other=0.0).to(tl.float32)
        s_MD = tl.load(s + at_MD, there_MD, other=0.0)
        ds_MD = tl.load(ds + at_MD, there_MD, other=0.0)
        x_MD = tl.where(there_MD, (s_MD - mean_M[:, None]) * rstd_M[:, None], 0.0)
        gains_MD += n_MD * x_MD
        biases_MD += n_MD
        w_MD = n_MD * gain_D[None, :]
        along_M, level_M = tl.sum(w_MD * x_MD, 1) / D, tl.sum(w_MD, 1) / D
        d_MD = (w_MD - level_M[:, None] - x_MD * along_M[:, None]) * rstd_M[:, None]
        d_MD += ds_MD
        tl.store(dx + at_MD, d_MD, there_MD)
        tl.store(low + at_MD, d_MD.to(low.dtype.element_ty), there_MD)
    to_D = (e * P + piece) * D + d_D
    tl.store(gains + to_D, tl.sum(gains_MD, 0), there_D)
    tl.store(biases + to_D, tl.sum(biases_MD, 0), there_D)


def _rows(x: Tensor) -> tuple[Tensor, int]:
    """Parameters [E,n] and the step between trials: they are views of a longer row for each."""
    x = x if x.stride(1) == 1 else x.contiguous()
    return x, x.stride(0)


# Operators, not autograd.Function: of one whose backward pass holds a kernel of Triton, torch 2.11
# compiles gradients of zeros.


@library.triton_op(f"{OURS}::biased_gelu", mutates_args={})
def biased_gelu(y: Tensor, bias: Tensor) -> Tensor:
    """gelu(y + bias) of y [E,N,F] and bias [E,F], by tanh, in y's dtype; to be compiled."""
    wide = y.to(torch.float32) + bias.to(torch.float32).unsqueeze(1)
    return _cuda.gelu(wide).to(y.dtype)


@library.triton_op(f"{OURS}::biased_gelu_backward", mutates_args={})
def _gelu_backward(g: Tensor, y: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    E, N, F = y.shape
    P, C = triton.cdiv(N, GELU_TOKENS), min(COLUMNS, triton.next_power_of_2(F))
    bias, step = _rows(bias)
    g, y = g.contiguous(), y.contiguous()
    dy, sums = torch.empty_like(y), y.new_empty((E, P, F), dtype=torch.float32)
    M = min(TILE // C, GELU_TOKENS)
    library.wrap_triton(gelu_kernel)[(E * P, triton.cdiv(F, C))](
        g, y, bias, dy, sums, step, N, F, P, R=GELU_TOKENS, M=M, C=C, num_warps=4
    )
    return dy, sums.sum(1).to(bias.dtype)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gelu_gradients(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
    made: tuple[Tensor, ...] = _gelu_backward(g, *ctx.saved_tensors)
    return made


biased_gelu.register_autograd(_gelu_gradients, setup_context=_keep_inputs)


@library.triton_op(f"{OURS}::added_norm", mutates_args={})
def added_norm(
    x: Tensor, y: Tensor, gain: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """s = x + y [E,N,D] in fp32, its layer norm with gain and bias [E,D] in y's dtype, and what the
    gradients take besides, which has none: mean and 1/deviation [E,N,1].  To be compiled."""
    s = (x + y).contiguous()
    n, mean, rstd = torch.native_layer_norm(s, s.shape[-1:], None, None, eps)
    return s, torch.addcmul(bias.unsqueeze(1), n, gain.unsqueeze(1)).to(y.dtype), mean, rstd


@library.triton_op(f"{OURS}::added_norm_backward", mutates_args={})
def _norm_backward(
    ds: Tensor, dn: Tensor, s: Tensor, mean: Tensor, rstd: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of s, again in dn's dtype, and of gain and bias."""
    E, N, D = s.shape
    ds, dn = ds.contiguous(), dn.contiguous()
    gain, step = _rows(gain)
    P, PD = triton.cdiv(N, NORM_TOKENS), triton.next_power_of_2(D)
    M = max(1, min(TILE // PD, NORM_TOKENS))
    dx, low = torch.empty_like(s), torch.empty_like(dn)
    gains, biases = s.new_empty((E, P, D)), s.new_empty((E, P, D))
    library.wrap_triton(norm_kernel)[(E * P,)](
        dn, ds, s, mean, rstd, gain, dx, low, gains, biases, step, N, P,
        D=D, PD=PD, R=NORM_TOKENS, M=M, num_warps=4 if PD <= TILE else 8,
    )  # fmt: skip
    return dx, low, gains.sum(1), biases.sum(1)


def _keep_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    s, _, mean, rstd = output
    ctx.save_for_backward(s, mean, rstd, inputs[2])


def _norm_gradients(ctx: Any, ds: Tensor, dn: Tensor, *none: Tensor) -> tuple[Tensor | None, ...]:
    return (*_norm_backward(ds, dn, *ctx.saved_tensors), None)


added_norm.register_autograd(_norm_gradients, setup_context=_keep_norm)

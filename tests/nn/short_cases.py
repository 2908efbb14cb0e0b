"""Cases of the kernel of short sequences, for the CPU (interpreted) and for a GPU.

E trials, B rows, T queries, S keys, H heads, d head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paribus.nn.attention import Pattern, attend, attend_packed, pattern

CASES = [  # E, B, H, T, S, d, what is given
    (2, 3, 2, 11, 11, 16, "causal"),
    (2, 3, 2, 11, 11, 16, "nothing"),
    (2, 3, 2, 11, 11, 16, "mask of trials"),
    (2, 3, 2, 11, 11, 16, "mask of rows"),
    (2, 3, 2, 11, 11, 16, "bias"),
    (2, 3, 2, 11, 11, 16, "bias, causal"),
    (1, 2, 2, 23, 23, 32, "causal"),
    (1, 2, 2, 5, 23, 24, "nothing"),
    (2, 1, 2, 83, 83, 32, "mask of trials"),
    (1, 2, 1, 83, 83, 32, "causal"),
    (1, 1, 2, 70, 70, 16, "bias, causal"),
    (1, 1, 1, 128, 128, 64, "causal"),
    (1, 2, 2, 1, 9, 8, "nothing"),
    (1, 1, 2, 33, 127, 100, "mask of rows"),
    (1, 2, 2, 20, 20, 16, "bias, far down"),
    (1, 1, 2, 70, 70, 16, "bias, far down"),
]
PACKED = [3, 4, 5, 8, 9]  # cases that are also done packed, with biases added within
BOUND = {torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def given(kind: str, E: int, B: int, H: int, T: int, S: int, device: str) -> Pattern:
    made = torch.Generator().manual_seed(1)
    if kind == "causal":
        return pattern(causal=True)
    if kind == "nothing":
        return Pattern()
    if kind.startswith("bias"):
        bias = torch.randn(1, 1, H, T, S, generator=made).to(device)
        if kind.endswith("far down"):  # rows that are low throughout
            lowest = torch.finfo(torch.float32).min
            bias[..., 1::3, :], bias[..., 2::3, :-1] = lowest, lowest
        return pattern(bias=bias, causal="causal" in kind)
    shape = (E, 1, 1, T, S) if "trials" in kind else (1, B, 1, T, S)
    return pattern((torch.rand(shape, generator=made) > 0.6).to(device))


def apart(
    case: Any, device: str, dtype: torch.dtype, compiled: bool = False, packed: bool = False
) -> float:
    """The largest difference to the reference in float64, outputs and gradients, relative to the
    largest number of each."""
    E, B, H, T, S, d, kind = case
    made = torch.Generator().manual_seed(0)

    def drawn(n: int) -> Tensor:  # as a product of the stack lays them out
        x = torch.randn(E, B, n, H, d, generator=made).to(device, dtype)
        return x.transpose(2, 3).requires_grad_()

    given_qkv = [drawn(T), drawn(S), drawn(S)]
    if packed:
        biases = torch.randn(3, E, H, d, generator=made).to(device, dtype)
        given_qkv += [b.requires_grad_() for b in biases.unbind()]
    at = given(kind, E, B, H, T, S, device)
    g = torch.randn(E, B, H, T, d, generator=made).to(device, dtype)

    def step(kernel: str, *qkv: Tensor) -> list[Tensor]:
        if packed and kernel == "short":
            x = torch.stack([y.transpose(2, 3) for y in qkv[:3]], 3)
            o = attend_packed(x, torch.stack(qkv[3:]), at, scale=d**-0.5)
        else:
            biases = [b[:, None, :, None] for b in qkv[3:]] or [0.0] * 3
            q, k, v = (x + b for x, b in zip(qkv[:3], biases, strict=True))
            o = attend(q, k, v, at, scale=d**-0.5, kernel=kernel)
        return [o, *torch.autograd.grad(o, qkv, g.to(o.dtype))]

    ours = (torch.compile(step) if compiled else step)("short", *given_qkv)
    wide = [x.detach().double().requires_grad_() for x in given_qkv]
    want = step("reference", *wide)
    least = max(float(b.abs().max()) for b in want[4:]) if packed else 0.0
    worst = 0.0
    for i, (a, b) in enumerate(zip(ours, want, strict=True)):
        of = float(b.abs().max()) if i < 4 else least  # that of the keys' bias is 0 in truth
        worst = max(worst, float((a.detach().double() - b.detach()).abs().max()) / of)
    return worst


def all_of_them(device: str, dtypes: list[torch.dtype], compiled: bool = False) -> None:
    for dtype in dtypes:
        for i, case in enumerate(CASES):
            for packed in [False, True] if i in PACKED else [False]:
                gap = apart(case, device, dtype, compiled, packed)
                assert gap < BOUND[dtype], (case, dtype, packed, gap)
                print("equal", case, dtype, packed, f"{gap:.1e}")

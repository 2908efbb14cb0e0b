"""Cases of gradients that sum over tokens on the way, for the CPU (interpreted) and for a GPU.

E trials, N tokens of each, D width, F hidden units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SIZES = [(3, 77, 48), (1, 64, 256), (2, 200, 300), (2, 5, 1030)]  # E, N, numbers of a token
BOUND = {torch.float32: 3e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}


def gelu(y_ENF: Tensor, b_EF: Tensor) -> tuple[Tensor, ...]:
    return (F.gelu(y_ENF + b_EF.unsqueeze(1), approximate="tanh"),)


def norm(x_END: Tensor, y_END: Tensor, gain_ED: Tensor, bias_ED: Tensor) -> tuple[Tensor, ...]:
    s_END = x_END + y_END
    n_END = F.layer_norm(s_END, s_END.shape[-1:], eps=1e-5)
    return s_END, n_END * gain_ED.unsqueeze(1) + bias_ED.unsqueeze(1)


def our_gelu(y_ENF: Tensor, b_EF: Tensor) -> tuple[Tensor, ...]:
    from paribus.nn import _sums  # there may be no Triton

    return (_sums.biased_gelu(y_ENF, b_EF),)


def our_norm(x_END: Tensor, y_END: Tensor, gain_ED: Tensor, bias_ED: Tensor) -> tuple[Tensor, ...]:
    from paribus.nn import _sums

    made: tuple[Tensor, ...] = _sums.added_norm(x_END, y_END, gain_ED, bias_ED, 1e-5)
    return made[:2]


def apart(kind: str, size: Any, device: str, dtype: torch.dtype, compiled: bool) -> float:
    """The largest difference to float64, outputs and gradients, relative to the largest number of
    each."""
    E, N, D = size
    draws = torch.Generator().manual_seed(0)

    def drawn(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, generator=draws).to(device, of).requires_grad_()

    def own(n: int, of: torch.dtype) -> Tensor:
        """A parameter, which is a view of a longer row for each trial (engine/updating.py)."""
        return drawn(E, n + 7, of=of).detach()[:, 3 : n + 3].requires_grad_()

    wide = torch.float32  # the residual stream, gain and bias of a norm
    ours: Callable[..., tuple[Tensor, ...]]
    if kind != "norm":
        y = drawn(E, N, D).detach() * (30 if kind == "gelu, far out" else 1)
        given, ours, want = [y.requires_grad_(), own(D, dtype)], our_gelu, gelu
    else:
        given = [drawn(E, N, D, of=wide), drawn(E, N, D), own(D, wide), own(D, wide)]
        ours, want = our_norm, norm

    def step(function: Callable[..., tuple[Tensor, ...]], *given: Tensor) -> list[Tensor]:
        out = function(*given)
        made = torch.Generator().manual_seed(1)
        g = [torch.randn(E, N, D, generator=made).to(device, x.dtype) for x in out]
        return [*out, *torch.autograd.grad(out, given, g)]

    found = step(torch.compile(ours, dynamic=False) if compiled else ours, *given)
    expected = step(want, *(x.detach().double().requires_grad_() for x in given))
    return max(
        float((a.detach().double() - b.detach()).abs().max() / b.detach().abs().max())
        for a, b in zip(found, expected, strict=True)
    )


def all_of_them(device: str, dtypes: list[torch.dtype], compiled: bool = False) -> None:
    for dtype in dtypes:
        for kind in ("gelu", "gelu, far out", "norm"):
            for size in SIZES:
                gap = apart(kind, size, device, dtype, compiled)
                assert gap < BOUND[dtype], (kind, size, dtype, gap)
                print("equal", kind, size, dtype, f"{gap:.1e}")

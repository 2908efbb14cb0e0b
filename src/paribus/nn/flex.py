"""FlexAttention (Dong et al. 2024): attention that visits the blocks in which a mask allows
anything.  Neither mask nor bias is ever written out for all pairs of tokens.

E trials, B rows, R rows of coordinates (1, B or E·B), T queries, S keys, H query heads, G key
heads, d head size, N and M blocks of queries and of keys.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from paribus.contracts import View

BLOCK = 128
AT_ONCE = 1 << 25  # pairs of tokens that are looked at together while blocks are counted

Allowed = Callable[[View, View], Tensor]  # views that broadcast -> bool


def block_mask(allowed: Allowed, q: View, k: View, trials: int, rows: int) -> Any:
    """torch's BlockMask of a predicate for ``trials`` · ``rows`` rows of attention.

    Args:
        q, k: coordinates [e,b,T] and [e,b,S]; ``valid`` among them: false is never read, and
            reads nothing (its output is 0).
    """
    from torch.nn.attention.flex_attention import BlockMask

    wanted = (trials, rows)
    q_RT, k_RS = flat(q, wanted), flat(k, wanted)
    R, T = next(iter(q_RT.values())).shape
    S = next(iter(k_RS.values())).shape[1]
    partial_RNM, full_RNM = _blocks(allowed, q_RT, k_RS)

    def mask_mod(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        r = b % R
        at = (
            View({n: c[r, i] for n, c in q_RT.items()}),
            View({n: c[r, j] for n, c in k_RS.items()}),
        )
        return _valid(allowed(*at), *at)

    def listed(RNM: Tensor) -> tuple[Tensor, Tensor]:
        RNM = RNM.repeat(trials * rows // R, 1, 1) if R > 1 else RNM
        order = RNM.int().argsort(dim=-1, descending=True, stable=True)
        return RNM.sum(-1, dtype=torch.int32)[:, None], order.int()[:, None]

    return BlockMask.from_kv_blocks(
        *listed(partial_RNM), *listed(full_RNM), BLOCK, mask_mod, seq_lengths=(T, S)
    )


def attend(
    q_EBHTd: Tensor, k_EBGSd: Tensor, v_EBGSd: Tensor, block: Any, score: Any, scale: float
) -> Tensor:
    """o_EBHTd; key heads are shared without copies."""
    E, B, H = q_EBHTd.shape[:3]
    o = _kernel(q_EBHTd.is_cuda)(
        q_EBHTd.flatten(0, 1),
        k_EBGSd.flatten(0, 1),
        v_EBGSd.flatten(0, 1),
        score_mod=score,
        block_mask=block,
        scale=scale,
        enable_gqa=k_EBGSd.shape[2] != H,
    )
    return o.unflatten(0, (E, B))


def _kernel(cuda: bool) -> Any:
    """The fused kernel where there is one; on the CPU torch's plain form, which has no gradients
    and makes all scores at once."""
    from torch.nn.attention.flex_attention import flex_attention

    return _compiled() if cuda and not torch.compiler.is_compiling() else flex_attention


@functools.cache
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def flat(view: View, wanted: tuple[int, int]) -> dict[str, Tensor]:
    """Coordinates [R,T], R = 1, rows or trials · rows."""
    held = view.coordinates.values()
    e, b = (max(c.shape[i] for c in held) for i in (0, 1))
    sizes = (e, b) if e == 1 else wanted
    out = {}
    for name, c in view.coordinates.items():
        c = c.expand(*sizes, -1).flatten(0, 1)
        out[name] = c if c.dtype == torch.bool else c.int()
    return out


def _valid(keep: Tensor, q: View, k: View) -> Tensor:
    return keep & q.valid & k.valid if "valid" in q.coordinates else keep


def _blocks(
    allowed: Allowed, q_RT: dict[str, Tensor], k_RS: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Blocks [R,N,M] in which some pairs are allowed, and those in which all are."""
    R, T = next(iter(q_RT.values())).shape
    S = next(iter(k_RS.values())).shape[1]
    k = View({n: c[None, :, None, None] for n, c in k_RS.items()})
    N, M = -(-T // BLOCK), -(-S // BLOCK)
    each = max(1, AT_ONCE // (max(R, k_RS["index"].shape[0]) * BLOCK * S))
    counts = []
    for n in range(0, N, each):
        piece = slice(n * BLOCK, min((n + each) * BLOCK, T))
        q = View({name: c[None, :, None, piece, None] for name, c in q_RT.items()})
        keep_RTS = _valid(allowed(q, k), q, k)[0, :, 0]
        keep_RTS = keep_RTS.expand(-1, piece.stop - piece.start, S)
        keep_RTS = F.pad(keep_RTS, (0, -S % BLOCK, 0, -keep_RTS.shape[1] % BLOCK))
        tiles = keep_RTS.unflatten(2, (M, BLOCK)).unflatten(1, (-1, BLOCK))
        counts.append(tiles.sum((2, 4), dtype=torch.int32))
    counts_RNM = torch.cat(counts, 1)
    full_RNM = counts_RNM == BLOCK * BLOCK
    return (counts_RNM > 0) & ~full_RNM, full_RNM

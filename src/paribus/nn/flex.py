"""FlexAttention (Dong et al. 2024): attention that visits the blocks in which a mask allows
anything.  Neither mask nor bias is ever written out for all pairs of tokens.

E trials, B rows, R rows of coordinates (1, B, or B for each draw of rows), T queries, S keys, H
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
# Pairs of tokens that are looked at together while blocks are counted: what a cache holds, and on a
# GPU more (some 200 MB), so that its starts are not what is waited for.
AT_ONCE, ON_GPU = 1 << 23, 1 << 25
LATE = 1 << 30  # the time of padding, after that of every token

Allowed = Callable[[View, View], Tensor]  # views that broadcast -> bool


class Rows:
    """Coordinates [R,T] of the rows of E · B rows of attention, looked up token by token.

    Args:
        view: coordinates [e,b,T], e = 1 or the number of draws.
        trials, rows: E and B.
        draws: the draw of each trial, where trials share them; None: each has its own.
        plain: whether ``index`` counts the tokens of a row.
    """

    def __init__(
        self, view: View, trials: int, rows: int, draws: Tensor | None = None, plain: bool = False
    ) -> None:
        held = view.coordinates.values()
        e, b = (max(c.shape[i] for c in held) for i in (0, 1))
        b = rows if e > 1 else b
        self.of: dict[str, Tensor] = {}
        for name, c in view.coordinates.items():
            c = c.expand(e, b, -1).flatten(0, 1)
            self.of[name] = c if c.dtype == torch.bool else c.int()
        if "valid" in self.of and "time" in self.of:
            self.of["time"] = self.of["time"].masked_fill(~self.of["valid"], LATE)
        self.R, self.T = next(iter(self.of.values())).shape
        self.E, self.B, self.plain = trials, rows, plain
        self.draws = draws if e > 1 else None

    def number(self, b: Tensor) -> Tensor:
        """The row of coordinates of a row of attention."""
        if self.R == self.E * self.B:  # numbers of rows in the code would be compiled each
            return b
        if self.draws is None:
            return b % self.R
        return self.draws[b // self.B] * self.B + b % self.B

    def at(self, b: Tensor, i: Tensor) -> View:
        """Coordinates of token i of row b of attention."""
        if self.R == 1:
            found = {n: c[0, i] for n, c in self.of.items()}
        else:
            r = self.number(b)
            found = {n: c[r, i] for n, c in self.of.items()}
        return View({**found, "index": i} if self.plain else found)

    def spread(self, x_R: Tensor) -> Tensor:
        """Something of each row of coordinates [R, …] for each row of attention [E·B, …]."""
        if self.R == 1:
            return x_R
        return x_R[self.number(torch.arange(self.E * self.B, device=x_R.device))]


def block_mask(allowed: Allowed, q: Rows, k: Rows) -> Any:
    """torch's BlockMask of a predicate.  Keys whose ``valid`` is false are read by none whose
    ``valid`` is true; what padding itself reads serves nobody."""
    from torch.nn.attention.flex_attention import BlockMask

    partial_RNM, full_RNM, shown = _blocks(allowed, q.of, k.of)
    # The kernel looks at validity only where the predicate itself would show padding: what it
    # looks at, it loads for every pair of a partial block.
    checked = bool(shown)

    def mask_mod(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        at_q, at_k = q.at(b, i), k.at(b, j)
        keep = allowed(at_q, at_k)
        return _valid(keep, at_q, at_k) if checked else keep

    def listed(RNM: Tensor) -> tuple[Tensor, Tensor]:
        RNM = q.spread(RNM)
        order = RNM.int().argsort(dim=-1, descending=True, stable=True)
        return RNM.sum(-1, dtype=torch.int32)[:, None], order.int()[:, None]

    return BlockMask.from_kv_blocks(
        *listed(partial_RNM), *listed(full_RNM), BLOCK, mask_mod, seq_lengths=(q.T, k.T)
    )


def attend(
    q_EBHTd: Tensor, k_EBHSd: Tensor, v_EBHSd: Tensor, block: Any, score: Any, scale: float
) -> Tensor:
    """o_EBHTd, of as many key heads as query heads: the kernel that shares them is slower than
    the copies are."""
    E, B = q_EBHTd.shape[:2]
    o = _kernel(q_EBHTd.is_cuda)(
        q_EBHTd.flatten(0, 1),
        k_EBHSd.flatten(0, 1),
        v_EBHSd.flatten(0, 1),
        score_mod=score,
        block_mask=block,
        scale=scale,
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

    # Beyond the limit torch would go on without the fused kernel.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    return torch.compile(flex_attention, dynamic=True)


def _valid(keep: Tensor, q: View, k: View) -> Tensor:
    return keep & q.valid & k.valid if "valid" in q.coordinates else keep


def _blocks(
    allowed: Allowed, q_RT: dict[str, Tensor], k_RS: dict[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks [R,N,M] in which some pairs are allowed, and those in which all are; and whether the
    predicate shows padding to a token that is none."""
    R, T = next(iter(q_RT.values())).shape
    S = next(iter(k_RS.values())).shape[1]
    k = View({n: c[None, :, None, None] for n, c in k_RS.items()})
    N, M = -(-T // BLOCK), -(-S // BLOCK)
    at_once = ON_GPU if k_RS["index"].is_cuda else AT_ONCE
    each = max(1, at_once // (max(R, k_RS["index"].shape[0]) * BLOCK * S))
    counts, shown = [], torch.zeros((), dtype=torch.bool, device=k_RS["index"].device)
    for n in range(0, N, each):
        piece = slice(n * BLOCK, min((n + each) * BLOCK, T))
        q = View({name: c[None, :, None, piece, None] for name, c in q_RT.items()})
        keep_RTS = allowed(q, k)
        if "valid" in q_RT:
            shown = shown | (keep_RTS & (q.valid & ~k.valid)).any()
            keep_RTS = _valid(keep_RTS, q, k)
        keep_RTS = keep_RTS[0, :, 0].expand(-1, piece.stop - piece.start, S)
        keep_RTS = F.pad(keep_RTS, (0, -S % BLOCK, 0, -keep_RTS.shape[1] % BLOCK))
        tiles = keep_RTS.unflatten(2, (M, BLOCK)).unflatten(1, (-1, BLOCK))
        counts.append(tiles.sum((2, 4), dtype=torch.int32))
    counts_RNM = torch.cat(counts, 1)
    full_RNM = counts_RNM == BLOCK * BLOCK
    return (counts_RNM > 0) & ~full_RNM, full_RNM, shown

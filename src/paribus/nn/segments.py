"""Rows read in segments, one after another, with what a memory carries between them.

E trials, B rows, T tokens of a row, W of a segment, S keys, m memory tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from paribus.contracts import View
from paribus.errors import Refused
from paribus.nn.attention import Pattern, settle

if TYPE_CHECKING:
    from paribus.nn.places import Params
    from paribus.nn.transformer import Pass, Transformer


class Held:
    """Keys and values of earlier segments, in each layer; they stay in the graph until cut off."""

    def __init__(self, layers: int) -> None:
        self.pairs: list[tuple[Tensor, Tensor] | None] = [None] * layers

    def put(self, layer: int, k_EBGTd: Tensor, v_EBGTd: Tensor) -> tuple[Tensor, Tensor]:
        """Those of this segment behind the others; returns all of them."""
        old = self.pairs[layer]
        if old is not None:
            k_EBGTd = torch.cat([old[0], k_EBGTd], 3)
            v_EBGTd = torch.cat([old[1], v_EBGTd], 3)
        self.pairs[layer] = k_EBGTd, v_EBGTd
        return k_EBGTd, v_EBGTd

    def keep(self, n: int) -> None:
        """The newest ``n`` alone."""
        for i, pair in enumerate(self.pairs):
            if pair is not None:
                first = pair[0].shape[3] - n
                self.pairs[i] = pair[0][..., first:, :], pair[1][..., first:, :]

    def cut(self) -> None:
        """No gradient goes further back."""
        for i, pair in enumerate(self.pairs):
            if pair is not None:
                self.pairs[i] = pair[0].detach(), pair[1].detach()


class Piece(NamedTuple):
    """A segment: its first and last place, the keys that are there before it, tables, patterns."""

    a: int
    b: int
    before: int
    tables: Params
    reads: Sequence[Pattern]


def pieces(
    core: Transformer, p: Params, view: View, valid_EBT: Tensor | None, dtype: torch.dtype
) -> list[Piece]:
    """All segments of rows at these coordinates [e,b,T]; ``dtype`` of the position's tables."""
    memory: Any = core.model.memory
    T, kept, out = view.index.shape[2], memory.kept(), []

    def made(a: int, b: int) -> tuple[View, Params]:
        part = view.map(lambda c: c[..., a:b])
        if memory.tokens:
            part = _between(part, memory.tokens)
        return part, core.tables(part, core.stack, dtype)

    for a in range(0, T, memory.segment):
        b = min(a + memory.segment, T)
        q, tables = made(a, b)
        before = 0 if memory.tokens else a if kept is None else min(a, kept)
        k, valid = q, None
        if before:
            k = view.map(lambda c, a=a, b=b, n=before: c[..., a - n : b])
        if valid_EBT is not None:
            valid = valid_EBT[..., a - before : b]
            if memory.tokens:
                m = valid.new_ones(*valid.shape[:2], memory.tokens)
                valid = torch.cat([m, valid, m], 2)
        reads = core.patterns(p, tables, q, k, valid, {}, keep=False)
        if valid is None:
            reads = [*map(settle, reads)]
        out.append(Piece(a, b, before, tables, reads))
    return out


def _between(view: View, m: int) -> View:
    """Coordinates of a segment between memory tokens: places of their own before and behind it."""
    own = set(view.coordinates) - {"index", "token", "time", "slot", "branch", "main"}
    if own:
        raise Refused(
            f"memories.tokens: its tokens have no {', '.join(sorted(own))}; use rows of plain text"
        )
    n = view.index.shape[2]
    token = view.token
    steps = torch.arange(1, m + 1, device=token.device)
    token = torch.cat([token[..., :1] - steps.flip(0), token, token[..., -1:] + steps], 2)
    index = torch.arange(n + 2 * m, device=token.device).view(1, 1, -1)
    zero = torch.zeros_like(index)
    return View({"index": index, "token": token, "time": token, "slot": token, "branch": zero,
                 "main": zero})  # fmt: skip


def run(core: Transformer, p: Params, x_EBTD: Tensor, found: list[Piece], now: Pass) -> Tensor:
    """What leaves the last block, of all tokens."""
    memory: Any = core.model.memory
    held = Held(core.dims.layers)
    go: list[Tensor | None] = [None] * (core.dims.layers + 1)
    E, B, _, D = x_EBTD.shape
    state = None
    if memory.tokens:
        own = p["memory.tokens"].to(x_EBTD.dtype)
        state = own[:, None].expand(E, B, memory.tokens, D)
    out = []
    for s, piece in enumerate(found):
        if s and memory.through and s % memory.through == 0:
            held.cut()
            state = None if state is None else state.detach()
        x = x_EBTD[:, :, piece.a : piece.b]
        drop = None if now.drop is None else now.drop.part(s)
        own_pass = now._replace(tables=piece.tables, drop=drop)
        if state is None:
            held.keep(piece.before)
            y = core.blocks(p, x, piece.reads, go, own_pass._replace(cache=held))
        else:
            m = memory.tokens
            y = core.blocks(p, torch.cat([state, x, state], 2), piece.reads, go, own_pass)
            state, y = core.normed(p, y[:, :, -m:]).to(x.dtype), y[:, :, m:-m]
        out.append(y)
    return torch.cat(out, 2)

"""Relational schemas and questions about them: drawn by key, labelled, joined by shortest paths.

A schema has V tables of C columns.  Two tables can be joined where they share a column.  A question
names two columns: is there a chain of joins from a table that has the one to a table that has the
other?

n schemas, V tables, C columns a table, K = V·C column ids to draw from.  Schemas stand last, side
by side: then a core is fast, too.  All is integers and booleans, so every device gives the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from paribus.errors import SpecError
from paribus.lazy import numpy as np
from paribus.lazy import torch
from paribus.moving import moved
from paribus.rng import Stream, side_by_side
from paribus.text import paths

if TYPE_CHECKING:
    from torch import Tensor

ABSENT, UNCONNECTED = -2, -1  # in the place of a number of joins
GOLDEN = (5**0.5 - 1) / 2
BLOCK = 1024  # examples that are drawn together
# Numbers of the candidates that are looked at together: what they take stays in a core's cache, or
# keeps a GPU busy, on which a pass over few takes as long as one over many.
ON_CPU, ON_GPU = 1 << 18, 1 << 24
PATIENCE = 1 << 22  # candidates for a block of examples before it is given up


class Law(NamedTuple):
    """What decides examples, beside their key and number; as in the fields of a task."""

    V: int
    C: int
    mode: str
    hops: tuple[float, ...] | None
    density: float
    data_seed: int

    def kinds(self, n: int) -> dict[int | None, Any]:
        """Places of n examples by kind: how many joins, or None where that is left to chance."""
        if self.mode != "balanced":
            return {None: np.arange(n)}
        weights = self.hops or (1.0,) * min(4, self.V - 1)
        # Multiples of the golden ratio fill [0, 1) evenly, however many there are.
        even = (np.arange(n) // 2 + 1) * GOLDEN % 1
        kind = np.searchsorted(np.cumsum(weights) / sum(weights), even, side="right")
        return {h: np.flatnonzero(kind == h) for h in range(len(weights)) if (kind == h).any()}


@dataclass(frozen=True)
class Schemas:
    """Drawn schemas and their questions.

    Attributes:
        cols: int16 [V,C,n], the column ids of each table.
        asked: int16 [2,n], the two columns in question.
        hops: int64 [n], joins on the shortest chain between them (0: one table has both), else
            UNCONNECTED, or ABSENT where one of the two is in no table.
    """

    cols: Tensor
    asked: Tensor
    hops: Tensor

    def __len__(self) -> int:
        return self.asked.shape[1]

    def __getitem__(self, at: Any) -> Schemas:
        return Schemas(self.cols[..., at], self.asked[:, at], self.hops[at])

    @property
    def connected(self) -> Tensor:
        """bool [n]: the label."""
        return self.hops >= 0

    @property
    def present(self) -> Tensor:
        """bool [n]: both columns are in the schema, which alone nearly tells the label."""
        return self.hops != ABSENT


def joined(pieces: Sequence[Schemas]) -> Schemas:
    if len(pieces) == 1:
        return pieces[0]
    each = ((p.cols, p.asked, p.hops) for p in pieces)
    return Schemas(*(torch.cat(t, -1) for t in zip(*each, strict=True)))


# ── drawing ─────────────────────────────────────────────────────────────────────────────────


def words_of(V: int, C: int) -> int:
    """Random words of one candidate: an edge each, a column each, two questions, one choice."""
    return V * (V - 1) // 2 + V * C + 3


def below(words: Tensor, high: int) -> Tensor:
    """Integers on [0, high) of the upper 32 bits; the bias is below high / 2³²."""
    return ((words >> 32) & 0xFFFFFFFF) * high >> 32


def tables(words: Tensor, V: int, C: int, density: float) -> tuple[Tensor, Tensor]:
    """cols int16 [V,C,n] and the drawn edges bool [V(V−1)/2,n], in the order (0,1), (0,2) …

    Columns are drawn with replacement.  Then each edge (u, v) of an Erdős–Rényi graph copies a
    column of u over one of v, in order, so that a later edge can undo an earlier one: the graph of
    shared columns is not the one that was drawn.
    """
    pairs = V * (V - 1) // 2
    words = words.T.contiguous()
    cols = below(words[pairs : pairs + V * C], V * C).to(torch.int16).view(V, C, -1)
    cols = torch.cat([cols, cols[:, :1]], 1)  # a place more, where copies go that no edge makes
    bits = words[:pairs]
    edges = ((bits >> 32) & 0xFFFFFFFF) < round(density * 2**32)
    gives, takes = ((b & 0xFFFF).int() * C >> 16 for b in (bits >> 16, bits))
    takes += (C - takes) * ~edges  # as where(): that takes a processor ten times as long
    gives, takes = gives.long(), takes.long()
    done = 0
    for u in range(V - 1):
        # The edges of u at once: no later one changes u, and each changes a table of its own.
        own = slice(done, done + V - 1 - u)
        cols[u + 1 :].scatter_(1, takes[own, None], cols[u].gather(0, gives[own])[:, None])
        done = own.stop
    return cols[:, :C], edges


def shared(cols: Tensor) -> Tensor:
    """bool [V,V,n]: two tables have a column in common (each has with itself)."""
    V, C, n = cols.shape
    found = torch.eye(V, dtype=torch.bool, device=cols.device)[..., None].repeat(1, 1, n)
    for u in range(V - 1):
        later = found[u, u + 1 :]
        for a, b in product(range(C), repeat=2):
            later |= cols[u, a] == cols[u + 1 :, b]
        found[u + 1 :, u] = later
    return found


def sets(columns: Tensor, words: int) -> Tensor:
    """int64 [words,…]: a set of each column alone, as bits of so many words."""
    word, bit = columns.long() // 63, torch.ones_like(columns, dtype=torch.int64)
    bit <<= columns.long() - word * 63
    return torch.stack([bit * (word == w) for w in range(words)])


def united(parts: Tensor) -> Tensor:
    """[words,n]: of sets [words,m,n] the union of all m."""
    while (m := parts.shape[1]) > 1:
        half = parts[:, : m // 2] | parts[:, m // 2 : m // 2 * 2]
        parts = torch.cat([half, parts[:, -1:]], 1) if m % 2 else half
    return parts[:, 0]


def hops(cols: Tensor, asked: Tensor) -> Tensor:
    """int64 [n]: joins on the shortest chain, UNCONNECTED or ABSENT; cols [V,C,n], asked [2,n]."""
    # Sets of columns: what a join reaches takes V steps, of pairs of tables it would take V².
    words = int(torch.maximum(cols.max(), asked.max())) // 63 + 1
    own = united(sets(cols.transpose(0, 1), words))  # [words,V,n]
    reach, goal = sets(asked, words).unbind(1)
    present = (united(own) & reach).any(0) & (united(own) & goal).any(0)
    out = torch.zeros_like(reach[0])
    for _ in range(len(cols)):
        further = united(own * (own & reach[:, None]).any(0))
        found = (further & goal).any(0)
        out += ~found
        if torch.equal(further, reach):
            break
        reach = further
    return torch.where(present, torch.where(found, out, UNCONNECTED), ABSENT)


def _joined_once(joins: Tensor, first: Tensor) -> Tensor:
    """bool [V,n]: the tables ``first``, and those that one join reaches from them."""
    out = first.clone()
    for there, of in zip(joins, first, strict=True):
        out |= there & of
    return out


def distances(cols: Tensor, goal: Tensor) -> Tensor:
    """int16 [V,n]: joins from each table to one that has the column ``goal`` [n]; V: no chain."""
    joins, reach = shared(cols), (cols == goal).any(1)
    out = torch.full_like(cols[:, 0], len(cols))
    for h in range(len(cols)):
        out = torch.where(reach, out.clamp(max=h), out)
        further = _joined_once(joins, reach)
        if torch.equal(further, reach):
            break
        reach = further
    return out


def divided(cols: Tensor) -> Tensor:
    """bool [n]: some tables cannot be reached from others."""
    joins = shared(cols)
    reach = joins[0]
    for _ in range(len(joins) - 2):
        reach = _joined_once(joins, reach)
    return ~reach.all(0)


def eligible(cols: Tensor, h: int) -> tuple[Tensor, Tensor]:
    """bool [n,K,K] of ordered pairs of different columns that are there: ``h`` joins apart, and
    not connected."""
    V, C, n = cols.shape
    has = torch.zeros(n, V * C, V, device=cols.device)
    of = torch.arange(V, device=cols.device).repeat_interleave(C)
    has[torch.arange(n, device=cols.device), cols.flatten(0, 1).long(), of[:, None]] = 1
    joins = shared(cols).permute(2, 0, 1).float()
    reach = torch.eye(V, device=cols.device).expand(n, V, V)
    levels: list[Tensor] = []  # reach within 0, 1 … h joins; then, last, within any
    for _ in range(V):
        levels.append(reach)
        further = ((reach @ joins) > 0).float()
        if torch.equal(further, reach):
            break
        reach = further

    def pairs(reach: Tensor) -> Tensor:
        return (has @ reach @ has.mT) > 0

    there = has.any(2)
    both = there[:, :, None] & there[:, None, :]
    both = both & ~torch.eye(V * C, dtype=torch.bool, device=cols.device)
    none = torch.zeros_like(both)
    if h >= len(levels):  # no schema of these has so long a chain
        return none, both & ~pairs(levels[-1])
    before = pairs(levels[h - 1]) if h else none
    return both & pairs(levels[h]) & ~before, both & ~pairs(levels[-1])


def chosen(pairs: Tensor, words: Tensor) -> Tensor:
    """int16 [2,n]: one of the true entries of [n,K,K], uniformly."""
    K = pairs.shape[1]
    flat = pairs.flatten(1)
    rank = below(words, 1 << 31) * flat.sum(1) >> 31
    at = ((flat.cumsum(1) == rank[:, None] + 1) & flat).int().argmax(1)
    return torch.stack([at // K, at % K]).to(torch.int16)


# ── example k ───────────────────────────────────────────────────────────────────────────────


class Block(NamedTuple):
    """BLOCK examples of a list, from number · BLOCK on.

    Attributes:
        key: what tells one list from another: a seed, a purpose …
    """

    key: tuple[int, str, str]
    number: int


def drawn(law: Law, blocks: Sequence[Block], device: Any) -> Schemas:
    """The examples of these blocks, one block after another.

    An example is a function of the law, its list's key and its number alone.  Each kind of example
    of a block (see ``kinds``) has candidates of its own, numbered; those that will do are taken in
    order.  How many blocks and candidates are looked at together changes nothing.
    """
    each = words_of(law.V, law.C)
    if law.mode == "balanced":
        each = max(each, (law.V * law.C) ** 2 // 8)  # pairs of columns, in few of the candidates
    numbers = ON_CPU if torch.device(device).type == "cpu" else ON_GPU
    limit = max(BLOCK, numbers // each)
    some = limit // BLOCK
    groups = [blocks[i : i + some] for i in range(0, len(blocks), some)]
    return joined([_together(law, group, limit, device) for group in groups])


def _together(law: Law, blocks: Sequence[Block], limit: int, device: Any) -> Schemas:
    kinds = law.kinds(BLOCK)
    found = joined([_of_kind(law, blocks, h, at, limit, device) for h, at in kinds.items()])
    if len(kinds) == 1:
        return found
    first = np.arange(len(blocks))[:, None] * BLOCK
    places = np.concatenate([(first + at).ravel() for at in kinds.values()])
    return found[moved(np.argsort(places), device)]


def _of_kind(
    law: Law, blocks: Sequence[Block], h: int | None, at: Any, limit: int, device: Any
) -> Schemas:
    """The examples of one kind, block after block.

    Args:
        at: their places in each block.
        limit: candidates that are looked at together.
    """
    V, C, kind = law.V, law.C, -1 if h is None else h
    streams = [Stream(*key, law.mode, V, C, number, kind) for key, number in blocks]
    lacking = np.full(len(blocks), len(at))
    pieces: list[tuple[Tensor, Tensor]] = []
    owners: list[Any] = []  # the blocks of what is found
    start, looked, size = 0, 0, 2 * len(at)
    # Candidates were once looked at by 8192: what was refused then is what is refused now.
    end = PATIENCE + (size - PATIENCE) % 8192
    while lacking.any():
        if start >= end:
            raise SpecError(
                f"task: of {start:,} schemas with V={V}, C={C}, "
                f"density={law.density}, {len(at) - lacking.max()} will do for mode "
                f'"{law.mode}"' + (f" with pairs {h} joins apart" if h else "")
                + "; take another mode, density or hops"
            )  # fmt: skip
        some = np.flatnonzero(lacking)
        most = len(at) if law.mode == "published" else size  # any will do
        size = min(most, limit // len(some), end - start)
        rows = range(start, start + size)
        words = side_by_side([streams[i] for i in some], rows, words_of(V, C), device)
        cols, asked, counts = _candidates(law, words, h, at, lacking[some])
        pieces.append((cols, asked))
        owners.append(np.repeat(some, counts))
        lacking[some] -= counts
        start, looked = start + size, looked + size * len(some)
        # As many more as should do, by the share of those that did.
        share = max(1, len(at) * len(blocks) - lacking.sum()) / looked
        size = int((lacking.max() + 4 * lacking.max() ** 0.5) / share) + 1
        if size > limit and len(blocks) > 1 and lacking.any():
            # So few will do that one block fills the passes; if it is refused, that is soon known.
            return joined([_of_kind(law, [b], h, at, limit, device) for b in blocks])
    cols, asked = (torch.cat(t, -1) for t in zip(*pieces, strict=True))
    if len(pieces) > 1:
        order = moved(np.argsort(np.concatenate(owners), kind="stable"), device)
        cols, asked = cols[..., order], asked[:, order]
    if h is None:
        return Schemas(cols, asked, hops(cols, asked))
    told = np.tile(np.where(at % 2 == 0, h, UNCONNECTED), len(blocks))
    return Schemas(cols, asked, moved(told, device))


def _candidates(
    law: Law, words: Tensor, h: int | None, at: Any, lacking: Any
) -> tuple[Tensor, Tensor, Any]:
    """Of the schemas that the words [words,n] draw for each block those that will do, block after
    block, at most as many as it lacks: their cols and asked, and how many of each block they are.
    """
    V, C = law.V, law.C
    cols, _ = tables(words.T, V, C, law.density)
    if h is None:
        asked = below(words[-3:-1], V * C).to(torch.int16)
        if law.mode == "published":
            return cols, asked, lacking
        first, last = ((cols == q).any(1).any(0) for q in asked)
        places, counts = _first(first & last, lacking)
        return cols[..., places], asked[:, places], counts
    # Both answers must be possible in every schema: what is asked decides, not the schema.
    some = divided(cols).nonzero()[:, 0]
    near, apart = eligible(cols[..., some], h)
    will_do = torch.zeros_like(words[0], dtype=torch.bool)
    will_do[some] = near.flatten(1).any(1) & apart.flatten(1).any(1)
    places, counts = _first(will_do, lacking)
    # Their places are the last ones, of those that each block lacks the first.
    last = [np.arange(n) - left for n, left in zip(counts, lacking, strict=True)]
    yes = moved(at[np.concatenate(last)] % 2 == 0, words.device)[:, None, None]
    own = torch.searchsorted(some, places)
    asked = chosen(torch.where(yes, near[own], apart[own]), words[-1, places])
    return cols[..., places], asked, counts


def _first(will_do: Tensor, lacking: Any) -> tuple[Tensor, Any]:
    """Places of the first that will do of each block's, as many as it lacks; how many of each."""
    own = will_do.view(len(lacking), -1)
    own = own & (own.cumsum(1) <= moved(lacking, own.device)[:, None])
    return own.flatten().nonzero()[:, 0], own.sum(1).cpu().numpy()


# ── schemas written by hand ─────────────────────────────────────────────────────────────────


def file_of(path: str) -> Path:
    """The one JSON file of questions that ``path`` means."""
    found = paths.find(path, (".json",), "task.schemas")
    if len(found) > 1:
        raise SpecError(f"task.schemas: {path} means {len(found)} files; name one")
    return found[0]


def read(path: str, V: int, C: int, device: Any) -> Schemas:
    """Questions of a JSON file; names stand for columns in the order in which they come."""
    each = _each(path, V, C)
    cols = torch.tensor([c for c, _, _ in each], dtype=torch.int16).permute(1, 2, 0)
    asked = torch.tensor([a for _, a, _ in each], dtype=torch.int16).T
    cols, asked = cols.contiguous().to(device), asked.contiguous().to(device)
    return Schemas(cols, asked, hops(cols, asked))


def words(path: str, V: int, C: int) -> list[list[str]]:
    """What each question of a JSON file calls its columns, by id."""
    return [called for _, _, called in _each(path, V, C)]


Told = tuple[list[list[int]], list[int], list[str]]


def _each(path: str, V: int, C: int) -> list[Told]:
    file = file_of(path)
    try:
        told = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except ValueError as error:
        raise SpecError(f"{file}: no JSON: {error}") from None
    if not isinstance(told, list) or not told:
        raise SpecError(f'{file}: write a list of {{"tables": {{…}}, "asked": [column, column]}}')
    return [_one(q, V, C, f"{file}, question {n}") for n, q in enumerate(told, 1)]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which no name may stand twice: the later would hide the earlier."""
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands twice in one object")
    return out


def _one(told: Any, V: int, C: int, where: str) -> Told:
    """(ids of each table's columns, ids asked for, what ids are called) of one question."""
    if not isinstance(told, dict) or set(told) != {"tables", "asked"}:
        keys = ", ".join(told) if isinstance(told, dict) else repr(told)
        raise SpecError(f'{where}: it has "tables" and "asked"; here: {keys}')
    tables_, asked = told["tables"], told["asked"]
    each = list(tables_.values()) if isinstance(tables_, dict) else tables_
    if not (
        isinstance(each, list)
        and len(each) == V
        and all(isinstance(t, list) and len(t) == C for t in each)
    ):
        raise SpecError(f"{where}: the model reads {V} tables of {C} columns; a column may repeat")
    if not isinstance(asked, list) or len(asked) != 2:
        raise SpecError(f"{where}: two columns are asked for; here: {asked!r}")
    ids: dict[Any, int] = {}
    for name in [c for t in each for c in t] + asked:
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise SpecError(f"{where}: a column is called by a word or a number, not {name!r}")
        ids.setdefault(name, len(ids))
    if len(ids) > V * C:
        raise SpecError(
            f"{where}: {len(ids)} different columns; the model knows {V * C}, so repeat some"
        )
    return [[ids[c] for c in t] for t in each], [ids[c] for c in asked], [*map(str, ids)]

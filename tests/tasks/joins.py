"""Schemas and joins written down a second time, in plain loops over decoded tokens and with
networkx's graphs, to hold ``tasks.connectivity`` against.  Nothing of its drawing or labelling is
used here.

V tables, C columns a table; columns are 0 … VC − 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
import torch

from paribus import tasks
from paribus.text.data import Data

DATA = Data(Path("unused"))
ABSENT, APART = "absent", "unconnected"


class Question(NamedTuple):
    """What the tokens of a row say: the columns of each table, and the two asked for."""

    tables: list[list[int]]
    asked: tuple[int, int]


def task(**changes: Any) -> tasks.connectivity:
    return tasks.connectivity(**{"V": 5, "eval_examples": 500, **changes})


def source(split: str = "test", **changes: Any) -> Any:
    return task(**changes).open(DATA.bind(split), "cpu")


def questions(ids: torch.Tensor, V: int, C: int) -> list[Question]:
    """Rows of token ids, decoded; the order and the kinds of tokens are checked."""
    K, out = V * C, []
    for row in ids.tolist():
        assert len(row) == V * (C + 1) + 3
        blocks = [row[t * (C + 1) : (t + 1) * (C + 1)] for t in range(V)]
        assert [b[0] for b in blocks] == list(range(K, K + V)), "each block begins with its name"
        assert row[-3] == K + V, "the separator"
        columns = [c for b in blocks for c in b[1:]] + row[-2:]
        assert all(0 <= c < K for c in columns)
        out.append(Question([b[1:] for b in blocks], (row[-2], row[-1])))
    return out


def coordinates(V: int, C: int) -> dict[str, list[int]]:
    """Where each token stands: its block, the slot in it, and whether it speaks for others."""
    out: dict[str, list[int]] = {"block": [], "slot": [], "summary": []}
    for i in range(V * (C + 1) + 3):
        block, slot = divmod(i, C + 1)
        if i >= V * (C + 1):
            block, slot = V + i - V * (C + 1), C + 1 + i - V * (C + 1)
        out["block"].append(block)
        out["slot"].append(slot)
        out["summary"].append(int(slot >= C))
    return out


# ── joins ───────────────────────────────────────────────────────────────────────────────────


def graph(tables: Sequence[Sequence[int]]) -> nx.Graph:
    """Tables and columns; an edge where a table has a column."""
    out = nx.Graph()
    out.add_nodes_from(("table", t) for t in range(len(tables)))
    out.add_edges_from((("table", t), ("column", c)) for t, own in enumerate(tables) for c in own)
    return out


def hops(q: Question) -> str:
    """Joins on the shortest chain, or why there is none."""
    g, (a, b) = graph(q.tables), [("column", c) for c in q.asked]
    if a not in g or b not in g:
        return ABSENT
    if not nx.has_path(g, a, b):
        return APART
    return str(max(0, nx.shortest_path_length(g, a, b) // 2 - 1))


def connected(q: Question) -> bool:
    """By components alone."""
    wanted = {("column", c) for c in q.asked}
    return any(wanted <= part for part in nx.connected_components(graph(q.tables)))


def present(q: Question) -> bool:
    return all(any(c in own for own in q.tables) for c in q.asked)


def shape(q: Question) -> tuple[int, int, int]:
    """What a schema looks like without its question: components, different columns, and tables
    that name a column twice."""
    g = graph(q.tables)
    different = sum(kind == "column" for kind, _ in g)
    twice = sum(len(set(own)) < len(own) for own in q.tables)
    return nx.number_connected_components(g), different, twice


# ── drawing ─────────────────────────────────────────────────────────────────────────────────


def drawn(words: Iterable[int], V: int, C: int, density: float) -> tuple[Question, set[Any]]:
    """The law of §1.2 from 64-bit words, in their order: an edge each (whether, the upper 32 bits;
    the slot that gives, the next 16; that takes, the last 16), a column each, two questions."""
    words = list(words)
    pairs = list(combinations(range(V), 2))

    def below(word: int, high: int) -> int:
        return (word >> 32) * high >> 32

    columns = [below(w, V * C) for w in words[len(pairs) : len(pairs) + V * C]]
    tables = [columns[t * C : (t + 1) * C] for t in range(V)]
    edges = set()
    for word, (u, v) in zip(words, pairs, strict=False):
        if word >> 32 < round(density * 2**32):
            edges.add((u, v))
            gives, takes = ((word >> shift & 0xFFFF) * C >> 16 for shift in (16, 0))
            tables[v][takes] = tables[u][gives]
    asked = [below(w, V * C) for w in words[-3:-1]]
    return Question(tables, (asked[0], asked[1])), edges


# ── scores ──────────────────────────────────────────────────────────────────────────────────


def auc(yes: Sequence[float], noes: Sequence[float]) -> float:
    """The share of all pairs that stand in order, equals as half."""
    a, b = np.asarray(yes)[:, None], np.asarray(noes)[None]
    return float(((a > b) + 0.5 * (a == b)).mean())

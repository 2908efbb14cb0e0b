"""Spans of tokens to be scored, and what a model finds of them.  Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """Tokens of which those from ``start`` to ``end`` − 1 are scored."""

    ids: Sequence[int]
    start: int
    end: int


class Scored(NamedTuple):
    """Of a span: nats and number of its scored tokens, and whether each is the likeliest one."""

    nats: float
    tokens: int
    likeliest: bool

    @property
    def mean(self) -> float:
        """Nats a token; of no tokens infinite, so that such an option is never the best."""
        return self.nats / self.tokens if self.tokens else float("inf")


Question = Sequence[Span]  # an option each


def cropped(span: Span, limit: int | None) -> Span:
    """The last ``limit`` tokens; a token whose predecessor is gone is not scored."""
    gone = max(0, len(span.ids) - limit) if limit else 0
    return Span(span.ids[gone:], max(span.start - gone, 1), max(span.end - gone, 1))


def common(rows: Sequence[Sequence[int]]) -> int:
    """Tokens that all rows begin with."""
    rows = [r if isinstance(r, list) else list(r) for r in rows]
    first = rows[0]
    low, high = 0, min(map(len, rows))
    while low < high:  # by halves: whole stretches are compared at once, not token by token
        n = (low + high + 1) // 2
        if all(r[low:n] == first[low:n] for r in rows[1:]):
            low = n
        else:
            high = n - 1
    return low

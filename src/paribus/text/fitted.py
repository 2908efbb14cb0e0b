"""Rows that begin with a document: best-fit packing, as nanochat has it since January 2026.

A row is filled with whole documents, each time the longest of those that wait which still fits;
where none fits, the shortest is cut to what is left of the row, and its rest is not used.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paribus.lazy import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

WAITING = 1000  # documents to choose from, as published


@dataclass(frozen=True)
class Fitted:
    """Rows as pieces of documents.

    Attributes:
        document: of each piece, in the order of the rows [P].
        size: tokens of it, from the document's start [P].
        begin: the first piece of each row, and the end [rows + 1].
        unused: tokens that no row holds: of documents cut short, and of what does not fill a last
            row.
    """

    document: Ints
    size: Ints
    begin: Ints
    unused: int

    def __len__(self) -> int:
        return len(self.begin) - 1

    def places(self, row: int, starts: Ints) -> Ints:
        """Where the tokens of a row stand in the stream [capacity]."""
        mine = slice(self.begin[row], self.begin[row + 1])
        pairs = zip(starts[self.document[mine]], self.size[mine], strict=True)
        return np.concatenate([np.arange(start, start + size) for start, size in pairs])


def best_fit(lengths: Any, order: Any, capacity: int, waiting: int = WAITING) -> Fitted:
    """The rows of ``capacity`` tokens that documents give in this order.

    Args:
        lengths: tokens of each document.
        order: the documents, as they come.
    """
    sizes, coming = np.asarray(lengths).tolist(), iter(np.asarray(order).tolist())
    here: list[tuple[int, int, int]] = []  # (tokens, arrival, document), ascending
    document: list[int] = []
    size: list[int] = []
    begin, used, arrived, left = [0], 0, 0, capacity
    while True:
        while len(here) < waiting and (d := next(coming, None)) is not None:
            insort(here, (sizes[d], arrived, d))
            arrived += 1
        if not here:
            break
        at = bisect_right(here, (left, arrived, 0))
        # Of equally long ones the first to come, whether it fits or is cut.
        at = bisect_left(here, (here[at - 1][0], -1, 0)) if at else 0
        tokens, _, d = here.pop(at)
        document.append(d)
        size.append(min(tokens, left))
        left -= size[-1]
        if not left:
            begin.append(len(size))
            used, left = used + capacity, capacity
    pieces = begin[-1]
    total = int(np.asarray(lengths)[np.asarray(order)].sum())
    return Fitted(
        np.array(document[:pieces], np.int64),
        np.array(size[:pieces], np.int64),
        np.array(begin, np.int64),
        total - used,
    )

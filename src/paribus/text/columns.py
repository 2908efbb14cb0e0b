"""Texts side by side: which texts a sample holds, and where their tokens stand in its row.

B samples, n texts of a sample (with the main prefix first, where there is one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from paribus.lazy import numpy as np
from paribus.rng import Stream, integers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Texts:
    """Texts as pieces of a token stream: where each starts, and how long it is.

    Attributes:
        cut_off: tokens that belong to no text: of documents cut short, and of ends shorter than
            two tokens, which have nothing to predict.
    """

    starts: Ints
    lengths: Ints
    cut_off: int = 0

    def __len__(self) -> int:
        return len(self.starts)


def texts(
    documents: Ints, total: int, length: int, cut: Literal["split", "truncate", "packed"]
) -> Texts:
    """The texts of a stream of documents.

    Args:
        documents: where each document starts.
        total: tokens of the stream.
        length: tokens of a text at most.
        cut: "split" makes several texts of a long document, "truncate" keeps its beginning,
            "packed" cuts the stream wherever ``length`` tokens are full.
    """
    if cut == "packed":
        starts = np.arange(0, total - length + 1, length, dtype=np.int64)
        return Texts(starts, np.full(len(starts), length, np.int64), total - length * len(starts))
    sizes = np.diff(np.append(documents, total)).astype(np.int64)
    if cut == "truncate":
        starts, lengths = documents.astype(np.int64), np.minimum(sizes, length)
    else:
        pieces = -(-sizes // length)
        number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        starts = np.repeat(documents, pieces).astype(np.int64) + number * length
        lengths = np.minimum(np.repeat(sizes, pieces) - number * length, length)
    keep = lengths >= 2
    return Texts(starts[keep], lengths[keep], int(total - lengths[keep].sum()))


class Counts:
    """How many texts each sample of a run holds: uniform over ``low`` … ``high``, keyed by (seed,
    epoch, sample), and which samples an epoch has.

    The texts of an epoch are dealt out in its order, so that each is used once; its last sample
    takes what is left, where that is ``low`` at least.  What remains then is not used in it.
    """

    def __init__(self, seed: int, size: int, low: int, high: int, main: int = 0) -> None:
        self.seed, self.size, self.low, self.high, self.main = seed, size, low, high, main
        self._ends: list[Ints] = []  # of each epoch: texts dealt out after each sample
        self._first = [0]  # the first sample of each epoch

    def epoch(self, number: int) -> Ints:
        while len(self._ends) <= number:
            ends = self._dealt(len(self._ends))
            self._ends.append(ends)
            self._first.append(self._first[-1] + len(ends))
        return self._ends[number]

    def _dealt(self, epoch: int) -> Ints:
        most = self.size // (self.low + self.main)
        words = Stream(self.seed, "branches", epoch).words(most)
        drawn = self.low + integers(words, self.high - self.low + 1)
        ends = np.cumsum(drawn + self.main)
        ends = ends[ends <= self.size]
        left = self.size - (int(ends[-1]) if len(ends) else 0)
        return np.append(ends, self.size) if left >= self.low + self.main else ends

    def place(self, sample: int) -> tuple[int, int, int]:
        """(epoch, first text, texts) of a sample of the run."""
        while self._first[-1] <= sample:
            self.epoch(len(self._ends))
        epoch = int(np.searchsorted(self._first, sample, side="right")) - 1
        i, ends = sample - self._first[epoch], self._ends[epoch]
        start = int(ends[i - 1]) if i else 0
        return epoch, start, int(ends[i]) - start

    def spread(self, samples: range) -> list[tuple[int, Ints, Ints]]:
        """(epoch, first texts, counts) of a range of samples, epoch by epoch."""
        out = []
        at = samples.start
        while at < samples.stop:
            epoch, *_ = self.place(at)
            i, ends = at - self._first[epoch], self._ends[epoch]
            j = min(len(ends), samples.stop - self._first[epoch])
            before = np.concatenate([[0], ends])[i:j]
            out.append((epoch, before, ends[i:j] - before))
            at += j - i
        return out


def columns(
    lengths_Bn: Ints, *, main: bool = False, right: bool = False, offsets_Bn: Any = 0
) -> dict[str, Ints]:
    """The tokens of samples in the order of their rows: by time, then branch (column after column).

    Token o of a branch has time o, later by ``offsets``, by the length of the main prefix, and
    with ``right`` by what the longest branch has more.  A main prefix is text 0 and branch 0; the
    branches are numbered from 1 beside it, else from 0.

    Returns:
        ``row`` (sample), ``index`` (place in the row), ``text`` (of the sample), ``order`` (place
        in the text), ``time``, each [tokens], row after row.
    """
    lengths_Bn = np.asarray(lengths_Bn, np.int64)
    begin_Bn = np.zeros_like(lengths_Bn)
    if right:
        own = lengths_Bn[:, 1:] if main else lengths_Bn
        gap = np.where(own > 0, own.max(1, keepdims=True, initial=0) - own, 0)
        begin_Bn[:, int(main) :] += gap
    begin_Bn = begin_Bn + offsets_Bn
    if main:
        begin_Bn[:, 0] = 0
        begin_Bn[:, 1:] += lengths_Bn[:, :1]
    B, n = lengths_Bn.shape
    flat = lengths_Bn.ravel()
    text = np.repeat(np.arange(B * n), flat)
    order = np.arange(len(text)) - np.repeat(np.cumsum(flat) - flat, flat)
    time = order + begin_Bn.ravel()[text]
    row = text // n
    span = int(time.max(initial=0)) + 1
    sorted_ = np.argsort((row * span + time) * n + text % n, kind="stable")
    per_row = np.bincount(row, minlength=B)
    index = np.arange(len(text)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
    return {
        "row": row[sorted_],
        "index": index,
        "text": text[sorted_] % n,
        "order": order[sorted_],
        "time": time[sorted_],
    }

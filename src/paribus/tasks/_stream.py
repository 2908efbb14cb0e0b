"""The packed stream of a language model's task: rows of training, windows of evaluation.

B rows, T tokens.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from paribus import rng
from paribus.contracts import IGNORE, Source
from paribus.errors import SpecError
from paribus.lazy import numpy as np
from paribus.lazy import torch
from paribus.moving import moved
from paribus.tasks import _windows
from paribus.text.fitted import Fitted, best_fit

if TYPE_CHECKING:
    from torch import Tensor

    from paribus.tasks._words import Words
    from paribus.text.data import Tokens


class Stream(Source):
    def __init__(self, task: Any, tokens: Tokens, device: str) -> None:
        self.task, self.tokens, self.device = task, tokens, device
        n, t = len(tokens.ids) - 1, task.length
        self.rows = n // t
        if self.rows < 1:
            raise SpecError(f"task: {n + 1} tokens of text are fewer than one row of {t} + 1")
        stride = task.stride or t
        if stride > t:
            raise SpecError(f"task.stride: {stride} targets do not fit into windows of {t} tokens")
        if task.each is not None and task.within != "document":
            raise SpecError('task.each: it counts targets of a document; give within="document"')
        self.windows = _windows.cut(
            tokens,
            stride=stride,
            start=task.start,
            within=task.within,
            most=task.eval_tokens,
            each=task.each,
        )
        self.size = self.windows.size
        if task.bins is not None:
            self.parts = _windows.parts(task.bins, t)
        if self.size < 1:
            have = min(task.eval_tokens, n)
            what = f"stride {stride}" if task.stride else f"length {t}"
            if task.start >= have:
                what = f"start {task.start}"
            raise SpecError(f"task: {what} exceeds the {have} evaluated tokens (eval_tokens)")
        self._order: dict[tuple[int, int], Any] = {}
        self._fitted: dict[int, list[Fitted]] = {}  # by seed, of each epoch
        self.words: Words | None = None
        self._ids: Tensor | None = None
        self._bytes: Tensor | None = None

    @property
    def ids(self) -> Tensor:
        """The whole stream on the device (it is small beside the activations)."""
        if self._ids is None:
            ids = np.asarray(self.tokens.ids).astype(np.int32)
            self._ids = torch.from_numpy(ids).to(self.device)
        return self._ids

    @cached_property
    def epoch(self) -> int:  # type: ignore[override]
        """Rows of a pass over the text; of packed documents those of one order of them."""
        if self.task.pack == "best_fit":
            return len(self._packed(0, 0))
        return len(self._first) if self.task.pack == "document" else self.rows

    @cached_property
    def _first(self) -> np.ndarray:
        """Where each row begins that lies in one document."""
        t, starts = self.task.length, np.asarray(self.tokens.starts)
        each = np.maximum(np.diff(np.append(starts, len(self.tokens.ids))) - 1, 0) // t
        if not each.any():
            raise SpecError(f"task: no document has the {t} + 1 tokens of a row; see task.pack")
        number = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
        return np.repeat(starts, each) + number * t

    def _cut(self, at_BT1: Any) -> dict[str, Tensor]:
        """Inputs and targets of rows of places in the stream."""
        row_BT1 = self.ids[moved(at_BT1, self.device)].long()
        out = {"inputs": row_BT1[:, :-1].contiguous(), "targets": row_BT1[:, 1:].contiguous()}
        return {**out, **self._segments(at_BT1)}

    def _segments(self, at_BT1: Any) -> dict[str, Tensor]:
        if not self.task.segments:
            return {}
        of = self.tokens.doc_of(at_BT1[:, :-1]).astype(np.int64)
        return {"pos.segment": moved(of, self.device)}

    def _shuffled(self, what: str, seed: int, epoch: int, size: int) -> np.ndarray:
        if (seed, epoch) not in self._order:
            for old in [k for k in self._order if k[0] == seed and k[1] < epoch - 1]:
                del self._order[old]
            self._order[seed, epoch] = rng.Stream(seed, what, epoch).permutation(size)
        return self._order[seed, epoch]

    def _packed(self, seed: int, epoch: int) -> Fitted:
        """The rows of packed documents of an epoch."""
        known = self._fitted.setdefault(seed, [])
        lengths = np.diff(np.append(self.tokens.starts, len(self.tokens.ids)))
        while len(known) <= epoch:
            order = rng.Stream(seed, "order", len(known)).permutation(len(lengths))
            known.append(best_fit(lengths, order, self.task.length + 1))
        return known[epoch]

    def batch(self, seed: int, step: int, rows: range) -> dict[str, Tensor]:
        if self.task.pack == "best_fit":
            return self._cut(np.stack([self._documents(seed, r) for r in rows]))
        n, t = self.epoch, self.task.length
        place = [divmod(r, n) for r in rows]
        rows_B = np.array([self._shuffled("order", seed, epoch, n)[i] for epoch, i in place])
        first_B = rows_B.astype(np.int64) * t
        if self.task.pack == "document":
            first_B = self._first[rows_B]
        return self._cut(first_B[:, None] + np.arange(t + 1))

    def _documents(self, seed: int, row: int) -> Any:
        """Places of a row of packed documents; epochs differ in their number of rows.  The rows of
        an epoch are shuffled: packing brings those of long documents first."""
        epoch = 0
        while row >= (have := len(self._packed(seed, epoch))):
            row, epoch = row - have, epoch + 1
        at = self._shuffled("rows", seed, epoch, have)[row]
        return self._packed(seed, epoch).places(at, self.tokens.starts)

    def realised(self, seed: int | None, rows: range) -> dict[str, Any]:
        """Of packed documents: tokens that no row of the epochs begun holds."""
        if seed is None or self.task.pack == "stream":
            return {}
        if self.task.pack == "document":
            return {"unused": len(self.tokens.ids) - self.epoch * self.task.length}
        self._documents(seed, rows.stop - 1)
        return {"unused": sum(made.unused for made in self._fitted[seed])}

    def examples(self, i: int, j: int) -> dict[str, Tensor]:
        last = len(self.tokens.ids) - 1
        at_BT1, counts_BT = _windows.rows(self.windows, i, j, self.task.length, last)
        row_BT1 = self.ids[moved(at_BT1, self.device)].long()
        counts = moved(counts_BT, self.device)
        targets = row_BT1[:, 1:].masked_fill(~counts, IGNORE)
        out = {"inputs": row_BT1[:, :-1].contiguous(), "targets": targets}
        out |= self._segments(at_BT1)
        if self.task.bins is not None:
            of = _windows.binned(self.tokens, at_BT1[:, :-1], self.task.bins)
            out["parts"] = moved(of, self.device)
        if self.tokens.token_bytes is not None:
            if self._bytes is None:
                self._bytes = torch.from_numpy(np.asarray(self.tokens.token_bytes)).to(self.device)
            out["bytes"] = self._bytes[out["targets"].clamp(min=0)]
        if self.words is not None:
            out["words"] = self.words.begun(out["inputs"], out["targets"])
        return out

    def scored(self) -> np.ndarray:
        """The places of all scored targets in the stream."""
        base, end, count = (np.repeat(x, self.windows.count) for x in self.windows)
        number = np.arange(len(base)) - np.repeat(
            np.cumsum(self.windows.count) - self.windows.count, self.windows.count
        )
        return base + end - count + 1 + number

    def slices(self) -> dict[str, np.ndarray]:
        if self.task.bins is None:
            return {}
        return _windows.labels(self.task.bins, self.task.length, self.size)

    def groups(self) -> np.ndarray:
        w = self.windows
        return np.repeat(self.tokens.doc_of(w.base + w.end - w.count), self.parts)

"""Samples of parallel texts as batches: the source that ``tasks.branches`` opens.

B samples, n texts of a sample, T tokens of a row.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from paribus.contracts import IGNORE, Source
from paribus.errors import SpecError
from paribus.lazy import numpy as np
from paribus.lazy import torch
from paribus.moving import moved
from paribus.rng import Stream, uniform
from paribus.text import ngrams
from paribus.text.columns import Counts, columns, texts

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from paribus.text.data import Tokens

    Ints = NDArray[np.int64]

BUCKET = 128  # rows longer than this have a multiple of it, which kernels that work in blocks like
AT_ONCE = 1 << 18  # tokens of examples that are looked at together


def most_tokens(tokens: int) -> int:
    """The length of rows that hold up to so many tokens."""
    return tokens if tokens <= BUCKET else -(-tokens // BUCKET) * BUCKET


class Samples(Source):
    """Samples of a split.  Which texts a row holds is a function of (seed, row) alone.

    Args:
        task: a ``tasks.branches``.
    """

    def __init__(self, task: Any, tokens: Tokens, device: str, split: str = "") -> None:
        self.task, self.tokens, self.device = task, tokens, device
        self.low, self.high = task.counts()
        self.has_main = task.main > 0
        self.texts = texts(tokens.starts, len(tokens.ids), task.length, task.cut)
        length = task.io().length
        assert length is not None
        self.length = length
        full = task.cut == "packed" and self.low == self.high
        self.padded = not (full and task.main + self.high * task.length == length)
        # A row of the run starts with the main prefix's text, where there is one.
        self.per_row = self.high + self.has_main
        self.epoch = 2 * len(self.texts) // (self.low + self.high + 2 * self.has_main)
        if len(self.texts) < self.per_row:
            raise SpecError(
                f"task: the {split} split has {len(self.texts)} texts, fewer than one sample of "
                f"{self.per_row}"
            )
        judged = min(task.eval_texts, len(self.texts))
        self.judged = Counts(0, judged, self.high, self.high, int(self.has_main))
        counts = np.diff(np.append(0, self.judged.epoch(0)))
        rest = judged - int(counts.sum())
        if rest > self.has_main:  # the list is the same for every number of branches
            counts = np.append(counts, rest)
        self.ends = np.cumsum(counts)
        self.listed = Stream(0, "judged").permutation(judged)[: int(self.ends[-1])]
        self.size = len(counts)
        self.judged_padded = self.padded or int(counts.min()) < self.per_row
        self._counts: dict[int, Counts] = {}
        self._order: dict[tuple[int, int], Ints] = {}
        self._kept: dict[str, Tensor] = {}

    # ── which texts ──

    def counts(self, seed: int) -> Counts:
        if seed not in self._counts:
            size = len(self.texts)
            self._counts[seed] = Counts(seed, size, self.low, self.high, int(self.has_main))
        return self._counts[seed]

    def order(self, seed: int, epoch: int) -> Ints:
        if (seed, epoch) not in self._order:
            for old in [k for k in self._order if k[0] == seed and k[1] < epoch - 1]:
                del self._order[old]
            self._order[seed, epoch] = Stream(seed, "order", epoch).permutation(len(self.texts))
        return self._order[seed, epoch]

    def chosen(self, seed: int | None, rows: range) -> Ints:
        """Texts [B,n] of each row, −1 where a row has fewer; of the evaluation without a seed."""
        out = np.full((len(rows), self.per_row), -1, np.int64)
        if seed is None:
            begin = np.append(0, self.ends)
            for i, r in enumerate(rows):
                out[i, : begin[r + 1] - begin[r]] = self.listed[begin[r] : begin[r + 1]]
            return out
        at = 0
        for epoch, first, count in self.counts(seed).spread(rows):
            order = self.order(seed, epoch)
            for begin_, n in zip(first.tolist(), count.tolist(), strict=True):
                out[at, :n] = order[begin_ : begin_ + n]
                at += 1
        return out

    # ── batches ──

    def batch(self, seed: int, step: int, rows: range) -> dict[str, Tensor]:
        offsets = self._offsets(seed, rows) if self.task.offsets else None
        return self._rows(self.chosen(seed, rows), offsets, self.padded)

    def examples(self, i: int, j: int) -> dict[str, Tensor]:
        rows = range(i, j)
        offsets = self._offsets(0, rows) if self.task.eval_offsets else None
        out = self._rows(self.chosen(None, rows), offsets, self.judged_padded)
        if self.tokens.token_bytes is not None:
            lengths = self._on_device("bytes", self.tokens.token_bytes, np.int64)
            out["bytes"] = lengths[out["targets"].clamp(min=0)]
        return out

    def _offsets(self, seed: int, rows: range) -> NDArray[np.uint64]:
        """Raw words, one for each text of each row."""
        return Stream(seed, "offsets").rows(rows, self.per_row)

    def _rows(
        self, chosen_Bn: Ints, offsets: NDArray[np.uint64] | None, padded: bool
    ) -> dict[str, Tensor]:
        there, task = chosen_Bn >= 0, self.task
        lengths_Bn = np.where(there, self.texts.lengths[chosen_Bn], 0)
        if self.has_main:
            lengths_Bn[:, 0] = np.minimum(lengths_Bn[:, 0], task.main)
        late_Bn: Any = 0
        if offsets is not None:  # 0 … the branch's length, both included
            late_Bn = (uniform(offsets) * (lengths_Bn + 1)).astype(np.int64)
        at = columns(
            lengths_Bn, main=self.has_main, right=task.align == "right", offsets_Bn=late_Bn
        )
        keep = at["index"] < self.length
        if not keep.all():
            at = {k: v[keep] for k, v in at.items()}
        row, index, text, order = (at[k] for k in ("row", "index", "text", "order"))
        source = self.texts.starts[chosen_Bn[row, text]] + order
        scored = (order + 1 < lengths_Bn[row, text]) & (order + 1 >= task.answer_offset)
        main = (text == 0) if self.has_main else np.zeros(len(text), bool)
        scored &= ~main
        B, T = len(chosen_Bn), self.length
        whole = np.zeros((6, B * T), np.int64)  # one copy to the device, not six
        columns_ = (source, text, at["time"], main, np.ones(len(text)), scored)
        whole[:, row * T + index] = np.stack(columns_)
        told = moved(whole, self.device).view(6, B, T)
        token_BT, branch_BT, time_BT, main_BT = told[:4]
        valid_BT, scored_BT = told[4].bool(), told[5].bool()
        ids = self._on_device("ids", self.tokens.ids, np.int32)
        following = ids[(token_BT + 1).clamp(max=len(ids) - 1)].long()
        out = {
            "inputs": ids[token_BT].long() * valid_BT,
            "targets": torch.where(scored_BT, following, IGNORE),
            "pos.branch": branch_BT,
            "pos.time": time_BT,
            "pos.main": main_BT,
        }
        return {**out, "valid": valid_BT} if padded else out

    def _on_device(self, name: str, values: Any, dtype: Any) -> Tensor:
        """A whole array on the device (it is small beside the activations)."""
        if name not in self._kept:
            self._kept[name] = torch.from_numpy(np.asarray(values).astype(dtype)).to(self.device)
        return self._kept[name]

    # ── what was realised ──

    def realised(self, seed: int | None, rows: range) -> dict[str, Any]:
        """Samples by number of branches, texts and tokens, what no text holds, what was cut off at
        the end of rows, and (in training) the texts that whole epochs left over; of evaluations
        also a hash of the list of texts that these rows hold."""
        if seed is None:
            chosen = self.chosen(None, rows)
            told = _told(chosen >= 0, self.texts.lengths[chosen] * (chosen >= 0), self)
            begin = np.append(0, self.ends)
            which = self.listed[begin[rows.start] : begin[rows.stop]]
            listed = np.stack([self.texts.starts[which], self.texts.lengths[which]])
            name = hashlib.sha256(np.ascontiguousarray(listed, "<i8").tobytes())
            name.update(self.tokens.fingerprint.encode())
            return {**told, "list": name.hexdigest()[:32]}
        branches: dict[int, int] = {}
        total = {"texts": 0, "tokens": 0, "truncated": 0}
        left = 0
        for epoch, first, count in self.counts(seed).spread(rows):
            order = self.order(seed, epoch)
            lengths = np.append(0, np.cumsum(self.texts.lengths[order]))
            held = lengths[first + count] - lengths[first]
            if self.has_main:
                heads = self.texts.lengths[order[first]]
                held = held - heads + np.minimum(heads, self.task.main)
            total["texts"] += int(count.sum()) - self.has_main * len(count)
            total["tokens"] += int(np.minimum(held, self.length).sum())
            total["truncated"] += int(np.maximum(held - self.length, 0).sum())
            for n, times in zip(*np.unique(count - self.has_main, return_counts=True), strict=True):
                branches[int(n)] = branches.get(int(n), 0) + int(times)
            if int(first[-1] + count[-1]) == int(self.counts(seed).epoch(epoch)[-1]):
                left += len(self.texts) - int(first[-1] + count[-1])
        return {
            "branches": {str(n): branches[n] for n in sorted(branches)},
            **total,
            "left_over": left,
            "outside_texts": self.texts.cut_off,
        }

    def trivial(self, train: Tokens) -> dict[str, float]:
        """Nats of unigram and bigram counts of ``train`` on the targets that are scored."""
        before, targets = [], []
        each = max(1, AT_ONCE // self.length)
        for i in range(0, self.size, each):
            batch = self.examples(i, min(i + each, self.size))
            scored = batch["targets"] != IGNORE
            before.append(batch["inputs"][scored].numpy())
            targets.append(batch["targets"][scored].numpy())
        if not sum(map(len, targets)):
            raise SpecError(
                f"task: of {int(self.ends[-1])} texts to evaluate no target is scored: they end "
                f"before answer_offset={self.task.answer_offset}, or pad_to cuts them off"
            )
        pairs = np.concatenate(before), np.concatenate(targets)
        return ngrams.baselines(np.asarray(train.ids), *pairs, train.vocab)


def _told(there_Bn: Any, lengths_Bn: Any, source: Samples) -> dict[str, Any]:
    counts = there_Bn.sum(1) - source.has_main
    if source.has_main:
        lengths_Bn[:, 0] = np.minimum(lengths_Bn[:, 0], source.task.main)
    held = lengths_Bn.sum(1)
    branches = {
        str(n): int(times) for n, times in zip(*np.unique(counts, return_counts=True), strict=True)
    }
    return {
        "branches": branches,
        "texts": int(counts.sum()),
        "tokens": int(np.minimum(held, source.length).sum()),
        "truncated": int(np.maximum(held - source.length, 0).sum()),
        "outside_texts": source.texts.cut_off,
    }

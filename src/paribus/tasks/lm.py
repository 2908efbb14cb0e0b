"""Language modelling on packed documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Corpus, Io, Metric, Source, Task, Tokenizer
from paribus.errors import SpecError
from paribus.lazy import numpy as np
from paribus.lazy import torch
from paribus.nn.losses import language, nats
from paribus.rng import Stream
from paribus.text import ngrams

if TYPE_CHECKING:
    from torch import Tensor

    from paribus.text.data import Data, Tokens


class Lm(Task, frozen=True, kw_only=True):
    """Next-token prediction.

    The packed stream of a split is cut into rows of ``length`` tokens (each target is scored
    once); an epoch visits every row once, in an order keyed by (seed, epoch).  Evaluation cuts
    the *same text*, the first ``eval_tokens`` targets, whatever the length, so that conditions
    of different length score the same tokens.

    Attributes:
        length: tokens a row.
        tokens_per_step: instead of rows: rows = tokens_per_step / length.
        eval_tokens: targets scored per condition, rounded down to a multiple of ``length``.
    """

    corpus: Corpus
    tokenizer: Tokenizer
    length: Annotated[int, Meta(ge=1)]
    tokens_per_step: Annotated[int, Meta(ge=1)] | None = None
    eval_tokens: Annotated[int, Meta(ge=1)] = 65_536

    causal: ClassVar[bool] = True
    training: ClassVar[frozenset[str]] = frozenset({"tokens_per_step"})
    trivial: ClassVar[tuple[str, ...]] = ("unigram", "bigram")
    metrics: ClassVar[dict[str, Metric]] = {
        "loss": Metric("nats/token"),
        "bpb": Metric("bits/byte"),
        "ppl": Metric("", of="loss", transform="exp"),
    }

    def io(self) -> Io:
        return Io(vocab=self.tokenizer.vocab_size(), length=self.length)

    def rows(self) -> int | None:
        if self.tokens_per_step is None:
            return None
        rows, rest = divmod(self.tokens_per_step, self.length)
        if rest or not rows:
            raise SpecError(
                f"task.tokens_per_step: {self.tokens_per_step} is no multiple of length "
                f"{self.length}"
            )
        return rows

    def fingerprints(self) -> dict[str, str]:
        return {
            "corpus": self.corpus.fingerprint(),
            "tokenizer": self.tokenizer.fingerprint(self.corpus),
        }

    def open(self, data: Data, device: str) -> Source:
        return _Stream(self, data.tokens(self.corpus, self.tokenizer), device)

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        nats_EBT, counted_EBT = nats(outputs, batch["targets"])
        return nats_EBT.sum((1, 2)), counted_EBT.sum((1, 2))

    def score(
        self, outputs: Tensor, batch: Mapping[str, Tensor]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        return language(outputs, batch)

    def baselines(self, data: Data) -> dict[str, dict[str, float]]:
        """Counts of the training split, scored on the evaluated text."""
        train = data.bind("train").tokens(self.corpus, self.tokenizer)
        source = _Stream(self, data.tokens(self.corpus, self.tokenizer), "cpu")
        judged = np.asarray(source.tokens.ids[: source.size * self.length + 1])
        found = ngrams.baselines(np.asarray(train.ids), judged[:-1], judged[1:], train.vocab)
        return {name: {"loss": value} for name, value in found.items()}


class _Stream(Source):
    def __init__(self, task: Lm, tokens: Tokens, device: str) -> None:
        self.task, self.tokens, self.device = task, tokens, device
        n, t = len(tokens.ids) - 1, task.length
        self.epoch = self.rows = n // t
        if self.rows < 1:
            raise SpecError(f"task: {n + 1} tokens of text are fewer than one row of {t} + 1")
        self.size = min(task.eval_tokens, n) // t
        if self.size < 1:
            have = min(task.eval_tokens, n)
            raise SpecError(f"task: length {t} exceeds the {have} evaluated tokens (eval_tokens)")
        self._order: dict[tuple[int, int], Any] = {}
        self._ids: Tensor | None = None
        self._bytes: Tensor | None = None

    @property
    def ids(self) -> Tensor:
        """The whole stream on the device (it is small beside the activations)."""
        if self._ids is None:
            ids = np.asarray(self.tokens.ids).astype(np.int32)
            self._ids = torch.from_numpy(ids).to(self.device)
        return self._ids

    def _cut(self, starts: np.ndarray) -> dict[str, Tensor]:
        t = self.task.length
        start_B1 = torch.from_numpy(starts.astype(np.int64)).to(self.device)[:, None]
        row_BT1 = self.ids[start_B1 + torch.arange(t + 1, device=self.device)].long()
        return {"inputs": row_BT1[:, :-1].contiguous(), "targets": row_BT1[:, 1:].contiguous()}

    def _epoch(self, seed: int, epoch: int) -> np.ndarray:
        if (seed, epoch) not in self._order:
            for old in [k for k in self._order if k[0] == seed and k[1] < epoch - 1]:
                del self._order[old]
            self._order[seed, epoch] = Stream(seed, "order", epoch).permutation(self.rows)
        return self._order[seed, epoch]

    def batch(self, seed: int, step: int, rows: range) -> dict[str, Tensor]:
        place = [divmod(r, self.rows) for r in rows]
        rows_B = np.array([self._epoch(seed, epoch)[i] for epoch, i in place])
        return self._cut(rows_B * self.task.length)

    def examples(self, i: int, j: int) -> dict[str, Tensor]:
        out = self._cut(np.arange(i, j) * self.task.length)
        if self.tokens.token_bytes is not None:
            if self._bytes is None:
                self._bytes = torch.from_numpy(np.asarray(self.tokens.token_bytes)).to(self.device)
            out["bytes"] = self._bytes[out["targets"]]
        return out

    def groups(self) -> np.ndarray:
        return self.tokens.doc_of(np.arange(self.size) * self.task.length)

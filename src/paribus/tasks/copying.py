"""Copying: repeat a random string after a marker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from paribus.contracts import Io, Metric, Source, Task
from paribus.lazy import numpy as np
from paribus.moving import moved
from paribus.nn.losses import IGNORE, nats
from paribus.rng import Stream, integers

if TYPE_CHECKING:
    from torch import Tensor

    from paribus.text.data import Data


class Copying(Task, frozen=True, kw_only=True):
    """``span`` random symbols, a marker, and the same symbols again; only the copy is scored.

    Attributes:
        span: symbols to copy; a row has 2 · span tokens (the marker stands between the two).
        symbols: distinct symbols; the vocabulary is one more, for the marker.
        examples: size of the evaluation set.
        data_seed: keys the evaluation set, the same for every trial.
    """

    span: Annotated[int, Meta(ge=1)]
    symbols: Annotated[int, Meta(ge=2)] = 16
    examples: Annotated[int, Meta(ge=1)] = 256
    data_seed: int = 0

    causal: ClassVar[bool] = True
    trivial: ClassVar[tuple[str, ...]] = ("chance",)
    metrics: ClassVar[dict[str, Metric]] = {
        "loss": Metric("nats/token"),
        "accuracy": Metric("", better="higher"),
        "ppl": Metric("", of="loss", transform="exp"),
    }

    def io(self) -> Io:
        return Io(vocab=self.symbols + 1, length=2 * self.span)

    def open(self, data: Data, device: str) -> Source:
        return _Strings(self, data.split, device)

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        loss, counted = nats(outputs, batch["targets"])
        return loss.sum((1, 2)), counted.sum((1, 2))

    def score(
        self, outputs: Tensor, batch: Mapping[str, Tensor]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        loss, counted = nats(outputs, batch["targets"])
        right = (outputs.argmax(-1) == batch["targets"]) & counted
        n = counted.sum(2)
        return {"loss": (loss.double().sum(2), n), "accuracy": (right.sum(2).double(), n)}

    def baselines(self, data: Data) -> dict[str, dict[str, float]]:
        chance = 1.0 / self.symbols
        return {"chance": {"loss": float(np.log(self.symbols)), "accuracy": chance}}


class _Strings(Source):
    def __init__(self, task: Copying, split: str, device: str) -> None:
        self.task, self.split, self.device, self.size = task, split, device, task.examples

    def _rows(self, stream: Stream, rows: range) -> dict[str, Tensor]:
        span, marker = self.task.span, self.task.symbols
        words_BS = stream.rows(rows, span)
        symbols_BS = integers(words_BS, self.task.symbols)
        mark_B1 = np.full((len(rows), 1), marker)
        whole = np.concatenate([symbols_BS, mark_B1, symbols_BS], 1)  # 2·span + 1 tokens
        targets = whole[:, 1:].copy()
        targets[:, :span] = IGNORE  # only the copy is scored
        return {
            "inputs": moved(whole[:, :-1].copy(), self.device),
            "targets": moved(targets, self.device),
        }

    def batch(self, seed: int, step: int, rows: range) -> dict[str, Tensor]:
        return self._rows(Stream(seed, "copying"), rows)

    def examples(self, i: int, j: int) -> dict[str, Tensor]:
        return self._rows(Stream(self.task.data_seed, "copying", self.split), range(i, j))

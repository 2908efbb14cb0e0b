"""Primacy and recency: which places of a sequence are copied."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Measured, Metric, Probe, Reader
from paribus.errors import SpecError
from paribus.lazy import numpy as np
from paribus.probes import _asking, _items


class SerialPosition(Probe, frozen=True, kw_only=True):
    """Copying by the place of a token in the sequence; slices ``length``, ``position`` (per cent of
    the sequence before it, in steps of 100 / ``steps``) and ``cell`` (length@position).

    Attributes:
        lengths: tokens of the sequence, at least ``steps``; each position has the mean over its
            share of them.
        source: random, meaningful, shuffled or nonce.
        steps: positions that are told apart.
        trials: items of each length.
        data: files of held-out text; None: the test split of the model's own corpus.
    """

    lengths: tuple[Annotated[int, Meta(ge=2)], ...] = (16, 64, 256)
    source: _items.Source = "random"
    steps: Annotated[int, Meta(ge=2, le=100)] = 10
    trials: Annotated[int, Meta(ge=1)] = 200
    data: str | None = None

    metrics: ClassVar[dict[str, Metric]] = {
        "copied": Metric("", better="higher"),
        "surprisal": Metric("nats/token"),
    }
    slices: ClassVar[tuple[str, ...]] = ("length", "position", "cell")
    example: ClassVar[dict[str, Any]] = {"lengths": (8, 12), "steps": 4}

    def validate(self) -> None:
        super().validate()
        short = [n for n in self.lengths if n < self.steps]
        if short:
            raise SpecError(
                f"probes.serial_position.lengths: {short[0]} tokens have no {self.steps} positions;"
                f" give steps={short[0]} at most, or longer sequences"
            )

    def fingerprints(self) -> dict[str, str]:
        return _items.fingerprints(self.data, "serial_position")

    def measure(self, model: Reader, examples: int | None = None) -> Measured:
        items = _items.Items(model, "serial_position", self.data)
        ask = _asking.Asking(model, items)
        trials = range(min(self.trials, examples or self.trials))
        for length in self.lengths:

            def make(length: int = length) -> Any:
                drawn = items.draw(self.source, length, trials)
                return {"copy": _asking.laid(items, drawn.ids, drawn.ids)}, drawn

            ask.add({"length": length}, 1 + 2 * length, make)
        found = _asking.Found(self.metrics)
        for cell, of in ask.answers():
            length = cell.labels["length"]
            step = np.arange(length) * self.steps // length
            which = np.unique(step)
            of_step = (step[:, None] == which).astype(float)  # [L, steps]
            place = which * 100 // self.steps
            found.add(
                {"length": length, "position": place,
                 "cell": np.array([f"{length}@{x}" for x in place])},
                {"copied": (of["copy"].right @ of_step, of_step.sum(0)),
                 "surprisal": (of["copy"].nats @ of_step, of_step.sum(0))},
                cell.drawn,
            )  # fmt: skip
        return found.measured(ask.notes(source=self.source))

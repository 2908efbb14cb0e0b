"""Reversing: a sequence, then the same backwards."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from paribus.contracts import Measured, Metric, Probe, Reader
from paribus.lazy import numpy as np
from paribus.probes import _asking, _items


class Reverse(Probe, frozen=True, kw_only=True):
    """x, a separator, x backwards: accuracy by how far back the source of a token is; slices
    ``source``, ``length``, ``lag`` (octaves) and ``cell`` (source@lag).

    Token j of the answer has its source 2j + separator − 1 tokens before it, so the first are
    recent and the last are not: read it by lag.  Nothing in ordinary text runs backwards, so it
    tells whether a model finds out what is asked more than how far it remembers.

    Attributes:
        lengths, sources, trials, separator, data: as of ``copy``.
        shots: worked examples before.
    """

    lengths: tuple[Annotated[int, Meta(ge=2)], ...] = (4, 8, 16, 32, 64, 128)
    sources: tuple[_items.Source, ...] = ("random", "meaningful")
    trials: Annotated[int, Meta(ge=1)] = 200
    separator: Annotated[int, Meta(ge=0, le=15)] = 1
    shots: Literal[0, 1, 2, 4, 8] = 4
    data: str | None = None

    metrics: ClassVar[dict[str, Metric]] = {
        "reversed": Metric("", better="higher"),
        "surprisal": Metric("nats/token"),
    }
    revision: ClassVar[int] = 2
    slices: ClassVar[tuple[str, ...]] = ("source", "length", "lag", "cell")
    example: ClassVar[dict[str, Any]] = {"lengths": (4, 8)}

    def fingerprints(self) -> dict[str, str]:
        return _items.fingerprints(self.data, "reverse")

    def measure(self, model: Reader, examples: int | None = None) -> Measured:
        items = _items.Items(model, "reverse", self.data, self.separator)
        ask = _asking.Asking(model, items)
        trials = range(min(self.trials, examples or self.trials))
        for source in self.sources:
            for length in _asking.lengths(model, self.lengths):
                longest = 1 + (self.shots + 1) * 2 * length + (2 * self.shots + 1) * self.separator

                def make(source: Any = source, length: int = length) -> Any:
                    drawn = items.draw(source, length, trials)
                    shown = [items.draw(source, length, trials, "shot", k).ids
                             for k in range(self.shots)]  # fmt: skip
                    rows = _asking.laid(items, drawn.ids[:, ::-1], drawn.ids,
                                        separator=items.separator(source),
                                        shots=[(x, x[:, ::-1]) for x in shown])  # fmt: skip
                    return {"reverse": rows}, drawn

                ask.add({"source": source, "length": length}, longest, make)
        found = _asking.Found(self.metrics)
        for cell, of in ask.answers():
            answers, length = of["reverse"], cell.labels["length"]
            lag = 2 * np.arange(1, length + 1) + self.separator - 1
            octave = _asking.bins(lag)
            which = np.unique(octave)
            of_bin = (octave[:, None] == which).astype(float)  # [L, bins]
            found.add(
                {**cell.labels, "lag": which,
                 "cell": np.array([f"{cell.labels['source']}@{x}" for x in which])},
                {"reversed": (answers.right @ of_bin, of_bin.sum(0)),
                 "surprisal": (answers.nats @ of_bin, of_bin.sum(0))},
                cell.drawn,
            )  # fmt: skip
        return found.measured(ask.notes(shots=self.shots))

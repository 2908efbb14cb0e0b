"""What memory adds: the same tokens copied, and predicted without what is to be remembered."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from paribus.contracts import Curve, Measured, Metric, Probe, Reader
from paribus.probes import _asking, _items


class MemoryGain(Probe, frozen=True, kw_only=True):
    """``copied`` less ``control``, item by item: accuracy on the same tokens with and without their
    first presentation; slices ``source``, ``length`` and ``cell`` (source@length).

    ``gain_nats`` is the same difference of log-likelihoods, ``whole`` the share of items of which
    every scored token is right; (copied − control) / (1 − control) stands in the record's curves.

    Attributes:
        lengths, sources, trials, separator, shots, data: as of ``copy``, whose items differ from
            these.
        control: what stands in place of the first presentation: nothing ("none"), another sequence
            of the same source ("foreign"), or its own tokens in random order ("permuted": what is
            left is the memory of order).
        reading: which tokens of the copy are scored.
    """

    lengths: tuple[Annotated[int, Meta(ge=2)], ...] = ()
    sources: tuple[_items.Source, ...] = _items.SOURCES
    trials: Annotated[int, Meta(ge=1)] = 200
    control: _asking.Control = "none"
    reading: _asking.Reading = "last_half_of_copy"
    separator: Annotated[int, Meta(ge=0, le=15)] = 0
    shots: Literal[0, 1, 2, 4, 8] = 0
    data: str | None = None

    metrics: ClassVar[dict[str, Metric]] = _asking.GAINED
    revision: ClassVar[int] = 2
    slices: ClassVar[tuple[str, ...]] = ("source", "length", "cell")
    curve: ClassVar[Curve | None] = Curve("length", "copied", "source", "control", "gain")
    example: ClassVar[dict[str, Any]] = {"lengths": (4, 8)}

    def fingerprints(self) -> dict[str, str]:
        return _items.fingerprints(self.data, "memory_gain")

    def measure(self, model: Reader, examples: int | None = None) -> Measured:
        items = _items.Items(model, "memory_gain", self.data, self.separator)
        ask = _asking.Asking(model, items)
        trials = range(min(self.trials, examples or self.trials))
        for source in self.sources:
            for length in _asking.lengths(model, self.lengths):
                longest = 1 + (self.shots + 1) * 2 * length + (2 * self.shots + 1) * self.separator

                def make(source: Any = source, length: int = length) -> Any:
                    drawn = items.draw(source, length, trials)
                    shown = [items.draw(source, length, trials, "shot", k).ids
                             for k in range(self.shots)]  # fmt: skip
                    shots = [(x, x) for x in shown]
                    other = _asking.controlled(drawn, items, self.control, source, ())
                    rows = {
                        name: _asking.laid(
                            items, drawn.ids, first, separator=items.separator(source), shots=shots
                        )
                        for name, first in (("copy", drawn.ids), ("control", other))
                    }
                    return rows, drawn

                ask.add({"source": source, "length": length}, longest, make)
        found = _asking.Found(self.metrics)
        for cell, of in ask.answers():
            length = cell.labels["length"]
            scored = _asking.half(length, self.reading)
            labels = {**cell.labels, "cell": f"{cell.labels['source']}@{length}"}
            found.add(labels, _asking.gained(of["copy"], of["control"], scored), cell.drawn)
        return found.measured(ask.notes(control=self.control, chance=_asking.chance(items)))

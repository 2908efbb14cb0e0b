"""Verbatim copying, zero-shot: a sequence twice, and whether the model goes on with it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from paribus.contracts import Curve, Measured, Metric, Probe, Reader
from paribus.probes import _asking, _items


class Copy(Probe, frozen=True, kw_only=True):
    """x, a separator, x again: whether each token of the copy is the likeliest, given the true ones
    before it.  Slices ``source``, ``length`` and ``cell`` (source@length).

    Every scored token stands ``length`` + ``separator`` tokens after its source.  The first half of
    the copy shows that something is being repeated: ``last_half_of_copy`` scores the last ⌈L/2⌉
    tokens, ``second_copy`` all of them.

    Attributes:
        lengths: tokens of x; (): 4, 6, 8, 12, 16, 24, … up to twice the model's direct window.
        sources: random, meaningful, shuffled, nonce (``probes/_items.py``); the accuracy of
            meaningful less that of shuffled text is what language modelling adds.
        trials: items of each cell.
        separator: tokens between the two, that occur nowhere else.
        shots: worked examples before: other sequences of the same length, each twice.
        data: files of held-out text (.txt); None: the test split of the model's own corpus.
        keep: "tokens" keeps in the record's tables whether each token of each copy is right and its
            nats, [items, length], too.
    """

    lengths: tuple[Annotated[int, Meta(ge=2)], ...] = ()
    sources: tuple[_items.Source, ...] = _items.SOURCES
    trials: Annotated[int, Meta(ge=1)] = 200
    separator: Annotated[int, Meta(ge=0, le=15)] = 0
    shots: Literal[0, 1, 2, 4, 8] = 0
    data: str | None = None
    keep: Literal["items", "tokens"] = "items"

    metrics: ClassVar[dict[str, Metric]] = {
        "last_half_of_copy": Metric("", better="higher"),
        "second_copy": Metric("", better="higher"),
        "surprisal": Metric("nats/token"),
    }
    revision: ClassVar[int] = 2
    slices: ClassVar[tuple[str, ...]] = ("source", "length", "cell")
    curve: ClassVar[Curve | None] = Curve("length", "last_half_of_copy", "source")
    example: ClassVar[dict[str, Any]] = {"lengths": (4, 8)}

    def fingerprints(self) -> dict[str, str]:
        return _items.fingerprints(self.data, "copy")

    def measure(self, model: Reader, examples: int | None = None) -> Measured:
        items = _items.Items(model, "copy", self.data, self.separator)
        ask = _asking.Asking(model, items)
        trials = range(min(self.trials, examples or self.trials))
        for source in self.sources:
            for length in _asking.lengths(model, self.lengths):
                longest = 1 + (self.shots + 1) * 2 * length + (2 * self.shots + 1) * self.separator

                def make(source: Any = source, length: int = length) -> Any:
                    drawn = items.draw(source, length, trials)
                    shown = [items.draw(source, length, trials, "shot", k).ids
                             for k in range(self.shots)]  # fmt: skip
                    rows = _asking.laid(items, drawn.ids, drawn.ids,
                                        separator=items.separator(source),
                                        shots=[(x, x) for x in shown])  # fmt: skip
                    return {"copy": rows}, drawn

                ask.add({"source": source, "length": length}, longest, make)
        found, tables = _asking.Found(self.metrics), dict[str, Any]()
        for cell, of in ask.answers():
            length, answers = cell.labels["length"], of["copy"]
            name = f"{cell.labels['source']}@{length}"
            if self.keep == "tokens":
                tables[name] = {
                    "lag": length + self.separator,
                    "right": answers.right.astype(int).tolist(),
                    "nats": answers.nats.round(4).tolist(),
                }
            late = _asking.half(length)
            right, nats = answers.right.astype(float), answers.nats
            scored = length - late.start
            found.add(
                {**cell.labels, "cell": name},
                {
                    "last_half_of_copy": (right[:, late].sum(1), scored),
                    "second_copy": (right.sum(1), length),
                    "surprisal": (nats[:, late].sum(1), scored),
                },
                cell.drawn,
            )
        return found.measured(ask.notes(chance=_asking.chance(items)), tables=tables)

"""A span at some depth of a long row, asked for at its end: the map of depth and length."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Measured, Metric, Probe, Reader
from paribus.probes import _asking, _items

DEPTHS: tuple[int, ...] = (0, 25, 50, 75, 100)


class Depth(Probe, frozen=True, kw_only=True):
    """A span among other tokens, then the span again: what memory adds by the length of the row and
    the depth of the span; slices ``length``, ``depth`` and ``cell`` (length@depth).

    Attributes:
        lengths: tokens before the span is asked for, its first presentation included; (): 32, 64,
            128, … up to twice the direct window.
        depths: per cent of the other tokens that stand before the first presentation.
        span: tokens of what is to be remembered; the last half of them is scored.
        source: of all of it.
        trials: items of each cell.
        control: what stands in place of the first presentation.
        data: files of held-out text; None: the test split of the model's own corpus.
    """

    lengths: tuple[Annotated[int, Meta(ge=2)], ...] = ()
    depths: tuple[Annotated[int, Meta(ge=0, le=100)], ...] = DEPTHS
    span: Annotated[int, Meta(ge=2)] = 16
    source: _items.Source = "meaningful"
    trials: Annotated[int, Meta(ge=1)] = 100
    control: _asking.Control = "foreign"
    data: str | None = None

    metrics: ClassVar[dict[str, Metric]] = _asking.GAINED
    slices: ClassVar[tuple[str, ...]] = ("length", "depth", "cell")
    example: ClassVar[dict[str, Any]] = {"lengths": (16,), "depths": (0, 100), "span": 4}

    def fingerprints(self) -> dict[str, str]:
        return _items.fingerprints(self.data, "depth")

    def _lengths(self, model: Reader) -> tuple[int, ...]:
        every = self.lengths or [n for n in _asking.lengths(model, ()) if n & (n - 1) == 0]
        return tuple(n for n in every if n >= 2 * self.span) or (2 * self.span,)

    def measure(self, model: Reader, examples: int | None = None) -> Measured:
        items = _items.Items(model, "depth", self.data)
        ask = _asking.Asking(model, items)
        trials = range(min(self.trials, examples or self.trials))
        for length in self._lengths(model):
            for depth in self.depths:

                def make(length: int = length, depth: int = depth) -> Any:
                    # The same tokens at every depth: the span is what is taken out of their midst.
                    drawn = items.draw(self.source, length, trials)
                    span, rest = drawn.ids[:, : self.span], drawn.ids[:, self.span :]
                    place = round(rest.shape[1] * depth / 100)
                    own = drawn._replace(ids=span)
                    other = _asking.controlled(own, items, self.control, self.source, (length,))
                    rows = {
                        name: _asking.laid(items, span, first, before=rest[:, :place],
                                           between=rest[:, place:])
                        for name, first in (("copy", span), ("control", other))
                    }  # fmt: skip
                    return rows, drawn

                ask.add({"length": length, "depth": depth}, 1 + length + self.span, make)
        found, scored = _asking.Found(self.metrics), _asking.half(self.span)
        for cell, of in ask.answers():
            labels = {**cell.labels, "cell": f"{cell.labels['length']}@{cell.labels['depth']}"}
            found.add(labels, _asking.gained(of["copy"], of["control"], scored), cell.drawn)
        return found.measured(ask.notes(control=self.control, span=self.span, source=self.source))

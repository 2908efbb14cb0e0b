"""How far back, apart from how much: a short span again after a delay."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Curve, Measured, Metric, Probe, Reader
from paribus.probes import _asking, _items


class LagSweep(Probe, frozen=True, kw_only=True):
    """A span of fixed length, a delay of other tokens, the span again: what memory adds by lag;
    slices ``source``, ``lag`` and ``cell`` (source@lag).

    Each scored token has its source ``span`` + delay tokens before it: at a lag of the direct
    window it is the last one that a layer reads.  The last half of the second presentation is
    scored.  This, not ``copy``, tells the direct window from the theoretical field.

    Attributes:
        delays: tokens between; (): 0 and those of which the lag is 1.5, 2, 3, 4, … times the span,
            up to twice the direct window.
        span: tokens of what is to be remembered.
        sources: of the span and of the delay.
        trials: items of each cell.
        control: what stands in place of the first presentation.
        data: files of held-out text; None: the test split of the model's own corpus.
    """

    delays: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    span: Annotated[int, Meta(ge=2)] = 16
    sources: tuple[_items.Source, ...] = ("random", "meaningful")
    trials: Annotated[int, Meta(ge=1)] = 200
    control: _asking.Control = "foreign"
    data: str | None = None

    metrics: ClassVar[dict[str, Metric]] = _asking.GAINED
    slices: ClassVar[tuple[str, ...]] = ("source", "lag", "cell")
    curve: ClassVar[Curve | None] = Curve("lag", "copied", "source", "control", "gain")
    example: ClassVar[dict[str, Any]] = {"delays": (0, 8), "span": 4}

    def fingerprints(self) -> dict[str, str]:
        return _items.fingerprints(self.data, "lag_sweep")

    def _delays(self, model: Reader) -> tuple[int, ...]:
        if self.delays:
            return self.delays
        lags = [n for n in _asking.lengths(model, ()) if n > self.span]
        return (0, *(n - self.span for n in lags))

    def measure(self, model: Reader, examples: int | None = None) -> Measured:
        items = _items.Items(model, "lag_sweep", self.data)
        ask = _asking.Asking(model, items)
        trials = range(min(self.trials, examples or self.trials))
        for source in self.sources:
            for delay in self._delays(model):

                def make(source: Any = source, delay: int = delay) -> Any:
                    # The span and the delay are one draw: of random tokens none stands in both.
                    drawn = items.draw(source, self.span + delay, trials)
                    span, between = drawn.ids[:, : self.span], drawn.ids[:, self.span :]
                    own = drawn._replace(ids=span)
                    other = _asking.controlled(own, items, self.control, source, (delay,))
                    rows = {
                        name: _asking.laid(items, span, first, between=between)
                        for name, first in (("copy", span), ("control", other))
                    }
                    return rows, drawn

                labels: dict[str, Any] = {"source": source, "lag": self.span + delay}
                ask.add(labels, 1 + 2 * self.span + delay, make)
        found, scored = _asking.Found(self.metrics), _asking.half(self.span)
        for cell, of in ask.answers():
            labels = {**cell.labels, "cell": f"{cell.labels['source']}@{cell.labels['lag']}"}
            found.add(labels, _asking.gained(of["copy"], of["control"], scored), cell.drawn)
        return found.measured(
            ask.notes(control=self.control, span=self.span, chance=_asking.chance(items))
        )

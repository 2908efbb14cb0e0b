"""Whether it matters where segments begin: the same item, moved along."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Measured, Metric, Probe, Reader
from paribus.errors import SpecError
from paribus.lazy import numpy as np
from paribus.probes import _asking, _items


class SegmentBoundary(Probe, frozen=True, kw_only=True):
    """Copying of the same items after 0 … ``segment`` − 1 other tokens; slice ``shift``.

    A model that reads all of its window at every place, and one whose window slides, must not
    depend on the shift.  One that keeps whole segments shows a saw-tooth: it reads a full cache at
    the end of a segment, and least at its beginning.  Anything else is a mistake in a cache.

    Attributes:
        segment: tokens; None: the direct window.
        shifts: so many, spread evenly.
        length: tokens of the sequence; of each the last half of the copy is scored.
        source: of it and of what stands before; of random tokens those of the sequence stand
            nowhere before it.
        trials: items, the same at every shift.
        data: files of held-out text; None: the test split of the model's own corpus.
    """

    segment: Annotated[int, Meta(ge=2)] | None = None
    shifts: Annotated[int, Meta(ge=2)] = 8
    length: Annotated[int, Meta(ge=2)] = 32
    source: _items.Source = "random"
    trials: Annotated[int, Meta(ge=1)] = 100
    data: str | None = None

    metrics: ClassVar[dict[str, Metric]] = {
        "copied": Metric("", better="higher"),
        "surprisal": Metric("nats/token"),
    }
    slices: ClassVar[tuple[str, ...]] = ("shift",)
    example: ClassVar[dict[str, Any]] = {"segment": 8, "length": 4}

    def fingerprints(self) -> dict[str, str]:
        return _items.fingerprints(self.data, "segment_boundary")

    def measure(self, model: Reader, examples: int | None = None) -> Measured:
        segment = self.segment or model.window
        if segment is None:
            raise SpecError("probes.segment_boundary.segment: the model does not tell; give it")
        items = _items.Items(model, "segment_boundary", self.data)
        ask = _asking.Asking(model, items)
        trials = range(min(self.trials, examples or self.trials))
        n, shifts = self.length, np.unique(np.arange(self.shifts) * segment // self.shifts)
        for shift in [*shifts.tolist()[:-1], segment - 1]:

            def make(shift: int = shift) -> Any:
                drawn = items.apart(self.source, n, segment - 1, trials)
                span, before = drawn.ids[:, -n:], drawn.ids[:, segment - 1 - shift : segment - 1]
                return {"copy": _asking.laid(items, span, span, before=before)}, drawn

            ask.add({"shift": shift}, 1 + shift + 2 * n, make)
        found, late = _asking.Found(self.metrics), _asking.half(n)
        means, scored = {}, n - late.start
        for cell, of in ask.answers():
            right = of["copy"].right[:, late].sum(1).astype(float)
            found.add(
                cell.labels,
                {"copied": (right, scored), "surprisal": (of["copy"].nats[:, late].sum(1), scored)},
                cell.drawn,
                group=np.arange(len(right)),
            )
            means[cell.labels["shift"]] = float(right.mean()) / scored
        spread = max(means.values()) - min(means.values())
        told = {"segment": segment, "largest difference between shifts": round(spread, 4)}
        return found.measured(ask.notes(**told))

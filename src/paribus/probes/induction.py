"""Induction: a random block twice, what the second one costs less, and which heads look there."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Measured, Metric, Probe, Reader
from paribus.errors import Refused
from paribus.lazy import numpy as np
from paribus.probes import _asking, _items


class Induction(Probe, frozen=True, kw_only=True):
    """Nats of the second presentation of a block of random tokens less those of the first, of the
    same tokens; slice ``lag``, the tokens of the block.

    The first token of a block is left out: nothing announces it.  ``heads`` in the record's tables
    is the mean attention [layers][heads] from each token of the second block to the one after its
    previous occurrence (Olsson et al. 2022), where the model shows its attention.

    Attributes:
        lengths: tokens of a block; (): 4, 6, 8, 12, … up to twice the direct window.
        trials: blocks of each length.
        heads: tokens of the blocks by which heads are told, at most those of the direct window; 0:
            they are not.
    """

    lengths: tuple[Annotated[int, Meta(ge=2)], ...] = ()
    trials: Annotated[int, Meta(ge=1)] = 100
    heads: Annotated[int, Meta(ge=0)] = 32

    metrics: ClassVar[dict[str, Metric]] = {
        "difference": Metric("nats/token"),
        "first": Metric("nats/token"),
        "second": Metric("nats/token"),
        "copied": Metric("", better="higher"),
    }
    slices: ClassVar[tuple[str, ...]] = ("lag",)
    example: ClassVar[dict[str, Any]] = {"lengths": (4, 8)}

    def measure(self, model: Reader, examples: int | None = None) -> Measured:
        items = _items.Items(model, "induction")
        ask = _asking.Asking(model, items)
        trials = range(min(self.trials, examples or self.trials))
        for length in _asking.lengths(model, self.lengths):

            def make(length: int = length) -> Any:
                drawn = items.draw("random", length, trials)
                rows = _asking.laid(items, drawn.ids, drawn.ids)
                return {"twice": rows._replace(at=np.arange(1, 2 * length + 1))}, drawn

            ask.add({"lag": length}, 1 + 2 * length, make)
        found = _asking.Found(self.metrics)
        for cell, of in ask.answers():
            n = cell.labels["lag"]
            nats, right = of["twice"].nats, of["twice"].right
            first, second = nats[:, 1:n].sum(1), nats[:, n + 1 :].sum(1)
            found.add(
                cell.labels,
                {
                    "difference": (second - first, n - 1),
                    "first": (first, n - 1),
                    "second": (second, n - 1),
                    "copied": (right[:, n + 1 :].sum(1).astype(float), n - 1),
                },
                cell.drawn,
            )
        notes, tables = self._heads(model, items, min(len(trials), 20))
        return found.measured(ask.notes(**notes), tables=tables)

    def _heads(
        self, model: Reader, items: _items.Items, trials: int
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        if self.heads == 0:
            return {}, {}
        n = max(2, min(self.heads, model.window or self.heads))
        if model.limit is not None and 1 + 2 * n > model.limit:
            return {"heads": f"not run: rows of {1 + 2 * n} tokens"}, {}
        try:
            block = items.draw("random", n, range(trials), "heads").ids
            rows = _asking.laid(items, block, block).ids
            # The token after the previous occurrence is n − 1 places back.
            weight = model.attention(rows, n - 1, 1 + n)
        except (Refused, _items.Short) as why:
            return {"heads": f"not run: {why}"}, {}
        layer, head = np.unravel_index(np.argmax(weight), weight.shape)
        told = f"layer {layer}, head {head}: {weight.max():.3f}"
        return {"strongest head": told}, {"heads": np.round(weight, 4).tolist()}

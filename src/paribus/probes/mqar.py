"""Associative recall, zero-shot: pairs of the model's own tokens, then keys (Arora et al. 2023)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Curve, Measured, Metric, Probe, Reader, Rows
from paribus.lazy import numpy as np
from paribus.probes import _asking, _items


class Mqar(Probe, frozen=True, kw_only=True):
    """k v k v …, then keys again: whether the model says their values; slice ``pairs``.

    ``among`` looks at the presented values alone, of which guessing gets one in as many as there
    are pairs; ``recalled`` at the whole vocabulary.  The model has not been trained on the task;
    results of ones that have been are another measure.

    Attributes:
        pairs: of a row; all of them are different tokens.
        queries: keys asked of each row, in random order; the true values stand after those before.
        trials: rows of each number of pairs.
    """

    pairs: tuple[Annotated[int, Meta(ge=1)], ...] = (1, 2, 4, 8, 16, 32, 64)
    queries: Annotated[int, Meta(ge=1)] = 4
    trials: Annotated[int, Meta(ge=1)] = 200

    metrics: ClassVar[dict[str, Metric]] = {
        "recalled": Metric("", better="higher"),
        "among": Metric("", better="higher"),
        "surprisal": Metric("nats/token"),
    }
    slices: ClassVar[tuple[str, ...]] = ("pairs",)
    curve: ClassVar[Curve | None] = Curve("pairs", "recalled")
    example: ClassVar[dict[str, Any]] = {"pairs": (1, 4)}

    def measure(self, model: Reader, examples: int | None = None) -> Measured:
        items = _items.Items(model, "mqar")
        ask = _asking.Asking(model, items)
        trials = range(min(self.trials, examples or self.trials))
        for n in self.pairs:
            q = min(n, self.queries)

            def make(n: int = n, q: int = q) -> Any:
                drawn = items.draw("random", 2 * n, trials)
                orders = np.array([items.order(n, i, "asked")[:q] for i in trials])
                keys, values = (np.take_along_axis(drawn.ids[:, k::2], orders, 1) for k in (0, 1))
                asked = np.stack([keys, values], 2).reshape(len(orders), 2 * q)
                begin = np.full((len(orders), 1), items.begin)
                ids = np.concatenate([begin, drawn.ids, asked], 1)
                at = 2 * n + 2 + 2 * np.arange(q)
                return {"pairs": Rows(ids, at, drawn.ids[:, 1::2])}, drawn

            ask.add({"pairs": n}, 1 + 2 * n + 2 * q, make)
        found = _asking.Found(self.metrics)
        for cell, of in ask.answers():
            n, answers, rows = cell.labels["pairs"], of["pairs"], cell.rows["pairs"]
            chosen = np.take_along_axis(rows.among, answers.chosen, 1)
            q = len(rows.at)
            found.add(
                cell.labels,
                {
                    "recalled": (answers.right.sum(1).astype(float), q),
                    "among": ((chosen == rows.ids[:, rows.at]).sum(1).astype(float), q),
                    "surprisal": (answers.nats.sum(1), q),
                },
                cell.drawn,
            )
        guess = {f"among {n}": round(1 / n, 4) for n in self.pairs}
        return found.measured(ask.notes(trained="untrained", guessing=guess))

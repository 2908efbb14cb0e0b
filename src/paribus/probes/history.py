"""What earlier text is worth on ordinary text: loss by how much of it the model is given."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Measured, Metric, Probe, Reader, Rows
from paribus.lazy import numpy as np
from paribus.probes import _asking, _items


class History(Probe, frozen=True, kw_only=True):
    """Loss on the same tokens of held-out text after 0, 16, 64, … tokens of their own document;
    slices ``history``, ``token`` ("seen": it occurs in the longest history or before it in the
    tokens scored; else "new") and ``cell`` (token@history).

    ``gain`` is the loss with the shortest history less that with this one.

    Attributes:
        histories: tokens before those that are scored; (): 0, 16, 32, 64, … up to twice the direct
            window.
        tokens: scored, of each item.
        trials: items, the same at every history.
        data: files of held-out text; None: the test split of the model's own corpus.
    """

    histories: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    tokens: Annotated[int, Meta(ge=2)] = 64
    trials: Annotated[int, Meta(ge=1)] = 200
    data: str | None = None

    metrics: ClassVar[dict[str, Metric]] = {
        "loss": Metric("nats/token"),
        "gain": Metric("nats/token", better="higher"),
        "accuracy": Metric("", better="higher"),
    }
    slices: ClassVar[tuple[str, ...]] = ("history", "token", "cell")
    example: ClassVar[dict[str, Any]] = {"histories": (0, 8), "tokens": 8}

    def fingerprints(self) -> dict[str, str]:
        return _items.fingerprints(self.data, "history")

    def _histories(self, model: Reader) -> list[int]:
        if self.histories:
            return sorted(self.histories)
        return [0, *(n for n in _asking.lengths(model, ()) if n >= 16 and n & (n - 1) == 0)]

    def measure(self, model: Reader, examples: int | None = None) -> Measured:
        items = _items.Items(model, "history", self.data)
        ask = _asking.Asking(model, items)
        trials = range(min(self.trials, examples or self.trials))
        n, asked = self.tokens, self._histories(model)
        fit = [h for h in asked if model.limit is None or 1 + h + n <= model.limit]
        longest: int = max(fit, default=0)
        seen = np.zeros((len(trials), n), bool)
        for history in asked:

            def make(history: int = history) -> Any:
                drawn = items.draw("meaningful", longest + n, trials)
                if not seen.any():
                    seen[:] = _seen(drawn.ids, n)
                begin = np.full((len(trials), 1), items.begin)
                ids = np.concatenate([begin, drawn.ids[:, longest - history :]], 1)
                return {"text": Rows(ids, np.arange(1 + history, 1 + history + n))}, drawn

            ask.add({"history": history}, 1 + history + n, make)
        found = _asking.Found(self.metrics)
        kinds = np.stack([seen, ~seen], 2).astype(float)  # [B,n,2]
        base = None
        for cell, of in ask.answers():
            nats = np.einsum("bn,bnk->bk", of["text"].nats, kinds)
            base = nats if base is None else base
            right, count = np.einsum("bn,bnk->bk", of["text"].right, kinds), kinds.sum(1)
            h = cell.labels["history"]
            found.add(
                {"history": h, "token": np.array(["seen", "new"]),
                 "cell": np.array([f"seen@{h}", f"new@{h}"])},
                {"loss": (nats, count), "gain": (base - nats, count), "accuracy": (right, count)},
                cell.drawn,
                group=np.arange(len(trials)),
            )  # fmt: skip
        return found.measured(ask.notes(tokens=n, seen=round(float(seen.mean()), 4)))


def _seen(ids: Any, n: int) -> Any:
    """Which of the last n tokens [B,n] occur before in their row."""
    B, T = ids.shape
    order = np.argsort(ids, 1, kind="stable")
    ranked = np.take_along_axis(ids, order, 1)
    again = np.concatenate([np.zeros((B, 1), bool), ranked[:, 1:] == ranked[:, :-1]], 1)
    out = np.zeros((B, T), bool)
    np.put_along_axis(out, order, again, 1)
    return out[:, -n:]

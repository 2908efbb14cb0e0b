"""Lists of nouns, read twice in a passage (Armeni, Honey and Linzen 2022)."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Measured, Metric, Probe, Reader, Rows
from paribus.lazy import numpy as np
from paribus.probes import _asking, _items
from paribus.probes._nouns import AFTER, FIRST, NEUTRAL, NOUNS, SECOND

CONDITIONS = ("repeat", "permuted", "control")


class NounLists(Probe, frozen=True, kw_only=True):
    """Repeat surprisal: that of the nouns of the second list, in per cent of the first's; slices
    ``condition`` (the second list is the first one, its nouns in another order, or other nouns),
    ``nouns``, ``delay`` and ``cell`` (condition, nouns@delay).

    Nouns alone are scored.  ``repeat_surprisal`` is a ratio of sums; the medians over lists, with
    95 % intervals from their order, are in the record's tables.

    Attributes:
        nouns: of a list.
        delays: tokens of neutral text between the lists, beside two sentences that always stand.
        trials: lists of each cell.
    """

    nouns: tuple[Annotated[int, Meta(ge=2, le=30)], ...] = (3, 5, 7, 10)
    delays: tuple[Annotated[int, Meta(ge=0)], ...] = (0, 50, 100, 200, 400)
    trials: Annotated[int, Meta(ge=1)] = 50

    metrics: ClassVar[dict[str, Metric]] = {
        "repeat_surprisal": Metric("%"),
        "first": Metric("nats/noun"),
        "second": Metric("nats/noun"),
    }
    revision: ClassVar[int] = 2
    slices: ClassVar[tuple[str, ...]] = ("condition", "nouns", "delay", "cell")
    example: ClassVar[dict[str, Any]] = {"nouns": (3,), "delays": (0,)}

    def measure(self, model: Reader, examples: int | None = None) -> Measured:
        items = _items.Items(model, "noun_lists")
        ask = _asking.Asking(model, items)
        trials = range(min(self.trials, examples or self.trials))
        told = [FIRST, AFTER, SECOND, NEUTRAL, *NOUNS]
        # Behind a word: some tokenizers put a space before a text that stands alone.
        word, *spelt = items.encode(["a", *(f"a {t}" for t in told), "a,", "a."])
        said = {t: x[len(word) :] for t, x in zip([*told, ",", "."], spelt, strict=True)}
        most = max(len(said[w]) for w in NOUNS) + len(said[","])
        fixed = 1 + sum(len(said[t]) for t in (FIRST, AFTER, SECOND))
        middle: dict[str, int] = {}  # how many of a cell's places are of the first list
        for n in self.nouns:
            for delay in self.delays:
                for condition in CONDITIONS:
                    name = f"{condition}, {n}@{delay}"

                    def make(
                        n: int = n, delay: int = delay, what: str = condition, name: str = name
                    ) -> Any:
                        made = [
                            _row(said, items.begin, *_lists(items, n, i, what), delay)
                            for i in trials
                        ]
                        ids, first, second = (_padded([m[k] for m in made]) for k in range(3))
                        middle[name] = first.shape[1]
                        at = np.concatenate([first, second], 1)
                        return {"lists": Rows(np.maximum(ids, 0), at)}, None

                    labels: dict[str, Any] = {"condition": condition, "nouns": n, "delay": delay}
                    ask.add(labels, fixed + delay + 2 * n * most + 2, make)
        found, medians = _asking.Found(self.metrics), {}
        for cell, of in ask.answers():
            labels = cell.labels
            n, name = labels["nouns"], f"{labels['condition']}, {labels['nouns']}@{labels['delay']}"
            nats = np.where(cell.rows["lists"].at < 0, 0.0, of["lists"].nats)
            first, second = (x.sum(1) for x in np.split(nats, [middle[name]], 1))
            first_ = np.maximum(first, 1e-9)
            found.add(
                {**labels, "cell": name},
                {
                    "repeat_surprisal": (100 * second, first_),
                    "first": (first, n),
                    "second": (second, n),
                },
            )
            medians[name] = _median(100 * second / first_)
        return found.measured(ask.notes(), tables={"median": medians})


def _lists(items: _items.Items, n: int, item: int, condition: str) -> tuple[list[str], list[str]]:
    """The same first list under every condition, and at every delay."""
    order = items.order(len(NOUNS), item, "nouns", n)
    first, other = ([NOUNS[k] for k in order[i * n : (i + 1) * n]] for i in (0, 1))
    if condition == "control":
        return first, other
    if condition == "repeat":
        return first, first
    turn = items.order(n, item, "permuted")
    if np.array_equal(turn, np.arange(n)):
        turn = np.roll(turn, 1)
    return first, [first[k] for k in turn]


def _row(
    said: dict[str, list[int]], begin: int, first: list[str], second: list[str], delay: int
) -> tuple[list[int], list[int], list[int]]:
    """Ids, and the places of the tokens of the nouns of each list."""
    ids, places = [begin], ([], [])  # type: ignore[var-annotated]
    for k, (before, nouns) in enumerate(((FIRST, first), (SECOND, second))):
        ids += said[before]
        for i, noun in enumerate(nouns):
            places[k].extend(range(len(ids), len(ids) + len(said[noun])))
            ids += said[noun] + said["," if i < len(nouns) - 1 else "."]
        if k == 0:
            neutral = said[NEUTRAL] * math.ceil(delay / max(1, len(said[NEUTRAL])))
            ids += said[AFTER] + neutral[:delay]
    return ids, places[0], places[1]


def _padded(rows: list[list[int]]) -> Any:
    """[B,·], −1 after the end of a row: what stands there is read by nothing that is scored."""
    out = np.full((len(rows), max(map(len, rows))), -1, np.int64)
    for r, row in enumerate(rows):
        out[r, : len(row)] = row
    return out


def _median(x: Any) -> list[float]:
    """The median, and an interval of order statistics that holds it with 95 % at least (all of the
    range below six items)."""
    n, ranked, k, below = len(x), np.sort(x), 0, 2 * 0.5 ** len(x)
    while below <= 0.05:  # twice the chance that at most k of n items lie below the median
        k += 1
        below += 2 * math.comb(n, k) * 0.5**n
    k = max(0, k - 1)
    return [round(float(v), 3) for v in (np.median(x), ranked[k], ranked[n - 1 - k])]

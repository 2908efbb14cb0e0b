"""What is asked of a model, cell by cell, and what is found, item by item.

B items, T tokens of a row, L tokens of a sequence that is to be remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from paribus.contracts import Measured, Metric, Reader
from paribus.errors import Refused
from paribus.lazy import numpy as np
from paribus.probes._items import VERSION, Drawn, Items, Short
from paribus.readers import Answers, Rows

Control = Literal["none", "foreign", "permuted"]
Reading = Literal["last_half_of_copy", "second_copy"]
WINDOW = 1024  # tokens, of a model that tells neither its window nor an end


class Cell(NamedTuple):
    """Rows that are asked together.

    Attributes:
        labels: by slice name.
        rows: by name; each of the same items.
        drawn: what the items are.
    """

    labels: dict[str, Any]
    rows: dict[str, Rows]
    drawn: Drawn | None


class Asking:
    """Cells are added, then asked all at once.

    Attributes:
        missing: the cells that do not fit, with the reason: they are not run, and no number stands
            for them.
    """

    def __init__(self, model: Reader, items: Items) -> None:
        self.model, self.items = model, items
        self.cells: list[Cell] = []
        self.missing: dict[str, str] = {}

    def add(
        self,
        labels: dict[str, Any],
        longest: int,
        make: Callable[[], tuple[Mapping[str, Rows], Drawn | None]],
    ) -> None:
        """A cell whose longest row has so many tokens."""
        name, limit = ", ".join(f"{k} {v}" for k, v in labels.items()), self.model.limit
        if limit is not None and longest > limit:
            self.missing[name] = f"rows of {longest:,} tokens, and the model ends at {limit:,}"
            return
        try:
            rows, drawn = make()
        except Short as why:
            self.missing[name] = str(why)
            return
        self.items.hashed(*(r.ids for r in rows.values()))
        self.cells.append(Cell(labels, dict(rows), drawn))

    def answers(self) -> list[tuple[Cell, dict[str, Answers]]]:
        if not self.cells:
            why = "; ".join(f"{k}: {v}" for k, v in list(self.missing.items())[:3])
            raise Refused(f"probes.{self.items.who}: nothing can be asked: {why or 'no lengths'}")
        found = iter(self.model.follow([r for c in self.cells for r in c.rows.values()]))
        return [(c, {name: next(found) for name in c.rows}) for c in self.cells]

    def notes(self, **more: Any) -> dict[str, Any]:
        """What the record says of what was asked."""
        told = {"suite": VERSION, "list": self.items.hash, **more}
        told |= {"text": self.items.text} if self.items.text else {}
        if self.items.held:
            told["separators in text"] = f"{self.items.held} spans hold one: no place was without"
        told |= {"window": self.model.window, "field": self.model.field}
        told |= {"work": self.model.work} if self.model.work else {}
        told |= {"field is": self.model.said} if self.model.said else {}
        return told | ({"not run": dict(self.missing)} if self.missing else {})


class Found:
    """Sums and counts of items, gathered cell by cell."""

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self._sums: dict[str, list[Any]] = {m: [] for m, told in metrics.items() if not told.of}
        self._counts: dict[str, list[Any]] = {m: [] for m in self._sums}
        self._labels: dict[str, list[Any]] = {}
        self._about: dict[str, list[Any]] = {"document": [], "start": []}
        self._groups: list[Any] = []
        self.invalid = self._size = self._clusters = 0

    def add(
        self,
        labels: Mapping[str, Any],
        pairs: Mapping[str, tuple[Any, Any]],
        drawn: Drawn | None = None,
        group: Any = None,
    ) -> None:
        """Items of one cell.

        Args:
            pairs: (sums, counts) by metric, of any shape [B, …]; an item with a sum that is no
                number counts nothing, and is told of.
            group: [B], numbers of the clusters that rows of several calls share; None: each row of
                this call is its own.
        """
        first = np.asarray(next(iter(pairs.values()))[0], float)
        lost = np.zeros(first.shape, bool)
        for s, _ in pairs.values():
            lost |= np.isnan(np.asarray(s, float))
        for m in self._sums:
            s, c = (np.broadcast_to(np.asarray(x, float), first.shape) for x in pairs[m])
            self._sums[m].append(np.where(lost, 0.0, s).ravel())
            self._counts[m].append(np.where(lost, 0.0, c).ravel())
        rows = np.broadcast_to(
            np.arange(len(first)).reshape(-1, *[1] * (first.ndim - 1)), first.shape
        ).ravel()
        for k, v in labels.items():
            self._labels.setdefault(k, []).append(np.broadcast_to(v, first.shape).ravel())
        for k in self._about:
            told = np.full(len(first), -1) if drawn is None else getattr(drawn, k)
            self._about[k].append(told[rows])
        if group is None:
            self._groups.append(self._clusters + rows)
            self._clusters += len(first)
        else:
            self._groups.append(np.asarray(group)[rows])
        self.invalid += int(lost.sum())

    def measured(self, notes: Mapping[str, Any], **more: Any) -> Measured:
        items = {
            m: (np.concatenate(s), np.concatenate(self._counts[m])) for m, s in self._sums.items()
        }
        told = {**notes, **({"invalid": self.invalid} if self.invalid else {})}
        return Measured(
            items,
            {k: np.concatenate(v) for k, v in self._labels.items()},
            told,
            groups=np.concatenate(self._groups),
            about={k: np.concatenate(v) for k, v in self._about.items()},
            **more,
        )


# ── rows ────────────────────────────────────────────────────────────────────────────────────


def laid(
    items: Items,
    second: Any,
    first: Any = None,
    *,
    between: Any = None,
    before: Any = None,
    shots: Sequence[tuple[Any, Any]] = (),
    separator: Any = (),
) -> Rows:
    """begin, shots, before, first, separator, between, second; of which ``second`` [B,L] is scored.

    Args:
        first, between, before: [B,·]; None: nothing.  Without a first presentation there is no
            separator either.
        shots: presentations that were answered: [B,·] each, twice.
        separator: tokens, after every piece that something follows.
    """
    B, L = second.shape
    sep = np.tile(np.asarray(separator, np.int64), (B, 1))
    pieces = [np.full((B, 1), items.begin)]
    for shown, answered in shots:
        pieces += [shown, sep, answered, sep]
    pieces += [x for x in (before,) if x is not None]
    if first is not None:
        pieces += [first, sep]
    pieces += [x for x in (between,) if x is not None]
    start = sum(x.shape[1] for x in pieces)
    ids = np.concatenate([*pieces, second], 1).astype(np.int64)
    return Rows(ids, np.arange(start, start + L))


def half(length: int, reading: Reading = "last_half_of_copy") -> slice:
    """Which tokens of the copy are scored: the last ⌈L/2⌉ of them, or all."""
    return slice(length // 2 if reading == "last_half_of_copy" else 0, length)


def controlled(drawn: Any, items: Items, control: Control, source: Any, use: Sequence[Any]) -> Any:
    """The first presentation [B,L] that the control has in place of the sequence; None: none."""
    B, L = drawn.ids.shape
    if control == "none":
        return None
    if control == "foreign":
        return items.draw(source, L, range(B), *use, "foreign").ids
    orders = [items.order(L, i, *use, "permuted") for i in range(B)]
    return np.take_along_axis(drawn.ids, np.array(orders), 1)


def gained(copied: Answers, plain: Answers, scored: slice) -> dict[str, tuple[Any, Any]]:
    """What memory adds, item by item, of the same tokens with and without what is to be
    remembered; of GAINED."""
    n = scored.stop - scored.start
    a, b = (x.right[:, scored].sum(1).astype(float) for x in (copied, plain))
    return {
        "copied": (a, n),
        "control": (b, n),
        "gain": (a - b, n),
        "gain_nats": ((plain.nats - copied.nats)[:, scored].sum(1), n),
        "whole": ((a == n).astype(float), 1.0),
        "whole_control": ((b == n).astype(float), 1.0),
    }


GAINED: dict[str, Metric] = {
    "copied": Metric("", better="higher"),
    "control": Metric("", better="higher"),
    "gain": Metric("", better="higher"),
    "gain_nats": Metric("nats/token", better="higher"),
    "whole": Metric("", better="higher"),
    "whole_control": Metric("", better="higher"),
}


def chance(items: Items) -> dict[str, float]:
    """Of random tokens what guessing gets; of text it is what language modelling gets, which
    ``memory_gain`` measures."""
    return {"random": 1 / len(items.candidates)}


def lengths(model: Reader, given: Sequence[int], times: float = 2.0) -> tuple[int, ...]:
    """Those given, else 4, 6, 8, 12, 16, 24, … up to ``times`` the direct window."""
    if given:
        return tuple(given)
    most, out = times * (model.window or model.limit or WINDOW), list[int]()
    for k in range(2, 40):
        out += [n for n in (2**k, 3 * 2 ** (k - 1)) if n <= most]
    return tuple(out) or (4,)


def bins(values: Any) -> Any:
    """Octaves: the largest power of two that is not above each value (≥ 1)."""
    return 2 ** np.floor(np.log2(np.maximum(values, 1))).astype(np.int64)

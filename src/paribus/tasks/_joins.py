"""What tasks about joins have in common: settings, tokens, lists of questions.

Tokens have the coordinates ``block`` (their table; each token after the tables is one of its own),
``slot`` (the place in it; C+1 … of those after the tables) and ``summary`` (a table's last column,
and all after the tables).

E trials, B rows, T tokens, N items of an evaluation, K = V·C columns; see _schemas.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from msgspec import Meta

from paribus.contracts import Source, Task
from paribus.errors import SpecError
from paribus.lazy import numpy as np
from paribus.lazy import torch
from paribus.moving import moved
from paribus.rng import Stream, integers
from paribus.tasks._schemas import (
    ABSENT,
    BLOCK,
    UNCONNECTED,
    Block,
    Law,
    Schemas,
    drawn,
    file_of,
    read,
    words,
)
from paribus.text import paths

if TYPE_CHECKING:
    from torch import Tensor

Positive = Annotated[int, Meta(ge=1)]
Titles: TypeAlias = list[dict[str, str]]
Words: TypeAlias = list[list[str]]
SAID = {ABSENT: "absent", UNCONNECTED: "unconnected"}


class Joins(Task, frozen=True, kw_only=True):
    """Schemas and questions about them, whatever is answered; the same for all tasks of joins.

    Attributes:
        V: tables.
        C: columns a table; ids are drawn from V·C.
        examples: training examples, of which a step draws with replacement; None: each row is new.
        batch: rows a step, which are not to be more than the examples.
        mode: "published": the two columns are drawn from all ids, so at V = 5 one of them is
            nowhere in 72 % of questions; "both": of these, the questions whose columns are there;
            "balanced": both there, as many connected as not, and from schemas where both happens,
            so that nothing but what is asked tells the answer.
        hops: balanced: weights of 0, 1, 2 … joins among the connected; None: equal up to
            min(3, V − 2).
        density: chance that two tables share a column on purpose (others do by accident).
        eval_examples: questions of the validation and of the test split.
        schemas: a JSON file of questions to be evaluated in the place of those, by hand:
            [{"tables": {"pets": ["id", "name", "owner"], …}, "asked": ["name", "city"]}, …].
        data_seed: keys all examples; a training example is a function of it and of its number.
    """

    V: Positive
    C: Positive = 3
    examples: Positive | None = None
    batch: Positive | None = None
    mode: Literal["published", "both", "balanced"] = "published"
    hops: tuple[Annotated[float, Meta(ge=0)], ...] | None = None
    density: Annotated[float, Meta(ge=0, le=1)] = 0.5
    eval_examples: Positive = 10_000
    schemas: str | None = None
    data_seed: int = 0

    stackable: ClassVar[frozenset[str]] = frozenset(
        {"examples", "mode", "hops", "density", "data_seed"}
    )
    training: ClassVar[frozenset[str]] = frozenset({"examples", "batch"})
    fixed: ClassVar[frozenset[str]] = frozenset({"V", "C"})  # ids of columns and tables go by them

    def validate(self) -> None:
        name = self.name
        if self.hops is not None and self.mode != "balanced":
            raise SpecError(f'{name}.hops: mode "{self.mode}" draws what it draws; leave out')
        if self.mode == "balanced" and self.V < 2:
            raise SpecError(f"{name}.V: one table is connected with itself; balanced wants 2")
        if self.hops is not None and not sum(self.hops):
            raise SpecError(f"{name}.hops: {self.hops} gives no weight to any number of joins")
        if self.hops is not None and len(self.hops) > self.V - 1:
            raise SpecError(
                f"{name}.hops: {len(self.hops) - 1} joins take {len(self.hops)} tables, and "
                f"one more must be apart; V is {self.V}"
            )
        if self.V * (self.C + 1) >= 1 << 15:
            raise SpecError(f"{name}.V: {self.V} tables of {self.C} columns are too many")

    def law(self) -> Law:
        """What decides examples; read at once, so that preflight sees what is read."""
        return Law(self.V, self.C, self.mode, self.hops, self.density, self.data_seed)

    def asking(self) -> int:
        """Tokens of a schema, a separator and the two columns that are asked for."""
        return self.V * (self.C + 1) + 3

    def rows(self) -> int | None:
        return self.batch

    def fingerprints(self) -> dict[str, str]:
        if self.schemas is None:
            return {}
        return {"schemas": paths.digest(file_of(self.schemas))}


# ── tokens ──────────────────────────────────────────────────────────────────────────────────


def tokens(schemas: Schemas) -> Tensor:
    """Ids int32 [n,T]: columns 0 … K − 1, tables K … K + V − 1, the separator K + V."""
    V, C, n = schemas.cols.shape
    table = torch.arange(V * C, V * C + V, dtype=torch.int16, device=schemas.cols.device)
    blocks = torch.cat([table.view(V, 1, 1).expand(V, 1, n), schemas.cols], 1)
    mark = torch.full_like(schemas.asked[:1], V * C + V)
    return torch.cat([blocks.flatten(0, 1), mark, schemas.asked]).T.contiguous().int()


def places(V: int, C: int, device: Any, more: int = 0) -> dict[str, Tensor]:
    """Coordinates int64 [1,T] of the tokens of every schema; ``more`` tokens may follow."""
    own = torch.arange(3 + more, device=device)
    slot = torch.arange(C + 1, device=device).repeat(V)
    block = torch.arange(V, device=device).repeat_interleave(C + 1)
    found = {
        "block": torch.cat([block, V + own]),
        "slot": torch.cat([slot, C + 1 + own]),
        "summary": torch.cat([(slot == C).long(), torch.ones_like(own)]),
    }
    return {f"pos.{name}": t[None] for name, t in found.items()}


# ── lists ───────────────────────────────────────────────────────────────────────────────────


@lru_cache(8)
def _listed(law: Law, split: str, n: int, device: str) -> Schemas:
    """The first n examples of a split, drawn once a process."""
    key = (law.data_seed, "connectivity", split)
    return drawn(law, [Block(key, b) for b in range(-(-n // BLOCK))], device)[:n]


@lru_cache(8)
def _duplicates(law: Law, split: str, n: int, trained: int, device: str) -> float:
    """The share of a split's first n questions that are among the training examples, too."""
    known = set(_bytes(tokens(_listed(law, "train", trained, device))))
    return sum(row in known for row in _bytes(tokens(_listed(law, split, n, device)))) / n


def _blocks(rows: range) -> range:
    """Numbers of the blocks that rows are of."""
    return range(rows.start // BLOCK, max(rows.start, rows.stop - 1) // BLOCK + 1)


class Listed(Source):
    """The questions of a split.  A list of them is drawn once, when it is first read; the lists of
    all tasks of joins are the same.

    Attributes:
        places: coordinates, which all rows share.
    """

    def __init__(self, task: Joins, split: str, device: str, more: int = 0) -> None:
        self.task, self.split, self.device, self.more = task, split, device, more
        self.places = places(task.V, task.C, device, more)
        self._law = task.law()
        self._fresh: dict[tuple[int, int], dict[str, Tensor]] = {}  # of a seed and a block

    def told(self, schemas: Schemas) -> dict[str, Tensor]:
        """Rows of questions, first axis n, as they are kept."""
        raise NotImplementedError

    @cached_property
    def size(self) -> int:  # type: ignore[override]
        if self.split == "train":
            return self.task.examples or self.task.eval_examples
        return len(self.list) if self.task.schemas else self.task.eval_examples

    @cached_property
    def list(self) -> Schemas:
        if self.task.schemas and self.split != "train":
            return read(self.task.schemas, self.task.V, self.task.C, self.device)
        return _listed(self._law, self.split, self.size, self.device)

    @cached_property
    def _rows(self) -> dict[str, Tensor]:
        return self.told(self.list)

    def expect(self, seeds: Sequence[int], rows: range) -> None:
        if self.task.examples is not None:
            return
        wanted = {(seed, b) for seed in seeds for b in _blocks(rows)}
        self._fresh = {k: t for k, t in self._fresh.items() if k in wanted or k[0] not in seeds}
        new = sorted(wanted - self._fresh.keys())
        if not new:
            return
        blocks = [Block((seed, "connectivity", "fresh"), b) for seed, b in new]
        told = self.told(drawn(self._law, blocks, self.device))
        for i, k in enumerate(new):
            own = slice(i * BLOCK, (i + 1) * BLOCK)
            self._fresh[k] = {name: t[own] for name, t in told.items()}

    def trained(self, seed: int, rows: range) -> dict[str, Tensor]:
        """Training rows as they are kept."""
        if self.task.examples is None:
            return self._new(seed, rows)
        chosen = integers(Stream(seed, "examples").rows(rows, 1)[:, 0], self.task.examples)
        at = moved(chosen, self.device)
        return {name: t[at] for name, t in self._rows.items()}

    def _new(self, seed: int, rows: range) -> dict[str, Tensor]:
        blocks = _blocks(rows)
        if any((seed, b) not in self._fresh for b in blocks):
            self.expect([seed], rows)
        pieces = []
        for b in blocks:
            own = slice(max(rows.start - b * BLOCK, 0), rows.stop - b * BLOCK)
            pieces.append({name: t[own] for name, t in self._fresh[seed, b].items()})
        if len(pieces) == 1:
            return pieces[0]
        return {name: torch.cat([p[name] for p in pieces]) for name in pieces[0]}

    def judged(self, i: int, j: int) -> dict[str, Tensor]:
        """Examples as they are kept."""
        return {name: t[i:j] for name, t in self._rows.items()}

    # ── what they are ──

    def slices(self) -> dict[str, Any]:
        hops = self.list.hops.tolist()
        return {
            "hops": np.array([SAID.get(h, str(h)) for h in hops]),
            "present": np.array(["no" if h == ABSENT else "both" for h in hops]),
        }

    def token_names(self, i: int) -> Sequence[str]:
        own = [f".{c}" for c in range(1, self.task.C + 1)]
        tables = range(1, self.task.V + 1)
        named = [f"{t}{c}" if c else f"table {t}" for t in tables for c in ("", *own)]
        return [*named, "SEP", "q1", "q2", *(f"path {n}" for n in range(self.more))]

    def titles(self, i: int, j: int) -> Titles:
        one = self.list[i:j]
        return [
            {
                "asked": " → ".join(self.called(i + n, q) for q in asked),
                "truth": SAID.get(h, "1 join" if h == 1 else f"{h} joins"),
            }
            for n, (asked, h) in enumerate(
                zip(one.asked.T.tolist(), one.hops.tolist(), strict=True)
            )
        ]

    def called(self, n: int, column: int) -> str:
        """What a person calls a column of example n."""
        return self._words[n][column] if self._words else f"c{column}"

    @cached_property
    def _words(self) -> Words:
        if self.task.schemas is None or self.split == "train":
            return []
        return words(self.task.schemas, self.task.V, self.task.C)

    def realised(self, seed: int | None, rows: range) -> dict[str, Any]:
        """Of an evaluation: a hash of its questions, and the share that training has, too."""
        if seed is not None:
            return {}
        mine = _bytes(tokens(self.list[rows.start : rows.stop]))
        name = hashlib.blake2b(b"".join(mine), digest_size=16).hexdigest()
        trained, drawn = self.task.examples, self.task.schemas is None
        if trained is None or self.split == "train" or not drawn:
            return {"list": name}
        share = _duplicates(self._law, self.split, len(rows), trained, self.device)
        return {"list": name, "duplicates": share}

    def trivial(self) -> dict[str, dict[str, float]]:
        """The commoner answer, and "yes where both are there", which is right about every yes."""
        yes, there = self.list.connected.double(), self.list.present.double()
        p = float(yes.mean())
        entropy = sum(-q * float(np.log(q)) for q in (p, 1 - p) if q)
        every = torch.ones(len(yes), dtype=torch.bool)
        out = self._trivial(every.to(yes.device))
        out["majority"] |= {"loss": entropy, "auc": 0.5}
        if 0 < p < 1:
            right = float(((1 - there) * (1 - yes)).sum() / (1 - yes).sum())
            out["membership"]["auc"] = (1 + right) / 2
        return out

    def trivial_slices(self, by: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
        """{baseline: {slice: {metric: value}}} of the same two."""
        out: dict[str, dict[str, dict[str, float]]] = {}
        for name, labels in self.slices().items():
            for level in sorted(set(labels.tolist())) if name in by else ():
                at = torch.from_numpy(labels == level).to(self.list.hops.device)
                for baseline, values in self._trivial(at).items():
                    out.setdefault(baseline, {})[f"{name}={level}"] = values
        return out

    def _trivial(self, at: Tensor) -> dict[str, dict[str, float]]:
        """Accuracies among some of the questions; balanced where both answers are among them."""
        yes, there = self.list.connected, self.list.present
        said = {"majority": torch.full_like(yes, bool(yes.double().mean() > 0.5))}
        said["membership"] = there
        p = float(yes[at].double().mean())
        out = {}
        for name, answer in said.items():
            right = (answer == yes)[at].double()
            out[name] = {"accuracy": float(right.mean())}
            if 0 < p < 1:
                mine = yes[at]
                out[name]["balanced_accuracy"] = float(
                    (right[mine].mean() + right[~mine].mean()) / 2
                )
        return out


def _bytes(ids: Tensor) -> list[bytes]:
    return [row.tobytes() for row in ids.cpu().numpy()]


# ── scores ──────────────────────────────────────────────────────────────────────────────────


def whole(right_EN: Tensor, yes_EN: Tensor, logits_EN: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What takes all items at once, as sums over them: balanced accuracy (each answer weighs as
    much as the other) and AUC (for each yes the share of noes below it, equals as half; Mann and
    Whitney 1947).  Neither is there where all answers are the same.

    Args:
        right_EN: 1 where what was said is right.
        yes_EN: whether that would be yes; the same for all trials.
        logits_EN: the higher, the rather yes.
    """
    count, N = int(yes_EN[0].sum()), yes_EN.shape[1]
    if count in (0, N):
        return {}
    each = torch.tensor([N / (2 * (N - count)), N / (2 * count)], dtype=torch.float64)
    weight_EN = each[yes_EN.long()]
    below_EN = torch.zeros_like(weight_EN)
    for below, logits, yes in zip(below_EN, logits_EN, yes_EN, strict=True):
        noes = logits[~yes].sort().values
        ranks = [torch.searchsorted(noes, logits[yes], side=s) for s in ("left", "right")]
        below[yes] = (ranks[0] + ranks[1]).double() / (2 * (N - count))
    return {
        "balanced_accuracy": (right_EN * weight_EN, weight_EN),
        "auc": (below_EN, yes_EN.double()),
    }

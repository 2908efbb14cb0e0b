"""Questions about schemas as rows of vectors, and how answers to them are scored.

E trials, B rows, T tokens, N items of an evaluation, K = V·C columns; see _schemas.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from paribus.contracts import Source
from paribus.lazy import F, torch
from paribus.lazy import numpy as np
from paribus.rng import Stream, integers, normal, uniform
from paribus.tasks._schemas import ABSENT, UNCONNECTED, Drawn, Law, Schemas, read

if TYPE_CHECKING:
    from torch import Tensor

    from paribus.tasks.connectivity import Connectivity

SCORES = ("accuracy", "balanced_accuracy", "auc", "recall", "specificity", "agreement")
SAID = {ABSENT: "absent", UNCONNECTED: "unconnected"}


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


@lru_cache(8)
def _listed(law: Law, split: str, n: int, device: str) -> Schemas:
    """The first n examples of a split, drawn once a process."""
    return Drawn(law, (law.data_seed, "connectivity", split), device).rows(range(n))


@lru_cache(8)
def _duplicates(law: Law, split: str, n: int, trained: int, device: str) -> float:
    """The share of a split's first n questions that are among the training examples, too."""
    known = set(_bytes(tokens(_listed(law, "train", trained, device))))
    return sum(row in known for row in _bytes(tokens(_listed(law, split, n, device)))) / n


class Questions(Source):
    """The questions of a split.  A list of them is drawn once, when it is first read."""

    def __init__(self, task: Connectivity, split: str, device: str) -> None:
        self.task, self.split, self.device = task, split, device
        self.places = places(task.V, task.C, device)
        self._law = Law(
            task.V, task.C, task.mode, task.hops, task.density, task.data_seed
        )  # read here, so that preflight sees what is read
        self._fresh: dict[int, Drawn] = {}
        self._names: dict[int, Tensor] = {}

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
        return self._told(self.list)

    def _told(self, schemas: Schemas) -> dict[str, Tensor]:
        return {
            "ids": tokens(schemas),
            "targets": schemas.connected.float(),
            "present": schemas.present,
        }

    # ── names ──

    def _vectors(self, stream: Stream, rows: range) -> Tensor:
        """[n,K+V+1,width]: n draws of a vector for each id; the separator's is zero."""
        task, count = self.task, (self.task.C + 1) * self.task.V
        drawn = normal(uniform(stream.rows(rows, count * task.dims)))
        table = torch.from_numpy(drawn).float().view(-1, count, task.dims)
        return F.pad(table, (0, (task.width or task.dims) - task.dims, 0, 1)).to(self.device)

    def _named(self, own: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
        """Rows with the names that a trial of this seed has."""
        key = self.task.data_seed if self.task.names == "fixed" else seed
        if key not in self._names:
            self._names[key] = self._vectors(Stream(key, "names"), range(1))[0]
        return {**own, "inputs": F.embedding(own["ids"], self._names[key])}

    def _prompted(
        self, own: Mapping[str, Tensor], stream: Stream, rows: range
    ) -> dict[str, Tensor]:
        """Rows with names of their own."""
        each = torch.arange(len(rows), device=self.device)[:, None]
        return {**own, "inputs": self._vectors(stream, rows)[each, own["ids"].long()]}

    # ── rows ──

    def batch(self, seed: int, step: int, rows: range) -> dict[str, Tensor]:
        if self.task.examples is None:
            drawn = self._fresh.setdefault(
                seed, Drawn(self._law, (seed, "connectivity", "fresh"), self.device)
            )
            own = self._told(drawn.rows(rows))
        else:
            chosen = integers(Stream(seed, "examples").rows(rows, 1)[:, 0], self.task.examples)
            at = torch.from_numpy(chosen).to(self.device)
            own = {name: t[at] for name, t in self._rows.items()}
        if self.task.names == "prompt":
            own = self._prompted(own, Stream(seed, "names of prompts"), rows)
        else:
            own = self._named(own, seed)
        return {**own, **self.places}

    def examples(self, i: int, j: int) -> dict[str, Tensor]:
        own = {name: t[i:j] for name, t in self._rows.items()}
        if self.task.names == "prompt":
            stream = Stream(self.task.data_seed, "names of prompts", self.split)
            own = self._prompted(own, stream, range(i, j))
        else:
            own = self._named(own, self.task.data_seed)
        return {**own, **self.places}

    def for_trial(self, batch: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
        return self._named(batch, seed) if self.task.names == "run" else batch

    # ── what they are ──

    def token_names(self, i: int) -> Sequence[str]:
        own = [f".{c}" for c in range(1, self.task.C + 1)]
        tables = range(1, self.task.V + 1)
        named = [f"{t}{c}" if c else f"table {t}" for t in tables for c in ("", *own)]
        return [*named, "SEP", "q1", "q2"]

    def slices(self) -> dict[str, Any]:
        hops = self.list.hops.tolist()
        return {
            "hops": np.array([SAID.get(h, str(h)) for h in hops]),
            "present": np.array(["no" if h == ABSENT else "both" for h in hops]),
        }

    def realised(self, seed: int | None, rows: range) -> dict[str, Any]:
        """Of an evaluation: a hash of its questions, and the share that training has, too."""
        if seed is not None:
            return {}
        mine = _bytes(self._rows["ids"][rows.start : rows.stop])
        name = hashlib.blake2b(b"".join(mine), digest_size=16).hexdigest()
        trained, drawn = self.task.examples, self.task.schemas is None
        if trained is None or self.split == "train" or not drawn:
            return {"list": name}
        share = _duplicates(self._law, self.split, len(rows), trained, self.device)
        return {"list": name, "duplicates": share}

    def trivial(self) -> dict[str, dict[str, float]]:
        yes, there = self.list.connected.double(), self.list.present.double()
        p = float(yes.mean())
        entropy = sum(-q * float(np.log(q)) for q in (p, 1 - p) if q)
        out = {
            "majority": {
                "loss": entropy,
                "accuracy": max(p, 1 - p),
                "balanced_accuracy": 0.5,
                "auc": 0.5,
            },
            "membership": {"accuracy": float((yes == there).double().mean())},
        }
        if 0 < p < 1:  # its answers are right about every yes
            right = float(((1 - there) * (1 - yes)).sum() / (1 - yes).sum())
            out["membership"] |= {"balanced_accuracy": (1 + right) / 2, "auc": (1 + right) / 2}
        return out


def _bytes(ids: Tensor) -> list[bytes]:
    return [row.tobytes() for row in ids.cpu().numpy()]


# ── scores ──────────────────────────────────────────────────────────────────────────────────


def score(logits_EB: Tensor, batch: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """{metric: (sum_EB, count_EB)}; what ``whole`` needs besides is called _logit."""
    logits_EB = logits_EB.double()
    yes, said = batch["targets"] > 0.5, logits_EB > 0
    nats = F.binary_cross_entropy_with_logits(logits_EB, yes.double(), reduction="none")
    one, right = torch.ones_like(nats), (said == yes).double()
    return {
        "loss": (nats, one),
        "accuracy": (right, one),
        "recall": (right * yes, yes.double()),
        "specificity": (right * ~yes, (~yes).double()),
        "agreement": ((said == batch["present"]).double(), one),
        "_logit": (logits_EB, one),
    }


def whole(items: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """What takes all items at once, as sums over them: balanced accuracy (each answer weighs as
    much as the other; in a slice, items keep the weights of the whole) and AUC (for each yes the
    share of noes below it, equals as half; Mann and Whitney 1947)."""
    yes_EN = items["recall"][1] > 0
    count, N = int(yes_EN[0].sum()), yes_EN.shape[1]
    if count in (0, N):
        return {}
    weight_EN = torch.where(yes_EN, N / (2 * count), N / (2 * (N - count))).double()
    below_EN = torch.zeros_like(weight_EN)
    for below, logits, yes in zip(below_EN, items["_logit"][0], yes_EN, strict=True):
        noes = logits[~yes].sort().values
        ranks = [torch.searchsorted(noes, logits[yes], side=s) for s in ("left", "right")]
        below[yes] = (ranks[0] + ranks[1]).double() / (2 * (N - count))
    return {
        "balanced_accuracy": (items["accuracy"][0] * weight_EN, weight_EN),
        "auc": (below_EN, yes_EN.double()),
    }

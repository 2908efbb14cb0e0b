"""Questions about schemas as rows of vectors, and how answers to them are scored.

E trials, B rows, T tokens, N items of an evaluation, K = V·C columns; see _joins and _schemas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from paribus.lazy import F, torch
from paribus.moving import moved
from paribus.rng import Stream, normal, uniform
from paribus.tasks._joins import Listed, tokens
from paribus.tasks._schemas import Schemas

if TYPE_CHECKING:
    from torch import Tensor

    from paribus.tasks.connectivity import Connectivity

WHOLE = ("balanced_accuracy", "auc")
SCORES = ("accuracy", *WHOLE, "recall", "specificity", "agreement")


class Questions(Listed):
    """Questions as vectors: each id has one."""

    task: Connectivity

    def __init__(self, task: Connectivity, split: str, device: str) -> None:
        super().__init__(task, split, device)
        self._names: dict[int, Tensor] = {}

    def told(self, schemas: Schemas) -> dict[str, Tensor]:
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
        return moved(F.pad(table, (0, (task.width or task.dims) - task.dims, 0, 1)), self.device)

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
        own = self.trained(seed, rows)
        if self.task.names == "prompt":
            own = self._prompted(own, Stream(seed, "names of prompts"), rows)
        else:
            own = self._named(own, seed)
        return {**own, **self.places}

    def examples(self, i: int, j: int) -> dict[str, Tensor]:
        own = self.judged(i, j)
        if self.task.names == "prompt":
            stream = Stream(self.task.data_seed, "names of prompts", self.split)
            own = self._prompted(own, stream, range(i, j))
        else:
            own = self._named(own, self.task.data_seed)
        return {**own, **self.places}

    def for_trial(self, batch: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
        return self._named(batch, seed) if self.task.names == "run" else batch


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

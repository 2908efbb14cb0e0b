"""Chains of joins as tokens, and how those that a model writes are scored.

E trials, B rows, T tokens, V tables, K = V·C columns; a path has at most V + 1 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from paribus.lazy import torch
from paribus.nn.losses import IGNORE, nats
from paribus.tasks._joins import Listed, tokens
from paribus.tasks._schemas import Schemas, distances

if TYPE_CHECKING:
    from torch import Tensor

    from paribus.tasks.join_paths import JoinPaths


def marks(V: int, C: int) -> tuple[int, int, int]:
    """Ids of START, END and NONE; below are columns, tables and the separator."""
    return V * C + V + 1, V * C + V + 2, V * C + V + 3


def written(schemas: Schemas, joins: bool = True) -> Tensor:
    """int32 [n,V+1]: the columns of the joins, the last column asked for, END; or NONE, END; then
    IGNORE.

    Of the shortest chains it is the one whose columns come first in lexicographic order: from a
    table that has the present column, at r joins from the goal, the lowest column that a table at
    r − 1 joins has, too.

    Args:
        joins: False: without their columns.
    """
    cols, (here, goal), left = schemas.cols, schemas.asked, schemas.hops
    left = left if joins else left.clamp(max=0)
    V, C, n = cols.shape
    _, end, none = marks(V, C)
    from_goal = distances(cols, goal)  # [V,n]
    # How near to the goal a column gets: the nearest table that has it.
    nearest = torch.full((V * C, n), V, dtype=from_goal.dtype, device=cols.device)
    at = cols.flatten(0, 1).long()
    nearest = nearest.scatter_reduce(0, at, from_goal.repeat_interleave(C, 0), "amin")
    near = nearest.gather(0, at).view(V, C, n)
    out = torch.full((V + 1, n), IGNORE, dtype=torch.int32, device=cols.device)
    for step in range(V):
        there = (cols == here).any(1) & (from_goal == left)
        lowest = torch.where(there[:, None] & (near == left - 1), cols, V * C).amin((0, 1))
        here = torch.where(left > 0, lowest, goal)
        out[step] = torch.where(left >= 0, here.int(), out[step])
        out[step + 1] = torch.where(left == 0, end, out[step + 1])
        left = torch.where(left >= 0, left - 1, left)
        if not (left >= 0).any():
            break
    apart = ~schemas.connected
    out[0] = torch.where(apart, none, out[0])
    out[1] = torch.where(apart, end, out[1])
    return out.T.contiguous()


class Paths(Listed):
    """Questions and their paths as tokens: schema, separator, columns asked for, START, path."""

    task: JoinPaths

    def __init__(self, task: JoinPaths, split: str, device: str) -> None:
        super().__init__(task, split, device, more=1 + task.V)

    def told(self, schemas: Schemas) -> dict[str, Tensor]:
        asked, path = tokens(schemas), written(schemas, self.task.answer == "path")
        start, end, _ = marks(self.task.V, self.task.C)
        first, before = torch.full_like(path[:, :1], start), torch.full_like(asked, IGNORE)
        read = torch.where(path == IGNORE, end, path)[:, :-1]  # what follows END counts nowhere
        return {
            "inputs": torch.cat([asked, first, read], 1),
            "targets": torch.cat([before, path], 1),
        }

    def titles(self, i: int, j: int) -> list[dict[str, str]]:
        _, end, none = marks(self.task.V, self.task.C)
        out: list[dict[str, str]] = super().titles(i, j)
        for n, row in enumerate(self.judged(i, j)["targets"].tolist()):
            path = [t for t in row if t not in (IGNORE, end)]
            words = ["none" if t == none else self.called(i + n, t) for t in path]
            out[n]["path"] = " ".join(words)
        return out

    def _row(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**{name: t.long() for name, t in kept.items()}, **self.places}

    def batch(self, seed: int, step: int, rows: range) -> dict[str, Tensor]:
        return self._row(self.trained(seed, rows))

    def examples(self, i: int, j: int) -> dict[str, Tensor]:
        return self._row(self.judged(i, j))


def score(
    logits_EBTV: Tensor, targets_EBT: Tensor, first: int, none: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """{metric: (sum_EB, count_EB)}; what ``whole`` needs besides is called _yes and _logit.

    Greedy decoding writes the path exactly if under teacher forcing the likeliest token is the
    right one at every place: up to the first that is not, it reads the same tokens.

    Args:
        first: the place at which the first token of the path is predicted.
        none: the token that says that there is no path.
    """
    loss_EBT, counted_EBT = nats(logits_EBTV, targets_EBT)
    said_EBT = logits_EBTV.argmax(-1)
    exact_EB = ((said_EBT == targets_EBT) | ~counted_EBT).all(-1).double()
    yes_EB, says_EB = targets_EBT[..., first] != none, said_EBT[..., first] != none
    log_EBV = logits_EBTV[:, :, first].double().log_softmax(-1)
    not_none_EBV = log_EBV.index_fill(-1, torch.tensor(none, device=log_EBV.device), -torch.inf)
    one_EB = torch.ones_like(exact_EB)
    return {
        "loss": (loss_EBT.double().sum(2), counted_EBT.sum(2)),
        "exact_match": (exact_EB, one_EB),
        "label_accuracy": ((says_EB == yes_EB).double(), one_EB),
        "_yes": (yes_EB.double(), one_EB),
        "_logit": (not_none_EBV.logsumexp(-1) - log_EBV[..., none], one_EB),
    }

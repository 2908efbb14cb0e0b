"""Which chain of joins leads from one column of a relational schema to another?

The questions are those of ``connectivity``; what is answered is the path, token by token.  In the
original of this task the columns asked for were not in the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from paribus.contracts import Io, Metric, Source
from paribus.nn.losses import nats
from paribus.tasks import _paths as paths
from paribus.tasks._joins import Joins, whole

if TYPE_CHECKING:
    from torch import Tensor

    from paribus.text.data import Data


class JoinPaths(Joins, frozen=True, kw_only=True):
    """Tokens: each table's name and columns, a separator, the two columns asked for, a start and
    the path, of which alone each token is predicted.  Settings and coordinates: see _joins.

    A path is the columns by which tables are joined, in order, then the second column asked for,
    then the end; without joins the first of these are none, and where there is no path, "none" and
    the end.  Of the shortest chains it is the one whose columns come first in lexicographic order.
    Rows have room for the longest, V − 1 joins: V·(C+2)+4 tokens.  What follows the end counts
    nowhere.

    Attributes:
        answer: "label": where there is a path, no joins of it: the same inputs and model without
            what paths teach.
    """

    answer: Literal["path", "label"] = "path"

    example: ClassVar[dict[str, Any]] = {"V": 3, "examples": 64, "eval_examples": 64}
    stackable: ClassVar[frozenset[str]] = Joins.stackable | {"answer"}
    causal: ClassVar[bool] = True
    trivial: ClassVar[tuple[str, ...]] = ("majority", "membership", "none")
    metrics: ClassVar[dict[str, Metric]] = {
        "loss": Metric("nats/token"),
        "exact_match": Metric("", better="higher"),
        "label_accuracy": Metric("", better="higher"),  # a path or "none": whether that is right
        "balanced_accuracy": Metric("", better="higher", within=True),  # of that
        "auc": Metric("", better="higher", within=True),
    }

    def io(self) -> Io:
        vocab = paths.marks(self.V, self.C)[-1] + 1
        return Io(vocab=vocab, length=self.asking() + 1 + self.V, examples=self.examples)

    def open(self, data: Data, device: str) -> Source:
        return paths.Paths(self, data.split, device)

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        loss, counted = nats(outputs, batch["targets"])
        return loss.sum((1, 2)), counted.sum((1, 2))

    def score(
        self, outputs: Tensor, batch: Mapping[str, Tensor]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        none = paths.marks(self.V, self.C)[-1]
        return paths.score(outputs, batch["targets"], self.asking(), none)

    def whole(self, items: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
        right_EN, yes_EN = items["label_accuracy"][0], items["_yes"][0] > 0
        return whole(right_EN, yes_EN, items["_logit"][0])

    def answers(self, items: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, list[Any]]:
        right, yes = (items[k][0].tolist() for k in ("label_accuracy", "_yes"))
        exact = items["exact_match"][0].tolist()
        return {
            "P(none)": (-items["_logit"][0]).sigmoid().tolist(),
            "said": ["yes" if a == b else "no" for a, b in zip(right, yes, strict=True)],
            "said path": ["right" if e else "wrong" for e in exact],
        }

    def baselines(self, data: Data) -> dict[str, dict[str, float]]:
        """On the evaluated questions, of the label: the commoner answer, and "a path where both are
        there"; of the path: always "none"."""
        source = paths.Paths(self, data.split, "cpu")
        out: dict[str, dict[str, float]] = {}
        for name, of in source.trivial().items():
            said = {"accuracy": "label_accuracy"}
            out[name] = {said.get(k, k): v for k, v in of.items() if k != "loss"}
        absent = float((~source.list.connected).double().mean())
        out["none"] = {"exact_match": absent, "label_accuracy": absent}
        return out

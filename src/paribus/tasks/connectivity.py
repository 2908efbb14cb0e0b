"""Is there a chain of joins between two columns of a relational schema?

The answer is nearly that of another question: are both columns there at all?  So that rule stands
beside every result, and there are modes in which it answers nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from paribus.contracts import Io, Metric, Source
from paribus.errors import SpecError
from paribus.lazy import F
from paribus.tasks import _questions as questions
from paribus.tasks._joins import Joins, Positive, whole

if TYPE_CHECKING:
    from torch import Tensor

    from paribus.text.data import Data


class Connectivity(Joins, frozen=True, kw_only=True):
    """A schema as V·(C+1)+3 vectors: each table's name and columns, a separator, the two columns
    asked for.  The answer is read at the last.  A name is a vector of ``dims`` standard normals,
    the same wherever the name stands; the separator is zero.  Coordinates: see _joins.

    Attributes:
        names: vectors of names drawn anew for each "run", "fixed" for all, or for each "prompt".
        dims: numbers of a name's vector.  The original gave its two arms 5 and 4.
        width: numbers of an input, zeros after the first ``dims``; None: dims.
    """

    names: Literal["run", "fixed", "prompt"] = "run"
    dims: Positive = 5
    width: Positive | None = None

    example: ClassVar[dict[str, Any]] = {"V": 3, "examples": 64, "eval_examples": 64}
    stackable: ClassVar[frozenset[str]] = Joins.stackable | {"names"}
    scored: ClassVar[Literal["all", "last"]] = "last"
    trivial: ClassVar[tuple[str, ...]] = ("majority", "membership")
    metrics: ClassVar[dict[str, Metric]] = {
        "loss": Metric("nats"),
        **{
            name: Metric("", better="higher", within=name in questions.WHOLE)
            for name in questions.SCORES
        },
    }

    def validate(self) -> None:
        super().validate()
        if self.width is not None and self.width < self.dims:
            raise SpecError(
                f"connectivity.width: {self.width} numbers have no room for {self.dims}"
            )

    def io(self) -> Io:
        return Io(in_dim=self.width or self.dims, length=self.asking(), examples=self.examples)

    def open(self, data: Data, device: str) -> Source:
        return questions.Questions(self, data.split, device)

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        nats_EB = F.binary_cross_entropy_with_logits(
            outputs[..., -1], batch["targets"].to(outputs.dtype), reduction="none"
        )
        return nats_EB.sum(1), nats_EB.detach().new_full((len(nats_EB),), nats_EB.shape[1])

    def score(
        self, outputs: Tensor, batch: Mapping[str, Tensor]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        return questions.score(outputs[..., -1], batch)

    def whole(self, items: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
        right_EN, yes_EN = items["accuracy"][0], items["recall"][1] > 0
        return whole(right_EN, yes_EN, items["_logit"][0])

    def answers(self, items: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, list[Any]]:
        logits_N = items["_logit"][0]
        return {
            "logit": logits_N.tolist(),
            "probability": logits_N.sigmoid().tolist(),
            "said": ["yes" if x > 0 else "no" for x in logits_N.tolist()],
        }

    def baselines(self, data: Data) -> dict[str, dict[str, float]]:
        """On the evaluated questions: the commoner answer, and "yes where both are there"."""
        return questions.Questions(self, data.split, "cpu").trivial()

    def baseline_slices(
        self, data: Data, by: Sequence[str]
    ) -> dict[str, dict[str, dict[str, float]]]:
        return questions.Questions(self, data.split, "cpu").trivial_slices(by)

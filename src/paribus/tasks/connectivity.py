"""Is there a chain of joins between two columns of a relational schema?

The answer is nearly that of another question: are both columns there at all?  So that rule stands
beside every result, and there are modes in which it answers nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from paribus.contracts import Io, Metric, Source, Task
from paribus.errors import SpecError
from paribus.lazy import F
from paribus.tasks import _questions as questions
from paribus.tasks import _schemas as drawing
from paribus.text import paths

if TYPE_CHECKING:
    from torch import Tensor

    from paribus.text.data import Data

Positive = Annotated[int, Meta(ge=1)]


class Connectivity(Task, frozen=True, kw_only=True):
    """A schema as V·(C+1)+3 vectors: each table's name and columns, a separator, the two columns
    asked for.  The answer is read at the last.  A name is a vector of ``dims`` standard normals,
    the same wherever the name stands; the separator is zero.

    Tokens have the coordinates ``block`` (their table; each of the last three is one of its own),
    ``slot`` (the place in it; C+1 … C+3 of the last three) and ``summary`` (a table's last column,
    and the last three).

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
        names: vectors of names drawn anew for each "run", "fixed" for all, or for each "prompt".
        dims: numbers of a name's vector.  The original gave its two arms 5 and 4.
        width: numbers of an input, zeros after the first ``dims``; None: dims.
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
    names: Literal["run", "fixed", "prompt"] = "run"
    dims: Positive = 5
    width: Positive | None = None
    eval_examples: Positive = 10_000
    schemas: str | None = None
    data_seed: int = 0

    example: ClassVar[dict[str, Any]] = {"V": 3, "examples": 64, "eval_examples": 64}
    stackable: ClassVar[frozenset[str]] = frozenset(
        {"examples", "mode", "hops", "density", "names", "data_seed"}
    )
    training: ClassVar[frozenset[str]] = frozenset({"examples", "batch"})
    trivial: ClassVar[tuple[str, ...]] = ("majority", "membership")
    metrics: ClassVar[dict[str, Metric]] = {
        "loss": Metric("nats"),
        **{name: Metric("", better="higher") for name in questions.SCORES},
    }

    def validate(self) -> None:
        if self.width is not None and self.width < self.dims:
            raise SpecError(
                f"connectivity.width: {self.width} numbers have no room for {self.dims}"
            )
        if self.hops is not None and self.mode != "balanced":
            raise SpecError(f'connectivity.hops: mode "{self.mode}" draws what it draws; leave out')
        if self.mode == "balanced" and self.V < 2:
            raise SpecError("connectivity.V: one table is connected with itself; balanced wants 2")
        if self.hops is not None and not sum(self.hops):
            raise SpecError(
                f"connectivity.hops: {self.hops} gives no weight to any number of joins"
            )
        if self.hops is not None and len(self.hops) > self.V - 1:
            raise SpecError(
                f"connectivity.hops: {len(self.hops) - 1} joins take {len(self.hops)} tables, and "
                f"one more must be apart; V is {self.V}"
            )
        if self.V * (self.C + 1) >= 1 << 15:
            raise SpecError(f"connectivity.V: {self.V} tables of {self.C} columns are too many")

    def io(self) -> Io:
        length = self.V * (self.C + 1) + 3
        return Io(in_dim=self.width or self.dims, length=length, examples=self.examples)

    def rows(self) -> int | None:
        return self.batch

    def fingerprints(self) -> dict[str, str]:
        if self.schemas is None:
            return {}
        return {"schemas": paths.digest(drawing.file_of(self.schemas))}

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
        return questions.whole(items)

    def baselines(self, data: Data) -> dict[str, dict[str, float]]:
        """On the evaluated questions: the commoner answer, and "yes where both are there"."""
        return questions.Questions(self, data.split, "cpu").trivial()

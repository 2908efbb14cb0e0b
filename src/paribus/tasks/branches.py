"""Language modelling of several texts at once: they advance side by side as branches of one sample
(ParallelMind's columnar layout)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from paribus.contracts import Corpus, Io, Metric, Source, Task, Tokenizer
from paribus.errors import SpecError
from paribus.nn.losses import language, nats
from paribus.text.samples import Samples, most_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from paribus.text.data import Data

Positive = Annotated[int, Meta(ge=1)]


class Branches(Task, frozen=True, kw_only=True):
    """Next-token prediction within each of the texts of a sample.

    A row is a sample: its tokens ordered by time, then branch, with the coordinates ``branch``,
    ``time`` and ``main`` for positions and masks.  A token's target is the next token of its own
    text.  An epoch uses every text once, in an order keyed by (seed, epoch); how many a sample
    holds is keyed by (seed, epoch, sample).  Evaluation takes the first ``eval_texts`` texts of the
    split, the same for every number of branches, in an order of its own: neighbours would be pieces
    of one document, of which a branch could read what stands in the other.

    Attributes:
        length: tokens of a text at most.
        branches: texts of a sample: a number, or (least, most), uniform between them in training;
            evaluation has ``most``.
        texts_per_step: instead of rows: rows = texts_per_step / mean number of branches, rounded.
        cut: what becomes of documents longer than ``length``: "split" makes several texts of them,
            "truncate" keeps their beginning, "packed" cuts the whole stream into full texts.
        main: tokens of a further text that stands before the branches of each sample, is read as
            their common beginning and not scored; 0: none.
        align: whether shorter branches begin with the others ("left") or end with them ("right").
        offsets: whether a branch's times begin at a draw from 0 … its length in training (the
            document's training); ``eval_offsets``: in evaluation.
        answer_offset: targets at an earlier place of their text than this are not scored.
        pad_to: tokens of a row; samples that have more lose their latest, which the record counts.
            None: what the longest sample can have, so that nothing is lost.
        eval_texts: texts that a condition scores; a multiple of its branches leaves no smaller
            sample at the end.  Main prefixes are among them and are not scored.
    """

    corpus: Corpus
    tokenizer: Tokenizer
    length: Annotated[int, Meta(ge=2)]
    branches: int | tuple[int, int] = 1  # msgspec crashes on limits inside such a union
    texts_per_step: Positive | None = None
    cut: Literal["split", "truncate", "packed"] = "split"
    main: Annotated[int, Meta(ge=0)] = 0
    align: Literal["left", "right"] = "left"
    offsets: bool = False
    eval_offsets: bool = False
    answer_offset: Annotated[int, Meta(ge=0)] = 0
    pad_to: Annotated[int, Meta(ge=2)] | None = None
    eval_texts: Positive = 1920

    causal: ClassVar[bool] = True
    training: ClassVar[frozenset[str]] = frozenset({"texts_per_step", "offsets"})
    trivial: ClassVar[tuple[str, ...]] = ("unigram", "bigram")
    metrics: ClassVar[dict[str, Metric]] = {
        "loss": Metric("nats/token"),
        "bpb": Metric("bits/byte"),
        "ppl": Metric("", of="loss", transform="exp"),
    }

    def validate(self) -> None:
        low, high = self.counts()
        if not 1 <= low <= high:
            raise SpecError(
                f"branches.branches: {self.branches!r} must be a number from 1 on, or (least, most)"
            )
        if self.answer_offset >= self.length:
            raise SpecError(
                f"branches.answer_offset: {self.answer_offset} leaves no target in a text of "
                f"{self.length} tokens"
            )
        if self.main > self.length:
            raise SpecError(
                f"branches.main: {self.main}, but no text has more than {self.length} tokens "
                "(length)"
            )
        needed = self.main + max(1, self.answer_offset)
        if self.pad_to is not None and self.pad_to < needed:
            raise SpecError(
                f"branches.pad_to: rows of {self.pad_to} tokens end before the first target; "
                f"give {needed} at least (main {self.main}, answer_offset {self.answer_offset})"
            )
        sample = high + (self.main > 0)
        if self.eval_texts < sample:
            raise SpecError(
                f"branches.eval_texts: {self.eval_texts} texts are fewer than one sample of "
                f"{sample}, so fewer branches would be evaluated"
            )

    def counts(self) -> tuple[int, int]:
        """The least and the most texts of a sample."""
        return (self.branches,) * 2 if isinstance(self.branches, int) else self.branches

    def io(self) -> Io:
        low, high = self.counts()
        length = self.pad_to or most_tokens(self.main + high * self.length)
        return Io(
            vocab=self.tokenizer.vocab_size(),
            length=length,
            tokens=min(length, self.main + self.length * (low + high) / 2),
            ragged=self.cut != "packed" or self.pad_to is not None,
        )

    def rows(self) -> int | None:
        if self.texts_per_step is None:
            return None
        return max(1, round(2 * self.texts_per_step / sum(self.counts())))

    def fingerprints(self) -> dict[str, str]:
        return {
            "corpus": self.corpus.fingerprint(),
            "tokenizer": self.tokenizer.fingerprint(self.corpus),
        }

    def open(self, data: Data, device: str) -> Source:
        return Samples(self, data.tokens(self.corpus, self.tokenizer), device, data.split)

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        nats_EBT, counted_EBT = nats(outputs, batch["targets"])
        return nats_EBT.sum((1, 2)), counted_EBT.sum((1, 2))

    def score(
        self, outputs: Tensor, batch: Mapping[str, Tensor]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        return language(outputs, batch)

    def baselines(self, data: Data) -> dict[str, dict[str, float]]:
        """Counts of the training split, scored on the evaluated targets."""
        train = data.bind("train").tokens(self.corpus, self.tokenizer)
        source = Samples(self, data.tokens(self.corpus, self.tokenizer), "cpu", data.split)
        found = source.trivial(train)
        return {name: {"loss": value} for name, value in found.items()}

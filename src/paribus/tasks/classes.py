"""Which of a few classes does a text belong to?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from paribus.contracts import Io, Metric, Source, Task, Tokenizer
from paribus.errors import SpecError
from paribus.tasks import _labelled
from paribus.text.labelled import Labelled

if TYPE_CHECKING:
    from torch import Tensor

    from paribus.text.data import Data


class Classes(Task, frozen=True, kw_only=True):
    """Labelled texts, each a row of its first ``length`` tokens, padded at the end.  A row begins
    with the tokenizer's bos where it has one; its eos is left out.  An epoch visits every text
    once, in an order keyed by (seed, epoch).

    Nothing is chosen on the test split: the original reported the best epoch on its test set.

    Attributes:
        path: files of JSON lines or parquet by split, "data/{split}.jsonl" or {"train": …,
            "test": …}; or the name of a dataset of the Hugging Face hub, or of a local folder that
            its library can load.  "validation" may lack: then ``held`` is put aside.
        splits: of a dataset: our split -> its own; {}: those of the same names.
        config, commit: of a dataset, as in ``corpora.huggingface``.
        text, pair, label: columns.  A pair's second text follows after ``separator``.
        labels: the classes in order; None: those of the training split, which is read to plan.  To
            be given where a condition evaluates other files, and where results are to be read
            without the texts.
        held: share of the training texts for validation, where there is no such split; each text
            goes by its own content.
        read: the answer is read at the "last" token, or is the "mean" over all.
    """

    path: str | dict[str, str]
    tokenizer: Tokenizer
    length: Annotated[int, Meta(ge=1)]
    splits: dict[str, str] = {}
    config: str | None = None
    commit: str | None = None
    text: str = "text"
    pair: str | None = None
    separator: str = " [SEP] "
    label: str = "label"
    labels: tuple[str, ...] | None = None
    held: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    read: Literal["last", "mean"] = "last"

    trivial: ClassVar[tuple[str, ...]] = ("majority", "uniform")
    metrics: ClassVar[dict[str, Metric]] = {
        "loss": Metric("nats"),
        "accuracy": Metric("", better="higher"),
        "macro_f1": Metric("", better="higher"),
        "commonest": Metric(""),
    }

    def labelled(self) -> Labelled:
        """The texts; to the tokenizer they are a corpus.  Reads the settings that matter."""
        fields: dict[str, Any] = {"path": self.path, "text": self.text, "label": self.label}
        if self.pair is not None:
            fields |= {"pair": self.pair, "separator": self.separator}
        if not Labelled(**fields).of_files:
            fields |= {"splits": self.splits, "config": self.config, "commit": self.commit}
        if "validation" not in Labelled(**fields).sources():
            fields["held"] = self.held
        return Labelled(**fields)

    def names(self) -> list[str]:
        """The classes in order of their numbers."""
        names = self.labelled().labels() if self.labels is None else list(self.labels)
        if len(set(names)) < max(2, len(names)):
            raise SpecError(f"classes.labels: two different ones at least; there are {names}")
        return names

    def io(self) -> Io:
        return Io(
            vocab=self.tokenizer.vocab_size(),
            length=self.length,
            ragged=True,
            classes=len(self.names()),
        )

    def fingerprints(self) -> dict[str, str]:
        labelled = self.labelled()
        return {
            "texts": labelled.fingerprint(),
            "tokenizer": self.tokenizer.fingerprint(labelled),
        }

    def open(self, data: Data, device: str) -> Source:
        return _labelled.Texts(self, data, device)

    def _answer(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return _labelled.answer(outputs, batch["valid"], self.read)

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        nats_EB = _labelled.loss(self._answer(outputs, batch), batch["targets"])
        return nats_EB.sum(1), nats_EB.detach().new_full((len(nats_EB),), nats_EB.shape[1])

    def score(
        self, outputs: Tensor, batch: Mapping[str, Tensor]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        return _labelled.score(self._answer(outputs, batch), batch["targets"])

    def whole(self, items: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
        return _labelled.whole(items["_said"][0], items["_class"][0])

    def answers(self, items: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, list[Any]]:
        names = self.names()
        return {"said": [names[int(i)] for i in items["_said"][0].tolist()]}

    def baselines(self, data: Data) -> dict[str, dict[str, float]]:
        """On the whole split."""
        return _labelled.Texts(self, data, "cpu").trivial()

    def baseline_slices(
        self, data: Data, by: Sequence[str]
    ) -> dict[str, dict[str, dict[str, float]]]:
        return _labelled.Texts(self, data, "cpu").trivial_slices(by)

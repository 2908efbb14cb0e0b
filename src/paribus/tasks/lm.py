"""Language modelling on packed documents."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from paribus.contracts import Corpus, Io, Metric, Source, Task, Tokenizer
from paribus.errors import SpecError
from paribus.lazy import numpy as np
from paribus.nn.losses import language, nats
from paribus.tasks import _windows, _words
from paribus.tasks._stream import Stream
from paribus.tasks._words import Words
from paribus.text import ngrams

if TYPE_CHECKING:
    from torch import Tensor

    from paribus.text.data import Data


class Lm(Task, frozen=True, kw_only=True):
    """Next-token prediction.

    The packed stream of a split is cut into rows of ``length`` tokens; an epoch visits every row
    once, in an order keyed by (seed, epoch).  With ``pack="best_fit"`` every training row begins
    with a document: an epoch packs all of them in such an order.  Evaluation scores each target
    once, in blocks of ``stride`` targets that do not depend on the length: conditions of any length
    score the same tokens.  A block is read in a window of ``length`` tokens that ends with it.

    Perplexity with a sliding window (Press et al. 2022; YaRN's tables have length − stride tokens
    of context at least) is ``ppl`` with a small ``stride``.  What longer context gives is the loss
    at one ``length`` minus that at another, with a ``stride`` and a ``start`` that both have room
    for: then each target has ``length`` − ``stride`` tokens before it at least.

    Attributes:
        length: tokens a row.
        tokens_per_step: instead of rows: rows = tokens_per_step / length.
        eval_tokens: targets scored per condition, at most; whole blocks.
        stride: targets that an evaluated window scores, its last ones; None: all, ``length``.
        start: targets before this place of the text are not scored.
        within: what evaluated windows stay in: the packed "stream", or each "document", which then
            has its own ``start``, and whose last block may be shorter.
        each: targets scored of a document, at most, so that ``eval_tokens`` are of several books
            and not of the first alone; needs within="document".  None: all.
        pack: how training rows are made: the "stream", cut; each "document", cut, without the rest
            that fills no row; or "best_fit" (``text/fitted.py``), which leaves out the rest of a
            document that it cuts.  nanochat reads such rows as they
            come, longest documents first; here an epoch's rows are shuffled.
        segments: gives tokens the coordinate ``segment``, which document they belong to, for
            ``masks.document()``.  The last token of a document still predicts the next one's first.
        bins: gives evaluation the slices ``position`` (in the window) and ``place`` (in the
            document) of the tokens that predict: [0, bins), [bins, 2 bins), [2 bins, 4 bins) …
            None: none.
        words: gives perplexity by words (runs of what is no ASCII white space) and by bytes, too,
            of all nats over all words and bytes.
    """

    corpus: Corpus
    tokenizer: Tokenizer
    length: Annotated[int, Meta(ge=1)]
    tokens_per_step: Annotated[int, Meta(ge=1)] | None = None
    eval_tokens: Annotated[int, Meta(ge=1)] = 65_536
    stride: Annotated[int, Meta(ge=1)] | None = None
    start: Annotated[int, Meta(ge=0)] = 0
    within: Literal["stream", "document"] = "stream"
    each: Annotated[int, Meta(ge=1)] | None = None
    bins: Annotated[int, Meta(ge=1)] | None = None
    pack: Literal["stream", "document", "best_fit"] = "stream"
    segments: bool = False
    words: bool = False

    causal: ClassVar[bool] = True
    training: ClassVar[frozenset[str]] = frozenset({"tokens_per_step", "pack"})
    trivial: ClassVar[tuple[str, ...]] = ("unigram", "bigram")
    optional: ClassVar[frozenset[str]] = frozenset(
        {"word_loss", "word_ppl", "byte_loss", "byte_ppl"}
    )
    metrics: ClassVar[dict[str, Metric]] = {
        "loss": Metric("nats/token"),
        "bpb": Metric("bits/byte"),
        "ppl": Metric("", of="loss", transform="exp"),
        "word_loss": Metric("nats/word"),
        "word_ppl": Metric("", of="word_loss", transform="exp"),
        "byte_loss": Metric("nats/byte"),
        "byte_ppl": Metric("", of="byte_loss", transform="exp"),
    }

    def io(self) -> Io:
        return Io(vocab=self.tokenizer.vocab_size(), length=self.length)

    def rows(self) -> int | None:
        if self.tokens_per_step is None:
            return None
        rows, rest = divmod(self.tokens_per_step, self.length)
        if rest or not rows:
            raise SpecError(
                f"task.tokens_per_step: {self.tokens_per_step} is no multiple of length "
                f"{self.length}"
            )
        return rows

    def fingerprints(self) -> dict[str, str]:
        return {
            "corpus": self.corpus.fingerprint(),
            "tokenizer": self.tokenizer.fingerprint(self.corpus),
        }

    def open(self, data: Data, device: str) -> Source:
        source = Stream(self, data.tokens(self.corpus, self.tokenizer), device)
        if self.words:
            source.words = Words(data.encoder(self.corpus, self.tokenizer).texts, device)
        return source

    def validate(self) -> None:
        if self.words and self.bins is not None:
            raise SpecError("task.words: not given by place; leave words or bins out")

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        nats_EBT, counted_EBT = nats(outputs, batch["targets"])
        return nats_EBT.sum((1, 2)), counted_EBT.sum((1, 2))

    def score(
        self, outputs: Tensor, batch: Mapping[str, Tensor]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        if self.bins is None:
            found = language(outputs, batch)
            return found if "words" not in batch else {**found, **_words.metrics(found, batch)}
        P = _windows.parts(self.bins, self.length)
        return _windows.language(*nats(outputs, batch["targets"]), batch, P)

    def baselines(self, data: Data) -> dict[str, dict[str, float]]:
        """Counts of the training split, scored on the evaluated text."""
        train = data.bind("train").tokens(self.corpus, self.tokenizer)
        tokens = data.tokens(self.corpus, self.tokenizer)
        ids, scored = np.asarray(tokens.ids), Stream(self, tokens, "cpu").scored()
        # Conditions of other lengths score the same targets, mostly.
        same = hashlib.blake2b(scored.tobytes()).hexdigest()
        found = data.once(
            ["ngrams", train.fingerprint, tokens.fingerprint, same],
            lambda: ngrams.baselines(train.ids, ids[scored - 1], ids[scored], train.vocab),
        )
        return {name: {"loss": value} for name, value in found.items()}

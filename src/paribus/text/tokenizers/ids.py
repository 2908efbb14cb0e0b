"""Ids that some other program has made."""

from __future__ import annotations

from pathlib import Path

from paribus.contracts import Corpus, Tokenizer
from paribus.errors import SpecError
from paribus.lazy import numpy as np
from paribus.text.data import Encoder, expect


class Ids(Tokenizer, frozen=True, kw_only=True):
    """The ids of a pretokenised corpus (.bin), as they are.

    How many bytes an id stands for is not known: losses are there, bits per byte are not.

    Fields:
        vocab: size of the vocabulary; an id beyond it is an error.  GPT-2's by default.
        eos: the id that ends each document (GPT-2: 50256), by which documents are told apart;
            None takes each file as one document.
    """

    vocab: int = 50257
    eos: int | None = None

    def validate(self) -> None:
        if not 1 <= self.vocab <= 1 << 16:
            raise SpecError(f"ids.vocab: {self.vocab} must be 1 … 65,536, as ids are uint16")
        if self.eos is not None and not 0 <= self.eos < self.vocab:
            raise SpecError(f"ids.eos: {self.eos} lies outside the vocabulary of {self.vocab:,}")

    def vocab_size(self) -> int:
        return self.vocab

    def fingerprint(self, corpus: Corpus) -> str:
        return f"ids vocab {self.vocab} eos {self.eos}"

    def open(self, corpus: Corpus, cache: Path) -> Encoder:
        expect("ids", corpus, self)
        return Encoder(_encode, self.vocab, None, self.eos, None, packed=True)


def _encode(documents: list[bytes]) -> list[np.ndarray]:
    return [np.frombuffer(d, "<u2") for d in documents]

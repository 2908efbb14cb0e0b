"""Byte-level byte-pair encoding, trained on the corpus."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from paribus.contracts import Corpus, Tokenizer
from paribus.errors import SpecError
from paribus.text.cache import publish
from paribus.text.data import Encoder, expect
from paribus.text.fast import encoder, pieces, text
from paribus.text.need import need

BOS = "<|bos|>"


class Bpe(Tokenizer, frozen=True, kw_only=True):
    """Byte-level BPE with GPT-2's pattern, trained on the training split alone.

    Fields:
        vocab: 256 bytes, the merges, and <|bos|>, which starts each document.  A text too small
            for that many merges leaves the last ids unused.
    """

    vocab: int

    def validate(self) -> None:
        if not 257 <= self.vocab <= 1 << 24:
            raise SpecError(f"bpe.vocab: {self.vocab} must be at least 257: 256 bytes and {BOS}")

    def vocab_size(self) -> int:
        return self.vocab

    def fingerprint(self, corpus: Corpus) -> str:
        made_of = f"bpe {self.revision} vocab {self.vocab} of {corpus.fingerprint()}"
        return hashlib.sha256(made_of.encode()).hexdigest()

    def open(self, corpus: Corpus, cache: Path) -> Encoder:
        expect("text", corpus, self)
        folder = cache / "tokenizers" / self.fingerprint(corpus)[:32]
        publish(folder, lambda made: self._train(corpus, made / "tokenizer.json"))
        spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        bos = next(t["id"] for t in spec["added_tokens"] if t["content"] == BOS)
        return encoder(spec, "tokenizers.bpe", self.vocab, bos, None)

    def _train(self, corpus: Corpus, file: Path) -> None:
        library = need("tokenizers", "tokenizers.bpe")
        byte_level = library.pre_tokenizers.ByteLevel
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=self.vocab,
            min_frequency=2,
            special_tokens=[BOS],
            initial_alphabet=sorted(byte_level.alphabet()),
            show_progress=False,
        )
        batches = (pieces(text(d, "tokenizers.bpe")) for d in corpus.documents("train"))
        tokenizer.train_from_iterator(batches, trainer)
        tokenizer.save(str(file))

"""Bytes as tokens."""

from __future__ import annotations

from pathlib import Path

from paribus.contracts import Corpus, Tokenizer
from paribus.lazy import numpy as np
from paribus.text.data import Encoder, expect

BOS = 256


class Bytes(Tokenizer, frozen=True, kw_only=True):
    """Ids 0–255 are bytes, 256 starts each document.  Trains nothing and takes any bytes."""

    def vocab_size(self) -> int:
        return 257

    def fingerprint(self, corpus: Corpus) -> str:
        return "bytes"

    def open(self, corpus: Corpus, cache: Path) -> Encoder:
        expect("text", corpus, self)
        length = np.ones(257, np.int64)
        length[BOS] = 0
        texts = [*(bytes([i]) for i in range(256)), b""]
        return Encoder(_encode, 257, BOS, None, length, ordinary=np.arange(256), texts=texts)


def _encode(documents: list[bytes]) -> list[np.ndarray]:
    return [np.frombuffer(d, np.uint8).astype(np.uint16) for d in documents]

"""Packed tokens of a corpus, cached by content and mapped into memory.

Beyond the contract a corpus may say: ``form`` ("ids" where its documents hold uint16 ids, else
"text"), ``disjoint`` (its splits are so by the way in which they are made), ``located(split)``
(documents with the place that errors name), ``why_empty(split)`` (what to do about it) and
``of_python`` (its text is that of the Python that runs).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from paribus.contracts import Corpus, Tokenizer
from paribus.errors import ParibusError, SpecError, nearest
from paribus.lazy import numpy as np
from paribus.spec import digest
from paribus.text.cache import publish
from paribus.text.splits import SPLITS, content

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

Made = TypeVar("Made")
PACKING = 1  # revision of the packed stream; it enters the cache's hash
BATCH = 4 << 20  # bytes of text encoded at a time
NEARLY = 1e-3  # share of bytes by which token_bytes may miss the text


@dataclass
class Encoder:
    """A tokenizer at work.

    Attributes:
        encode: documents -> ids of each, without marks.
        vocab: size of the vocabulary.
        bos, eos: ids of the marks, where the tokenizer has them.
        token_bytes: int64 [V], raw bytes of each token, specials 0; None where unknown.
        texts: what each token stands for, specials b""; None where unknown.
        packed: the ids hold their marks already; documents end after eos.
        ordinary: ids of ordinary tokens, ascending; None where unknown.
    """

    encode: Callable[[list[bytes]], list[Array]]
    vocab: int
    bos: int | None = None
    eos: int | None = None
    token_bytes: NDArray[np.int64] | None = None
    packed: bool = False
    ordinary: NDArray[np.int64] | None = None
    texts: list[bytes] | None = None


@dataclass
class Tokens:
    """One split as a stream of ids.

    Attributes:
        ids: uint16 or uint32, mapped from the cache.
        starts: int64, where each document starts (its mark included).
        token_bytes: int64 [V]; None: bits per byte cannot be had.
        n_bytes: bytes of the documents; None for ids made elsewhere.
        excess: sum of token_bytes[ids] minus n_bytes: 0 unless the tokenizer alters the text
            (a space put first, say); beyond 0.1 % token_bytes is None.
        fingerprint: hash of all that decides the stream.
    """

    ids: Array
    starts: NDArray[np.int64]
    token_bytes: NDArray[np.int64] | None
    vocab: int
    fingerprint: str
    n_bytes: int | None
    bos: int | None = None
    eos: int | None = None
    excess: int = 0

    def doc_of(self, index: Any) -> Array:
        """The document of each token index."""
        found: Array = np.searchsorted(self.starts, index, side="right") - 1
        return found


def expect(form: str, corpus: Corpus, tokenizer: Tokenizer) -> None:
    """Ids want ``tokenizers.ids``, text any other; else an error."""
    if getattr(corpus, "form", "text") == form:
        return
    who = f"corpora.{corpus.name} and tokenizers.{tokenizer.name} do not fit: "
    if form == "text":
        raise SpecError(who + "the corpus holds ids; use tokenizers.ids(vocab=…)")
    raise SpecError(who + "the corpus holds text, not ids; use another tokenizer")


class Data:
    """Access to packed corpora, bound to a split.

    Args:
        cache: folder of everything that can be made again.
        split: "train", "validation" or "test".
    """

    def __init__(self, cache: Path, split: str = "train") -> None:
        if split not in SPLITS:
            raise SpecError(f"no split {split!r}; {nearest(split, SPLITS)}")
        self.cache = Path(cache)
        self.split = split
        self._memo: dict[str, Any] = {}

    def bind(self, split: str) -> Data:
        """The same data, bound to another split."""
        other = Data(self.cache, split)
        other._memo = self._memo
        return other

    def once(self, what: list[str], make: Callable[[], Made]) -> Made:
        """What is made of it, once a process; whatever the split."""
        key = digest(what, 32)
        if key not in self._memo:
            self._memo[key] = make()
        made: Made = self._memo[key]
        return made

    def encoder(self, corpus: Corpus, tokenizer: Tokenizer) -> Encoder:
        """The opened tokenizer, once a process."""
        what = ["encoder", *_identity(corpus, tokenizer)]
        return self.once(what, lambda: tokenizer.open(corpus, self.cache))

    def tokens(self, corpus: Corpus, tokenizer: Tokenizer) -> Tokens:
        """The split's packed stream: each document after bos, else before eos, as there are."""
        key = digest([PACKING, self.split, *_identity(corpus, tokenizer)], 32)
        if key not in self._memo:
            folder = self.cache / "tokens" / key
            if not folder.is_dir():
                self._check_splits(corpus)
                publish(folder, lambda made: self._pack(corpus, tokenizer, made))
            self._memo[key] = _load(folder, key)
        tokens: Tokens = self._memo[key]
        return tokens

    def _pack(self, corpus: Corpus, tokenizer: Tokenizer, folder: Path) -> None:
        encoder = self.encoder(corpus, tokenizer)
        kind = np.dtype("<u2" if encoder.vocab <= 1 << 16 else "<u4")
        lengths = encoder.token_bytes
        starts: list[Array] = []
        total = n_bytes = counted = 0
        with (folder / "ids.bin").open("wb") as file:
            for documents in _batches(corpus.documents(self.split)):
                marked, begins = _marked(encoder.encode(documents), encoder)
                highest = int(marked.max(initial=0))
                if highest >= encoder.vocab:
                    raise SpecError(
                        f"tokenizer/vocabulary mismatch: corpora.{corpus.name} has id {highest:,} "
                        f"and tokenizers.{tokenizer.name} has a vocabulary of {encoder.vocab:,}"
                    )
                starts.append(begins + total)
                total += len(marked)
                n_bytes += sum(map(len, documents))
                counted += 0 if lengths is None else int(lengths[marked].sum())
                marked.astype(kind, copy=False).tofile(file)
        if not total:
            why = getattr(corpus, "why_empty", lambda split: "give it some")(self.split)
            raise SpecError(f"corpora.{corpus.name} has no {self.split} documents: {why}")
        np.save(folder / "starts.npy", np.concatenate(starts).astype(np.int64))
        if lengths is not None and abs(counted - n_bytes) <= NEARLY * n_bytes:
            np.save(folder / "token_bytes.npy", lengths.astype(np.int64))
        meta = {
            "dtype": kind.str,
            "tokens": total,
            "bytes": None if encoder.packed else n_bytes,
            "excess": 0 if lengths is None else counted - n_bytes,
            "vocab": encoder.vocab,
            "bos": encoder.bos,
            "eos": encoder.eos,
            "split": self.split,
            "corpus": corpus.fingerprint(),
            "tokenizer": tokenizer.fingerprint(corpus),
            "packing": PACKING,
        }
        (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")

    def _check_splits(self, corpus: Corpus) -> None:
        """Refuse a document that is in two splits; checked once for each content of a corpus."""
        if getattr(corpus, "disjoint", False):
            return
        folder = self.cache / "corpora" / digest(["disjoint", *_identity(corpus)], 32)
        publish(folder, lambda made: _disjoint(corpus, made))


def _identity(*of: Corpus | Tokenizer) -> list[str]:
    corpus = of[0]
    assert isinstance(corpus, Corpus)
    out = [corpus.fingerprint(), corpus.identity()]
    for tokenizer in of[1:]:
        assert isinstance(tokenizer, Tokenizer)
        out += [tokenizer.fingerprint(corpus), tokenizer.identity()]
    return out


def _batches(documents: Iterator[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _marked(documents: list[Array], encoder: Encoder) -> tuple[Array, Array]:
    """The documents' ids in one stream, with their marks, and where each document starts."""
    if not encoder.packed:
        before = [] if encoder.bos is None else [encoder.bos]
        after = [encoder.eos] if encoder.bos is None and encoder.eos is not None else []
        left, right = np.array(before, np.uint32), np.array(after, np.uint32)
        lengths = [len(left) + len(ids) + len(right) for ids in documents]
        stream = np.concatenate([a for ids in documents for a in (left, ids, right) if len(a)])
        return stream, np.cumsum([0, *lengths[:-1]])
    # One document at a time is the rule here, and is passed on without a copy.
    stream = documents[0] if len(documents) == 1 else np.concatenate(documents)
    begins = [np.cumsum([0, *(len(ids) for ids in documents[:-1])])]
    if encoder.eos is not None:
        ends = np.flatnonzero(stream == encoder.eos) + 1
        begins.append(ends[ends < len(stream)])
    return stream, np.unique(np.concatenate(begins))


def _load(folder: Path, key: str) -> Tokens:
    try:
        meta = json.loads((folder / "meta.json").read_text())
        ids = np.memmap(folder / "ids.bin", meta["dtype"], "r")
        starts = np.load(folder / "starts.npy")
        lengths = folder / "token_bytes.npy"
        token_bytes = np.load(lengths) if lengths.is_file() else None
        whole = len(ids) == meta["tokens"]
    except (OSError, ValueError, KeyError):
        whole = False
    if not whole:
        raise ParibusError(f"{folder} is damaged; delete it, and it is made again")
    bos, eos, n_bytes, excess = (meta[k] for k in ("bos", "eos", "bytes", "excess"))
    return Tokens(ids, starts, token_bytes, meta["vocab"], key, n_bytes, bos, eos, excess)


def _disjoint(corpus: Corpus, folder: Path) -> None:
    """Documents of the held-out splits are remembered; those of train stream by."""
    seen: dict[bytes, tuple[str, str]] = {}
    counts = {}
    for split in reversed(SPLITS):
        counts[split] = 0
        for place, document in _located(corpus, split):
            counts[split] += 1
            identity = content(document)
            there, where = seen.get(identity, (split, ""))
            if there != split:
                raise SpecError(
                    f"corpora.{corpus.name}: the splits overlap: {place} ({split}) is "
                    f"also {where} ({there}): {bytes(document[:40])!r}"
                    + ('; overlap="drop" leaves such out' if hasattr(corpus, "overlap") else "")
                )
            if split != "train":
                seen.setdefault(identity, (split, place))
    (folder / "documents.json").write_text(json.dumps(counts) + os.linesep)


def _located(corpus: Corpus, split: str) -> Iterator[tuple[str, bytes]]:
    if hasattr(corpus, "located"):
        yield from corpus.located(split)
        return
    for number, document in enumerate(corpus.documents(split), 1):
        yield f"document {number}", document

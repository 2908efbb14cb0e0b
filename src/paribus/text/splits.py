"""The three splits of a corpus: given explicitly, or made by the content of each document."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from typing import Literal

from paribus.contracts import Corpus
from paribus.errors import SpecError
from paribus.text.readers import Located

SPLITS = ("train", "validation", "test")


def content(document: bytes) -> bytes:
    """128 bits of a document's sha256: its identity."""
    return hashlib.sha256(document).digest()[:16]


def split_of(identity: bytes, fractions: tuple[float, float, float]) -> str:
    """The split of a document: by its content alone, so no other document can move it."""
    at = int.from_bytes(identity[:8], "big") / 2.0**64
    if at < fractions[2]:
        return "test"
    return "validation" if at < fractions[2] + fractions[1] else "train"


def cut(document: bytes, fractions: tuple[float, float, float], unit: int) -> dict[str, bytes]:
    """One document cut into contiguous splits, at the ends of lines where there are any near by,
    else between characters (of ids: anywhere)."""
    first = _boundary(document, fractions[0], unit)
    second = max(first, _boundary(document, fractions[0] + fractions[1], unit))
    return {
        "train": document[:first],
        "validation": document[first:second],
        "test": document[second:],
    }


def _boundary(document: bytes, share: float, unit: int) -> int:
    n = len(document)
    at = min(n, round(n * share) // unit * unit)
    if unit > 1 or at in (0, n):
        return at
    if end := document.find(b"\n", at, at + n // 100 + 1) + 1:
        return end
    while at < n and 0x80 <= document[at] < 0xC0:  # inside a UTF-8 character
        at += 1
    return at


class Divided(Corpus, frozen=True, kw_only=True):
    """A corpus whose splits are explicit sources, or else fractions of one source."""

    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05)
    overlap: Literal["refuse", "drop"] = "refuse"

    def validate(self) -> None:
        if min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-9:
            raise SpecError(
                f"{self.name}.fractions: {self.fractions} must be shares of train, validation and "
                "test that add up to 1"
            )

    def sources(self) -> Mapping[str, Callable[[], Located]]:
        """``{"train": …}`` alone is a pool to be divided; more are the splits themselves."""
        raise NotImplementedError

    @property
    def explicit(self) -> bool:
        """Whether the user names the splits; reads nothing."""
        raise NotImplementedError

    @property
    def form(self) -> str:
        """ "text", or "ids" where documents hold uint16 ids."""
        return "text"

    @property
    def disjoint(self) -> bool:
        """Whether the splits are disjoint by the way in which they are made."""
        return not self.explicit or self.overlap == "drop"

    def documents(self, split: str) -> Iterator[bytes]:
        for _, document in self.located(split):
            yield document

    def located(self, split: str) -> Located:
        """(place, document): the place names file and line."""
        sources = self.sources()
        if not self.explicit:
            yield from self._share(split, sources["train"]())
            return
        if split not in sources:
            return
        seen: set[bytes] = set()
        if self.overlap == "drop":
            for later in SPLITS[SPLITS.index(split) + 1 :]:
                if later in sources:
                    seen.update(content(d) for _, d in sources[later]())
        for place, document in sources[split]():
            if len(document) and not (seen and content(document) in seen):
                yield place, document

    def _share(self, split: str, pool: Located) -> Located:
        pool = ((place, d) for place, d in pool if len(d))
        first = list(islice(pool, 2))
        if len(first) == 1:
            place, document = first[0]
            piece = cut(document, self.fractions, 2 if self.form == "ids" else 1)[split]
            if len(piece):
                yield f"{place}, {split} part", piece
            return
        for place, document in chain(first, pool):
            if split_of(content(document), self.fractions) == split:
                yield place, document

    def rule(self) -> str:
        """How the splits are made, in words."""
        if self.explicit:
            return "given" + ("; repeated documents dropped" if self.overlap == "drop" else "")
        shares = " / ".join(f"{100 * f:g}" for f in self.fractions)
        return (
            f"{shares} % by content hash of each document; a single document is cut in that order"
        )

    def why_empty(self, split: str) -> str:
        """What to do about a split without documents."""
        if self.explicit:
            return "name its source too, or name none and let fractions= divide the text"
        return "no document's hash falls into its share of fractions=; give it a source of its own"

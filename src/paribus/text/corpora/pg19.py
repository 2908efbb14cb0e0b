"""Whole books in the layout of PG-19 (Rae et al. 2020): a folder of train, validation and test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from paribus.errors import SpecError
from paribus.text.paths import digest, resolve
from paribus.text.readers import Located, rows
from paribus.text.splits import SPLITS, Divided

ABOUT = ["short_book_title", "publication_date"]


class Pg19(Divided, frozen=True, kw_only=True):
    """Books, one a document: parquet or JSON lines with the columns short_book_title,
    publication_date, url and text, as the dataset has them on the Hugging Face hub; of these text
    alone must be there.  From the hub itself it is ``corpora.huggingface(dataset="deepmind/pg19",
    validation_split="validation", test_split="test")``.

    ``tasks.lm(pack="document", within="document")`` reads no two books in one row; with
    ``words=True`` it gives perplexity by words, as PG-19 is reported, and by bytes.  Identity is
    the books' texts, in the order of their files' contents; titles and dates are in the report.

    Fields:
        path: the folder; its files begin with train, validation or test, and may lie in a folder
            data, or in one of the split's name.  Relative to the study's folder.
        overlap: whether a book in two splits is an error ("refuse") or is left out of the earlier
            one ("drop").
    """

    path: str

    @property
    def explicit(self) -> bool:
        return True

    def sources(self) -> Mapping[str, Callable[[], Located]]:
        return {split: partial(self._read, files) for split, files in self._files().items()}

    def fingerprint(self) -> str:
        contents = {split: sorted(map(digest, files)) for split, files in self._files().items()}
        made_of = json.dumps(["pg19", contents, self.overlap], sort_keys=True)
        return hashlib.sha256(made_of.encode()).hexdigest()

    def titles(self, split: str) -> list[str]:
        """The books of a split, in the order of its documents; with ``overlap="drop"`` the dropped
        ones, too."""
        return [str(row[0]) for row in self._rows(split)]

    def describe(self) -> dict[str, Any]:
        out: dict[str, Any] = {"path": self.path, "splits": self.rule()}
        for split in self._files():
            found = self._rows(split)
            years = sorted(str(row[1]) for row in found if row[1])
            out[f"books of {split}"] = len(found)
            if years:
                out[f"years of {split}"] = f"{years[0]}–{years[-1]}"
        return {**out, "sha256": self.fingerprint()}

    def _rows(self, split: str) -> list[list[Any]]:
        """Title and date of each book, where its file has them."""
        out: list[list[Any]] = []
        for file in _ordered(self._files().get(split, [])):
            known = _told(file)
            for _, row in rows(file, ABOUT if known else ["text"]):
                out.append(row if known else ["", None])
        return out

    def _read(self, files: list[Path]) -> Located:
        for file in _ordered(files):
            known = _told(file)
            for place, row in rows(file, ["text", *ABOUT[: int(known)]]):
                if not isinstance(row[0], str):
                    raise SpecError(f"{file}: {place}: text holds {row[0]!r:.40}, which is no text")
                yield (f"{place} ({row[1]})" if known else place), row[0].encode()

    def _files(self) -> dict[str, list[Path]]:
        folder = resolve(self.path)
        if not folder.is_dir():
            raise SpecError(
                f"corpora.pg19.path: no folder {folder}; give one with train, validation and test "
                "in it (.parquet or .jsonl)"
            )
        out: dict[str, list[Path]] = {}
        for split in SPLITS:
            globs = (f"{split}*", f"data/{split}*", f"{split}/*")
            found = {p for g in globs for p in folder.glob(g) if p.suffix in (".parquet", ".jsonl")}
            if not found:
                raise SpecError(
                    f"corpora.pg19.path: {folder} has no {split}*.parquet or {split}*.jsonl; "
                    "corpora.files takes books without splits"
                )
            out[split] = sorted(found)
        return out


def _ordered(files: list[Path]) -> list[Path]:
    """In order of content: a renamed file changes nothing."""
    return sorted(files, key=digest)


def _told(file: Path) -> bool:
    """Whether a file says what its books are called."""
    try:
        next(rows(file, ABOUT), None)
    except SpecError:
        return False
    return True

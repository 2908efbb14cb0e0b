"""A user's own files: text, JSON lines, parquet, or uint16 ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from paribus.errors import SpecError
from paribus.text.paths import digest, find
from paribus.text.readers import READERS, Located, read
from paribus.text.splits import Divided

COLUMNS = {".jsonl", ".parquet"}


class Files(Divided, frozen=True, kw_only=True):
    """Documents from files; identity is their contents, not their names or places.

    .txt: a file is a document.  .jsonl, .parquet: a row is one.  .bin: a file of little-endian
    uint16 ids without a header (nanoGPT's), to be used with ``tokenizers.ids``.

    Fields:
        path: a file, a glob or a folder; relative to the study's folder.
        validation, test: files of their own; where neither is given, ``fractions`` divide path.
        column: the text's column in .jsonl and .parquet.
        fractions: shares of train, validation and test; each document goes by its own content
            hash, so a new document moves no other.  A single document is cut instead.
        overlap: of given splits, whether a document in two of them is an error ("refuse") or is
            left out of the earlier one of train, validation, test ("drop").
    """

    path: str
    validation: str | None = None
    test: str | None = None
    column: str = "text"

    @property
    def explicit(self) -> bool:
        return self.validation is not None or self.test is not None

    @property
    def form(self) -> str:
        return "ids" if self._files()["train"][0].suffix == ".bin" else "text"

    def sources(self) -> Mapping[str, Callable[[], Located]]:
        return {split: partial(self._read, paths) for split, paths in self._files().items()}

    def fingerprint(self) -> str:
        files = self._files()
        contents = {split: sorted(map(digest, paths)) for split, paths in files.items()}
        columns = any(p.suffix in COLUMNS for paths in files.values() for p in paths)
        rule = [self.overlap if self.explicit else self.fractions, columns and self.column]
        text = json.dumps([contents, rule, self.form], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        files = self._files()
        return {
            "path": self.path,
            "files": {split: len(paths) for split, paths in files.items()},
            "bytes of files": {s: sum(p.stat().st_size for p in ps) for s, ps in files.items()},
            "splits": self.rule(),
            "sha256": self.fingerprint(),
        }

    def _read(self, paths: list[Path]) -> Located:
        # In order of content: a renamed file changes nothing.
        for path in sorted(paths, key=digest):
            yield from read(path, self.column)

    def _files(self) -> dict[str, list[Path]]:
        given = {"train": self.path, "validation": self.validation, "test": self.test}
        out: dict[str, list[Path]] = {}
        owner: dict[Path, str] = {}
        for split, path in given.items():
            if path is None:
                continue
            key = "path" if split == "train" else split
            out[split] = find(path, READERS, f"corpora.files.{key}")
            if not any(p.stat().st_size for p in out[split]):
                raise SpecError(f"corpora.files.{key}: {path} is empty; give it some text")
            for p in out[split]:
                real = p.resolve()
                if owner.setdefault(real, key) != key and self.overlap == "refuse":
                    raise SpecError(f"corpora.files: {p} is in {owner[real]}= and in {key}=")
        if {p.suffix for paths in out.values() for p in paths} > {".bin"}:
            raise SpecError(f"corpora.files: {self.path}: .bin files hold ids, the others text")
        return out

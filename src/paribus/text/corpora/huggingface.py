"""A dataset of the Hugging Face hub, or a local folder that its library can load."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from paribus.errors import ParibusError, SpecError, nearest
from paribus.text.need import need
from paribus.text.paths import resolve
from paribus.text.readers import Located, texts
from paribus.text.splits import Divided


class Huggingface(Divided, frozen=True, kw_only=True):
    """Documents from a Hugging Face dataset.

    With a full hash as ``commit``, that is the identity and planning reads nothing; otherwise the
    contents are hashed, once a process.

    Fields:
        dataset: its name on the hub, or a local folder of data files or one made by save_to_disk.
        config: the dataset's configuration, if it has several.
        commit: its revision: a commit's hash, a branch or a tag.
        split: the dataset's split to train on ("train", "train[:10%]"), divided by ``fractions``
            where neither validation_split nor test_split is given.
        column: the text's column.
        fractions, overlap: as in ``corpora.files``.
    """

    dataset: str
    config: str | None = None
    commit: str | None = None
    split: str = "train"
    validation_split: str | None = None
    test_split: str | None = None
    column: str = "text"

    @property
    def explicit(self) -> bool:
        return self.validation_split is not None or self.test_split is not None

    def sources(self) -> Mapping[str, Callable[[], Located]]:
        return {ours: partial(self._read, theirs) for ours, theirs in self._splits().items()}

    def fingerprint(self) -> str:
        rule = [self.column, self.overlap if self.explicit else self.fractions, self._splits()]
        contents: Any
        if re.fullmatch("[0-9a-f]{40}", self.commit or "") and not resolve(self.dataset).is_dir():
            contents = [self.dataset, self.config, self.commit]
        else:
            contents = [_contents(*self._where(s), self.column) for s in self._splits().values()]
        return hashlib.sha256(json.dumps([rule, contents]).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "config": self.config,
            "commit": self.commit,
            "splits": self.rule(),
            "sha256": self.fingerprint(),
        }

    def _splits(self) -> dict[str, str]:
        given = {"train": self.split, "validation": self.validation_split, "test": self.test_split}
        return {ours: theirs for ours, theirs in given.items() if theirs is not None}

    def _where(self, split: str) -> tuple[str, str | None, str | None, str]:
        place = resolve(self.dataset)
        name = str(place) if place.is_dir() else self.dataset
        return name, self.config, self.commit, split

    def _read(self, split: str) -> Located:
        for row, text in enumerate(_texts(*self._where(split), self.column), 1):
            yield f"{self.dataset}[{split}] row {row}", text


@functools.lru_cache(maxsize=16)
def _load(name: str, config: str | None, revision: str | None, split: str) -> Any:
    who = f"corpora.huggingface: {name}"
    datasets = need("datasets", "corpora.huggingface", "hf")
    try:
        saved = [Path(name) / f for f in ("dataset_dict.json", "state.json")]
        if not any(p.is_file() for p in saved):
            return datasets.load_dataset(name, config, revision=revision, split=split)
        found = datasets.load_from_disk(name)  # made by save_to_disk
    except Exception as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ParibusError(f"{who}: {reason[0]}") from None
    if not hasattr(found, "keys"):
        found = {"train": found}  # a single dataset, saved without splits
    if split not in found:
        there = ", ".join(found)
        raise SpecError(f"{who}: no split {split!r}; {nearest(split, found)} (there: {there})")
    return found[split]


def _texts(name: str, config: str | None, revision: str | None, split: str, column: str) -> Any:
    rows = _load(name, config, revision, split)
    where = f"corpora.huggingface: {name}[{split}]"
    if column not in rows.column_names:
        hint = nearest(column, rows.column_names)
        there = ", ".join(rows.column_names)
        raise SpecError(f"{where}: no column {column!r}; {hint} (there: {there})")
    for batch in rows.select_columns([column]).with_format("arrow").iter(batch_size=256):
        for chunk in batch.column(0).chunks:
            yield from texts(chunk, f"{where}: {column!r}")


@functools.lru_cache(maxsize=16)
def _contents(name: str, config: str | None, revision: str | None, split: str, column: str) -> str:
    total = hashlib.sha256()
    for text in _texts(name, config, revision, split, column):
        total.update(len(text).to_bytes(8, "little"))
        total.update(text)
    return total.hexdigest()

"""Labelled text in three splits, from files or a dataset.  To a tokenizer it is a corpus."""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from paribus.contracts import Corpus
from paribus.errors import ParibusError, SpecError, nearest
from paribus.text import readers
from paribus.text.need import need
from paribus.text.paths import digest, find, resolve
from paribus.text.splits import SPLITS, content, split_of

KEPT = 12  # lists that a process remembers


class Row(NamedTuple):
    """One text, its pair joined to it.

    Attributes:
        identity: hash of the text, without its label.
    """

    text: bytes
    label: str
    identity: bytes
    place: str


_MADE: dict[tuple[str, str], list[Any]] = {}


class Labelled(Corpus, frozen=True, kw_only=True):
    """Rows of a text and a label; see ``tasks.classes`` for the fields.

    A split's rows stand in the order of their content: files are often sorted by label, so the
    first n of them would be of one class.  Where no validation split is given, each text of the
    training split goes by its own content, so that no choice is made on the test split.
    """

    path: str | dict[str, str]
    splits: dict[str, str] = {}
    config: str | None = None
    commit: str | None = None
    text: str = "text"
    pair: str | None = None
    separator: str = " [SEP] "
    label: str = "label"
    held: float = 0.05

    disjoint: ClassVar[bool] = True  # published sets have some texts twice: counted, not refused

    # ── what is there ──

    @property
    def of_files(self) -> bool:
        return not isinstance(self.path, str) or "{split}" in self.path

    def sources(self) -> dict[str, str]:
        """Split -> a file, glob or folder, or the dataset's own split, of those that there are."""
        found = self._files() if self.of_files else self._parts()
        for split in found:
            if split not in SPLITS:
                raise SpecError(f"classes: no split {split!r}; {nearest(split, SPLITS)}")
        for split in ("train", "test"):
            if split not in found:
                raise SpecError(self._lacking(split))
        return found

    def _lacking(self, split: str) -> str:
        if isinstance(self.path, str) and self.of_files:
            return f"classes.path: no file {resolve(self.path.replace('{split}', split))}"
        what = "path" if self.of_files else "splits"
        return f'classes.{what}: no {split} split; give {{"{split}": …}}'

    def _files(self) -> dict[str, str]:
        if not isinstance(self.path, str):
            return dict(self.path)
        named = {split: self.path.replace("{split}", split) for split in SPLITS}
        return {split: path for split, path in named.items() if _there(resolve(path))}

    def _parts(self) -> dict[str, str]:
        assert isinstance(self.path, str)
        if resolve(self.path).is_file() or Path(self.path).suffix in readers.TABLES:
            raise SpecError(
                f"classes.path: {self.path} is one file; give one for each split, as "
                '"…/{split}.jsonl" or {"train": …, "test": …}'
            )
        if self.splits:
            return dict(self.splits)
        there = _dataset(*self._where())
        return {split: split for split in SPLITS if split in there}

    def _where(self) -> tuple[str, str | None, str | None]:
        assert isinstance(self.path, str)
        place = resolve(self.path)
        return (str(place) if place.is_dir() else self.path), self.config, self.commit

    def fingerprint(self) -> str:
        sources = self.sources()
        rule = [self.text, self.pair, self.pair and self.separator, self.label]
        if "validation" not in sources:
            rule.append(str(self.held))
        contents: Any
        if self.of_files:
            contents = {s: sorted(map(digest, self._found(s))) for s in sources}
        elif (
            re.fullmatch("[0-9a-f]{40}", self.commit or "")
            and not resolve(self._where()[0]).is_dir()
        ):
            contents = [*self._where(), sources]
        else:
            contents = _contents(self._where(), tuple(sources.items()), tuple(self._columns()))
        return hashlib.sha256(json.dumps([rule, contents], sort_keys=True).encode()).hexdigest()

    def _found(self, split: str) -> list[Path]:
        return find(self.sources()[split], readers.TABLES, f"classes.path ({split})")

    def _columns(self) -> list[str]:
        return [self.text, *([self.pair] if self.pair else []), self.label]

    # ── rows ──

    def rows(self, split: str) -> list[Row]:
        """The rows of a split, in order of their content."""
        return self._once(split, lambda: self._divided(split))

    def labels(self) -> list[str]:
        """The classes of the training split, by number if all are numbers, else by name."""

        def found() -> list[str]:
            names = {row.label for row in self._once("all of train", lambda: self._sorted("train"))}
            numbers = all(re.fullmatch(r"-?\d+", name) for name in names)
            return sorted(names, key=int) if numbers else sorted(names)

        return self._once("labels", found)

    def _once(self, what: str, make: Callable[[], list[Any]]) -> list[Any]:
        key = self.fingerprint(), what
        if key not in _MADE:
            made = make()
            while len(_MADE) >= KEPT:
                del _MADE[next(iter(_MADE))]
            _MADE[key] = made
        return _MADE[key]

    def _divided(self, split: str) -> list[Row]:
        if split == "test" or "validation" in self.sources():
            return self._sorted(split)
        shares = (1 - self.held, self.held, 0.0)
        every = self._once("all of train", lambda: self._sorted("train"))
        mine = [row for row in every if split_of(row.identity, shares) == split]
        if not mine:
            raise SpecError(
                f"classes.held: of {len(every)} training texts {self.held:g} are for validation, "
                f"which leaves none for {split}; change it, or give a validation split"
            )
        return mine

    def _sorted(self, split: str) -> list[Row]:
        found = sorted(self._read(split), key=lambda row: (row.identity, row.label))
        if not found:
            raise SpecError(f"classes: the {split} split has no rows")
        return found

    def _read(self, split: str) -> Iterator[Row]:
        for place, values in self._raw(split):
            texts = [
                _text(value, f"{place}: {column!r}")
                for value, column in zip(values[:-1], self._columns(), strict=False)
            ]
            text = self.separator.join(texts).encode()
            label = _label(values[-1], f"{place}: {self.label!r}")
            yield Row(text, label, content(text), place)

    def _raw(self, split: str) -> readers.Rows:
        if self.of_files:
            for path in self._found(split):
                yield from readers.rows(path, self._columns())
        else:
            yield from _entries(self._where(), self.sources()[split], self._columns())

    def documents(self, split: str) -> Iterator[bytes]:
        for row in self.rows(split):
            yield row.text


def _there(path: Path) -> bool:
    return path.exists() or bool(glob.glob(str(path), recursive=True))


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise SpecError(f"{where} holds {value!r:.40}, which is no text")
    if not value.strip():
        raise SpecError(f"{where} is an empty text")
    return value


def _label(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise SpecError(f"{where} holds {value!r:.40}, which is no label: a name or a whole number")
    return str(value)


# ── datasets ────────────────────────────────────────────────────────────────────────────────


@functools.lru_cache(maxsize=4)
def _dataset(name: str, config: str | None, revision: str | None) -> Any:
    datasets = need("datasets", f"classes.path: {name}", "hf")
    try:
        if any((Path(name) / f).is_file() for f in ("dataset_dict.json", "state.json")):
            found = datasets.load_from_disk(name)
        else:
            found = datasets.load_dataset(name, config, revision=revision)
    except Exception as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ParibusError(f"classes.path: {name}: {reason[0]}") from None
    return found if hasattr(found, "keys") else {"train": found}


def _entries(where: tuple[str, str | None, str | None], split: str, columns: list[str]) -> Any:
    every = _dataset(*where)
    if split not in every:
        there = ", ".join(every)
        raise SpecError(f"classes.splits: {where[0]} has no {split!r} (there: {there})")
    table = every[split]
    for column in columns:
        if column not in table.column_names:
            raise SpecError(readers.missing(f"{where[0]}[{split}]", column, table.column_names))
    names = getattr(table.features[columns[-1]], "names", None)
    for number, row in enumerate(table.select_columns(columns), 1):
        *values, label = (row[column] for column in columns)
        if names and isinstance(label, int) and 0 <= label < len(names):
            label = names[label]
        yield f"{where[0]}[{split}] row {number}", [*values, label]


@functools.lru_cache(maxsize=8)
def _contents(where: Any, splits: Any, columns: Any) -> str:
    total = hashlib.sha256()
    for ours, theirs in splits:
        for _, values in _entries(where, theirs, list(columns)):
            total.update(json.dumps([ours, values]).encode())
    return total.hexdigest()

"""The embedded corpus: sources of the running Python's standard library."""

from __future__ import annotations

import functools
import hashlib
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from paribus.contracts import Corpus
from paribus.errors import ParibusError, SpecError
from paribus.text.modules import MODULES

LEAST = 4_000_000  # bytes below which the sources cannot be whole
HELD_OUT = 0.05  # of all bytes, for validation and for test
LARGE = 0.02  # a file above this share would fill a held-out split by itself


class File(NamedTuple):
    name: str
    identity: str
    size: int


class Stdlib(Corpus, frozen=True, kw_only=True):
    """About 9 MB of Python: needs no download.  The text differs between versions of Python, so
    trials on two versions are two trials.

    Fields:
        megabytes: cap on the training split (10⁶ bytes); smaller ones are nested in larger ones,
            and validation and test stay the same.
    """

    megabytes: float | None = None

    disjoint: ClassVar[bool] = True  # repeated contents are removed
    of_python: ClassVar[bool] = True

    def validate(self) -> None:
        if self.megabytes is not None and self.megabytes <= 0:
            raise SpecError(f"stdlib.megabytes: {self.megabytes} must be above 0")

    def documents(self, split: str) -> Iterator[bytes]:
        place = folder()
        for file in self._files()[split]:
            yield (place / file.name).read_bytes()

    def fingerprint(self) -> str:
        lines = [f"{s} {f.name} {f.identity}" for s, files in self._files().items() for f in files]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        splits, place = self._files(), folder()
        return {
            "text": "sources of Python's standard library",
            "version": platform.python_version(),
            "files": {s: len(files) for s, files in splits.items()},
            "bytes": {s: sum(f.size for f in files) for s, files in splits.items()},
            "absent here": sum(not (place / name).is_file() for name in MODULES),
            "sha256": self.fingerprint(),
            "licence": "PSF-2.0",
        }

    def why_empty(self, split: str) -> str:
        """What to do about a split without documents."""
        return "megabytes= is smaller than the first file; raise it"

    def _files(self) -> dict[str, list[File]]:
        splits = divided()
        if self.megabytes is None:
            return splits
        train: list[File] = []
        total = 0
        for file in splits["train"]:
            total += file.size
            if total > self.megabytes * 1e6:
                return {**splits, "train": train}
            train.append(file)
        raise SpecError(
            f"stdlib.megabytes: {self.megabytes:g} is more than the {total / 1e6:.1f} of training "
            f"text that Python {platform.python_version()} has here; None takes all"
        )


@functools.cache
def folder() -> Path:
    return Path(sysconfig.get_path("stdlib"))


_DIVIDED: dict[Path, dict[str, list[File]]] = {}


def divided() -> dict[str, list[File]]:
    """The files of each split; read once a process.

    In order of content hash, files fill validation, then test, then train.
    """
    place = folder()
    if place not in _DIVIDED:
        unique: dict[str, File] = {}
        for name in MODULES:
            try:
                data = (place / name).read_bytes()
            except OSError:
                continue  # some distributions package a few modules apart
            identity = hashlib.sha256(data).hexdigest()
            if data:
                unique.setdefault(identity, File(name, identity, len(data)))
        total = sum(f.size for f in unique.values())
        if total < LEAST:
            raise ParibusError(
                f"corpora.stdlib: {place} has {total / 1e6:.1f} MB of the sources that are needed; "
                "install Python's standard library with its sources, or use corpora.files()"
            )
        out: dict[str, list[File]] = {"train": [], "validation": [], "test": []}
        taken = dict.fromkeys(out, 0)
        for identity in sorted(unique):
            file = unique[identity]
            split = "train"
            if file.size <= LARGE * total:
                held = (s for s in ("validation", "test") if taken[s] < HELD_OUT * total)
                split = next(held, "train")
            out[split].append(file)
            taken[split] += file.size
        _DIVIDED[place] = out
    return _DIVIDED[place]

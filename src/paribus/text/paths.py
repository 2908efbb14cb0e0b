"""Where a user's relative paths start, and the content hashes of files."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Collection
from pathlib import Path

from paribus import parts
from paribus.errors import SpecError, nearest

# Of the process, not of the context: libraries read documents from threads of their own.
_BASE: list[Path | None] = [None]
_DIGESTS: dict[tuple[str, int, int], str] = {}


def use_base(folder: Path | None) -> None:
    """Relative paths of corpora and tokenizers start at ``folder`` (the study's) from now on."""
    _BASE[0] = folder


def resolve(path: str) -> Path:
    """An absolute path: relative ones start at the base, else beside the study's parts, else in
    the working directory."""
    given = Path(path).expanduser()
    if given.is_absolute():
        return given
    return (_BASE[0] or parts.local_folder() or Path.cwd()).absolute() / given


def find(path: str, suffixes: Collection[str], where: str) -> list[Path]:
    """The files that ``path`` (a file, a glob or a folder) means, in order of name."""
    place = resolve(path)
    if place.is_file():
        found = [place]
    elif place.is_dir():
        every = (p for p in place.rglob("*") if p.suffix in suffixes and p.is_file())
        found = [p for p in every if not any(s[0] == "." for s in p.relative_to(place).parts)]
    else:
        found = [p for p in map(Path, glob.glob(str(place), recursive=True)) if p.is_file()]
    if not found and place.is_dir():
        raise SpecError(f"{where}: {place} holds no {' or '.join(sorted(suffixes))} file")
    if not found:
        names = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
        hint = nearest(place.name, names)
        hint = f"; {hint}" if hint.startswith("did you mean") else ""
        raise SpecError(f"{where}: no file {place}{hint}")
    for p in found:
        if p.suffix not in suffixes:
            raise SpecError(
                f"{where}: {p}: a {p.suffix or 'nameless'} file cannot be read; "
                f"readable: {', '.join(sorted(suffixes))}"
            )
    return sorted(found)


def folder_of(path: str, where: str) -> Path:
    """The folder that ``path`` means."""
    place = resolve(path)
    if not place.is_dir():
        raise SpecError(f"{where}: no folder {place}")
    return place


def digest(path: Path) -> str:
    """sha256 of a file; remembered in this process while size and time stay the same."""
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if key not in _DIGESTS:
        with path.open("rb") as file:
            _DIGESTS[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _DIGESTS[key]

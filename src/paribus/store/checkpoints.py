"""Checkpoints: a folder of data files that counts from the moment its manifest stands.

The manifest is {"step", "files": {name: {"size", "sha256"}}, "info"} and is linked into place
when everything it names is durable.  It goes first when a checkpoint is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paribus.store.files import (
    StoreError,
    disk,
    encode,
    numbers,
    publish,
    share,
    sync,
    write,
)

MANIFEST = "manifest"


@dataclass(frozen=True)
class Checkpoint:
    """A sealed checkpoint whose hashes were verified; the files lie under one's own attempt."""

    step: int
    files: dict[str, Path]
    info: dict[str, Any]


class Corrupt(Exception):
    """A sealed checkpoint does not hold what its manifest says."""


class Vanished(Exception):
    """The checkpoint was dropped by its owner while it was looked at."""


def folder(attempt: Path, step: int) -> Path:
    return attempt / "checkpoints" / str(step)


def sealed(attempt: Path) -> list[int]:
    """The steps that have a manifest, ascending."""
    root = f"{attempt}/checkpoints"
    return [step for step in numbers(root) if os.path.exists(f"{root}/{step}/{MANIFEST}")]


def seal(attempt: Path, step: int, files: Mapping[str, bytes], info: Mapping[str, Any]) -> None:
    """Write a checkpoint; nothing happens if this step is sealed already (it was resumed from)."""
    for name in files:
        if name == MANIFEST or name.startswith(".") or "/" in name or not name:
            raise StoreError(f"checkpoint file {name!r}: choose a plain name other than {MANIFEST}")
    sizes = {
        name: {"size": memoryview(data).nbytes, "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    }
    manifest = encode({"step": step, "files": sizes, "info": dict(info)}, wide=True)
    place = folder(attempt, step)
    if (place / MANIFEST).exists():
        return
    with disk(place):
        _fresh(attempt, step)
        try:
            for name, data in files.items():
                write(place / name, data)
            sync(place)
            publish(place, MANIFEST, manifest)
            _sync_parents(attempt)
        except BaseException:
            with suppress(OSError, StoreError):
                drop(attempt, step)
            raise


def drop(attempt: Path, step: int) -> None:
    """Remove a checkpoint of one's own attempt: the manifest first, durably, then the files."""
    place = folder(attempt, step)
    with disk(place):
        if not place.exists():
            return
        (place / MANIFEST).unlink(missing_ok=True)
        sync(place)
        for path in place.iterdir():
            path.unlink(missing_ok=True)
        place.rmdir()


def load(attempt: Path, step: int) -> Checkpoint:
    """One's own checkpoint, verified.  Raises Corrupt or Vanished."""
    return _verify(folder(attempt, step), _manifest(folder(attempt, step))[1])


def adopt(source: Path, step: int, attempt: Path) -> Checkpoint:
    """Make the checkpoint of another attempt one's own, so that nobody can pull it away.

    The data files are hard-linked (or copied) and verified under one's own attempt before the
    manifest is put there: a checkpoint that is damaged is never sealed a second time.
    Raises Corrupt or Vanished, and DiskError.
    """
    old, new = folder(source, step), folder(attempt, step)
    content, manifest = _manifest(old)
    with disk(new):
        _fresh(attempt, step)
        try:
            for name in manifest["files"]:
                try:
                    share(old / name, new / name)
                except FileNotFoundError:
                    gone = not (old / MANIFEST).exists()
                    raise (Vanished if gone else Corrupt)(f"{old / name} is missing") from None
            checkpoint = _verify(new, manifest)
            sync(new)
            publish(new, MANIFEST, content)
            _sync_parents(attempt)
        except BaseException:
            with suppress(OSError, StoreError):
                drop(attempt, step)
            raise
    return checkpoint


def _fresh(attempt: Path, step: int) -> None:
    """An empty folder for `step`.  The attempt's own folder is never made here: if a person has
    deleted it, the attempt is over."""
    drop(attempt, step)
    (attempt / "checkpoints").mkdir(exist_ok=True)
    folder(attempt, step).mkdir()


def _sync_parents(attempt: Path) -> None:
    sync(attempt / "checkpoints")
    sync(attempt)


def _manifest(place: Path) -> tuple[bytes, dict[str, Any]]:
    try:
        content = (place / MANIFEST).read_bytes()
        manifest = json.loads(content)
        plain = all(name and "/" not in name for name in manifest["files"])
        if not plain or manifest["step"] != int(place.name) or "info" not in manifest:
            raise Corrupt(f"{place}: the manifest is damaged")
    except FileNotFoundError as error:
        raise Vanished(place) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{place}: the manifest is damaged") from error
    return content, manifest


def _verify(place: Path, manifest: dict[str, Any]) -> Checkpoint:
    files = {name: place / name for name in manifest["files"]}
    for name, path in files.items():
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                found = {"size": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        except OSError as error:
            raise Corrupt(f"{path}: {error.strerror}") from error
        if found != manifest["files"][name]:
            raise Corrupt(f"{path} is not what was sealed (size or hash differs)")
    return Checkpoint(int(manifest["step"]), files, manifest["info"])

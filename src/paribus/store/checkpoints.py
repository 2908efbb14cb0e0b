"""Checkpoints: a folder of data files that counts from the moment its manifest stands.

The manifest is {"step", "files": {name: {"size", "sha256"}}, "info"} and is linked into place
when everything it names is durable.  It goes first when a checkpoint is dropped.  In a checkpoint
that was taken over from another attempt it holds "adopted" besides, true.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paribus.store.files import (
    DiskError,
    StoreError,
    disk,
    encode,
    exists,
    numbers,
    publish,
    read_bytes,
    share,
    sync,
    write,
)

MANIFEST = "manifest"

_BROKEN = (errno.EIO, errno.EBADMSG, errno.EUCLEAN) if hasattr(errno, "EUCLEAN") else (errno.EIO,)
"""What reading a damaged disk says; after any other error the file may be whole."""


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
    return [step for step in numbers(root) if exists(f"{root}/{step}/{MANIFEST}")]


def seal(attempt: Path, step: int, files: Mapping[str, bytes], info: Mapping[str, Any]) -> None:
    """Write a checkpoint; if this step is sealed already (it was resumed from, or an earlier call
    sealed it although the disk then complained) only its manifest is made durable again."""
    for name in files:
        if name == MANIFEST or name.startswith(".") or "/" in name or not name:
            raise StoreError(f"checkpoint file {name!r}: choose a plain name other than {MANIFEST}")
    sizes = {
        name: {"size": memoryview(data).nbytes, "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    }
    manifest = encode({"step": step, "files": sizes, "info": dict(info)}, wide=True)
    place = folder(attempt, step)
    standing = read_bytes(place / MANIFEST)
    if standing is not None:
        with disk(place):
            publish(place, MANIFEST, standing)
            _sync_parents(attempt)
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
        if not exists(place):
            return
        (place / MANIFEST).unlink(missing_ok=True)
        sync(place)
        for path in place.iterdir():
            path.unlink(missing_ok=True)
        place.rmdir()


def load(attempt: Path, step: int) -> Checkpoint:
    """One's own checkpoint, verified.  Raises Corrupt or Vanished."""
    return _verify(folder(attempt, step), _manifest(folder(attempt, step))[1])


def own_steps(attempt: Path) -> list[int]:
    """The sealed steps that this attempt wrote itself, ascending; damaged ones are left out."""
    found = []
    for step in sealed(attempt):
        with suppress(Corrupt, Vanished):
            if not _manifest(folder(attempt, step))[1].get("adopted"):
                found.append(step)
    return found


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
                    gone = not exists(old / MANIFEST)
                    raise (Vanished if gone else Corrupt)(f"{old / name} is missing") from None
            checkpoint = _verify(new, manifest)
            # Dropped and being written again under our hands: what was linked is not durable.
            if read_bytes(old / MANIFEST) != content:
                raise Vanished(old)
            sync(new)
            publish(new, MANIFEST, encode({**manifest, "adopted": True}, wide=True))
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
        content = read_bytes(place / MANIFEST)
    except DiskError as error:
        if error.errno in _BROKEN:
            raise Corrupt(f"{place}: the manifest cannot be read") from error
        raise
    if content is None:
        raise Vanished(place)
    try:
        manifest = json.loads(content)
        plain = all(name and "/" not in name for name in manifest["files"])
        if not plain or manifest["step"] != int(place.name) or "info" not in manifest:
            raise Corrupt(f"{place}: the manifest is damaged")
    except (ValueError, KeyError, TypeError) as error:
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
            if error.errno in (errno.ENOENT, *_BROKEN):
                raise Corrupt(f"{path}: {error.strerror}") from error
            raise DiskError(f"{path}: {error.strerror or error}", error.errno) from error
        if found != manifest["files"][name]:
            raise Corrupt(f"{path} is not what was sealed (size or hash differs)")
    return Checkpoint(int(manifest["step"]), files, manifest["info"])

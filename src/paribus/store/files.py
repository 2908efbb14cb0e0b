"""Small files that survive a crash: published once, by hard link, and never changed.

Everything that several processes may compete for goes through `publish`.  What only one process
ever writes (a picture such as plan.json) is replaced by rename.  Names that begin with a dot are
temporary files; a killed process may leave one, and every reader passes over them.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from paribus.errors import ParibusError

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_AT_ONCE = 16  # calls that wait for the disk side by side
_TRIES = 3  # how often a temporary file may be cleared away under its writer's hands


class StoreError(ParibusError):
    """The store refuses a request, or holds something that it cannot read."""


class Damaged(StoreError):
    """A sealed file does not hold what was written; `read` says what to do."""


class DiskError(StoreError):
    """The disk refused: what was sealed before is untouched, the partial file is gone.

    `errno` is the operating system's number (errno.ENOSPC, errno.EIO, ...).
    """

    def __init__(self, message: str, number: int | None) -> None:
        super().__init__(message)
        self.errno = number


class Fenced(StoreError):
    """The attempt or claim is no longer this process's: give the slot up and write nothing."""


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a DiskError that names `path`."""
    try:
        yield
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror or error}", error.errno) from error


def check_id(kind: str, text: str) -> str:
    """`text` if it can be a file's name (letters, digits, _ and -), else a StoreError."""
    if not _ID.fullmatch(text):
        raise StoreError(f"{kind} {text!r}: an id has letters, digits, '_' and '-' only")
    return text


# ── content ─────────────────────────────────────────────────────────────────────────────────────


def encode(content: Any, *, wide: bool = False) -> bytes:
    """JSON with sorted keys: one value a line, or compact if `wide` (long lists of numbers).

    NaN, infinities and objects that JSON does not know raise StoreError.
    """
    form: dict[str, Any] = {"separators": (",", ":")} if wide else {"indent": 1}
    try:
        text = json.dumps(content, sort_keys=True, allow_nan=False, ensure_ascii=False, **form)
        return text.encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise StoreError(f"this cannot be written as JSON: {error}") from error


def read_bytes(path: str | Path) -> bytes | None:
    """What `path` holds; None if there is no such file; DiskError if it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror or error}", error.errno) from error


def read(path: str | Path) -> dict[str, Any] | None:
    """The JSON object in `path`; None if there is no such file; Damaged if it is damaged."""
    found = read_bytes(path)
    if found is None:
        return None
    try:
        content = json.loads(found.decode())
    except ValueError as error:
        raise Damaged(f"{path} is damaged ({error}); delete it to have it made again") from error
    if not isinstance(content, dict):
        raise Damaged(f"{path} is damaged (no JSON object); delete it to have it made again")
    return content


def exists(path: str | Path) -> bool:
    """Whether something is there; DiskError if that cannot be seen: then neither yes nor no may
    be assumed, as os.path.exists does."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror or error}", error.errno) from error
    return True


def names(folder: str | Path) -> list[str]:
    """The names in a folder, without temporary files; empty if there is no such folder."""
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DiskError(f"{folder}: {error.strerror or error}", error.errno) from error


def numbers(folder: str | Path) -> list[int]:
    """The names in a folder that are whole numbers (attempts, steps), ascending."""
    return sorted(int(name) for name in names(folder) if name.isascii() and name.isdigit())


# ── writing ─────────────────────────────────────────────────────────────────────────────────────


def sync(folder: Path) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot fsync a folder: they order their entries by themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: bytes) -> None:
    """os.write until everything is written: one call may take only a part of it."""
    rest = memoryview(content).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write(path: Path, content: bytes) -> None:
    """A new file, durable; refused if it exists.  After an error no partial file is left.

    After a failed fsync the file is dropped, never synced again: the kernel may have forgotten
    the pages that it could not write, and would then report success.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        try:
            write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise


def publish(folder: Path, name: str, content: bytes) -> bool:
    """Put `content` at folder/name unless something is there: True if what stands is ours.

    Whatever link() says, what stands in the file decides: over a network it can fail after
    taking effect.  So two publishers that must be told apart need different contents (a token).
    Raises DiskError if it cannot be known, or is not durable; then it may be published all the
    same, and calling again with the same content is how to find out and to make it durable.
    """
    target = folder / name
    with disk(target):
        for tries in range(_TRIES):
            temporary = folder / f".{name}-{secrets.token_hex(8)}"
            write(temporary, content)
            try:
                failure: OSError | None = None
                try:
                    os.link(temporary, target)
                except OSError as error:
                    failure = error
                found = read_bytes(target)
                if found is None:
                    if tries + 1 < _TRIES and isinstance(failure, FileNotFoundError):
                        continue  # the temporary file was taken for a dead writer's
                    raise failure or FileNotFoundError(errno.ENOENT, "it vanished", str(target))
                sync(folder)
                return found == content
            finally:
                with suppress(OSError):
                    os.unlink(temporary)
    raise AssertionError("the last try returns or raises")


def replace(path: Path, content: bytes) -> None:
    """Write a picture: a file that one process writes and that may be made again at any time."""
    with disk(path):
        if read_bytes(path) == content:
            return
        for tries in range(_TRIES):
            temporary = path.parent / f".{path.name}-{secrets.token_hex(8)}"
            write(temporary, content)
            try:
                os.replace(temporary, path)
                break
            except FileNotFoundError:
                if tries + 1 == _TRIES:
                    raise
            except OSError:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
        sync(path.parent)


def share(source: Path, target: Path) -> None:
    """Hard-link `source` to `target`, or copy it where links fail (another owner, too many)."""
    try:
        os.link(source, target)
    except OSError:
        # The link may have been made all the same: writing into it would write into the source.
        with suppress(FileNotFoundError):
            os.unlink(target)
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    with open(source, "rb", buffering=0) as old:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            while block := old.read(1 << 20):
                write_all(descriptor, block)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ── several calls ───────────────────────────────────────────────────────────────────────────────


def at_once(calls: Sequence[Callable[[], Any]]) -> list[Future[Any]]:
    """Make several calls side by side, each once; all are over when this returns.

    Most of a call that writes is waiting for the disk, and a disk makes durable in one go what
    waits together.  Each call is what it is alone: nothing of its order changes.
    """
    if len(calls) < 2:
        return [_tried(call) for call in calls]
    with ThreadPoolExecutor(_AT_ONCE, "paribus disk") as pool:
        return list(pool.map(_tried, calls))


def settled(done: Future[Any], call: Callable[[], Any], write: Callable[..., Any]) -> Any:
    """What one of several calls returned; one that the disk refused is made again by ``write``,
    which waits for the disk."""
    try:
        return done.result()
    except DiskError:
        return write(call)


def _tried(call: Callable[[], Any]) -> Future[Any]:
    """The outcome of a call: what it returns or raises."""
    out: Future[Any] = Future()
    try:
        out.set_result(call())
    except Exception as error:
        out.set_exception(error)
    return out

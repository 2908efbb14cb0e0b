"""Where results go.

$PARIBUS_HOME, else the nearest `runs` folder with a marker, else `runs` beside the study file.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from paribus.store.files import DiskError, StoreError, disk, exists, publish, read_bytes, sync

MARKER = ".paribus"

FORMAT = 1
"""What the files of a home mean; raised when an older paribus would misread a newer home."""


def find_home(study_file: Path | None = None, cwd: Path | None = None) -> Path:
    """Where results go; nothing is created.

    $PARIBUS_HOME if it is set; else the `runs` folder with a marker in the nearest of the study
    file's folder (without a study file: `cwd`, by default the working directory) and its parents;
    else `runs` in that folder.
    """
    if chosen := os.environ.get("PARIBUS_HOME"):
        return Path(chosen).expanduser().absolute()
    base = Path(cwd) if cwd is not None else Path.cwd()
    start = (base / study_file).resolve().parent if study_file is not None else base.resolve()
    for folder in (start, *start.parents):
        if (folder / "runs" / MARKER).exists():
            return folder / "runs"
    return start / "runs"


def check_format(path: Path) -> None:
    """StoreError if the home was made by a newer paribus.  Without a marker nothing is wrong."""
    marker = read_bytes(path / MARKER)
    found = re.search(rb"^format (.*)$", marker or b"", re.MULTILINE)
    if found is None:
        return  # the first homes had no number
    number = found.group(1).strip().decode("ascii", "replace")
    if not number.isdigit():
        raise StoreError(f"{path / MARKER}: format {number!r} is no number; write format {FORMAT}")
    if int(number) > FORMAT:
        raise StoreError(
            f"{path}: this home was made by a newer paribus (format {number}); this one reads "
            f"format {FORMAT}: upgrade paribus"
        )


def init_home(path: Path) -> None:
    """Make the home and its marker; nothing changes if it is there.

    DiskError if it cannot be written to, so that nothing is trained for a read-only home.
    """
    line = b"Results of paribus. This folder can be copied, moved and read anywhere.\n"
    check_format(path)
    _check_writable(path)
    if exists(path / MARKER):
        return
    for above in path.absolute().parents:  # a folder is durable once the ones above it are
        with disk(above), suppress(PermissionError):
            sync(above)
    publish(path, MARKER, line + b"format %d\n" % FORMAT)


def _check_writable(path: Path) -> None:
    """Make the folder and a file in it: rights do not tell (root has them all)."""
    probe = path / f".{MARKER[1:]}-{secrets.token_hex(8)}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise DiskError(
                f"{path}: results cannot be written there ({error.strerror}); make it writable or "
                "choose another home (--home)",
                error.errno,
            ) from error
        with disk(path):
            if not path.is_dir():
                raise
    finally:
        with suppress(OSError):
            os.unlink(probe)

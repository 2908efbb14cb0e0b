"""Where a home of results lies and what its file system can do.

Nothing of the home is changed: what has to be written is written into a hidden folder of its own,
which is removed.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from paribus.doctor.contents import Contents
from paribus.doctor.finding import Finding, failed, fine, note, said
from paribus.store import StoreError
from paribus.store.files import names, publish, sync, write
from paribus.store.home import MARKER, check_format

_NETWORK = re.compile(r"nfs|lustre|gpfs|fuse|cifs|smb|9p|ceph|beegfs|gluster|afs|orangefs|wekafs")


def check_home(home: Path) -> Iterator[Finding]:
    """The checks of a home, first of where it lies, then of what it holds."""
    if not home.exists():
        above = next(p for p in home.parents if p.exists())
        if os.access(above, os.W_OK) and not _read_only(above):
            yield fine("home", "not there yet: the first `paribus run` makes it")
        else:
            yield failed("home", f"not there, and {above} cannot be written: choose another --home")
        return
    if not home.is_dir():
        yield failed("home", "is a file: choose another --home")
        return
    try:
        entries = os.listdir(home)
        check_format(home)
    except (OSError, StoreError) as error:
        yield failed("home", f"{error}")
        yield from _place(home)
        return
    if MARKER in entries or not entries:
        yield fine("home", "a home of this format" if entries else "an empty folder")
    elif "trials" in entries or "studies" in entries:
        yield note("home", f"has no marker {MARKER}, so it is only found by --home; run adds it")
    else:
        yield note("home", "holds files of others and no results; give another --home, or know it")
    yield from _place(home)
    clock = time.time()
    for finding, stamp in _disk(home):
        clock = stamp or clock
        yield finding
    yield from Contents(home, clock).findings()


# ── where it lies ───────────────────────────────────────────────────────────────────────────────


def _read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _place(home: Path) -> Iterator[Finding]:
    about = os.statvfs(home)
    free = about.f_bavail * about.f_frsize
    text = f"{said(free)} free of {said(about.f_blocks * about.f_frsize)}"
    if free < 8e6:
        text += ": checkpoints will not fit, runs wait for room; `paribus gc` frees some"
        yield failed("space", text)
    elif free < 2e9:
        yield note("space", f"{text}: `paribus plan` says what a study needs")
    else:
        yield fine("space", text)
    if about.f_files and about.f_favail < 10_000:
        yield note("space", f"only {about.f_favail} more files: a trial needs about 20")
    kind = file_system(home)
    if _NETWORK.search(kind):
        text = f"{kind}, over a network: paribus works; workers of other machines that died are "
        yield note("file system", text + "found by their beats, after a minute")
    elif kind in ("tmpfs", "ramfs"):
        yield note("file system", f"{kind}: results are gone when the machine restarts")
    elif kind == "overlay":
        yield note("file system", "overlay: results are gone with this container")
    else:
        yield fine("file system", kind or "not known")


def file_system(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The type of the file system that holds `path`, such as ext4 or nfs4; "" if not known."""
    real = os.path.realpath(path)
    best, kind = "", ""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        point, found = line.split()[1:3]
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), point)
        within = real == point or real.startswith(point.rstrip("/") + "/")
        if within and len(point) >= len(best):  # of two on one point the later one is seen
            best, kind = point, found
    return kind


# ── what its file system can do ─────────────────────────────────────────────────────────────────


def _disk(home: Path) -> Iterator[tuple[Finding, float | None]]:
    """(finding, the disk's own time where it is known)."""
    scratch = home / f".doctor-{secrets.token_hex(4)}"
    try:
        scratch.mkdir()
    except OSError as error:
        what = "is read-only" if error.errno == errno.EROFS else f"cannot be written ({error})"
        text = f"{what}: results can be read, `paribus run` cannot work here"
        yield failed("writing", text), None
        return
    try:
        yield from _abilities(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _abilities(scratch: Path) -> Iterator[tuple[Finding, float | None]]:
    first = scratch / "first"
    try:
        write(first, b"paribus")
    except OSError as error:
        yield failed("writing", f"a small file cannot be written: {error.strerror}"), None
        return
    now = first.stat().st_mtime
    for old in scratch.parent.glob(".doctor-*"):  # left by a doctor that was killed
        with suppress(OSError):
            if now - old.stat().st_mtime > 3600:
                shutil.rmtree(old, ignore_errors=True)
    apart = now - time.time()
    if abs(apart) > 60:
        text = f"the home's disk is {apart:+.0f} s from this machine: only time stamps are off"
        yield note("clock", text), now
    wrong = []
    try:
        write(first, b"another")
        wrong.append("O_EXCL does not refuse a file that exists")
    except FileExistsError:
        pass
    except OSError as error:
        wrong.append(f"O_EXCL: {error.strerror}")
    try:
        os.link(first, scratch / "second")
        if os.stat(first).st_nlink != 2:
            wrong.append("a hard link is not counted")
    except OSError as error:
        wrong.append(f"hard links: {error.strerror}")
    try:
        sync(scratch)
    except OSError as error:
        wrong.append(f"fsync of a folder: {error.strerror}")
    began = time.perf_counter()
    try:
        mine, theirs = publish(scratch, "claim", b"mine"), publish(scratch, "claim", b"theirs")
        if not mine or theirs or (scratch / "claim").read_bytes() != b"mine":
            wrong.append("two processes could hold one claim")
        if len(names(scratch)) != len(os.listdir(scratch)):
            wrong.append("a temporary file stays behind")
    except (OSError, StoreError) as error:
        wrong.append(f"publishing: {error}")
    took = (time.perf_counter() - began) / 2 * 1000
    if wrong:
        text = f"{'; '.join(wrong)}: claims are not safe here, choose another --home"
        yield failed("writing", text), now
    else:
        text = f"O_EXCL, hard links, fsync, publishing in {took:.1f} ms"
        slow = took > 200
        yield (note if slow else fine)("writing", text + (": slow" if slow else "")), now

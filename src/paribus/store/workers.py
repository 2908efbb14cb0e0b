"""Workers: a small file each that changes while its process lives, and watching those files.

workers/<worker> begins with 16 bytes, 8 hex digits of a count, 7 of the step and a mark,
rewritten in place (which a full disk cannot refuse).  Behind them stands who it is, as in a claim;
that never changes.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from paribus.store import owners
from paribus.store.files import DiskError, StoreError, disk, encode, publish, read_bytes

WORKING, DISK, IDLE = "-", "d", "i"
"""Marks: at work; waiting for room on the disk; without work."""

MARKS = {WORKING: "works", DISK: "waits for the disk", IDLE: "idle"}

PATIENCE = 60.0
"""Seconds without a sign of life after which an owner that cannot be seen counts as lost."""

_SIZE = 16


def patience_from_environment() -> float:
    """$PARIBUS_PATIENCE in seconds, by default 60."""
    text = os.environ.get("PARIBUS_PATIENCE", "")
    try:
        seconds = float(text) if text else PATIENCE
    except ValueError:
        seconds = 0.0
    if not 0.01 <= seconds <= 86400:
        raise StoreError(f"PARIBUS_PATIENCE={text!r}: give seconds, from 0.01 to 86400")
    return seconds


@dataclass(frozen=True)
class Beat:
    """What a worker said last: the step it is at, and one of `MARKS`."""

    step: int
    mark: str


def beat(workers: Path, worker: str) -> Beat | None:
    """The last beat of a worker; None if its file is gone or makes no sense."""
    content = (read_bytes(workers / worker) or b"")[:_SIZE]
    try:
        int(content[:8], 16)
        found = Beat(int(content[8:15], 16), content[15:].decode())
    except ValueError:
        return None
    return found if found.mark in MARKS else None


def identity_of(path: Path) -> dict[str, Any] | None:
    """Who the worker with this file is, as in a claim; None if the file does not say."""
    try:
        found = json.loads((read_bytes(path) or b"")[_SIZE:])
    except ValueError:
        return None
    return found if isinstance(found, dict) and "pid" in found else None


class Worker:
    """This process as others see it.

    id: its name in claims.  step: settable; the next beat says it.  mark: settable, one of
    `MARKS`; written at once.  A beat shows a living process, not a process that gets on.
    """

    def __init__(self, workers: Path, patience: float = PATIENCE) -> None:
        """Make the file.  DiskError if it cannot be written."""
        host = "".join(c if c.isascii() and c.isalnum() else "-" for c in socket.gethostname())
        self.id = f"{host.strip('-') or 'host'}-{os.getpid()}-{os.urandom(4).hex()}"
        self.step = 0
        self.path = workers / self.id
        self._mark = WORKING
        self._count = 0
        self._interval = patience / 10
        self._who = b"\n" + encode(owners.identity(self.id), wide=True)
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="paribus beat", daemon=True)
        self._make()

    def start(self) -> Worker:
        """Beat from now on, by a thread of its own."""
        self._thread.start()
        return self

    @property
    def mark(self) -> str:
        return self._mark

    @mark.setter
    def mark(self, mark: str) -> None:
        if mark not in MARKS:
            raise StoreError(f"mark {mark!r}: valid: {' '.join(MARKS)}")
        if mark != self._mark:
            self._mark = mark
            self.beat()

    def beat(self) -> None:
        """Write the file once.  What the disk says to it does not matter: others judge by what
        they see."""
        with self._writing:
            if self._closed.is_set():
                return
            self._count += 1
            with suppress(OSError, StoreError):
                try:
                    # Opened anew each time: over a network, others see it when it is closed.
                    descriptor = os.open(self.path, os.O_WRONLY)
                except FileNotFoundError:
                    self._make()  # cleared away while this process was taken for lost
                    return
                try:
                    os.pwrite(descriptor, self._beat(), 0)
                finally:
                    os.close(descriptor)

    def close(self) -> None:
        """Stop beating and remove the file: at the end, when nothing is claimed any more."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        with self._writing, suppress(OSError):
            os.unlink(self.path)

    def _run(self) -> None:
        while not self._closed.wait(self._interval):
            self.beat()

    def _beat(self) -> bytes:
        step = max(0, self.step) % 16**7
        return b"%08x%07x%s" % (self._count % 16**8, step, self._mark.encode())

    def _make(self) -> None:
        with disk(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        publish(self.path.parent, self.id, self._beat() + self._who)


@dataclass
class _Seen:
    content: bytes | None
    still: float
    at: float


class Watch:
    """Who is lost, as one watcher sees it.

    An owner that can be seen from here is judged at once.  Of another one, on another machine or
    in another container, the beat is watched: it is lost when the beat has not changed for
    `patience` seconds (or the owner's own patience, if that is longer) of this process's clock.
    Between two looks at most a quarter of that is counted, so that nobody is taken for lost after
    everything stood still.  Threads may look at once: no stretch of time is counted twice.
    """

    def __init__(
        self, workers: Path, patience: float, clock: Callable[[], float] = monotonic
    ) -> None:
        self.workers = workers
        self.patience = patience
        self.clock = clock
        self._seen: dict[str, _Seen] = {}
        self._looking = threading.Lock()

    def judge(self, claim: Mapping[str, Any]) -> tuple[bool, str]:
        """(lost, reason) of the process that wrote `claim`."""
        alive, reason = owners.look(claim)
        if alive is not None:
            return not alive, reason
        patience = max(self.patience, float(claim.get("patience", 0)))
        with self._looking:
            still = self._still(str(claim["worker"]), patience)
        who = f"process {claim['pid']} on {claim['host']} (worker {claim['worker']})"
        if still >= patience:
            return True, f"{who} has given no sign of life for {patience:g} s"
        return False, f"{who}, seen by its beat; last sign of life {still:.0f} s ago"

    def _still(self, worker: str, patience: float) -> float:
        """For how many seconds the worker's beat is known not to have changed."""
        seen, now = self._seen.get(worker), self.clock()
        try:
            content = read_bytes(self.workers / worker)
        except DiskError:
            if seen is not None:
                seen.at = now  # nothing was seen, so nothing is counted
            return 0.0 if seen is None else seen.still
        if seen is None or content not in (None, seen.content):
            self._seen[worker] = _Seen(content, 0.0, now)
            return 0.0
        seen.still += min(now - seen.at, patience / 4)
        seen.at = now
        return seen.still

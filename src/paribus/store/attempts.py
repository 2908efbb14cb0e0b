"""Attempts at a trial: numbered, never reused, never moved, each owned by one process.

An attempt begins when its `claim` stands and is over when its `end` stands.  Both are published,
so of several processes exactly one begins it, and of its owner and those who take the owner for
dead exactly one ends it.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from paribus.store import checkpoints
from paribus.store.checkpoints import Checkpoint
from paribus.store.files import (
    DiskError,
    Fenced,
    StoreError,
    disk,
    encode,
    numbers,
    publish,
    read,
    sync,
    write,
    write_all,
)
from paribus.store.owners import now

FINAL = ("done", "diverged", "refused")
"""Ends after which a trial is not attempted again unless it is retired."""

OWN = ("diverged", "out of memory", "failed", "refused", "released")
"""Ends, besides done, that an attempt's owner may publish.  `fenced` is published by others."""

_LOOKS = 6  # how often checkpoints may vanish under the eyes before training starts at step 0


def last(attempts: str | Path) -> int:
    """The number of the last attempt begun, 0 if there is none.

    The listing is only a first guess, since it may be stale: counting goes on from there.
    """
    n = max(numbers(attempts), default=0)
    while n and not begun(attempts, n):
        n -= 1
    while begun(attempts, n + 1):
        n += 1
    return n


def begun(attempts: str | Path, n: int) -> bool:
    return os.path.exists(f"{attempts}/{n}/claim") or os.path.exists(f"{attempts}/{n}/end")


def resumable(attempts: Path, n: int) -> list[tuple[int, int]]:
    """(step, attempt) of the sealed checkpoints that work on attempt n may start from, newest
    first: those of attempt n and of earlier ones back to the last final end, excluded."""
    found = []
    while n > 0:
        end = read(attempts / str(n) / "end")
        if end is not None and end["state"] in FINAL:
            break
        found += [(step, n) for step in checkpoints.sealed(attempts / str(n))]
        n -= 1
    return sorted(found, reverse=True)


class Attempt:
    """An attempt that this process has claimed and has not ended yet.

    `number` counts from 1; `path` is its folder; `trial` the trial's id.  Every method raises
    Fenced once somebody else has ended the attempt (or deleted it), and DiskError when the disk
    refuses; after a DiskError the attempt is still ours and the call may be repeated.
    """

    def __init__(self, path: Path, trial: str, claim: Mapping[str, Any]) -> None:
        self.path = path
        self.trial = trial
        self.number = int(path.name)
        self.claim = dict(claim)

    def __repr__(self) -> str:
        return f"<attempt {self.number} of {self.trial}>"

    def log(self, line: str) -> None:
        """Append a line to the attempt's log; it is in the file when this returns (not synced)."""
        with disk(self.path / "log"), open(self.path / "log", "ab", buffering=0) as file:
            write_all(file.fileno(), line.rstrip("\n").encode() + b"\n")

    # ── checkpoints ──

    def seal(self, step: int, files: Mapping[str, bytes], info: Mapping[str, Any]) -> None:
        """Write a checkpoint: after this returns it survives a crash and a power cut.

        `info` is JSON (the curve so far, say) and comes back from `resume`.
        """
        with self._owned():
            checkpoints.seal(self.path, step, files, info)

    def resume(self) -> Checkpoint | None:
        """The newest checkpoint of this trial that is whole, made this attempt's own; else None.

        A damaged one is passed over for the next older, and the log says so.  Nothing is taken
        across a final end: a retired result is trained anew from step 0.
        """
        damaged: set[tuple[int, int]] = set()
        with self._owned():
            for _ in range(_LOOKS):
                for step, number in resumable(self.path.parent, self.number):
                    if (step, number) in damaged:
                        continue
                    try:
                        if number == self.number:
                            return checkpoints.load(self.path, step)
                        source = self.path.parent / str(number)
                        return checkpoints.adopt(source, step, self.path)
                    except checkpoints.Vanished:
                        break  # its owner has dropped it, so a newer one may stand: look again
                    except checkpoints.Corrupt as reason:
                        damaged.add((step, number))
                        self.log(f"checkpoint {step} of attempt {number} passed over: {reason}")
                        if number == self.number:
                            checkpoints.drop(self.path, step)
                else:
                    return None
        return None

    def retain(self, keep: int = 1) -> None:
        """Drop all but the newest `keep` sealed checkpoints of this attempt (of no other)."""
        with self._owned():
            self._retain(keep)

    # ── the end ──

    def finish(self, weights: bytes, info: Mapping[str, Any], *, keep: int = 0) -> str:
        """Publish the result: the file `weights`, then the end {"state": "done", "weights":
        sha256, **info}.  Returns the hash.

        Of the attempt's own checkpoints the newest `keep` stay (a trunk keeps one for its
        children).
        """
        digest = hashlib.sha256(weights).hexdigest()
        end = self._end("done", "", {**info, "weights": digest})
        path = self.path / "weights"
        if not self._stands(end):
            with self._owned(), disk(path):
                path.unlink(missing_ok=True)  # what an earlier call left when the disk refused
                write(path, weights)
                sync(self.path)
        if not self._publish(end):
            raise Fenced(f"{self!r} was ended by another process: this result is not taken")
        # The result stands: that space was not freed is no reason to call it failed.
        with suppress(DiskError):
            self._retain(keep)
        return digest

    def end(self, state: str, reason: str, **info: Any) -> bool:
        """End the attempt without a result; `state` is one of `OWN`.

        "released" gives it back unfinished (the trial is then "interrupted" and goes on from its
        last checkpoint).  Returns False if another process has ended it: then nothing else is
        to be done.
        """
        if state not in OWN:
            raise StoreError(f"end {state!r}: valid: {', '.join(OWN)}")
        try:
            return self._publish(self._end(state, reason, info))
        except Fenced:
            return False

    def _retain(self, keep: int) -> None:
        steps = checkpoints.sealed(self.path)
        for step in steps[: max(0, len(steps) - keep)]:
            checkpoints.drop(self.path, step)

    def _end(self, state: str, reason: str, info: Mapping[str, Any]) -> dict[str, Any]:
        own = {"state": state, "reason": reason, "token": self.claim["token"]}
        if taken := own.keys() & info.keys():
            raise StoreError(f"info of an end may not hold {sorted(taken)}")
        end = {**info, **own}
        encode(end)  # what JSON cannot hold is refused before anything is written
        return end

    def _stands(self, end: Mapping[str, Any]) -> bool:
        """Whether an earlier call has published this end, although the disk then complained."""
        found = read(self.path / "end")
        keys = ("token", "state", "weights")
        return found is not None and all(found.get(key) == end.get(key) for key in keys)

    def _publish(self, end: Mapping[str, Any]) -> bool:
        if not self._stands(end):
            with self._owned():
                publish(self.path, "end", encode({**end, "at": now()}, wide=True))
        if not self._stands(end):
            return False
        with disk(self.path):
            sync(self.path)
        return True

    @contextmanager
    def _owned(self) -> Iterator[None]:
        """Look first whether the attempt is still ours, then do the block."""
        gone = f"{self!r} is gone: its folder was removed"
        claim, end = read(self.path / "claim"), read(self.path / "end")
        if claim is None or claim["token"] != self.claim["token"]:
            raise Fenced(gone)
        if end is not None:
            raise Fenced(f"{self!r} has ended: {end['state']} ({end['reason'] or 'no reason'})")
        try:
            yield
        except DiskError as error:
            if error.errno == errno.ENOENT:
                raise Fenced(gone) from error
            raise

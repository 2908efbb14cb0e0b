"""Attempts at a trial: numbered, never reused, never moved, each owned by one process.

An attempt begins when its `claim` stands and is over when its `end` stands.  Both are published,
so of several processes exactly one begins it, and of its owner and those who take the owner for
dead exactly one ends it.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from paribus.store import checkpoints
from paribus.store.checkpoints import Checkpoint
from paribus.store.files import (
    Damaged,
    DiskError,
    Fenced,
    StoreError,
    disk,
    encode,
    exists,
    numbers,
    publish,
    read,
    read_bytes,
    sync,
    write,
    write_all,
)
from paribus.store.owners import now

FINAL = ("done", "diverged", "refused")
"""Ends after which a trial is not attempted again unless it is retired."""

OWN = ("diverged", "out of memory", "failed", "refused", "released")
"""Ends, besides done, that an attempt's owner may publish.  `fenced` is published by others."""

_NAMES = ("claim", "end", "retired", "log", "weights", "checkpoints", "evaluations", "provenance")

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
    return exists(f"{attempts}/{n}/claim") or exists(f"{attempts}/{n}/end")


def resumable(attempts: Path, n: int) -> list[tuple[int, int]]:
    """(step, attempt) of the sealed checkpoints that work on attempt n may start from, newest
    first: those of attempt n and of earlier ones back to the last final end, excluded."""
    found = []
    while n > 0:
        try:
            end = read(attempts / str(n) / "end")
        except Damaged:
            break
        if end is not None and end["state"] in FINAL:
            break
        found += [(step, n) for step in checkpoints.sealed(attempts / str(n))]
        n -= 1
    return sorted(found, reverse=True)


def accepted(attempts: Path) -> tuple[int, dict[str, Any]] | None:
    """(number, end) of the newest attempt that ended as done; a damaged end is passed over."""
    for n in range(last(attempts), 0, -1):
        try:
            end = read(f"{attempts}/{n}/end")
        except Damaged:
            continue
        if end is not None and end["state"] == "done":
            return n, end
    return None


def lost(weights: Path, sha256: str) -> str:
    """Why a file of weights cannot be used: gone, or damaged; "" if it is whole."""
    try:
        with open(weights, "rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return "its weights are gone"
    return "" if whole else "its weights are damaged"


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

    def resume(self, trunk: str | None = None) -> Checkpoint | None:
        """The newest checkpoint of this trial that is whole, made this attempt's own; else None.

        `trunk` is the id of a trial that this one begins like: the last checkpoint of its result
        counts, too.  A damaged one is passed over for the next older, and the log says so.
        Nothing is taken across a final end: a retired result is trained anew.
        """
        return self._take(None, trunk)

    def adopt_step(self, step: int, trunk: str | None = None) -> Checkpoint | None:
        """The checkpoint of this very step, found as by `resume` and made this attempt's own (the
        best one so far, say, beside the newest); None if there is none that is whole."""
        return self._take(step, trunk)

    def _take(self, wanted: int | None, trunk: str | None) -> Checkpoint | None:
        damaged: set[tuple[int, int]] = set()
        with self._owned():
            for _ in range(_LOOKS):
                for step, number, source in self._candidates(trunk):
                    if (step, number) in damaged or wanted not in (None, step):
                        continue
                    try:
                        if number == self.number:
                            return checkpoints.load(self.path, step)
                        return checkpoints.adopt(source, step, self.path)
                    except checkpoints.Vanished:
                        break  # its owner has dropped it, so a newer one may stand: look again
                    except checkpoints.Corrupt as reason:
                        damaged.add((step, number))
                        where = f"attempt {number}" if number else f"trunk {trunk}"
                        self.log(f"checkpoint {step} of {where} passed over: {reason}")
                        if number == self.number:
                            checkpoints.drop(self.path, step)
                else:
                    return None
        return None

    def _candidates(self, trunk: str | None) -> list[tuple[int, int, Path]]:
        """(step, attempt's number, attempt's folder), newest first; a trunk's has number 0."""
        root = self.path.parent
        found = [(step, n, root / str(n)) for step, n in resumable(root, self.number)]
        if trunk is not None:
            of_trunk = root.parent.parent / trunk / "attempts"
            if (result := accepted(of_trunk)) is not None:
                source = of_trunk / str(result[0])
                found += [(step, 0, source) for step in checkpoints.sealed(source)[-1:]]
        return sorted(found, reverse=True)

    def retain(self, keep: int = 1, also: Collection[int] = ()) -> None:
        """Drop all but the newest `keep` sealed checkpoints of this attempt (of no other); those
        of the steps `also` stay besides."""
        with self._owned():
            self._retain(keep, also)

    def describe(self, content: bytes, shared: Path | None = None) -> Path:
        """Write what the attempt runs with, once; returns the file.

        With `shared` (a path in the home) attempts of equal content share one file, which is made
        there.
        """
        path = self.path / "provenance"
        with self._owned():
            if read_bytes(path) is not None:
                return path
            if shared is not None:
                with disk(shared):
                    shared.parent.mkdir(parents=True, exist_ok=True)
                same = read_bytes(shared) == content
                if same or publish(shared.parent, shared.name, content):
                    with suppress(OSError):
                        os.link(shared, path)
            if read_bytes(path) is None:
                publish(self.path, path.name, content)
        return path

    # ── the end ──

    def finish(
        self,
        weights: bytes | None,
        info: Mapping[str, Any],
        *,
        keep: int = 0,
        extra: Mapping[str, bytes] | None = None,
    ) -> str | None:
        """Publish the result: the file `weights`, then the end {"state": "done", "weights":
        sha256, "keep": steps, **info}.  Returns the hash.

        A trunk has no weights (None): then there is no file, and the hash is null.  `extra` are
        further files of the attempt, name -> content, durable before the end, which holds
        "files": {name: sha256}.  Of the attempt's own checkpoints the newest `keep` stay (a trunk
        keeps one for its children), also when space is freed.
        """
        extra = dict(extra or {})
        for name in extra:
            if name in _NAMES or name.startswith(".") or "/" in name or not name:
                raise StoreError(f"file {name!r}: choose a plain name other than {_NAMES}")
        files = extra if weights is None else {"weights": weights, **extra}
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        digest = hashes.pop("weights", None)
        steps = checkpoints.sealed(self.path)
        store: dict[str, Any] = {"weights": digest, "keep": steps[max(0, len(steps) - keep) :]}
        if hashes:
            store["files"] = hashes
        if taken := store.keys() & info.keys():
            raise StoreError(f"info of an end may not hold {sorted(taken)}")
        end = self._end("done", "", {**info, **store})
        if self._standing(end) is None:
            with self._owned(), disk(self.path):
                for name, data in files.items():
                    # What an earlier call left when the disk refused is never synced again.
                    (self.path / name).unlink(missing_ok=True)
                    write(self.path / name, data)
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

    def _retain(self, keep: int, also: Collection[int] = ()) -> None:
        steps = checkpoints.sealed(self.path)
        for step in steps[: max(0, len(steps) - keep)]:
            if step not in also:
                checkpoints.drop(self.path, step)

    def _end(self, state: str, reason: str, info: Mapping[str, Any]) -> dict[str, Any]:
        own = {"state": state, "reason": reason, "token": self.claim["token"]}
        if taken := own.keys() & info.keys():
            raise StoreError(f"info of an end may not hold {sorted(taken)}")
        end = {**info, **own}
        encode(end)  # what JSON cannot hold is refused before anything is written
        return end

    def _standing(self, end: Mapping[str, Any]) -> bytes | None:
        """The bytes of this end, if an earlier call has published it although the disk then
        complained."""
        found = read(self.path / "end")
        keys = ("token", "state", "weights")
        if found is None or any(found.get(key) != end.get(key) for key in keys):
            return None
        return read_bytes(self.path / "end")

    def _publish(self, end: Mapping[str, Any]) -> bool:
        standing = self._standing(end)
        if standing is None:
            with self._owned():
                return publish(self.path, "end", encode({**end, "at": now()}, wide=True))
        return publish(self.path, "end", standing)  # again, so that it is durable

    @contextmanager
    def _owned(self) -> Iterator[None]:
        """Look first whether the attempt is still ours, then do the block."""
        self._look()
        try:
            yield
        except DiskError as error:
            if error.errno == errno.ENOENT:
                self._look()  # its folder may have been removed meanwhile
            raise

    def _look(self) -> None:
        claim, end = read(self.path / "claim"), read(self.path / "end")
        if claim is None or claim["token"] != self.claim["token"]:
            raise Fenced(f"{self!r} is gone: its folder was removed")
        if end is not None:
            raise Fenced(f"{self!r} has ended: {end['state']} ({end['reason'] or 'no reason'})")

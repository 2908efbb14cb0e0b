"""Freeing space: what nobody needs any more, listed first and removed afterwards.

Of a trial something is removed only when its last attempt is done and not retired: then the
checkpoints of all its attempts, but those that an end keeps.  Of any trial, what killed writers
left: half-written checkpoints and temporary files of owners that are lost.  Weights, records and
logs are never touched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paribus.store import attempts, checkpoints, runs, workers
from paribus.store.files import Damaged, StoreError, disk, exists, names, numbers, read, sync

Judge = Callable[[Mapping[str, Any]], tuple[bool, str]]
"""Says (lost, reason); here only those count as lost that are gone for certain, so that nobody can
wake up and find a file missing that he was about to seal."""


@dataclass(frozen=True)
class Removal:
    """A file or folder that is not needed: `bytes` that its removal sets free, together with the
    others of its list (files may share their content); `why` is one line."""

    path: Path
    bytes: int
    why: str


def find(home: Path, judge: Judge, keep_trunks: Collection[str]) -> list[Removal]:
    """What can be removed, sorted by path; see `Store.gc`."""
    found: list[Removal] = []
    for trial in names(home / "trials"):
        with suppress(Damaged):  # a person has to look first
            found += list(_of_trial(home / "trials" / trial, judge, keep_trunks))
    for study in names(home / "studies"):
        found += _of_study(home / "studies" / study)
    found += _temporary(home / "notes", "left by a killed command")
    found += _of_workers(home / "workers", judge)
    return _sized(sorted(found, key=lambda removal: removal.path))


def remove(home: Path, judge: Judge, removals: Collection[Removal]) -> int:
    """Remove what was listed and is still not needed; returns the bytes set free."""
    freed = 0
    for removal in removals:
        path = removal.path
        if not path.is_relative_to(home):
            raise StoreError(f"{path} is not in {home}: it is not removed")
        if path.parent.name == "checkpoints":
            if not _still(path, judge):
                continue  # asked for again meanwhile
            attempt = path.parent.parent
            with disk(attempt):
                sync(attempt)  # an end that a power cut could undo is not acted on
                sync(attempt.parent / str(attempts.last(attempt.parent)))
            checkpoints.drop(attempt, int(path.name))
        else:
            with disk(path):
                path.unlink(missing_ok=True)
        freed += removal.bytes
    return freed


def _done(root: Path) -> bool:
    """Whether the last attempt is done and not retired: nobody resumes from any of them."""
    last = attempts.last(root)
    end = read(root / str(last) / "end") if last else None
    if end is None or end["state"] != "done":
        return False
    return not exists(root / str(last) / "retired")


def _still(checkpoint: Path, judge: Judge) -> bool:
    """Whether a checkpoint that was listed may go."""
    attempt = checkpoint.parent.parent
    if _done(attempt.parent):
        return True
    claim = read(attempt / "claim")
    lost = claim is None or judge(claim)[0]
    sealed = exists(checkpoint / checkpoints.MANIFEST)
    return not sealed and lost and exists(attempt / "end")


def _of_trial(folder: Path, judge: Judge, keep_trunks: Collection[str]) -> Iterator[Removal]:
    root = folder / "attempts"
    done = _done(root)
    for n in range(1, attempts.last(root) + 1):
        path = root / str(n)
        own = read(path / "end")
        claim = read(path / "claim")
        lost = claim is None or judge(claim)[0]
        for step in numbers(path / "checkpoints"):
            place = checkpoints.folder(path, step)
            if not exists(place / checkpoints.MANIFEST):
                if own is not None and (done or lost):
                    yield Removal(place, 0, "a checkpoint that was never completed")
            elif done and not _kept(folder.name, own, step, keep_trunks):
                yield Removal(place, 0, "a checkpoint of a finished trial")
        if lost:
            yield from _temporary(path, "left by a killed worker")
            places = [checkpoints.folder(path, step) for step in numbers(path / "checkpoints")]
            for place in places:
                if exists(place / checkpoints.MANIFEST):
                    yield from _temporary(place, "left by a killed worker")
        evaluations = path / "evaluations"
        claims = [read(evaluations / n) for n in names(evaluations) if n.endswith(".claim")]
        if all(c is None or judge(c)[0] for c in claims):
            yield from _temporary(evaluations, "left by a killed worker")


def _kept(
    trial: str, end: Mapping[str, Any] | None, step: int, keep_trunks: Collection[str]
) -> bool:
    if trial in keep_trunks:
        return True
    trunk = end is not None and end["state"] == "done" and end.get("weights") is None
    return end is not None and not trunk and step in end.get("keep", ())


def _of_study(folder: Path) -> Iterator[Removal]:
    running = runs.views(folder)
    for run in running:
        if run.alive is False:
            yield Removal(folder / "runs" / run.id, 0, "of a run that was killed")
    if not any(run.alive is not False for run in running):
        for name in (".", "runs", "source", "amendments", "ended", "imports"):
            yield from _temporary(folder / name, "left by a killed run")


def _of_workers(folder: Path, judge: Judge) -> Iterator[Removal]:
    for name in names(folder):
        who = workers.identity_of(folder / name)
        if who is not None and judge(who)[0]:
            yield Removal(folder / name, 0, "of a worker that is gone")


def _temporary(folder: Path, why: str) -> Iterator[Removal]:
    with suppress(OSError):
        for entry in sorted(os.listdir(folder)):
            if entry.startswith(".") and not (folder / entry).is_dir():
                yield Removal(folder / entry, 0, f"a temporary file {why}")


def _sized(removals: list[Removal]) -> list[Removal]:
    """With the bytes of each: a file with several names counts at the last of them, and only if
    all of them go."""
    going: dict[tuple[int, int], int] = {}
    sized = []
    for removal in removals:
        size = 0
        for stat in _stats(removal.path):
            key = (stat.st_dev, stat.st_ino)
            going[key] = going.get(key, 0) + 1
            if going[key] == stat.st_nlink:
                size += stat.st_size
        sized.append(replace(removal, bytes=size))
    return sized


def _stats(path: Path) -> Iterator[os.stat_result]:
    with suppress(OSError):  # for show: what cannot be seen counts nothing
        if not path.is_dir():
            yield os.lstat(path)
            return
        for name in sorted(os.listdir(path)):
            yield os.lstat(path / name)

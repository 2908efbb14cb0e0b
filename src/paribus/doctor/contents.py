"""What a home holds: damaged files, lost results, workers that are gone or stand still."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paribus.doctor.finding import Finding, failed, fine, note, said
from paribus.store import DiskError, StoreError, owners
from paribus.store.attempts import last
from paribus.store.checkpoints import MANIFEST, folder, sealed
from paribus.store.files import names, numbers, read
from paribus.store.home import MARKER
from paribus.store.workers import DISK, MARKS, beat, identity_of

HASH_SECONDS = 10.0  # for all hashes together: what is not verified is said
SHOWN = 20  # findings of one kind that are named
HOUR = 3600.0

_SUM = re.compile("[0-9a-f]{64}")

# Kinds of files that nobody has to look after.
HEALS = ("spec", "record", "plan", "provenance", "run", "ended")
# What happens with a damaged file, and what to do.
THEN = {
    "spec": "passed over: the next run writes it again",
    "claim": "delete it: the trial goes on from its last checkpoint",
    "old claim": "delete it: the attempt has ended, nothing is lost",
    "end": "delete it: the attempt counts as broken off and goes on from its last checkpoint",
    "retired": "delete it: the trial keeps its result; ask again with --force",
    "record": "passed over: the evaluation is done again; delete it when you like",
    "record's claim": "delete it: the evaluation is claimed again",
    "study": "put it back from a copy; or delete it: the next run registers the study anew",
    "plan": "passed over: the next run writes it again",
    "amendment": "put it back from a copy; nothing replaces it",
    "provenance": "nothing reads it: delete it or leave it",
    "ended": "passed over; it told of trials that had ended, so that a deleted one is missed",
    "import": "put it back from a copy; or delete it and import the run again",
    "note": "put it back from a copy; nothing replaces it",
    "stop": "delete it",
    "run": "passed over; delete it when nothing runs",
}


@dataclass
class Contents:
    """One look through a home; `clock` is the time by its own disk."""

    home: Path
    clock: float
    damaged: list[Finding] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    notes: list[Finding] = field(default_factory=list)
    hashes: list[tuple[int, Path, str, str]] = field(default_factory=list)
    human: dict[str, str] = field(default_factory=dict)
    owners: set[str] = field(default_factory=set)
    files: int = 0

    def findings(self) -> Iterator[Finding]:
        for step in (self._studies, self._trials, self._workers, self._temporary):
            try:
                step()
            except (OSError, StoreError) as error:
                self.damaged.append(failed("files", f"{error}"))
        verified = self._verify()
        yield from _shortened(self.damaged)
        if not self.damaged:
            yield fine("files", f"{self.files} records, claims, ends and manifests are whole")
        yield verified
        yield from _shortened(self.notes)
        if self.states:
            yield fine("trials", ", ".join(f"{n} {state}" for state, n in self.states.items()))

    def _load(self, path: Path, kind: str) -> dict[str, Any] | None:
        """What a file holds; a damaged one is noted."""
        try:
            found = read(path)
        except DiskError as error:
            self.damaged.append(failed("files", f"{error}: the disk cannot read it"))
            return None
        except StoreError:
            where = path.relative_to(self.home)
            say = note if kind in HEALS else failed
            self.damaged.append(say("files", f"{where} is damaged; {THEN[kind]}"))
            return None
        self.files += found is not None
        return found

    def _studies(self) -> None:
        root = self.home / "studies"
        for name in names(self.home / "notes"):
            self._load(self.home / "notes" / name, "note")
        for instance in sorted(names(root)):
            place = root / instance
            study = self._load(place / "study.json", "study")
            self._load(place / "plan.json", "plan")
            self._load(place / "stop", "stop")
            for name in names(place / "amendments"):
                self._load(place / "amendments" / name, "amendment")
            for kind, where in (("run", "runs"), ("ended", "ended"), ("import", "imports")):
                for name in names(place / where):
                    self._load(place / where / name, kind)
            if study is None:
                continue
            for trial in _mappings(study.get("trials")) + _mappings(study.get("trunks")):
                self.human.setdefault(str(trial.get("id")), str(trial.get("name")))
            file = study.get("file")
            if file and not Path(str(file)).exists():
                text = f"{instance}: its study file is no longer at {file}; results can be read, "
                self.notes.append(
                    note("studies", text + "and run goes on with the file's new path")
                )

    def _trials(self) -> None:
        root = self.home / "trials"
        for trial in sorted(names(root)):
            place = root / trial
            spec = self._load(place / "spec.json", "spec")
            if spec is None and not (place / "spec.json").exists():
                text = f"trials/{trial} has no spec.json; the next run of its study writes it"
                self.notes.append(note("trials", text))
            newest = last(place / "attempts")
            state = "planned"
            for n in numbers(place / "attempts"):
                found = self._attempt(trial, place / "attempts" / str(n))
                state = found if n == newest else state
            self.states[state] += 1

    def _attempt(self, trial: str, place: Path) -> str:
        """Look through an attempt; its state in a word."""
        ended = (place / "end").exists()
        claim = self._load(place / "claim", "old claim" if ended else "claim")
        end = self._load(place / "end", "end")
        self._load(place / "retired", "retired")
        self._load(place / "provenance", "provenance")
        self._checkpoints(place)
        for name in names(place / "evaluations"):
            kind = "record's claim" if name.endswith(".claim") else "record"
            self._load(place / "evaluations" / name, kind)
        if end is not None:
            self._weights(trial, place, end)
            if (place / "retired").exists():
                return "planned"
            state = str(end.get("state"))
            return "interrupted" if state in ("released", "fenced") else state
        if claim is None or ended:
            return "damaged" if ended or (place / "claim").exists() else "planned"
        return self._owner(trial, place, claim)

    def _name(self, trial: str, place: Path) -> str:
        name = self.human.get(trial)
        where = f"trials/{trial}/attempts/{place.name}"
        return f"{name} ({where})" if name else where

    # ── results ──

    def _weights(self, trial: str, place: Path, end: dict[str, Any]) -> None:
        if end.get("state") != "done":
            return
        wanted = {"weights": end.get("weights"), **_mapping(end.get("files"))}
        for name, digest in wanted.items():
            if not isinstance(digest, str) or not _SUM.fullmatch(digest):
                continue  # a trunk has no weights
            path = place / name
            try:
                self.hashes.append((path.stat().st_size, path, digest, "weights"))
            except OSError:
                if name == "weights" and not (place / "retired").exists():
                    text = f"{self._name(trial, place)}: its weights are gone; its records stay, "
                    text += "for new evaluations train it again with run --retry lost"
                    self.notes.append(note("weights", text))

    def _checkpoints(self, place: Path) -> None:
        for step in sealed(place):
            here = folder(place, step)
            where = here.relative_to(self.home)
            then = "work goes on from an older one; nothing to do"
            try:
                manifest = read(here / MANIFEST)
                if manifest is None:
                    continue  # dropped this moment
                sizes = {n: (f["size"], f["sha256"]) for n, f in manifest["files"].items()}
            except (StoreError, KeyError, TypeError, AttributeError):
                text = f"{where}/{MANIFEST} is damaged: passed over, {then}"
                self.notes.append(note("checkpoints", text))
                continue
            self.files += 1
            for name, (size, digest) in sizes.items():
                path = here / name
                try:
                    real = path.stat().st_size
                except OSError:
                    real = -1
                if real == size:
                    self.hashes.append((size, path, digest, "checkpoints"))
                elif (here / MANIFEST).exists():
                    found = "is missing" if real < 0 else f"has {real} bytes instead of {size}"
                    text = f"{where}/{name} {found}: passed over, {then}"
                    self.notes.append(note("checkpoints", text))

    def _verify(self) -> Finding:
        """Hash what can be hashed in the time, the small ones first."""
        until, verified, size = time.monotonic() + HASH_SECONDS, 0, 0
        seen: dict[tuple[int, int], str] = {}  # a checkpoint may lie under several attempts
        for length, path, digest, kind in sorted(self.hashes):
            with suppress(OSError):
                about = path.stat()
                key = (about.st_dev, about.st_ino)
                real = seen.get(key) or _hash(path, until)
                if real is None:
                    continue
                seen[key] = real
                verified, size = verified + 1, size + length
                if real == digest:
                    continue
                where = path.relative_to(self.home)
                if kind == "checkpoints":
                    text = f"{where} is not what was sealed: passed over, work goes on from an "
                    self.notes.append(note(kind, text + "older one; nothing to do"))
                else:
                    text = f"{where} is not what was sealed; train it again with run --retry lost"
                    self.damaged.append(failed(kind, text))
        left = len(self.hashes) - verified
        text = f"{verified} files ({said(size)}) of weights and checkpoints verified by hash"
        if left:
            text += f"; {left} not, for want of time: their sizes are right, loading verifies them"
        return (note if left else fine)("hashes", text)

    # ── who works ──

    def _owner(self, trial: str, place: Path, claim: dict[str, Any]) -> str:
        """A claimed attempt without an end: is its worker lost, stopped, blocked, stuck?"""
        who, name = str(claim.get("worker")), self._name(trial, place)
        try:
            alive, reason = owners.look(claim)
        except (KeyError, TypeError):
            where = (place / "claim").relative_to(self.home)
            self.damaged.append(failed("files", f"{where} is damaged; {THEN['claim']}"))
            return "damaged"
        if alive is False:
            self.notes.append(note("workers", f"{name}: {reason}; the next run goes on with it"))
            return "interrupted"
        self.owners.add(who)
        seen = beat(self.home / "workers", who)
        silent = self._age(self.home / "workers" / who)
        step = f", at step {seen.step}" if seen else ""
        if alive and (letter := _letter(int(claim["pid"]))) in ("T", "t"):
            text = f"{name}: {reason} is stopped{step}; kill -CONT {claim['pid']} lets it go on"
            self.notes.append(note("workers", text))
        elif silent is not None and silent > 10 * 60:
            text = f"{name}: {reason} has given no sign of life for {silent / 60:.0f} min{step}"
            self.notes.append(note("workers", f"{text}; a run elsewhere takes it over"))
        elif seen and seen.mark == DISK:
            text = f"{name}: {reason} {MARKS[seen.mark]}{step}; it goes on by itself"
            self.notes.append(note("workers", text))
            return "blocked"
        elif alive and letter == "D":
            text = f"{name}: {reason} waits for a disk or a device{step}; look at dmesg"
            self.notes.append(note("workers", text))
        elif (quiet := self._quiet(place)) > HOUR:
            text = f"{name}: {reason} has written nothing for {quiet / 60:.0f} min{step}; if "
            text += "`paribus status` shows no steps it is stuck: end it, and run goes on"
            self.notes.append(note("workers", text))
        return "running"

    def _age(self, path: Path) -> float | None:
        """Seconds since a file was written, by the disk's clock; None if it is not there."""
        try:
            return max(0.0, self.clock - path.stat().st_mtime)
        except OSError:
            return None

    def _quiet(self, place: Path) -> float:
        """Seconds since anything of an attempt was written."""
        ages = [self._age(place / name) for name in ("claim", "log", "checkpoints")]
        return min((age for age in ages if age is not None), default=0.0)

    def _workers(self) -> None:
        """Files of workers that are gone."""
        gone = 0
        for name in names(self.home / "workers"):
            path = self.home / "workers" / name
            who = identity_of(path)
            with suppress(KeyError, TypeError):
                if who is not None and name not in self.owners:
                    gone += owners.look(who)[0] is False
        if gone:
            text = f"{gone} files of workers that were killed; `paribus gc` removes them"
            self.notes.append(note("workers", text))

    def _temporary(self) -> None:
        """What killed writers left: hidden files older than an hour."""
        count = size = 0
        example = ""
        for top, folders, files in os.walk(self.home):
            if Path(top) == self.home and "cache" in folders:
                folders.remove("cache")
            for name in files + [f for f in folders if f.startswith(".")]:
                if not name.startswith(".") or name == MARKER or name.startswith(".nfs"):
                    continue
                path = Path(top) / name
                if (self._age(path) or 0) > HOUR:
                    count, example = count + 1, example or str(path.relative_to(self.home))
                    with suppress(OSError):
                        size += path.lstat().st_size
        if count:
            text = f"{count} temporary files of killed writers, {said(size)} ({example}"
            text += " …)" if count > 1 else ")"
            self.notes.append(note("temporary", f"{text}; `paribus gc` removes them"))


def _hash(path: Path, until: float) -> str | None:
    """sha256 of a file, None if the time is over before."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while time.monotonic() < until:
            if not (block := file.read(1 << 22)):
                return digest.hexdigest()
            digest.update(block)
    return None


def _letter(pid: int) -> str:
    """The state letter of a process: R, S, D, T …; "" if it is not to be seen."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _mappings(value: Any) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _shortened(findings: list[Finding]) -> Iterator[Finding]:
    """All of them, but of one kind at most `SHOWN` and then how many more."""
    count = Counter(f[:2] for f in findings)
    shown: Counter[tuple[str, str]] = Counter()
    for finding in findings:
        kind = (finding.about, finding.level)
        shown[kind] += 1
        if shown[kind] <= SHOWN:
            yield finding
        elif shown[kind] == SHOWN + 1:
            yield Finding(*kind, f"… and {count[kind] - SHOWN} more")

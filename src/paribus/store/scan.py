"""Looking at many trials: each sealed file is read once, and long lists of numbers are let go.

Sealed files never change, but a person may delete one and have it made again; so what was read is
kept with the file's size and time, and only as long as this object lives.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

from paribus.store import evaluations
from paribus.store.files import Damaged, DiskError, read
from paribus.store.store import Result, Store, TrialState

_LONG = {"end": ("curves",), "record": ("items", "groups")}


@dataclass(frozen=True)
class Look:
    """A trial at one moment.

    state, result: as `Store.state` and `Store.result` say, their ends without "curves".
    records: condition id -> accepted record of the result, without "items" and "groups".
    failed: condition id -> reasons of the result's failed evaluations, oldest first.
    damaged: what of its records is damaged, each in one line; they are evaluated again.
    claimed: condition id -> claim of an evaluation without a record, whose owner may be lost.
    """

    state: TrialState
    result: Result | None
    records: dict[str, dict[str, Any]]
    failed: dict[str, list[str]]
    claimed: dict[str, dict[str, Any]]
    damaged: list[str] = field(default_factory=list)


class Scan:
    """Looks at trials of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._read: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {}

    def look(self, trial: str) -> Look:
        """The trial with its records; changes nothing."""
        state = self.store.state(trial)
        if state.end is not None:
            state = replace(state, end=_short(state.end, "end"))
        result = self._result(trial, state)
        records: dict[str, dict[str, Any]] = {}
        failed: dict[str, list[str]] = {}
        claimed: dict[str, dict[str, Any]] = {}
        damaged: list[str] = []
        if result is not None and result.end.get("weights"):
            folder, weights = f"{result.path}/evaluations", result.end["weights"]
            for condition, (numbers, claims) in evaluations.scan(result.evaluations).items():
                for k in claims[:1]:
                    claim = read(f"{folder}/{condition}.{k}.claim")
                    if claim is not None and k not in numbers:
                        claimed[condition] = claim
                for k in numbers:  # the highest first, which is the accepted one
                    try:
                        record = self._record(f"{folder}/{condition}.{k}")
                    except Damaged as error:
                        damaged.append(str(error).partition(";")[0])
                        continue
                    if record is None or record.get("weights") != weights:
                        continue
                    if "failed" in record:
                        failed.setdefault(condition, []).insert(0, record["failed"])
                    elif "fenced" not in record:
                        records.setdefault(condition, record)
        return Look(state, result, records, failed, claimed, damaged)

    def _result(self, trial: str, state: TrialState) -> Result | None:
        if state.end is not None and state.end["state"] == "done":
            path = self.store.trial_dir(trial) / "attempts" / str(state.attempt)
            return Result(trial, state.attempt, path, state.end, state.retired)
        if state.attempt < 2:
            return None
        found = self.store.result(trial)
        return None if found is None else replace(found, end=_short(found.end, "end"))

    def _record(self, path: str) -> dict[str, Any] | None:
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DiskError(f"{path}: {error.strerror or error}", error.errno) from error
        mark = (found.st_ino, found.st_size, found.st_mtime_ns)
        if path in self._read and self._read[path][0] == mark:
            return self._read[path][1]
        record = read(path)
        if record is not None:
            record = _short(record, "record")
            self._read[path] = (mark, record)
        return record


def _short(content: dict[str, Any], kind: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in _LONG[kind]}

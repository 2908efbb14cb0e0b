"""Evaluations: one sealed record a condition, under the attempt whose weights were used.

<condition>.<k>.claim says who works on it, <condition>.<k> is the record; k counts up over claims
whose owner was lost and over evaluations that failed.  A claim's owner removes it once its record
is sealed, so a record that a person deletes is simply evaluated again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from paribus.store import owners
from paribus.store.files import Fenced, StoreError, disk, encode, names, publish, read, sync

_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]*)\.([1-9][0-9]*)(\.claim)?")


def scan(folder: Path) -> dict[str, tuple[list[int], list[int]]]:
    """condition id -> (k of its records, k of its claims), each in descending order."""
    found: dict[str, tuple[list[int], list[int]]] = {}
    for name in names(folder):
        if match := _NAME.fullmatch(name):
            condition, k, claim = match.groups()
            found.setdefault(condition, ([], []))[claim is not None].append(int(k))
    for pair in found.values():
        for ks in pair:
            ks.sort(reverse=True)
    return found


def accepted(
    folder: Path, condition: str, records: list[int], weights: str
) -> dict[str, Any] | None:
    """The record with the highest k that did not fail and was made with these weights.

    The highest, so that the record seen first stays the accepted one if the owner of a lower
    claim, taken for lost, wakes up and seals its own.
    """
    for k in records:
        record = read(f"{folder}/{condition}.{k}")
        if record is not None and record.get("weights") == weights and "failed" not in record:
            return record
    return None


def failures(folder: Path, weights: str) -> dict[str, list[str]]:
    """condition id -> the reasons of its failed evaluations, oldest first."""
    found: dict[str, list[str]] = {}
    for condition, (records, _) in scan(folder).items():
        for k in reversed(records):
            record = read(folder / f"{condition}.{k}") or {}
            if "failed" in record and record.get("weights") == weights:
                found.setdefault(condition, []).append(record["failed"])
    return found


def claim(folder: Path, condition: str, worker: str, weights: str) -> EvaluationClaim | None:
    """Claim an evaluation; None if its record is sealed or a live owner (or one that cannot be
    judged from here) holds it.  `folder` is the attempt's folder of evaluations."""
    records, claims = scan(folder).get(condition, ([], []))
    if accepted(folder, condition, records, weights) is not None:
        return None
    for k in claims:
        owner = read(folder / f"{condition}.{k}.claim")
        if owner is None or (k not in records and not owners.judge(owner)[0]):
            return None
    k = max([0, *records, *claims]) + 1
    with disk(folder):
        folder.mkdir(exist_ok=True)
        sync(folder.parent)
    identity = {**owners.identity(worker), "weights": weights}
    if not publish(folder, f"{condition}.{k}.claim", encode(identity)):
        return None
    mine = EvaluationClaim(folder, condition, k, weights, identity)
    # While the folder was listed, the former owner may have sealed its record and removed its
    # claim, so that neither was seen.  Both would be seen now.
    records, claims = scan(folder).get(condition, ([], []))
    if max(records, default=0) >= k or max(claims, default=0) > k:
        mine.release()
        return None
    return mine


@dataclass
class EvaluationClaim:
    """An evaluation that this process has claimed: publish its record, or fail or release it.

    Used as a context manager it releases what was neither published nor failed.
    """

    folder: Path
    condition: str
    k: int
    weights: str
    """sha256 of the weights that the evaluation has to use."""
    claim: dict[str, Any]
    settled: bool = False

    def publish(self, record: Mapping[str, Any]) -> None:
        """Seal the record.  Its "weights" is filled in; another hash there is a StoreError, and so
        are NaN and the key "failed".  Raises Fenced if the evaluation is no longer ours."""
        if record.get("weights", self.weights) != self.weights:
            raise StoreError(f"record of {self.condition}: made with other weights than claimed")
        if "failed" in record:
            raise StoreError(f"record of {self.condition}: the key 'failed' is the store's")
        self._seal({**record, "weights": self.weights})

    def fail(self, reason: str) -> None:
        """Say that the evaluation failed; it can be claimed again."""
        self._seal({"failed": reason, "weights": self.weights})

    def release(self) -> None:
        """Give the claim back without a word (a clean stop, weights that are gone)."""
        self.settled = True
        path = self.folder / f"{self.condition}.{self.k}.claim"
        if (read(path) or {}).get("token") == self.claim["token"]:
            with suppress(OSError):
                path.unlink()

    def _seal(self, record: dict[str, Any]) -> None:
        content = encode(record, wide=True)
        name = f"{self.condition}.{self.k}"
        standing = read(self.folder / f"{name}.claim") or {}
        records, claims = scan(self.folder).get(self.condition, ([], []))
        beaten = max([0, *records, *claims]) > self.k
        if beaten or standing.get("token") != self.claim["token"]:
            raise Fenced(f"evaluation {name} was taken over: this record is not taken")
        if not publish(self.folder, name, content):
            raise Fenced(f"evaluation {name} has a record already: this one is not taken")
        self.release()

    def __enter__(self) -> EvaluationClaim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.settled:
            self.release()

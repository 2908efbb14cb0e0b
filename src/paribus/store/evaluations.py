"""Evaluations: one sealed record a condition, under the attempt whose weights were used.

<condition>.<k>.claim says who works on it, <condition>.<k> is the record; k counts up over claims
whose owner was lost, evaluations that failed, and those that were asked for again.  Who takes
over from a lost owner first puts a record {"fenced": reason} in its place, so that of the two
exactly one record can come to stand.  A claim's owner removes it once its record is sealed, so a
record that a person deletes is simply evaluated again.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from paribus.store import owners
from paribus.store.files import (
    Damaged,
    Fenced,
    StoreError,
    disk,
    encode,
    names,
    publish,
    read,
    read_bytes,
    sync,
)

Judge = Callable[[Mapping[str, Any]], tuple[bool, str]]

_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]*)\.([1-9][0-9]*)(\.claim)?")
_VOID = ("failed", "fenced")  # keys of records that hold no result
_LOOKS = 6  # how often a claim may change under the eyes before the evaluation counts as busy


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
    """The record with the highest k that holds a result and was made with these weights."""
    for k in records:
        try:
            record = read(f"{folder}/{condition}.{k}")
        except Damaged:
            continue  # it is made again, under the next number
        if record is None or record.get("weights") != weights:
            continue
        if not any(key in record for key in _VOID):
            return record
    return None


def failures(folder: Path, weights: str) -> dict[str, list[str]]:
    """condition id -> the reasons of its failed evaluations, oldest first."""
    found: dict[str, list[str]] = {}
    for condition, (records, _) in scan(folder).items():
        for k in reversed(records):
            try:
                record = read(folder / f"{condition}.{k}") or {}
            except Damaged:
                continue
            if "failed" in record and record.get("weights") == weights:
                found.setdefault(condition, []).append(record["failed"])
    return found


def standing(folder: Path, weights: str) -> dict[str, tuple[int, int]]:
    """condition id -> (k of the accepted record or 0, how many evaluations failed)."""
    return {
        condition: _numbers(folder, condition, records, weights)
        for condition, (records, _) in scan(folder).items()
    }


def _numbers(folder: Path, condition: str, records: list[int], weights: str) -> tuple[int, int]:
    best = failed = 0
    for k in records:
        kind = _kind(f"{folder}/{condition}.{k}", weights)
        best = best or (k if kind == "result" else 0)
        failed += kind == "failed"
    return best, failed


def _kind(path: str, weights: str) -> str:
    """result, failed, fenced, or "" (other weights, gone, damaged).

    Keys are sorted: void records begin with theirs, and the weights come last.  So the long middle
    of a record need not be parsed.
    """
    content = read_bytes(path)
    if content is None:
        return ""
    if content.endswith(b'"weights":"%s"}\n' % weights.encode()):
        for key in _VOID:
            if content.startswith(b'{"%s":' % key.encode()):
                return key
        if content.startswith(b"{"):
            return "result"
    try:
        record = json.loads(content)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        return ""
    if record.get("weights") != weights:
        return ""
    return next((key for key in _VOID if key in record), "result")


def claim(
    folder: Path, condition: str, worker: str, weights: str, judge: Judge, above: int = 0
) -> EvaluationClaim | None:
    """Claim an evaluation; None if a record with a result and a k greater than `above` is sealed,
    or an owner that is not lost holds it.  `folder` is the attempt's folder of evaluations.

    A claim of this very process that an earlier call left behind (the disk refused) is given back.
    """
    for _ in range(_LOOKS):
        records, claims = scan(folder).get(condition, ([], []))
        if _numbers(folder, condition, records, weights)[0] > above:
            return None
        open_claims = [k for k in claims if k not in records]
        if not open_claims:
            break
        k = open_claims[0]
        owner = read(folder / f"{condition}.{k}.claim")
        if owner is None:
            continue  # sealed or released this moment
        if owners.mine(owner, worker):
            return _put(folder, condition, k, weights, owner)
        lost, reason = judge(owner)
        if not lost:
            return None
        _fence(folder, condition, k, weights, reason)
    else:
        return None
    with disk(folder):
        folder.mkdir(exist_ok=True)
        sync(folder.parent)
    k = max([0, *records, *claims]) + 1
    return _put(folder, condition, k, weights, {**owners.identity(worker), "weights": weights})


def _fence(folder: Path, condition: str, k: int, weights: str, reason: str) -> None:
    """Put a void record in the place of a lost owner's: it cannot seal one any more."""
    void = {"fenced": reason, "token": secrets.token_hex(8), "weights": weights}
    if publish(folder, f"{condition}.{k}", encode(void, wide=True)):
        with suppress(OSError):
            os.unlink(folder / f"{condition}.{k}.claim")


def _put(
    folder: Path, condition: str, k: int, weights: str, identity: dict[str, Any]
) -> EvaluationClaim | None:
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

    Used as a context manager it releases what was neither published nor failed.  After a
    DiskError `publish` and `fail` may be called again with the same content.
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
        are NaN and the keys "failed" and "fenced".  Raises Fenced if the evaluation is no longer
        ours."""
        if record.get("weights", self.weights) != self.weights:
            raise StoreError(f"record of {self.condition}: made with other weights than claimed")
        for key in _VOID:
            if key in record:
                raise StoreError(f"record of {self.condition}: the key {key!r} is the store's")
        self._seal({**record, "weights": self.weights})

    def fail(self, reason: str) -> None:
        """Say that the evaluation failed; it can be claimed again."""
        self._seal({"failed": reason, "weights": self.weights})

    def release(self) -> None:
        """Give the claim back without a word (a clean stop, weights that are gone)."""
        self.settled = True
        path = self.folder / f"{self.condition}.{self.k}.claim"
        with suppress(OSError, StoreError):
            if (read(path) or {}).get("token") == self.claim["token"]:
                path.unlink()

    def _seal(self, record: dict[str, Any]) -> None:
        content = encode(record, wide=True)
        name = f"{self.condition}.{self.k}"
        if read_bytes(self.folder / name) != content:
            claim = read(self.folder / f"{name}.claim") or {}
            records, claims = scan(self.folder).get(self.condition, ([], []))
            beaten = max([0, *records, *claims]) > self.k
            if beaten or claim.get("token") != self.claim["token"]:
                raise Fenced(f"evaluation {name} was taken over: this record is not taken")
        # Where it stands already the disk complained to an earlier call: now it is made durable.
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

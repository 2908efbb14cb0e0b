"""What happened to a trial, read from its attempts; changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paribus.store import attempts, checkpoints
from paribus.store.files import Damaged, read

DAMAGED = "damaged"  # how an attempt ended whose files cannot be read
_CLOSED = (*attempts.FINAL, "failed", "out of memory")
"""Ends after which losses and lack of memory are counted anew."""


@dataclass(frozen=True)
class AttemptView:
    """An attempt for show: `steps` are its sealed checkpoints, ascending; None: no such file."""

    number: int
    claim: dict[str, Any] | None
    end: dict[str, Any] | None
    retired: dict[str, Any] | None
    path: Path
    steps: list[int]


@dataclass(frozen=True)
class History:
    """losses: how many attempts at the end were lost (owner gone, or fenced) in a row without a
        checkpoint of their own since work on the trial was last closed (done, diverged, refused,
        failed, out of memory); a released attempt neither counts nor ends the row, unless it
        sealed a checkpoint.
    oom: "oom" of the newest end that holds it, in that stretch.
    failures: how many attempts failed since the trial last was done, diverged or refused.
    """

    losses: int
    oom: dict[str, Any] | None
    failures: int


def _read(path: Path) -> dict[str, Any] | None:
    """A file of an attempt; a damaged one says so as an end would."""
    try:
        return read(path)
    except Damaged as error:
        return {"state": DAMAGED, "reason": str(error)}


def views(root: Path) -> list[AttemptView]:
    """The attempts in the folder `root`, oldest first."""
    return [
        AttemptView(
            n,
            _read(root / str(n) / "claim"),
            _read(root / str(n) / "end"),
            _read(root / str(n) / "retired"),
            root / str(n),
            checkpoints.sealed(root / str(n)),
        )
        for n in range(1, attempts.last(root) + 1)
    ]


def history(root: Path, judge: Callable[[Mapping[str, Any]], tuple[bool, str]]) -> History:
    losses, failures, oom = 0, 0, None
    in_a_row = stretch = True
    for n in range(attempts.last(root), 0, -1):
        path = root / str(n)
        end, claim = _read(path / "end"), _read(path / "claim")
        state = "" if end is None else end["state"]
        if state in (*attempts.FINAL, DAMAGED):
            break
        failures += state == "failed"
        stretch = stretch and state not in _CLOSED
        if not stretch:
            continue
        if oom is None and end is not None:
            oom = end.get("oom")
        if not in_a_row or (end is None and (claim is None or not judge(claim)[0])):
            continue  # at work
        if checkpoints.own_steps(path):
            in_a_row = False
        elif state in ("", "fenced"):
            losses += 1
    return History(losses, oom, failures)

"""Which trials of a study had ended, told once: studies/<instance>/ended/<k>.json.

A person may delete a trial's folder; it is then simply to be done again.  What was told here stays,
so that the gap can be seen.  It is a memory, no proof: who deletes these files too leaves no trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from paribus.store.attempts import FINAL
from paribus.store.files import Damaged, disk, encode, publish, read
from paribus.store.owners import now
from paribus.store.studies import numbers_of

Told = dict[str, list[dict[str, Any]]]
"""trial id -> its final ends as told, {"name", "state", "at", "attempt", "token"} each."""


def told(study: Path) -> Told:
    """What was told; `study` is the study's folder.  A damaged file is passed over."""
    found: Told = {}
    for k in numbers_of(study / "ended"):
        try:
            content = read(study / "ended" / f"{k}.json") or {}
        except Damaged:
            continue
        for trial, end in content.get("trials", {}).items():
            if end not in found.setdefault(trial, []):  # two runs may have told the same
                found[trial].append(end)
    return found


def tell(study: Path, trials: Iterable[tuple[str, str, int, Mapping[str, Any] | None]]) -> None:
    """Add (id, name, attempt, end) of trials that have ended for good and were not told yet."""
    known = {(t, e["token"]) for t, ends in told(study).items() for e in ends}
    new = {
        trial: {"name": name, "state": end["state"], "at": end.get("at"), "attempt": attempt,
                "token": end.get("token")}
        for trial, name, attempt, end in trials
        if end is not None and end["state"] in FINAL and (trial, end.get("token")) not in known
    }  # fmt: skip
    if not new:
        return
    place = study / "ended"
    with disk(place):
        place.mkdir(parents=True, exist_ok=True)
    k = max(numbers_of(study / "ended"), default=0) + 1
    content = encode({"at": now(), "trials": new})
    while not publish(place, f"{k}.json", content):
        k += 1


def gap(ends: Iterable[Mapping[str, Any]], attempt: int, end: Mapping[str, Any] | None) -> str:
    """What is missing of a trial: "removed" if it had ended and nothing of it is there any more,
    "replaced" if an end that was told has made room for another one, else "".

    Args:
        ends: what was told of the trial.
        attempt, end: its last attempt now, 0 and None if there is none.
    """
    last = max(ends, key=lambda e: e["attempt"], default=None)
    if last is None:
        return ""
    if not attempt:
        return "removed"
    same = end is not None and (attempt, end.get("token")) == (last["attempt"], last["token"])
    return "" if attempt > last["attempt"] or same else "replaced"

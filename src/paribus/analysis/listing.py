"""completed.txt and errors.txt: what is finished and what failed, a line each, from records alone.

Made anew from the records whenever they differ, and never read back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from paribus.store.scan import Look

FAILED = ("failed", "diverged", "out of memory", "refused")
"""States that are listed as errors.  What waits, runs or was interrupted is no error."""


def completed(study: Mapping[str, Any], looks: Mapping[str, Look]) -> str:
    """A line a finished cell, ``<trial name> <condition key>``, in order of declaration.

    Args:
        study: the study's record.
        looks: trial id -> how it stands.
    """
    lines = (
        f"{trial['name']} {key}"
        for trial in study["trials"]
        for key, cid in trial["cells"].items()
        if looks[trial["id"]].records.get(cid, {}).get("status") == "done"
    )
    return "".join(f"{line}\n" for line in lines)


def errors(study: Mapping[str, Any], looks: Mapping[str, Look]) -> str:
    """A line a trial or cell that failed, ``<name>: <state>: <reason>``, in order of declaration.

    The name is the trial's, with the condition's key where the evaluation alone failed.
    """
    found = (e for trial in study["trials"] for e in of_trial(trial, looks[trial["id"]]))
    return "".join(f"{name}: {state}: {reason}\n" for name, state, reason in found)


def of_trial(trial: Mapping[str, Any], look: Look) -> Iterator[tuple[str, str, str]]:
    """(name, state, reason on one line) of the trial if it failed, and of its failed cells.

    Args:
        trial: its entry in the study's record: "name" and "cells", condition key -> id.
    """
    if look.state.state in FAILED:
        yield trial["name"], look.state.state, _line(look.state.reason)
    for key, cid in trial["cells"].items():
        record = look.records.get(cid)
        if record is not None and record.get("status") != "done":
            reason = _line(record.get("reason") or "")
            yield f"{trial['name']} {key}", str(record.get("status")), reason
        elif record is None and cid in look.failed:
            yield f"{trial['name']} {key}", "failed", _line(look.failed[cid][-1])


def _line(text: str) -> str:
    return " ".join(text.split())

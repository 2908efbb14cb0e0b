"""Gaps that a person made: trials that had ended, and whose end is no longer there.

`study["ended"]` holds what the study's runs told of trials that ended (see `store.ended`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from paribus.store import TrialState, ended
from paribus.store.scan import Look

REMOVED = "removed"


class Gap(NamedTuple):
    """A trial of which something was removed.

    what: "removed", nothing is left of it; "replaced", another attempt stands where it had ended.
    was, at: the state that it had ended in, and when.
    """

    trial: str
    id: str
    what: str
    was: str
    at: str

    def __str__(self) -> str:
        if self.what == REMOVED:
            return f"{self.trial}: {self.reason}"
        then = f"{self.trial}: what had ended ({self.was}, {self.at}) is gone"
        return f"{then}; what stands there now is something else"

    @property
    def reason(self) -> str:
        return f"it had ended ({self.was}, {self.at}) and its folder is gone"


def of(study: Mapping[str, Any], trial: Mapping[str, Any], state: TrialState) -> Gap | None:
    """The gap of a trial; `trial` is its entry in the study's record."""
    ends = (study.get("ended") or {}).get(trial["id"], ())
    what = ended.gap(ends, state.attempt, state.end)
    if not what:
        return None
    last = max(ends, key=lambda e: e["attempt"])
    return Gap(trial["name"], trial["id"], what, last["state"], str(last["at"] or ""))


def gaps(study: Mapping[str, Any], looks: Mapping[str, Look]) -> list[Gap]:
    """All of a study's gaps, in order of declaration."""
    found = (of(study, trial, looks[trial["id"]].state) for trial in study["trials"])
    return [gap for gap in found if gap is not None]

"""`Store`: the one way into a home of results.

    <home>/
      workers/<worker>
      trials/<id>/  spec.json
        attempts/<n>/  claim  log  checkpoints/<step>/{files, manifest}  weights  end  retired?
                       evaluations/<condition>.<k>.claim  evaluations/<condition>.<k>
      studies/<name>@<scale>/  study.json  plan.json  amendments/  names/  results.csv  report/

Plain files are the truth, each written by one process.  A person may delete a record, or the
whole folder of a trial, at any time: it is then simply to be done again.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paribus.store import attempts, evaluations, owners, studies
from paribus.store.attempts import FINAL, Attempt
from paribus.store.evaluations import EvaluationClaim
from paribus.store.files import (
    StoreError,
    check_id,
    disk,
    encode,
    names,
    publish,
    read,
    replace,
    sync,
    write,
)

_STATES = {"released": "interrupted", "fenced": "interrupted"}


@dataclass(frozen=True)
class TrialState:
    """How a trial stands.

    state: planned, running, interrupted, done, diverged, out of memory, failed or refused.
    attempt: the last attempt's number, 0 if there was none.
    reason: one line; for a running trial, who holds it.
    end, claim: the last attempt's, None if there is none.
    retired: the last attempt was retired, so the trial waits to be attempted again (its state is
        then "planned"; the old result is still `Store.result`).
    last_step: the newest sealed checkpoint that work would go on from, in steps; 0 if there is
        none.  Of a trial that has ended for good: the step that its end names, else 0.
    """

    state: str
    attempt: int = 0
    reason: str = ""
    end: dict[str, Any] | None = None
    claim: dict[str, Any] | None = None
    retired: bool = False
    last_step: int = 0


@dataclass(frozen=True)
class Result:
    """A trial's accepted result: the attempt that ended as done.

    `end` holds "weights" (their sha256) and what `Attempt.finish` was told; `weights` is the file,
    which may have been deleted to save space.  `retired`: a newer result has been asked for.
    """

    trial: str
    number: int
    path: Path
    end: dict[str, Any]
    retired: bool

    @property
    def weights(self) -> Path:
        return self.path / "weights"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations"


class Store:
    """The store in `home`.  Nothing is created before something is written."""

    def __init__(self, home: Path) -> None:
        self.home = Path(home).absolute()

    def study_dir(self, instance: str) -> Path:
        return self.home / "studies" / studies.check_instance(instance)

    def trial_dir(self, trial: str) -> Path:
        return self.home / "trials" / check_id("trial", trial)

    def new_worker(self) -> str:
        """Register this process: makes workers/<wid>, 16 bytes: a beat's and a step's number, 8
        hex digits each.  Returns wid."""
        host = "".join(c if c.isascii() and c.isalnum() else "-" for c in socket.gethostname())
        worker = f"{host.strip('-') or 'host'}-{os.getpid()}-{os.urandom(4).hex()}"
        path = self.home / "workers" / worker
        with disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, b"%08x%08x" % (0, 0))
        return worker

    # ── studies ──

    def write_study(self, instance: str, study: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
        """Write a study's study.json and plan.json.

        `study["registration"]` is what was declared beforehand (hypotheses and the like).  If it
        differs from what study.json holds and `study["results_seen"]` (a count, default 0; not
        stored) is not 0, the original stays in study.json and the new one becomes
        amendments/<k>.json, {at, registration, results_seen}; study.json lists the amendments.
        If no results had been seen it is replaced, unless there are amendments already.
        Keys named in `study["volatile"]` (a date, a host) do not cause a rewrite by themselves.
        """
        studies.write(self.study_dir(instance), study, plan)

    def keep_sources(self, instance: str, files: Mapping[str, bytes]) -> None:
        """Keep the study file and its local parts under source/; what differs is replaced."""
        studies.keep(self.study_dir(instance) / "source", files)

    def write_derived(self, path: Path, content: bytes) -> None:
        """A table or report made from records: replaced whole."""
        with disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, content)

    def read_study(self, instance: str) -> dict[str, Any] | None:
        return read(self.study_dir(instance) / "study.json")

    def read_plan(self, instance: str) -> dict[str, Any] | None:
        return read(self.study_dir(instance) / "plan.json")

    def studies(self) -> list[str]:
        """The studies that have a study.json, sorted."""
        root = self.home / "studies"
        return sorted(name for name in names(root) if (root / name / "study.json").exists())

    def link_name(self, instance: str, name: str, trial: str) -> None:
        """Make names/<name> of the study a link to the trial, in place of an older link.
        A '/' in a name makes folders."""
        studies.link(self.study_dir(instance), name, self.trial_dir(trial))

    # ── trials ──

    def declare(self, trial: str, spec: Mapping[str, Any]) -> None:
        """Write the trial's spec.json.  The same content again is fine, another is a StoreError:
        two specs with one id mean that the id does not cover all of the spec."""
        folder = self.trial_dir(trial)
        path = folder / "spec.json"
        content = encode(spec)
        if not path.exists():
            with disk(folder):
                folder.mkdir(parents=True, exist_ok=True)
                sync(folder.parent)
            if publish(folder, "spec.json", content):
                return
        if read(path) != studies.read_back(spec):
            raise StoreError(f"{path} holds another spec under this id")

    def spec(self, trial: str) -> dict[str, Any]:
        found = read(self.trial_dir(trial) / "spec.json")
        if found is None:
            raise StoreError(f"trial {trial} is not in {self.home}")
        return found

    def trials(self) -> list[str]:
        """The ids of the trials declared here, sorted."""
        root = self.home / "trials"
        return sorted(name for name in names(root) if (root / name / "spec.json").exists())

    def state(self, trial: str) -> TrialState:
        """How the trial stands now; changes nothing."""
        root = self.trial_dir(trial) / "attempts"
        n = attempts.last(root)
        end, claim = read(f"{root}/{n}/end"), read(f"{root}/{n}/claim")
        if end is None and claim is None:
            return TrialState("planned")
        if end is None and claim is not None:
            lost, reason = owners.judge(claim)
            state, retired = ("interrupted" if lost else "running"), None
        elif end is not None:
            retired = read(f"{root}/{n}/retired")
            state, reason = _STATES.get(end["state"], end["state"]), end["reason"]
        if retired is not None:
            state, reason = "planned", f"retired: {retired['reason']}"
        if end is not None and end["state"] in FINAL:
            step = int(end.get("step", 0))
        else:
            step = max(attempts.resumable(root, n), default=(0, 0))[0]
        return TrialState(state, n, reason, end, claim, retired is not None, step)

    def result(self, trial: str) -> Result | None:
        """The newest attempt that ended as done.  A retired one stays until there is a newer."""
        root = self.trial_dir(trial) / "attempts"
        for n in range(attempts.last(root), 0, -1):
            end = read(f"{root}/{n}/end")
            if end is not None and end["state"] == "done":
                retired = os.path.exists(f"{root}/{n}/retired")
                return Result(trial, n, root / str(n), end, retired)
        return None

    def weights_lost(self, trial: str) -> str:
        """Why the result's weights cannot be used: gone, or damaged; "" if they are whole."""
        result = self.result(trial)
        if result is None:
            return ""
        try:
            with open(result.weights, "rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest() == result.end["weights"]
        except OSError:
            return "its weights are gone"
        return "" if whole else "its weights are damaged"

    def open(self, trial: str, worker: str) -> Attempt | None:
        """Claim the trial's next attempt; None if it is finished, or busy (`state` says why).

        The owner of an unfinished attempt that is gone for certain is fenced here.  A trial that
        failed or ran out of memory is attempted again: who calls decides whether it should be.
        Raises StoreError if the trial was not declared.  After a DiskError the claim may stand all
        the same; it is given up when this process exits.
        """
        folder = self.trial_dir(trial)
        root = folder / "attempts"
        while n := attempts.last(root):
            end = read(root / str(n) / "end")
            if end is None:
                if not self._fence(root / str(n)):
                    return None
                continue
            if end["state"] in FINAL and not (root / str(n) / "retired").exists():
                return None
            break
        if not (folder / "spec.json").exists():
            raise StoreError(f"trial {trial} is not declared in {self.home}")
        path = root / str(n + 1)
        with disk(path):
            if n:
                sync(root / str(n))  # an end that a power cut could undo is not acted on
            path.mkdir(parents=True, exist_ok=True)
            claim = owners.identity(worker)
            if not publish(path, "claim", encode(claim)):
                return None
            for parent in (root, folder, folder.parent, self.home):
                sync(parent)
        return Attempt(path, trial, claim)

    def retire(self, trial: str, why: str) -> None:
        """Ask for the trial to be attempted again although its last attempt has ended.

        Its result, if it has one, stays the result until a newer attempt is done.
        Raises StoreError if it runs, or was never attempted.  Retiring twice is fine.
        """
        root = self.trial_dir(trial) / "attempts"
        n = attempts.last(root)
        if not n:
            raise StoreError(f"trial {trial} was never attempted: there is nothing to retire")
        path = root / str(n)
        if read(path / "end") is None and not self._fence(path):
            raise StoreError(f"trial {trial} is running: {self.state(trial).reason}")
        publish(path, "retired", encode({"reason": why, "at": owners.now()}))

    def _fence(self, path: Path) -> bool:
        """End an attempt whose owner is gone for certain; False if that is not so, or not known."""
        claim = read(path / "claim")
        if claim is None:  # deleted by a person this moment: look again
            return not path.exists() or (path / "end").exists()
        lost, reason = owners.judge(claim)
        if lost:
            token = os.urandom(8).hex()
            end = {"state": "fenced", "reason": reason, "token": token, "at": owners.now()}
            publish(path, "end", encode(end, wide=True))
        return lost

    # ── evaluations, of the accepted result only ──

    def evaluations(self, trial: str) -> dict[str, dict[str, Any]]:
        """condition id -> sealed record.  Records of other weights than the result's, and failed
        ones, are not among them."""
        if (result := self.result(trial)) is None:
            return {}
        folder, weights = result.evaluations, result.end["weights"]
        found = {
            condition: evaluations.accepted(folder, condition, records, weights)
            for condition, (records, _) in evaluations.scan(folder).items()
        }
        return {condition: record for condition, record in found.items() if record is not None}

    def evaluation(self, trial: str, condition: str) -> dict[str, Any] | None:
        check_id("condition", condition)
        if (result := self.result(trial)) is None:
            return None
        records = evaluations.scan(result.evaluations).get(condition, ([], []))[0]
        return evaluations.accepted(result.evaluations, condition, records, result.end["weights"])

    def failed_evaluations(self, trial: str) -> dict[str, list[str]]:
        """condition id -> reasons of the failed evaluations of the result, oldest first."""
        if (result := self.result(trial)) is None:
            return {}
        return evaluations.failures(result.evaluations, result.end["weights"])

    def claim_evaluation(self, trial: str, condition: str, worker: str) -> EvaluationClaim | None:
        """Claim the evaluation of the trial's result under a condition.

        None if it is sealed, if a live owner holds it, and if the trial has no result or its
        weights were deleted (`result(trial).weights` says).  A failed evaluation can be claimed
        again: who calls decides whether it should be (`failed_evaluations`).
        """
        check_id("condition", condition)
        result = self.result(trial)
        if result is None or not result.weights.exists():
            return None
        return evaluations.claim(result.evaluations, condition, worker, result.end["weights"])

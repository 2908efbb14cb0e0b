"""`Store`: the one way into a home of results.

    <home>/
      .paribus                 marks the folder as a home, and says its format
      workers/<worker>
      trials/<id>/  spec.json
        attempts/<n>/  claim  log  checkpoints/<step>/{files, manifest}  weights  end  retired?
                       provenance  evaluations/<condition>.<k>.claim  evaluations/<condition>.<k>
      studies/<name>@<scale>/  study.json  plan.json  amendments/  names/  results.csv  report/
                               runs/<run>  stop  ended/  imports/
      notes/n<k>.json

Plain files are the truth, each written by one process.  A person may delete a record, or the
whole folder of a trial, at any time: it is then simply to be done again.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paribus.store import (
    attempts,
    checkpoints,
    ended,
    evaluations,
    gc,
    history,
    imports,
    owners,
    runs,
    studies,
    workers,
)
from paribus.store.attempts import FINAL, OWN, Attempt
from paribus.store.evaluations import EvaluationClaim
from paribus.store.files import (
    Damaged,
    StoreError,
    check_id,
    disk,
    encode,
    exists,
    names,
    publish,
    read,
    replace,
    sync,
    write,
)
from paribus.store.gc import Removal
from paribus.store.history import AttemptView, History
from paribus.store.home import check_format
from paribus.store.runs import RunView
from paribus.store.workers import Beat, Watch, Worker

_STATES = {"released": "interrupted", "fenced": "interrupted"}


@dataclass(frozen=True)
class TrialState:
    """How a trial stands.

    state: planned, running, blocked (its worker waits for the disk), interrupted, done,
        diverged, out of memory, failed or refused.
    attempt: the last attempt's number, 0 if there was none.
    reason: one line; for a running trial, who holds it; for a blocked one, what it waits for.
    end, claim: the last attempt's, None if there is none.
    retired: the last attempt was retired, so the trial waits to be attempted again (its state is
        then "planned"; the old result is still `Store.result`).
    last_step: the newest sealed checkpoint that work would go on from, in steps; 0 if there is
        none.  Of a trial that has ended for good: the step that its end names, else 0.
    beat: what the worker of a running or blocked trial said last; None if it said nothing.
    """

    state: str
    attempt: int = 0
    reason: str = ""
    end: dict[str, Any] | None = None
    claim: dict[str, Any] | None = None
    retired: bool = False
    last_step: int = 0
    beat: Beat | None = None


@dataclass(frozen=True)
class Result:
    """A trial's accepted result: the attempt that ended as done.

    `end` holds "weights" (their sha256; None for a trunk, which has none) and what
    `Attempt.finish` was told; `weights` is the file, which may have been deleted to save space.
    `retired`: a newer result has been asked for.
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
    """The store in `home`.  Nothing is created before something is written.

    `patience`: for how many seconds an owner that cannot be seen from here (another machine,
    another container) may give no sign of life before it counts as lost; by default
    $PARIBUS_PATIENCE, else 60.  It is counted from look to look of this very object, so only a
    process that goes on looking takes anything over.
    Raises StoreError if the home was made by a newer paribus.
    Every call that writes may simply be repeated after a DiskError.
    """

    def __init__(self, home: Path, patience: float | None = None) -> None:
        self.home = Path(home).absolute()
        check_format(self.home)
        self.patience = workers.patience_from_environment() if patience is None else patience
        self.watch = Watch(self.home / "workers", self.patience)

    def study_dir(self, instance: str) -> Path:
        return self.home / "studies" / studies.check_instance(instance)

    def trial_dir(self, trial: str) -> Path:
        return self.home / "trials" / check_id("trial", trial)

    # ── workers ──

    def new_worker(self) -> Worker:
        """Register this process, and beat for it until the worker is closed or the process ends."""
        return Worker(self.home / "workers", self.patience).start()

    def beat(self, worker: str) -> Beat | None:
        """What a worker said last; None if its file is gone."""
        return workers.beat(self.home / "workers", worker)

    def try_disk(self, size: int) -> None:
        """Write and remove a file of `size` bytes; DiskError while the disk refuses."""
        path = self.home / "workers" / f".try-{os.urandom(8).hex()}"
        with disk(path):
            write(path, bytes(size))
            os.unlink(path)

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
        path = self.study_dir(instance) / "study.json"
        try:
            return read(path)
        except Damaged:
            raise StoreError(
                f"{path} is damaged, and it holds what was registered: put it back from a copy; "
                "without one delete it, and the study is registered anew with the results seen"
            ) from None

    def read_plan(self, instance: str) -> dict[str, Any] | None:
        return read(self.study_dir(instance) / "plan.json")

    def studies(self) -> list[str]:
        """The studies that have a study.json, sorted."""
        root = self.home / "studies"
        return sorted(name for name in names(root) if exists(root / name / "study.json"))

    def link_name(self, instance: str, name: str, trial: str) -> None:
        """Make names/<name> of the study a link to the trial, in place of an older link.
        A '/' in a name makes folders."""
        studies.link(self.study_dir(instance), name, self.trial_dir(trial))

    def imports(self, instance: str) -> list[dict[str, Any]]:
        """Runs made elsewhere that stand beside the study's own arms; see `imports.add`."""
        return imports.imports(self.study_dir(instance))

    def ended(self, instance: str) -> ended.Told:
        """trial id -> the final ends that the study's runs have told, also of deleted trials."""
        return ended.told(self.study_dir(instance))

    def begin_run(self, instance: str, what: Mapping[str, Any]) -> str:
        """Say that this process runs the study (`what` is for show); the id for `end_run`."""
        return runs.begin(self.study_dir(instance), what)

    def tell_run(self, instance: str, run: str, what: Mapping[str, Any]) -> None:
        """Add to what a run of this process says of itself (what it waits for, say)."""
        runs.tell(self.study_dir(instance), run, what)

    def end_run(self, instance: str, run: str) -> None:
        """Say that it does so no longer.  Twice is fine."""
        runs.end(self.study_dir(instance), run)

    def runs(self, instance: str) -> list[RunView]:
        """The runs of a study that have begun and not said that they ended, oldest first."""
        return runs.views(self.study_dir(instance))

    def ask_stop(self, instance: str, now: bool) -> None:
        """Ask the runs of a study to stop: after the trials at work, or `now`."""
        runs.ask_stop(self.study_dir(instance), now)

    def stop_asked(self, instance: str) -> dict[str, Any] | None:
        """{token, now, at} of the last call of `ask_stop`; a run notes the token when it begins,
        and stops when it has changed."""
        return runs.stop_asked(self.study_dir(instance))

    # ── trials ──

    def declare(self, trial: str, spec: Mapping[str, Any]) -> None:
        """Write the trial's spec.json.  The same content again is fine, another is a StoreError:
        two specs with one id mean that the id does not cover all of the spec."""
        folder = self.trial_dir(trial)
        path = folder / "spec.json"
        content = encode(spec)
        try:
            if read(path) == spec:
                return
        except Damaged:  # what it held is known
            replace(path, content)
            return
        if not exists(path):
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
        return sorted(name for name in names(root) if exists(root / name / "spec.json"))

    def state(self, trial: str) -> TrialState:
        """How the trial stands now; changes nothing.  Where a claim or an end is damaged it stands
        as failed, with what to do."""
        root = self.trial_dir(trial) / "attempts"
        n = attempts.last(root)
        try:
            return self._state(root, n)
        except Damaged as error:
            return TrialState("failed", n, str(error))

    def _state(self, root: Path, n: int) -> TrialState:
        end, claim = read(f"{root}/{n}/end"), read(f"{root}/{n}/claim")
        beat = retired = None
        if end is not None:
            retired = read(f"{root}/{n}/retired")
            state, reason = _STATES.get(end["state"], end["state"]), end["reason"]
            if retired is not None:
                state, reason = "planned", f"retired: {retired['reason']}"
        elif claim is not None:
            lost, reason = self.watch.judge(claim)
            state = "interrupted" if lost else "running"
            beat = None if lost else self.beat(str(claim["worker"]))
            if beat is not None and beat.mark == workers.DISK:
                state, reason = "blocked", f"{workers.MARKS[beat.mark]}: {reason}"
        else:
            return TrialState("planned")
        if end is not None and end["state"] in FINAL:
            step = int(end.get("step", 0))
        else:
            step = max(attempts.resumable(root, n), default=(0, 0))[0]
        return TrialState(state, n, reason, end, claim, retired is not None, step, beat)

    def result(self, trial: str) -> Result | None:
        """The newest attempt that ended as done.  A retired one stays until there is a newer."""
        root = self.trial_dir(trial) / "attempts"
        if (found := attempts.accepted(root)) is None:
            return None
        n, end = found
        retired = exists(f"{root}/{n}/retired")
        return Result(trial, n, root / str(n), end, retired)

    def forkable(self, trunk: str) -> bool:
        """Whether a trunk's result still has the checkpoint that its children fork from."""
        result = self.result(trunk)
        return result is not None and bool(checkpoints.sealed(result.path))

    def weights_lost(self, trial: str) -> str:
        """Why the result's weights cannot be used: gone, or damaged; "" if they are whole."""
        result = self.result(trial)
        if result is None or result.end["weights"] is None:
            return ""
        return attempts.lost(result.weights, result.end["weights"])

    def attempts(self, trial: str) -> list[AttemptView]:
        """All attempts, oldest first."""
        return history.views(self.trial_dir(trial) / "attempts")

    def history(self, trial: str) -> History:
        """Losses, lack of memory and failures so far, as they count for what is done next."""
        return history.history(self.trial_dir(trial) / "attempts", self.watch.judge)

    def open(self, trial: str, worker: str) -> Attempt | None:
        """Claim the trial's next attempt; None if it is finished, or busy (`state` says why).

        The owner of an unfinished attempt that is lost is fenced here.  A trial that failed or ran
        out of memory is attempted again: who calls decides whether it should be.
        Raises StoreError if the trial was not declared.  After a DiskError the claim may stand all
        the same: an attempt that this process holds in the name of `worker` is given back.
        """
        folder = self.trial_dir(trial)
        root = folder / "attempts"
        while n := attempts.last(root):
            path = root / str(n)
            try:
                end = read(path / "end")
            except Damaged:
                break  # the caller decides whether to try again: it stands as failed
            if end is None:
                claim = read(path / "claim")
                if claim is not None and owners.mine(claim, worker):
                    return self._claim(trial, path, claim)
                if not self._fence(path):
                    return None
                continue
            if end["state"] in FINAL and not exists(path / "retired"):
                return None
            break
        if not exists(folder / "spec.json"):
            raise StoreError(f"trial {trial} is not declared in {self.home}")
        path = root / str(n + 1)
        with disk(path):
            if n:
                sync(root / str(n))  # an end that a power cut could undo is not acted on
            path.mkdir(parents=True, exist_ok=True)
        claim = {**owners.identity(worker), "patience": self.patience}
        return self._claim(trial, path, claim)

    def _claim(self, trial: str, path: Path, claim: Mapping[str, Any]) -> Attempt | None:
        if not publish(path, "claim", encode(claim)):
            return None
        root = path.parent
        for parent in (root, root.parent, root.parent.parent, self.home):
            with disk(parent):
                sync(parent)
        return Attempt(path, trial, claim)

    def end_for_dead(self, trial: str, pid: int, state: str, reason: str, **info: Any) -> bool:
        """End the last attempt in the place of its owner: process `pid` of this machine, which has
        died; `state` is one of `OWN`.  False if that is not so, or somebody has ended it."""
        if state not in OWN:
            raise StoreError(f"end {state!r}: valid: {', '.join(OWN)}")
        root = self.trial_dir(trial) / "attempts"
        path = root / str(attempts.last(root))
        claim = read(path / "claim")
        if claim is None or claim["pid"] != pid or owners.look(claim)[0] is not False:
            return False
        here = owners.place()
        if any(claim[key] != here[key] for key in ("boot", "pidns")):
            return False
        token = f"{claim['token']}-for-{pid}"
        end = {**info, "state": state, "reason": reason, "token": token}
        # Standing already: the disk complained to an earlier call, and now it is made durable.
        found = read(path / "end") or {}
        again = found.get("token") == token and found.get("state") == state
        end["at"] = found["at"] if again else owners.now()
        return publish(path, "end", encode(end, wide=True))

    def retire(self, trial: str, why: str, number: int | None = None) -> bool:
        """Ask for the trial to be attempted again although its last attempt has ended.

        Its result, if it has one, stays the result until a newer attempt is done.
        Nothing is done, and False returned, if the last attempt is another than `number` (by
        default any will do): somebody else has asked already.
        Raises StoreError if it runs, or was never attempted.  Retiring twice is fine.
        """
        root = self.trial_dir(trial) / "attempts"
        n = attempts.last(root)
        if not n:
            raise StoreError(f"trial {trial} was never attempted: there is nothing to retire")
        if number not in (None, n):
            return False
        path = root / str(n)
        if read(path / "end") is None and not self._fence(path):
            raise StoreError(f"trial {trial} is running: {self.state(trial).reason}")
        publish(path, "retired", encode({"reason": why, "at": owners.now()}))
        return True

    def _fence(self, path: Path) -> bool:
        """End an attempt whose owner is lost; False if that is not so, or not known yet."""
        claim = read(path / "claim")
        if claim is None:  # deleted by a person this moment: look again
            return not exists(path) or exists(path / "end")
        lost, reason = self.watch.judge(claim)
        if lost:
            token = os.urandom(8).hex()
            end = {"state": "fenced", "reason": reason, "token": token, "at": owners.now()}
            publish(path, "end", encode(end, wide=True))
        return lost

    # ── space ──

    def gc(self, keep_trunks: Collection[str] = ()) -> list[Removal]:
        """What could be removed to free space, sorted by path; removes nothing.

        Checkpoints of trials whose last attempt is done and not retired, but those that the end of
        their attempt keeps; a trunk's all, unless its id is in `keep_trunks` (a trial that begins
        like it is unfinished).  Temporary files and half-written checkpoints of owners that are
        gone for certain (not only silent), and their worker files.  Never weights, records or logs.
        """
        return gc.find(self.home, owners.judge, keep_trunks)

    def remove(self, removals: Collection[Removal]) -> int:
        """Remove what `gc` listed, but what is needed again by now; the bytes set free."""
        return gc.remove(self.home, owners.judge, removals)

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

    def record_numbers(self, trial: str) -> dict[str, tuple[int, int]]:
        """condition id -> (k of the accepted record or 0, how many evaluations failed), of the
        accepted result.  Records are not parsed for it."""
        if (result := self.result(trial)) is None:
            return {}
        return evaluations.standing(result.evaluations, result.end["weights"] or "")

    def claim_evaluation(
        self, trial: str, condition: str, worker: str, above: int = 0
    ) -> EvaluationClaim | None:
        """Claim the evaluation of the trial's result under a condition.

        None if it is sealed, if an owner that is not lost holds it, and if the trial has no result
        or its weights were deleted (`result(trial).weights` says).  A failed evaluation can be
        claimed again: who calls decides whether it should be (`failed_evaluations`).
        `above`: claim it although it is sealed, if the record's number (`record_numbers`) is not
        greater; the old record is kept, and accepted until the new one is sealed.
        After a DiskError the claim may stand all the same: it is given back by the next call.
        """
        check_id("condition", condition)
        result = self.result(trial)
        if result is None or not exists(result.weights):
            return None
        weights, judge = result.end["weights"], self.watch.judge
        return evaluations.claim(result.evaluations, condition, worker, weights, judge, above)

"""The store against a model of it: whatever is asked in whatever order, the answers are those of
a few lines of Python that know nothing of files."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from paribus.store import Attempt, EvaluationClaim, Fenced, Store, StoreError, owners
from paribus.store.workers import Worker

PATIENCE = 10.0
FINAL = ("done", "diverged", "refused")
SHOWN = {"released": "interrupted", "fenced": "interrupted"}
TRIALS = ("t", "u")
WHO = st.integers(0, 3)
TRIAL = st.sampled_from(("t", "t", "t", "u"))
WHICH = st.sampled_from((1, 1, 1, 2))
"""The newest attempt or claim, or the one before it, whose owner may not know of the newer."""


@dataclass(eq=False)
class Process:
    pid: int
    host: str
    worker: Any = None
    alive: bool = True
    suspended: bool = False
    silent: bool = False  # and watched for so long that it counts as lost elsewhere


@dataclass(eq=False)
class Tried:
    """An attempt as the model knows it."""

    owner: Process
    held: Attempt
    end: str | None = None
    retired: bool = False
    own: set[int] = field(default_factory=set)
    adopted: set[int] = field(default_factory=set)
    records: dict[int, str] = field(default_factory=dict)
    claim: tuple[Process, EvaluationClaim] | None = None

    @property
    def steps(self) -> list[int]:
        return sorted(self.own | self.adopted)

    @property
    def accepted(self) -> int:
        return max((k for k, what in self.records.items() if what == "result"), default=0)


class Machine(RuleBasedStateMachine):
    """Two workers each on two hosts; a dead one is followed by a new one."""

    @initialize()
    def begin(self) -> None:
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.pids, self.now = iter(range(100, 10**6)), 0.0
        self.all: dict[int, Process] = {}
        self.tried: dict[str, list[Tried]] = {trial: [] for trial in TRIALS}
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(os, "fsync", lambda descriptor: None)
        self.patch.setattr(os, "getpid", lambda: self.me.pid)
        self.patch.setattr(owners, "_look", self.look)
        self.patch.setattr(owners, "place", self.place)
        self.store = Store(self.folder / "runs", PATIENCE)
        self.store.watch.clock = lambda: self.now
        for trial in (*TRIALS, "trunk"):
            self.store.declare(trial, {})
        self.processes = [self.new(host) for host in ("one", "one", "two", "two")]
        trunk = self.store.open("trunk", self.me.worker.id)
        assert trunk is not None
        trunk.seal(2, {"a": b"2"}, {})
        trunk.finish(None, {"step": 2}, keep=1)

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()
            shutil.rmtree(self.folder)

    def place(self) -> dict[str, str]:
        host = self.me.host
        return {"host": host, "machine": host, "boot": f"boot of {host}", "pidns": "1"}

    def look(self, pid: int) -> tuple[str, str] | None:
        who = self.all.get(pid)
        return (str(pid), "S") if who is not None and who.alive else None

    def new(self, host: str) -> Process:
        self.me = who = Process(next(self.pids), host)
        self.all[who.pid] = who
        who.worker = Worker(self.store.home / "workers", PATIENCE)
        return who

    def by(self, who: int) -> Process | None:
        """The process acts from here on; None if it cannot."""
        found = self.processes[who]
        if found.suspended:
            return None
        self.me = found
        return found

    def lost(self, owner: Process) -> bool:
        """Whether the acting process has to take the owner for lost."""
        return not owner.alive if owner.host == self.me.host else owner.silent

    def last(self, trial: str) -> Tried | None:
        return self.tried[trial][-1] if self.tried[trial] else None

    def result(self, trial: str) -> Tried | None:
        return next((t for t in reversed(self.tried[trial]) if t.end == "done"), None)

    def candidates(self, trial: str, before: int) -> dict[int, int]:
        """step -> newest attempt that has it, from the last final end on, up to `before`."""
        found: dict[int, int] = {}
        for n in range(before, 0, -1):
            t = self.tried[trial][n - 1]
            if t.end in FINAL:
                break
            for step in t.steps:
                found.setdefault(step, n)
        return found

    # ── processes ──

    @rule(who=WHO)
    def die(self, who: int) -> None:
        self.processes[who].alive = False
        self.processes[who].suspended = False
        self.processes[who] = self.new(self.processes[who].host)

    @rule(who=WHO)
    def suspend(self, who: int) -> None:
        self.processes[who].suspended = True

    @rule(who=WHO)
    def wake(self, who: int) -> None:
        self.processes[who].suspended = False

    @rule(long=st.booleans())
    def time_passes(self, long: bool) -> None:
        """While everybody looks at everybody elsewhere; long enough to lose one, or not."""
        holders = {t.owner for ts in self.tried.values() for t in ts}
        holders |= {t.claim[0] for ts in self.tried.values() for t in ts if t.claim}
        for _ in range(6 if long else 1):
            for who in holders:
                if who.alive and not who.suspended:
                    who.worker.beat()
                    who.silent = False
                self._looked_at(who)
            self.now += PATIENCE / 4
            for who in holders:  # now is when the next question is asked
                self._looked_at(who)
        if long:
            assert all(who.silent for who in holders if who.suspended or not who.alive)

    def _looked_at(self, who: Process) -> None:
        self.me = next(p for p in self.processes if p.host != who.host)
        who.silent, _ = self.store.watch.judge(
            {**owners.identity(who.worker.id), "pid": who.pid, "host": who.host,
             "boot": f"boot of {who.host}", "machine": who.host}
        )  # fmt: skip
        assert not who.silent or not who.alive or who.suspended

    # ── attempts ──

    @rule(who=WHO, trial=TRIAL)
    def open(self, who: int, trial: str) -> None:
        if (me := self.by(who)) is None:
            return
        found, last = self.store.open(trial, me.worker.id), self.last(trial)
        if last is not None and last.end is None:
            if last.owner is me:
                assert found is not None
                assert found.claim == last.held.claim, "its own is given back"
                return
            if not self.lost(last.owner):
                assert found is None
                return
            last.end = "fenced"
        if last is not None and last.end in FINAL and not last.retired:
            assert found is None
            return
        assert found is not None
        self.tried[trial].append(Tried(me, found))
        assert found.number == len(self.tried[trial])

    def held(self, which: int, trial: str) -> Tried | None:
        """The attempt, if its owner can act; the owner acts from here on."""
        t = self.tried[trial][-which] if len(self.tried[trial]) >= which else None
        if t is None or not t.owner.alive or t.owner.suspended:
            return None
        self.me = t.owner
        return t

    @rule(which=WHICH, trial=TRIAL, trunk=st.booleans())
    def resume(self, which: int, trial: str, trunk: bool) -> None:
        if (t := self.held(which, trial)) is None:
            return
        if t.end is not None:
            with pytest.raises(Fenced):
                t.held.resume()
            return
        steps = self.candidates(trial, t.held.number)
        if trunk:
            steps.setdefault(2, 0)
        found = t.held.resume("trunk" if trunk else None)
        assert (found.step if found else 0) == max(steps, default=0)
        if found is not None:
            assert found.files["a"].read_bytes() == b"%d" % found.step
            if found.step not in t.own:
                t.adopted.add(found.step)

    @rule(which=WHICH, trial=TRIAL, step=st.integers(1, 9))
    def adopt_step(self, which: int, trial: str, step: int) -> None:
        if (t := self.held(which, trial)) is None or t.end is not None:
            return
        found = t.held.adopt_step(step)
        assert (found is not None) == (step in self.candidates(trial, t.held.number))
        if found is not None and step not in t.own:
            t.adopted.add(step)

    @rule(
        which=WHICH, trial=TRIAL, more=st.integers(1, 3), keep=st.integers(1, 2), best=st.booleans()
    )
    def seal(self, which: int, trial: str, more: int, keep: int, best: bool) -> None:
        if (t := self.held(which, trial)) is None:
            return
        step = max(t.steps, default=0) + more
        if t.end is not None:
            with pytest.raises(Fenced):
                t.held.seal(step, {"a": b"late"}, {})
            return
        t.held.seal(step, {"a": b"%d" % step}, {})
        t.own.add(step)
        also = t.steps[:1] if best else []
        stay = {*t.steps[-keep:], *also}
        t.held.retain(keep, also)
        t.own &= stay
        t.adopted &= stay

    @rule(which=WHICH, trial=TRIAL, keep=st.integers(0, 1))
    def finish(self, which: int, trial: str, keep: int) -> None:
        if (t := self.held(which, trial)) is None:
            return
        content = f"{trial}{t.held.number}".encode()
        if t.end not in (None, "done"):
            with pytest.raises(Fenced):
                t.held.finish(content, {})
            return
        t.held.finish(content, {}, keep=keep)
        t.end = "done"
        stay = set(t.steps[len(t.steps) - keep :])
        t.own &= stay
        t.adopted &= stay

    @rule(
        which=WHICH,
        trial=TRIAL,
        state=st.sampled_from(["released", "released", "failed", "out of memory", "diverged"]),
    )
    def end(self, which: int, trial: str, state: str) -> None:
        if (t := self.held(which, trial)) is None:
            return
        ours = t.held.end(state, "why")
        assert ours == (t.end in (None, state))
        t.end = t.end or state

    @rule(trial=TRIAL, who=WHO)
    def end_for_dead(self, trial: str, who: int) -> None:
        me, t = self.by(who), self.last(trial)
        if me is None or t is None or t.end is not None:
            return
        gone = not t.owner.alive and t.owner.host == me.host
        assert self.store.end_for_dead(trial, t.owner.pid, "failed", "SIGSEGV") == gone
        t.end = "failed" if gone else None

    @rule(trial=TRIAL, who=WHO)
    def retire(self, trial: str, who: int) -> None:
        me, t = self.by(who), self.last(trial)
        if me is None:
            return
        if t is None or (t.end is None and not self.lost(t.owner)):
            with pytest.raises(StoreError, match="never attempted" if t is None else "is running"):
                self.store.retire(trial, "why")
            return
        assert not self.store.retire(trial, "why", number=t.held.number - 1)
        assert self.store.retire(trial, "why", number=t.held.number)
        t.end, t.retired = t.end or "fenced", True

    @rule(who=WHO)
    def free_space(self, who: int) -> None:
        if self.by(who) is None:
            return
        before = {trial: self.store.result(trial) for trial in TRIALS}
        self.store.remove(self.store.gc(["trunk"]))
        assert before == {trial: self.store.result(trial) for trial in TRIALS}
        for trial in TRIALS:
            last = self.last(trial)
            if last is not None and last.end == "done" and not last.retired:
                for t in self.tried[trial]:
                    kept = set(t.steps[-1:]) if t.end == "done" else set()
                    t.own &= kept
                    t.adopted &= kept

    # ── evaluations ──

    @rule(who=WHO, trial=TRIAL, above=st.integers(0, 3))
    def claim_evaluation(self, who: int, trial: str, above: int) -> None:
        if (me := self.by(who)) is None:
            return
        found, t = self.store.claim_evaluation(trial, "c", me.worker.id, above), self.result(trial)
        if t is None or t.accepted > above:
            assert found is None
            return
        if t.claim is not None:
            owner, claim = t.claim
            if owner is me:
                assert found is not None
                assert found.claim == claim.claim
                return
            if not self.lost(owner):
                assert found is None
                return
            t.records[claim.k] = "fenced"
        assert found is not None
        assert found.k == max(t.records, default=0) + 1
        t.claim = (me, found)
        self.claims.append((t, me, found))

    @property
    def claims(self) -> list[tuple[Tried, Process, EvaluationClaim]]:
        return self.__dict__.setdefault("_claims", [])

    @rule(which=WHICH, what=st.sampled_from(["result", "result", "failed", "released"]))
    def settle(self, which: int, what: str) -> None:
        """A claim, which may have been taken over."""
        if len(self.claims) < which:
            return
        t, me, claim = self.claims[-which]
        if not me.alive or me.suspended:
            return
        self.me = me
        ours = t.claim is not None and t.claim[1] is claim
        if what == "released":
            claim.release()
        elif ours:
            claim.publish({"by": me.pid}) if what == "result" else claim.fail(f"by {me.pid}")
            t.records[claim.k] = what
        elif not claim.settled:
            with pytest.raises(Fenced):
                claim.publish({"late": 1})
        if ours:
            t.claim = None

    # ── what must be so at any time ──

    @invariant()
    def as_the_model_says(self) -> None:
        if not hasattr(self, "processes"):
            return
        self.me = next(p for p in self.all.values() if p.host == "one")
        for trial in TRIALS:
            views, last = self.store.attempts(trial), self.last(trial)
            assert len(views) == len(self.tried[trial])
            for view, t in zip(views, self.tried[trial], strict=True):
                assert (view.end["state"] if view.end else None) == t.end
                assert (view.retired is not None) == t.retired
                assert view.steps == t.steps
            state = self.store.state(trial)
            if last is None or last.retired:
                expected = "planned"
            elif last.end is None:
                expected = "interrupted" if self.lost(last.owner) else "running"
            else:
                expected = SHOWN.get(last.end, last.end)
            assert state.state == expected
            if last is not None and last.end not in FINAL:
                steps = self.candidates(trial, len(self.tried[trial]))
                assert state.last_step == max(steps, default=0)
            self.result_and_records(trial)
            self.history(trial)

    def result_and_records(self, trial: str) -> None:
        result, t = self.store.result(trial), self.result(trial)
        if t is None:
            assert result is None
            return
        assert result is not None
        assert (result.number, result.retired) == (t.held.number, t.retired)
        assert result.weights.read_bytes() == f"{trial}{t.held.number}".encode()
        failed = sum(what == "failed" for what in t.records.values())
        numbers = self.store.record_numbers(trial)
        assert numbers == ({"c": (t.accepted, failed)} if numbers else {})
        assert len(self.store.failed_evaluations(trial).get("c", [])) == failed
        record = self.store.evaluation(trial, "c")
        assert (record is not None) == bool(t.accepted)

    def history(self, trial: str) -> None:
        losses = failures = 0
        row = stretch = True
        for t in reversed(self.tried[trial]):
            if t.end in FINAL:
                break
            failures += t.end == "failed"
            stretch = stretch and t.end not in ("failed", "out of memory")
            if not stretch or not row or (t.end is None and not self.lost(t.owner)):
                continue
            row = not t.own
            losses += row and t.end in (None, "fenced")
        found = self.store.history(trial)
        assert (found.losses, found.failures) == (losses, failures)


quick = settings(
    max_examples=60, stateful_step_count=60, deadline=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip

Machine.TestCase.settings = quick
TestMachine = Machine.TestCase


@pytest.mark.full
def test_for_long() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(Machine, settings=settings(quick, max_examples=500))

"""Schedules of several workers with a switch at any file operation, and everything that can go
wrong in between: crashes, suspended processes that wake, disk faults, power cuts, people who force
and clean up.  After each of them the rules of the store hold, and one fresh worker finishes."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from paribus.store import Attempt, Checkpoint, DiskError, Fenced, Store, init_home
from paribus.store.attempts import FINAL
from paribus.store.files import read_bytes
from tests.crash.disk import FAULTS, READING, Fault
from tests.crash.world import PATIENCE, Actor, World

STEPS = 4


@dataclass(frozen=True)
class Unit:
    """A trial, or a trunk (which has no weights), of the simulated studies."""

    id: str
    steps: int = STEPS
    trunk: str | None = None
    is_trunk: bool = False
    diverges: bool = False
    stops: bool = False  # its first attempt is released after its first step


UNITS = [
    Unit("k", 2, is_trunk=True),
    Unit("a", trunk="k"),
    Unit("b", trunk="k"),
    Unit("c"),
    Unit("d", diverges=True),
]
STUDIES = (["k", "a", "b", "d"], ["k", "b", "c"])


@dataclass
class Witness:
    """The trials of a run, and what processes were told by the store about them."""

    units: dict[str, Unit]
    conditions: tuple[str, ...] = ("x", "y")
    claims: dict[tuple[str, int], str] = field(default_factory=dict)
    seals: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    ends: dict[tuple[str, int], str] = field(default_factory=dict)
    records: dict[tuple[str, int, str, int], str] = field(default_factory=dict)
    again: set[tuple[str, str]] = field(default_factory=set)  # evaluations a person asked for
    asked: set[str] = field(default_factory=set)  # trials a person asked for again


def encode(state: list[str]) -> bytes:
    return json.dumps(state).encode()


class Process:
    """A worker: looks for work, claims it, trains and evaluates, until nothing is left."""

    def __init__(self, me: Actor, seen: Witness, study: Iterable[str]) -> None:
        self.me, self.world, self.seen, self.study = me, me.world, seen, list(study)

    def run(self) -> None:
        store = self.store = self.call(lambda: self.me.store(self.world.home))
        self.wid = self.call(lambda: self.me.register(store))
        for trial in self.study:
            self.call(lambda trial=trial: store.declare(trial, {}))
        while not self.round():
            self.world.sleep(self.me)

    def round(self) -> bool:
        """Look at each trial once; whether nothing is left."""
        left = [trial for trial in self.study if not self.look_at(trial)]
        return not left

    def call(self, what: Callable[[], Any]) -> Any:
        """Park on a disk that refuses, and call again."""
        while True:
            try:
                return what()
            except DiskError:
                self.world.sleep(self.me)

    def look_at(self, trial: str) -> bool:
        """Work on a trial as far as it is free; whether nothing is left of it."""
        unit = self.seen.units[trial]
        if self.call(lambda: self.store.state(trial)).state not in ("done", "diverged"):
            attempt = self.call(lambda: self.store.open(trial, self.wid))
            if attempt is None:
                return False
            key = (trial, attempt.number)
            token = attempt.claim["token"]
            if self.seen.claims.setdefault(key, token) != token:
                self.world.wrong.append(f"attempt {key} was given twice")
            with suppress(Fenced):
                self.train(unit, attempt)
            return False  # the next round tells how it stands
        if unit.diverges or unit.is_trunk:
            return True
        left = [c for c in self.seen.conditions if not self.evaluate(trial, c)]
        return not left

    def train(self, unit: Unit, attempt: Attempt) -> None:
        since = self.since(attempt)
        sealed = [step for n, step in self.seen.seals.get(unit.id, []) if n >= since]
        trunk_done = any(key[0] == unit.trunk and s == "done" for key, s in self.seen.ends.items())
        found = self.call(lambda: attempt.resume(unit.trunk))
        state = self.check(unit, attempt, found, since)
        if len(state) < max(sealed, default=0):
            self.world.wrong.append(
                f"{attempt!r} begins at {len(state)}, but {max(sealed)} was sealed"
            )
        trunk = self.seen.units.get(unit.trunk or "")
        if trunk and trunk_done and len(state) < trunk.steps and unit.id not in self.seen.asked:
            self.world.wrong.append(f"{attempt!r} begins at {len(state)}: its trunk is gone")
        for step in range(len(state) + 1, unit.steps + 1):
            state = [*state, f"{unit.id}{attempt.number}"]
            if unit.diverges and step == 3:
                return self.end(attempt, "diverged")
            if step < unit.steps or unit.is_trunk:
                files = {"a": encode(state), "b": b"b" * 9}
                self.call(lambda files=files, step=step: attempt.seal(step, files, {"n": step}))
                self.seen.seals.setdefault(unit.id, []).append((attempt.number, step))
                self.call(attempt.retain)
            if unit.stops and attempt.number == 1:
                return self.end(attempt, "released")
            if self.world.dice.random() < self.world.rates["stop"]:
                return self.end(attempt, "released")
        weights = None if unit.is_trunk else encode(state)
        keep = 1 if unit.is_trunk else 0
        self.call(lambda: attempt.finish(weights, {"step": unit.steps}, keep=keep))
        self.seen.ends[unit.id, attempt.number] = "done"

    def end(self, attempt: Attempt, state: str) -> None:
        if self.call(lambda: attempt.end(state, "why", step=1)):
            self.seen.ends[attempt.trial, attempt.number] = state

    def since(self, attempt: Attempt) -> int:
        """The first attempt after the last final end."""
        self.world.quiet = True
        views = self.store.attempts(attempt.trial)[: attempt.number - 1]
        self.world.quiet = False
        return max([v.number for v in views if v.end and v.end["state"] in FINAL], default=0) + 1

    def check(
        self, unit: Unit, attempt: Attempt, found: Checkpoint | None, since: int
    ) -> list[str]:
        """The state in a checkpoint, which holds every step exactly once."""
        if found is None:
            return []
        state = json.loads(self.call(lambda: read_bytes(found.files["a"])))
        own = [int(text[1:]) for text in state if text[0] == unit.id]
        shared = [int(text[1:]) for text in state if text[0] == unit.trunk]
        fine = len(state) == found.step == found.info["n"] == len(own) + len(shared)
        fine = fine and own == sorted(own) and shared == sorted(shared)
        fine = fine and all(since <= n <= attempt.number for n in own)
        fine = fine and found.files["a"].is_relative_to(attempt.path)
        if not fine:
            self.world.wrong.append(f"{attempt!r} resumes from {found.step} {state}")
        return state

    def evaluate(self, trial: str, condition: str) -> bool:
        numbers = self.call(lambda: self.store.record_numbers(trial))
        if numbers.get(condition, (0, 0))[0]:
            return True
        claim = self.call(lambda: self.store.claim_evaluation(trial, condition, self.wid))
        if claim is None:
            return False
        return self.seal(trial, claim)

    def seal(self, trial: str, claim: Any) -> bool:
        # Whoever seals says who: so that of two records one sees which it was.
        record = {"loss": 1, "by": f"{self.me.pid}"}
        number = int(claim.folder.parent.name)
        try:
            if self.world.dice.random() < self.world.rates["fail"]:
                self.call(lambda: claim.fail("oops"))
                return False
            self.call(lambda: claim.publish(record))
        except Fenced:
            return False
        self.seen.records[trial, number, claim.condition, claim.k] = record["by"]
        return True


class Forcer(Process):
    """A person: has a trial done again, an evaluation again, and space freed."""

    def run(self) -> None:
        store = self.store = self.call(lambda: self.me.store(self.world.home))
        self.wid = self.call(lambda: self.me.register(store))
        for _ in range(12):
            self.world.sleep(self.me)
            trial = self.world.dice.choice(self.study)
            result = self.call(lambda trial=trial: store.result(trial))
            deed = self.world.dice.choice(["retire", "again", "gc", "gc"])
            if deed == "gc":
                self.clean()
            elif deed == "retire" and result is not None:
                number = result.number
                self.seen.asked.add(trial)
                self.call(lambda: store.retire(trial, "forced", number=number))  # noqa: B023
            elif result is not None and not self.seen.units[trial].is_trunk:
                self.again(trial)

    def again(self, trial: str) -> None:
        k, _ = self.call(lambda: self.store.record_numbers(trial)).get("x", (0, 0))
        claim = self.call(lambda: self.store.claim_evaluation(trial, "x", self.wid, above=k))
        if claim is not None:
            self.seen.again.add((trial, "x"))
            self.seal(trial, claim)

    def clean(self) -> None:
        unfinished = {
            unit.trunk
            for unit in self.seen.units.values()
            if unit.trunk and self.call(lambda u=unit: self.store.state(u.id)).state != "done"
        }
        removals = self.call(lambda: self.store.gc([t for t in unfinished if t]))
        self.world.sleep(self.me)
        self.call(lambda: self.store.remove(removals))


# ── policies ──


class Dice:
    """Whatever can go wrong, at random; the rates differ from seed to seed."""

    def __init__(self, world: World) -> None:
        dice = world.dice
        self.switch = dice.choice([0.02, 0.1, 0.4])
        self.crash = dice.choice([0, 0.0005, 0.002])
        self.suspend = dice.choice([0, 0.0005, 0.002])
        self.cut = dice.choice([0, 0, 0.0003])
        self.fault = dice.choice([0, 0.003, 0.02])
        self.full_until = 0

    def __call__(self, world: World, me: Actor, op: str, path: str) -> Fault | None:
        dice = world.dice
        roll = dice.random()
        if roll < self.crash:
            me.alive = False
            return None
        if roll < self.crash + self.suspend:
            world.suspend(me, dice.choice([0.5, 2, 20]) * PATIENCE)
        elif roll < self.crash + self.suspend + self.cut:
            world.power_fails = True
            world.kill_all()
            return None
        elif dice.random() < self.switch:
            world.switch(me)
        if op in ("write", "create", "mkdir") and world.operations < self.full_until:
            return Fault(28)
        if op in FAULTS and dice.random() < self.fault:
            if dice.random() < 0.1:
                self.full_until = world.operations + dice.choice([10, 200])
            after = op not in ("fsync", *READING) and dice.random() < 0.5
            return Fault(dice.choice(FAULTS[op]), after)
        return None


def calm(world: World, me: Actor, op: str, path: str) -> None:
    return None


class Stops:
    """Before the n-th operation of a process, as planned: it crashes, is suspended, hands over to
    another one, or the power fails.  Nobody is interrupted otherwise."""

    def __init__(self, *plan: tuple[int, int, str]) -> None:
        self.plan = {(who, n): what for who, n, what in plan}
        self.operations: dict[int, int] = {}

    def __call__(self, world: World, me: Actor, op: str, path: str) -> Fault | None:
        who = world.actors.index(me)
        n = self.operations[who] = self.operations.get(who, 0) + 1
        what = self.plan.get((who, n))
        if what == "crash":
            me.alive = False
        elif what == "suspend":
            world.suspend(me, 20 * PATIENCE)
        elif what == "power":
            world.power_fails = True
            world.kill_all()
        elif what == "wake" and (others := [a for a in world.actors if a.suspended]):
            others[0].suspended = False
            world.switch(me, others[0])
        return None


# ── a run and what must hold after it ──


def explore(root: Path, patch: pytest.MonkeyPatch, seed: int) -> World:
    """A random run: a few generations of processes, each until all are gone."""
    world, seen = World(root, calm, seed), Witness({unit.id: unit for unit in UNITS})
    dice = world.dice
    world.rates = {"stop": 0.03, "fail": 0.1}

    def generation() -> None:
        for i in range(dice.choice([2, 2, 3])):
            study = dice.choice(STUDIES)
            host = ("one", "two")[(i + dice.randrange(2)) % 2]
            world.start(host, lambda me, study=study: Process(me, seen, study).run())
        if dice.random() < 0.6:
            world.start("one", lambda me: Forcer(me, seen, seen.units).run())
        world.run()

    with patch.context() as patched:
        world.install(patched)
        init_home(world.home)
        world.policy = Dice(world)
        for _ in range(3):
            generation()
            if world.power_fails:
                world.cut_power()
        finish(world, seen)
    return world


def small(
    root: Path, patch: pytest.MonkeyPatch, *plan: tuple[int, int, str]
) -> tuple[World, Stops]:
    """One trial, one evaluation, two processes on two hosts, stopped as planned."""
    world, seen = World(root, calm, 1), Witness({"s": Unit("s", 2, stops=True)}, ("x",))
    stops = Stops(*plan)
    with patch.context() as patched:
        world.install(patched)
        init_home(world.home)
        world.policy = stops
        first = world.start("one", lambda me: Process(me, seen, ["s"]).run())
        world.start("two", lambda me: Process(me, seen, ["s"]).run())
        world.run(first)
        if world.power_fails:
            world.cut_power()
        finish(world, seen)
    return world, stops


def finish(world: World, seen: Witness) -> None:
    """All are gone; a fresh worker alone comes to the end, whatever they left; then the rules
    are looked at."""
    world.kill_all()
    world.run()
    world.policy = calm
    world.operations = 0
    last = world.start("one", lambda me: Process(me, seen, seen.units).run())
    world.run()
    if not last.finished:
        world.wrong.append("the last worker did not finish")
    world.wrong += broken(world, seen)


def broken(world: World, seen: Witness) -> list[str]:
    """What does not hold at the end, when everything is finished."""
    wrong: list[str] = []
    store = Store(world.home, PATIENCE)
    for unit in seen.units.values():
        expected = "diverged" if unit.diverges else "done"
        if (state := store.state(unit.id)).state != expected:
            wrong.append(f"{unit.id} is {state}")
            continue
        views = store.attempts(unit.id)
        final = [v for v in views if v.end and v.end["state"] in ("done", "diverged")]
        for view in final[:-1]:
            if view.retired is None:
                wrong.append(f"{unit.id}: attempt {view.number} was replaced without being retired")
        for view in views[:-1]:
            if view.end is None:
                wrong.append(f"{unit.id}: attempt {view.number} has no end, but there is a newer")
        for view in views:
            key = (unit.id, view.number)
            token = view.claim and view.claim["token"]
            if seen.claims.get(key, token) != token:
                wrong.append(f"attempt {key} is another's than was told")
            told = seen.ends.get(key)
            if told is not None and (view.end is None or view.end["state"] != told):
                wrong.append(f"attempt {key} was told to be {told}, but is {view.end}")
        wrong += broken_result(store, unit, seen)
        for place in (store.trial_dir(unit.id) / "attempts").glob("*/checkpoints/*/manifest"):
            manifest = json.loads(place.read_bytes())
            for name, told in manifest["files"].items():
                data = (place.parent / name).read_bytes()
                if hashlib.sha256(data).hexdigest() != told["sha256"]:
                    wrong.append(f"{place} names a file that is not whole: {name}")
    return wrong


def broken_result(store: Store, unit: Unit, seen: Witness) -> list[str]:
    if unit.diverges:
        return []
    wrong = []
    result = store.result(unit.id)
    assert result is not None
    newest = max([n for (t, n), s in seen.ends.items() if t == unit.id and s == "done"], default=0)
    if result.number < newest:
        wrong.append(f"{unit.id}: attempt {newest} was told to be done, {result.number} is taken")
    if unit.is_trunk:
        return wrong
    if store.weights_lost(unit.id):
        wrong.append(f"{unit.id}: {store.weights_lost(unit.id)}")
    elif len(json.loads(result.weights.read_bytes())) != unit.steps:
        wrong.append(f"{unit.id}: the weights do not hold every step once")
    for condition in seen.conditions:
        record = store.evaluation(unit.id, condition)
        k = store.record_numbers(unit.id)[condition][0]
        if record is None or record["weights"] != result.end["weights"]:
            wrong.append(f"{unit.id} {condition}: {record}")
            continue
        results = [n for n in range(1, k + 1) if by(result.evaluations, condition, n)]
        if len(results) > 1 and (unit.id, condition) not in seen.again:
            wrong.append(f"{unit.id} {condition}: records {results} hold results")
    root = store.trial_dir(unit.id) / "attempts"
    for (trial, number, condition, k), told in seen.records.items():
        if trial == unit.id and by(root / str(number) / "evaluations", condition, k) != told:
            wrong.append(f"{unit.id} {condition}.{k} of attempt {number} was told to be sealed")
    return wrong


def by(folder: Path, condition: str, k: int) -> Any:
    path = folder / f"{condition}.{k}"
    return json.loads(path.read_bytes()).get("by") if path.exists() else None


# ── tests ──


def none_wrong(world: World, what: object) -> None:
    assert not world.wrong, f"{what}: " + "\n".join(world.wrong[:5])
    shutil.rmtree(world.root)


@pytest.fixture(scope="module")
def lengths(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, int]:
    """How many operations the two processes of a small run take, the second one when the first
    is suspended in the middle."""
    root = tmp_path_factory.mktemp("lengths")
    with pytest.MonkeyPatch.context() as patch:
        first = small(root / "1", patch)[1].operations[0]
        second = small(root / "2", patch, (0, first // 2, "suspend"))[1].operations[1]
    return first, second


STOPS = [("suspend", 1, 1), ("crash", 1, 2), ("power", 1, 2)]
MORE = [pytest.param(what, 2, 2, marks=pytest.mark.full) for what in ("crash", "power")]


@pytest.mark.parametrize(("what", "first", "every"), [*STOPS, *MORE])
def test_one_stop_anywhere(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, int],
    what: str, first: int, every: int,
) -> None:  # fmt: skip
    """A suspended process is taken for lost, another one does all the work, and it wakes."""
    for n in range(first, lengths[0] + 1, every):
        none_wrong(small(scratch / str(n), monkeypatch, (0, n, what))[0], (n, what))


def two_stops(lengths: tuple[int, int], every: int) -> list[tuple[int, int, str]]:
    """(operation of the suspended first, operation of the second, what happens then)."""
    dice = random.Random(every)
    pairs = itertools.product(range(1, lengths[0] + 1), range(1, lengths[1] + 1), ("wake", "power"))
    return [pair for pair in pairs if dice.random() < 1 / every]


@pytest.mark.parametrize("every", [300, pytest.param(10, marks=pytest.mark.full)])
def test_two_stops(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, int], every: int
) -> None:
    """The first is suspended, the second takes over and is interrupted: the first wakes, or the
    power fails."""
    for i, j, what in two_stops(lengths, every):
        plan = ((0, i, "suspend"), (1, j, what))
        none_wrong(small(scratch / f"{i}-{j}-{what}", monkeypatch, *plan)[0], plan)


def test_random_schedules(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(40):
        none_wrong(explore(scratch / str(seed), monkeypatch, seed), seed)


@pytest.mark.full
@pytest.mark.parametrize("block", range(20))
def test_many_random_schedules(scratch: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    for seed in range(1000 + 100 * block, 1100 + 100 * block):
        none_wrong(explore(scratch / str(seed), monkeypatch, seed), seed)

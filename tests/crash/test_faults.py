"""The n-th file operation of a short run fails, for every n: by an error (once or for a while,
before or after taking effect), by SIGKILL, by a power cut.  Then the same run once more comes to
its end, nothing that was told to be sealed is lost, and nothing half-written passes for whole."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from paribus.store import DiskError, Store, init_home, owners
from paribus.store.files import read_bytes
from paribus.store.workers import Worker
from tests.crash.disk import FAULTS, READING, WRITING, Disk, Fault, files

STEPS = {"trunk": 1, "t": 4}
Told = list[tuple[Any, ...]]


class Work:
    """What a run does to the store: a trunk and a trial that begins like it, released once and
    forced once; evaluations, one of which fails once; the study's own files; freeing space.

    Said again on the same home it does what is left.  `told` lists what the store has promised.
    """

    def __init__(self, home: Path, told: Told) -> None:
        self.home, self.told = home, told
        self.before = list(told)

    def run(self) -> None:
        self.call(lambda: init_home(self.home))
        store = self.store = self.call(lambda: Store(self.home, patience=3600))
        worker = self.call(lambda: Worker(self.home / "workers", 3600))
        run = self.call(lambda: store.begin_run("a@s", {"workers": 1}))
        for trial, steps in STEPS.items():
            self.call(lambda t=trial, n=steps: store.declare(t, {"steps": n}))
            self.call(lambda t=trial: store.link_name("a@s", f"names/{t}", t))
        self.call(lambda: store.keep_sources("a@s", {"study.py": b"", "parts/x.py": b""}))
        for seen in (0, 3):
            study = {"registration": {"h": seen}, "results_seen": seen}
            self.call(lambda study=study: store.write_study("a@s", study, {"trials": 2}))
        for trial in STEPS:
            while self.call(lambda t=trial: store.state(t)).state != "done":
                self.train(trial, worker.id)
        for condition in ("x", "y"):
            self.evaluate(condition, worker.id)
        self.call(lambda: store.retire("t", "forced", number=2))
        if self.call(lambda: store.state("t")).state != "done":
            self.train("t", worker.id)
        for condition in ("x", "y"):
            self.evaluate(condition, worker.id)
        removals = self.call(lambda: store.gc())
        self.call(lambda: store.remove(removals))
        self.call(lambda: store.ask_stop("a@s", now=True))
        self.call(lambda: store.end_run("a@s", run))
        worker.close()

    def call(self, what: Callable[[], Any]) -> Any:
        for _ in range(100):
            try:
                return what()
            except DiskError:
                continue
        raise AssertionError("the disk is well again, but the store is not")

    def train(self, trial: str, worker: str) -> None:
        attempt = self.call(lambda: self.store.open(trial, worker))
        assert attempt is not None, "nobody else is there"
        since = 3 if attempt.number >= 3 and trial == "t" else 1
        sealed = [e[3] for e in self.before if e[:2] == ("seal", trial) and e[2] >= since]
        found = self.call(lambda: attempt.resume("trunk" if trial == "t" else None))
        content = b"[]" if found is None else self.call(lambda: read_bytes(found.files["a"]))
        state = json.loads(content)
        assert len(state) >= max(sealed, default=0), "a sealed checkpoint is lost"
        assert state == list(range(1, len(state) + 1))
        self.call(lambda: attempt.describe(b"versions", self.home / "provenance" / "abc"))
        for step in range(len(state) + 1, STEPS[trial] + 1):
            state.append(step)
            content = {"a": json.dumps(state).encode(), "b": b"b" * 50}
            self.call(lambda s=step, c=content: attempt.seal(s, c, {"curve": [1.5] * s}))
            self.told.append(("seal", trial, attempt.number, step))
            self.call(attempt.retain)
            if (trial, attempt.number, step) == ("t", 1, 3):
                assert self.call(lambda: attempt.end("released", "stop"))
                return
        weights = None if trial == "trunk" else json.dumps(state).encode()
        keep, extra = (1, {}) if trial == "trunk" else (0, {"best": b"best"})
        info = {"step": STEPS[trial]}
        self.call(lambda: attempt.finish(weights, info, keep=keep, extra=extra))
        self.told.append(("done", trial, attempt.number))

    def evaluate(self, condition: str, worker: str) -> None:
        while True:
            k, failed = self.call(lambda: self.store.record_numbers("t")).get(condition, (0, 0))
            if k:
                return
            claim = self.call(lambda: self.store.claim_evaluation("t", condition, worker))
            assert claim is not None, "nobody else is there"
            if condition == "x" and not failed:
                self.call(lambda claim=claim: claim.fail("oops"))
                continue
            self.call(lambda claim=claim: claim.publish({"loss": 1.5}))
            number = int(claim.folder.parent.name)
            self.told.append(("record", number, f"{condition}.{claim.k}"))


def check(home: Path, told: Told) -> None:
    """Everything is done, and what was told is so."""
    store = Store(home)
    for trial, steps in STEPS.items():
        assert store.state(trial).state == "done"
        result = store.result(trial)
        assert result is not None
        assert store.weights_lost(trial) == ""
        done = [entry[2] for entry in told if entry[:2] == ("done", trial)]
        assert result.number >= max(done, default=0)
        for number in done:
            end = store.attempts(trial)[number - 1].end
            assert end is not None
            assert end["state"] == "done"
        if trial == "t":
            assert json.loads(result.weights.read_bytes()) == list(range(1, steps + 1))
            assert (result.path / "best").read_bytes() == b"best"
            assert (result.path / "provenance").read_bytes() == b"versions"
    records = store.evaluations("t")
    assert [record["loss"] for record in records.values()] == [1.5, 1.5]
    for number, name in [entry[1:] for entry in told if entry[0] == "record"]:
        assert (store.trial_dir("t") / f"attempts/{number}/evaluations/{name}").exists()
    study = store.read_study("a@s")
    assert study is not None
    assert study["registration"] == {"h": 0}
    assert study["amendments"][0]["registration"] == {"h": 3}
    assert (store.study_dir("a@s") / "names/names/t/spec.json").exists()


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and everything from then on is done by another process; the former is dead."""
    now = {"pid": 100}
    monkeypatch.setattr(os, "getpid", lambda: now["pid"])
    monkeypatch.setattr(owners, "_look", lambda pid: (str(pid), "S") if pid == now["pid"] else None)
    return lambda: now.update(pid=now["pid"] + 1)


def recorded(folder: Path, patch: pytest.MonkeyPatch, hook: Any) -> tuple[Disk, Told]:
    """A run on a disk of its own; `hook` may make operations fail."""
    folder.mkdir()
    disk = Disk(folder, hook)
    told: Told = []
    with patch.context() as patched:
        disk.install(patched)
        Work(folder / "runs", told).run()
    assert disk.wrong == []
    return disk, told


# ── errors ──


def kinds() -> Iterator[tuple[str, int, bool, int]]:
    """(operation, errno, after taking effect, how many of them in a row)."""
    for op, numbers in FAULTS.items():
        for number, after, lasting in itertools.product(numbers, (False, True), (1, 5)):
            # What a failed fsync leaves is unknown in either case; looking has no effect.
            if not (after and op in ("fsync", *READING)):
                yield op, number, after, lasting


def sweep(
    folder: Path,
    patch: pytest.MonkeyPatch,
    kind: tuple[str, int, bool, int],
    which: Iterable[int],
) -> int:
    """The run with the n-th operation of the kind failing, for every n of `which`."""
    op, number, after, lasting = kind
    for n in which:
        counted = itertools.count(1)
        reached = False

        def hook(at: str, path: str) -> Fault | None:
            nonlocal reached
            if at != op or not n <= next(counted) < n + lasting:  # noqa: B023
                return None
            reached = True
            return Fault(number, after)

        place = folder / f"{op}-{number}-{after}-{lasting}-{n}"
        _, told = recorded(place, patch, hook)
        check(place / "runs", told)
        shutil.rmtree(place)
        if not reached:
            return n
    raise AssertionError


def test_any_operation_fails(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, process: Callable[[], None]
) -> None:
    """The first n with the first kind of its operation, and so on through the kinds, then as many
    n with none; of looking, nine times as many."""
    for op in FAULTS:
        of_op = [kind for kind in kinds() if kind[0] == op]
        for i, kind in enumerate(of_op):
            every = len(of_op) * (10 if op in READING else 2)
            sweep(scratch, monkeypatch, kind, range(i + 1, 10**6, every))


@pytest.mark.full
@pytest.mark.parametrize("kind", list(kinds()), ids=str)
def test_any_operation_fails_in_any_way(
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    process: Callable[[], None],
    kind: tuple[str, int, bool, int],
) -> None:
    sweep(scratch, monkeypatch, kind, itertools.count(1))


# ── SIGKILL ──


def killed_at(n: int, home: Path) -> bool:
    """Work in a child that dies at its n-th operation; False if it came to the end."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9), "the work itself failed"
        return code == 9
    try:
        counted = itertools.count(1)

        def hook(op: str, path: str) -> None:
            if op in WRITING and next(counted) == n:
                os._exit(9)

        with pytest.MonkeyPatch.context() as patch:
            Disk(home.parent, hook).install(patch)
            Work(home, []).run()
        os._exit(0)
    finally:
        os._exit(1)


def kill_at(scratch: Path, first: int) -> int:
    """Work killed at its n-th operation, for every fourth n.  To be called in a process of its
    own: it has next to nothing loaded, so that hundreds of forks are cheap."""
    # A kill loses nothing that was written; only a power cut does.  So nothing is synced here,
    # which would be most of the time.
    os.fsync = lambda descriptor: None
    for n in itertools.count(first, 4):
        home = scratch / str(n) / "runs"
        home.parent.mkdir()
        if not killed_at(n, home):
            return n
        told: Told = []
        Work(home, told).run()
        check(home, told)
        assert len(Store(home).attempts("t")) <= 4, "one more at most"
        shutil.rmtree(home.parent)
    raise AssertionError


@pytest.mark.parametrize(
    "first", [1, *(pytest.param(n, marks=pytest.mark.full) for n in (2, 3, 4))]
)
def test_killed_at_any_operation(scratch: Path, first: int) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        assert process.submit(kill_at, scratch, first).result() > 200


# ── power cuts ──


def cut_anywhere(
    folder: Path, patch: pytest.MonkeyPatch, process: Callable[[], None], seed: int, every: int = 1
) -> int:
    """What a power cut before the n-th operation leaves; then the run once more.  Returns how many
    operations there are; `every`: of how many of them one is tried."""
    dice, told, states = random.Random(seed), [], []
    counted = itertools.count()
    place = folder / "whole"
    place.mkdir()

    def hook(op: str, path: str) -> None:
        if op in WRITING and next(counted) % every == 0:
            target = folder / f"cut{len(states)}"
            disk.inner = True
            disk.after_cut(dice, target)
            disk.inner = False
            states.append((target, list(told)))

    disk = Disk(place, hook)
    with patch.context() as patched:
        disk.install(patched)
        Work(place / "runs", told).run()
    check(place / "runs", told)
    patch.setattr(os, "fsync", lambda descriptor: None)
    for target, promised in states:
        process()
        Work(target / "runs", promised).run()
        check(target / "runs", promised)
    return next(counted)


def test_the_power_fails_anywhere(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, process: Callable[[], None]
) -> None:
    assert cut_anywhere(scratch, monkeypatch, process, seed=1, every=2) > 200


@pytest.mark.full
@pytest.mark.parametrize("seed", range(1, 22))
def test_the_power_fails_anywhere_many_times(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, process: Callable[[], None], seed: int
) -> None:
    cut_anywhere(scratch, monkeypatch, process, seed)


def fail_and_cut(
    folder: Path, patch: pytest.MonkeyPatch, process: Callable[[], None], which: Iterable[int]
) -> int:
    """The n-th fsync fails, the run calls again, and soon the power fails: what the call promised
    in the end must stand."""
    for n in which:
        dice, told, states = random.Random(n), [], []
        syncs, later = itertools.count(1), itertools.count()
        reached = False
        place = folder / f"sync{n}"
        place.mkdir()

        def hook(op: str, path: str) -> Fault | None:
            nonlocal reached
            if reached and op in WRITING and next(later) in (2, 5, 8, 13, 21, 34):  # noqa: B023
                target = place / f"cut{len(states)}"  # noqa: B023
                disk.inner = True  # noqa: B023
                disk.after_cut(dice, target)  # noqa: B023
                disk.inner = False  # noqa: B023
                states.append((target / "runs", list(told)))  # noqa: B023
            if op != "fsync" or next(syncs) != n:  # noqa: B023
                return None
            reached = True
            return Fault(5)

        (place / "whole").mkdir()
        disk = Disk(place / "whole", hook)
        with patch.context() as patched:
            disk.install(patched)
            Work(place / "whole" / "runs", told).run()
        with patch.context() as patched:
            patched.setattr(os, "fsync", lambda descriptor: None)
            for home, promised in states:
                process()
                Work(home, promised).run()
                check(home, promised)
        shutil.rmtree(place)
        if not reached:
            return n
    return 0


def test_a_sync_fails_and_then_the_power(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, process: Callable[[], None]
) -> None:
    fail_and_cut(scratch, monkeypatch, process, range(1, 10**6, 7))


@pytest.mark.full
def test_any_sync_fails_and_then_the_power(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, process: Callable[[], None]
) -> None:
    assert fail_and_cut(scratch, monkeypatch, process, itertools.count(1)) > 100


# ── the order in which things become durable ──


def test_what_is_replaced_goes_last(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, process: Callable[[], None]
) -> None:
    disk, _ = recorded(scratch / "disk", monkeypatch, lambda op, path: None)
    trace = [(op, path.removeprefix(f"{disk.root}/runs/trials/")) for op, path in disk.trace]

    def assert_order(*steps: tuple[str, str]) -> None:
        at = -1
        for step in steps:
            assert step in trace[at + 1 :], f"{step} does not follow"
            at = trace.index(step, at + 1)

    attempt = "t/attempts/1"
    old, new = f"{attempt}/checkpoints/2", f"{attempt}/checkpoints/3"
    for name in ("a", "b"):
        assert_order(
            ("write", f"{new}/{name}"),
            ("fsync", f"{new}/{name}"),
            ("fsync", new),
            ("link", f"{new}/manifest"),
            ("fsync", new),
            ("fsync", f"{attempt}/checkpoints"),
            ("fsync", attempt),
            ("unlink", f"{old}/manifest"),
            ("fsync", old),
            ("unlink", f"{old}/{name}"),
            ("rmdir", old),
        )
    sealing = [path for op, path in trace if op == "link" and path.startswith(f"{new}/")]
    assert sealing == [f"{new}/manifest"]
    adopted = "t/attempts/2/checkpoints/3"
    for name in ("a", "b"):
        assert_order(
            ("link", f"{adopted}/{name}"), ("fsync", adopted), ("link", f"{adopted}/manifest")
        )
    last = "t/attempts/2"
    for name in ("weights", "best"):
        assert_order(
            ("fsync", f"{last}/{name}"),
            ("fsync", last),
            ("link", f"{last}/end"),
            ("fsync", last),
            ("unlink", f"{last}/checkpoints/4/manifest"),
        )
    assert_order(
        ("link", f"{last}/claim"), ("fsync", last), ("fsync", "t/attempts"), ("fsync", "t")
    )
    assert_order(("link", f"{last}/retired"), ("fsync", last), ("link", "t/attempts/3/claim"))


def test_no_file_is_synced_again(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, process: Callable[[], None]
) -> None:
    """Each file's first fsync fails: what comes instead is another file."""
    failed: set[str] = set()

    def hook(op: str, path: str) -> Fault | None:
        # Temporary names are always new; those of data files and weights are used again.
        if op == "fsync" and os.path.isfile(path) and "/." not in path and path not in failed:
            failed.add(path)
            return Fault(5)
        return None

    disk, told = recorded(scratch / "disk", monkeypatch, hook)
    check(scratch / "disk" / "runs", told)
    assert any(path.endswith("weights") for path in failed)
    hidden = [path.name for path in files(scratch / "disk") if path.name.startswith(".")]
    assert hidden == [".paribus"], "no temporary file is left"
    assert disk.wrong == []

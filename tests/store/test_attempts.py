from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable

import pytest

from paribus.store import Attempt, DiskError, Fenced, Store, StoreError, owners

Start = Callable[[str], subprocess.Popen[str]]


def taken_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    """What another worker gets when it takes the owner for dead, although its process lives."""
    with monkeypatch.context() as patch:
        patch.setattr(owners, "look", lambda claim: (False, "lost"))
        return opened(store, "w2")


def opened(store: Store, worker: str = "w") -> Attempt:
    attempt = store.open("t1", worker)
    assert attempt is not None
    return attempt


def test_a_trial_from_start_to_end(store: Store) -> None:
    assert store.state("t1").state == store.state("never-seen").state == "planned"
    attempt = opened(store)
    assert (attempt.number, attempt.trial) == (1, "t1")
    assert store.open("t1", "w2") is None
    state = store.state("t1")
    assert (state.state, state.attempt) == ("running", 1)
    assert f"process {os.getpid()}" in state.reason
    assert attempt.resume() is None
    attempt.log("one")
    attempt.log("two\n")
    assert (attempt.path / "log").read_text() == "one\ntwo\n"
    for step in (10, 20, 30):
        attempt.seal(step, {"state.safetensors": b"%d" % step, "meta.json": b"{}"}, {"curve": [1]})
    assert store.state("t1").last_step == 30
    attempt.retain(2)
    assert sorted(os.listdir(attempt.path / "checkpoints")) == ["20", "30"]
    digest = attempt.finish(b"weights", {"step": 40, "curve": [1.5]})
    assert os.listdir(attempt.path / "checkpoints") == []
    state = store.state("t1")
    assert (state.state, state.last_step, state.retired) == ("done", 40, False)
    result = store.result("t1")
    assert result is not None
    assert result.end["weights"] == digest
    assert result.weights.read_bytes() == b"weights"
    assert store.open("t1", "w") is None, "finished stays finished"
    assert attempt.finish(b"weights", {"step": 40, "curve": [1.5]}) == digest, "said again: fine"
    assert not attempt.end("released", "too late")
    with pytest.raises(Fenced):
        attempt.seal(50, {}, {})


@pytest.mark.parametrize(
    ("end", "shown", "again"),
    [
        ("diverged", "diverged", False),
        ("refused", "refused", False),
        ("failed", "failed", True),
        ("out of memory", "out of memory", True),
        ("released", "interrupted", True),
    ],
)
def test_ends(store: Store, end: str, shown: str, again: bool) -> None:
    assert opened(store).end(end, "why", loss=3.5)
    state = store.state("t1")
    assert (state.state, state.reason, state.attempt) == (shown, "why", 1)
    assert state.end is not None
    assert state.end["loss"] == 3.5
    assert store.result("t1") is None
    attempt = store.open("t1", "w")
    assert (attempt is not None) == again
    if attempt:
        assert attempt.number == 2


def test_only_known_ends_without_nan(store: Store) -> None:
    attempt = opened(store)
    with pytest.raises(StoreError, match="valid: diverged"):
        attempt.end("done", "")
    with pytest.raises(StoreError, match="JSON"):
        attempt.end("diverged", "loss", loss=float("nan"))
    with pytest.raises(StoreError, match="may not hold"):
        attempt.finish(b"", {"state": "failed"})
    with pytest.raises(StoreError, match="JSON"):
        attempt.finish(b"", {"loss": float("nan")})
    with pytest.raises(StoreError, match="JSON"):
        attempt.seal(1, {"a": b""}, {"loss": float("inf")})
    assert sorted(os.listdir(attempt.path)) == ["claim"]


def test_one_of_two_processes_wins(store: Store, python: Start) -> None:
    code = """
for line in sys.stdin:
    trial = line.strip()
    print("won" if store.open(trial, "w") else "lost", flush=True)
"""
    racers = [python(code), python(code)]
    for i in range(40):
        store.declare(f"race{i}", {})
        for racer in racers:
            assert racer.stdin
            racer.stdin.write(f"race{i}\n")
            racer.stdin.flush()
        said = sorted(racer.stdout.readline().strip() for racer in racers if racer.stdout)
        assert said == ["lost", "won"]


def test_a_killed_owner_is_replaced_at_once(store: Store, python: Start) -> None:
    owner = python("""
attempt = store.open("t1", "first")
attempt.seal(10, {"a": b"ten"}, {"curve": [1]})
attempt.seal(20, {"a": b"twenty"}, {"curve": [1, 2]})
print("sealed", flush=True)
sys.stdin.read()
""")
    assert owner.stdout
    assert owner.stdout.readline() == "sealed\n"
    assert store.open("t1", "second") is None
    assert "worker first" in store.state("t1").reason
    owner.kill()  # not waited for: the process is a zombie, and that counts as dead
    while store.state("t1").state == "running":
        pass
    state = store.state("t1")
    assert (state.state, state.attempt, state.last_step) == ("interrupted", 1, 20)
    attempt = opened(store, "second")
    assert attempt.number == 2
    checkpoint = attempt.resume()
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.info) == (20, {"curve": [1, 2]})
    path = checkpoint.files["a"]
    assert path.read_bytes() == b"twenty"
    assert path.is_relative_to(attempt.path)
    assert path.samefile(store.trial_dir("t1") / "attempts/1/checkpoints/20/a"), "no space is used"
    again = attempt.resume()
    assert again == checkpoint
    attempt.seal(20, {"a": b"twenty"}, {})
    end = (store.trial_dir("t1") / "attempts/1/end").read_text()
    assert "fenced" in end


def test_torn_checkpoints_are_passed_over(store: Store) -> None:
    first = opened(store)
    for step in (10, 20, 30, 40, 50):
        first.seal(step, {"a": b"a%d" % step, "b": b"b"}, {})
    place = first.path / "checkpoints"
    (place / "50" / "manifest").unlink()
    (place / "40" / "a").write_bytes(b"a4?")
    (place / "30" / "b").unlink()
    (place / "20" / "manifest").write_text("{")
    assert first.end("released", "stop")
    second = opened(store)
    checkpoint = second.resume()
    assert checkpoint is not None
    assert checkpoint.step == 10
    assert os.listdir(second.path / "checkpoints") == ["10"]
    assert (second.path / "log").read_text().count("passed over") == 3


def test_adoption_copies_where_links_fail(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(store)
    first.seal(10, {"a": b"ten"}, {})
    first.end("released", "stop")
    second = opened(store)
    link = os.link

    def no_links(source: os.PathLike[str], target: os.PathLike[str]) -> None:
        if os.path.basename(target) != "manifest":
            raise OSError(errno.EPERM, "not permitted")
        link(source, target)

    monkeypatch.setattr(os, "link", no_links)
    checkpoint = second.resume()
    assert checkpoint is not None
    assert checkpoint.files["a"].read_bytes() == b"ten"
    assert not checkpoint.files["a"].samefile(first.path / "checkpoints/10/a")


def test_a_fenced_attempt_cannot_publish(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(store)
    first.seal(10, {"a": b"ten"}, {})
    second = taken_over(store, monkeypatch)
    assert second.number == 2
    with pytest.raises(Fenced):
        first.seal(20, {"a": b"twenty"}, {})
    with pytest.raises(Fenced):
        first.finish(b"old", {})
    assert not first.end("released", "stop")
    checkpoint = second.resume()
    assert checkpoint is not None
    assert checkpoint.step == 10
    second.finish(b"new", {})
    result = store.result("t1")
    assert result is not None
    assert (result.number, result.weights.read_bytes()) == (2, b"new")


def test_retired_and_done_again(store: Store) -> None:
    with pytest.raises(StoreError, match="never attempted"):
        store.retire("t1", "why")
    first = opened(store)
    with pytest.raises(StoreError, match="running"):
        store.retire("t1", "why")
    first.seal(10, {"a": b""}, {})
    first.finish(b"old", {}, keep=1)
    store.retire("t1", "a bug")
    store.retire("t1", "a bug")
    state = store.state("t1")
    assert (state.state, state.retired, state.reason) == ("planned", True, "retired: a bug")
    second = opened(store)
    assert second.resume() is None, "nothing is taken across a final end"
    result = store.result("t1")
    assert result is not None
    assert (result.number, result.retired) == (1, True)
    second.end("failed", "oops")
    assert store.result("t1") == result
    third = opened(store)
    third.finish(b"new", {})
    result = store.result("t1")
    assert result is not None
    assert (result.number, result.retired) == (3, False)
    assert store.open("t1", "w") is None


def test_a_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = opened(store)
    attempt.seal(10, {"a": b"ten"}, {})

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DiskError, match="No space"):
            attempt.seal(20, {"a": b"twenty"}, {})
        with pytest.raises(DiskError, match="No space"):
            attempt.finish(b"weights", {})
        with pytest.raises(DiskError, match="No space"):
            attempt.end("released", "disk")
        with pytest.raises(DiskError, match="No space"):
            attempt.log("line")
    assert os.listdir(attempt.path / "checkpoints") == ["10"]
    assert not (attempt.path / "weights").exists()
    assert store.state("t1").state == "running"
    attempt.seal(20, {"a": b"twenty"}, {})
    attempt.finish(b"weights", {})
    assert store.state("t1").state == "done"


def test_an_end_that_was_made_although_the_disk_complained(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = opened(store)
    fsync, calls = os.fsync, []

    def failing(descriptor: int) -> None:
        calls.append(descriptor)
        if (attempt.path / "end").exists():
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(DiskError, match="Input/output"):
            attempt.finish(b"weights", {})
    assert attempt.finish(b"weights", {})
    assert store.state("t1").state == "done"


def test_a_deleted_trial_is_planned_again(store: Store) -> None:
    attempt = opened(store)
    attempt.seal(10, {"a": b""}, {})
    shutil.rmtree(store.trial_dir("t1"))
    assert store.state("t1").state == "planned"
    assert store.result("t1") is None
    assert store.evaluations("t1") == {}
    assert store.claim_evaluation("t1", "c", "w") is None
    for call in (lambda: attempt.seal(20, {}, {}), lambda: attempt.finish(b"", {}), attempt.resume):
        with pytest.raises(Fenced, match="removed"):
            call()
    assert not attempt.end("released", "")
    assert not store.trial_dir("t1").exists()
    with pytest.raises(StoreError, match="not declared"):
        store.open("t1", "w")
    store.declare("t1", {"lr": 0.1})
    new = opened(store)
    assert new.number == 1
    with pytest.raises(Fenced):
        attempt.finish(b"", {})
    assert store.state("t1").state == "running"

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from paribus.store import Attempt, Removal, Store, StoreError
from paribus.store.workers import Worker

Start = Callable[[str], subprocess.Popen[str]]


def opened(store: Store, trial: str = "t1") -> Attempt:
    attempt = store.open(trial, "w")
    assert attempt is not None
    return attempt


def listed(store: Store, keep: tuple[str, ...] = ()) -> dict[str, int]:
    return {str(r.path.relative_to(store.home)): r.bytes for r in store.gc(keep)}


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def finished(store: Store, keep: int = 0) -> None:
    first = opened(store)
    first.seal(10, {"a": b"x" * 1000}, {})
    first.end("released", "stop")
    second = opened(store)
    second.resume()
    second.seal(20, {"a": b"y" * 2000}, {})
    second.finish(b"weights", {}, keep=keep)


def test_checkpoints_go_once_a_trial_is_done(store: Store) -> None:
    first = opened(store)
    first.seal(10, {"a": b"x" * 1000}, {})
    assert listed(store) == {}
    first.end("released", "stop")
    assert listed(store) == {}, "it is needed to go on"
    opened(store).finish(b"weights", {})
    before = names(store.home)
    found = listed(store)
    assert list(found) == ["trials/t1/attempts/1/checkpoints/10"]
    assert 1000 < found["trials/t1/attempts/1/checkpoints/10"] < 1500
    assert names(store.home) == before, "looking removes nothing"
    assert store.remove(store.gc()) == sum(found.values())
    assert listed(store) == {}
    gone = set(before) - set(names(store.home))
    assert all("checkpoints" in name for name in gone)
    assert store.state("t1").state == "done"
    assert store.weights_lost("t1") == ""


def test_bytes_that_are_shared_count_once(store: Store) -> None:
    first = opened(store)
    first.seal(10, {"a": b"x" * 10**6}, {})
    first.end("released", "stop")
    second = opened(store)
    second.resume()
    second.seal(20, {"a": b""}, {})
    second.finish(b"weights", {}, keep=2)
    assert max(listed(store).values()) < 1000, "another attempt keeps the same content"
    store.retire("t1", "why")
    assert listed(store) == {}, "it is to be done again"
    third = opened(store)
    third.finish(b"weights", {})
    found = listed(store)
    assert list(found) == ["trials/t1/attempts/1/checkpoints/10"]


def test_what_an_end_keeps_stays(store: Store) -> None:
    finished(store, keep=1)
    assert list(listed(store)) == ["trials/t1/attempts/1/checkpoints/10"]


def test_a_trunk_is_kept_for_its_children(store: Store) -> None:
    attempt = opened(store)
    attempt.seal(10, {"a": b"x"}, {})
    attempt.finish(None, {}, keep=1)
    assert listed(store, keep=("t1",)) == {}
    assert list(listed(store)) == ["trials/t1/attempts/1/checkpoints/10"]


def test_what_is_asked_for_again_meanwhile_stays(store: Store) -> None:
    first = opened(store)
    first.seal(10, {"a": b"x"}, {})
    first.end("released", "stop")
    opened(store).finish(b"weights", {})
    found = store.gc()
    assert len(found) == 1
    store.retire("t1", "why")
    assert store.remove(found) == 0
    assert (first.path / "checkpoints/10/manifest").exists()
    with pytest.raises(StoreError, match="is not in"):
        store.remove([Removal(Path("/etc/passwd"), 1, "")])


def test_what_killed_writers_left(store: Store, python: Start) -> None:
    owner = python("""
worker = store.new_worker()
store.begin_run("a@s", {})
attempt = store.open("t1", worker.id)
attempt.seal(10, {"a": b"x"}, {})
(attempt.path / "checkpoints/20").mkdir()
(attempt.path / "checkpoints/20/a").write_bytes(b"half")
(attempt.path / ".end-0123").write_bytes(b"half")
print(worker.id, flush=True)
sys.stdin.read()
""")
    assert owner.stdout
    worker = owner.stdout.readline().strip()
    assert listed(store) == {}
    (run,) = store.runs("a@s")
    owner.kill()
    owner.wait()
    temporary = "trials/t1/attempts/1/.end-0123"
    assert listed(store) == {temporary: 4, f"workers/{worker}": 16 + found_size(store, worker)} | {
        f"studies/a@s/runs/{run.id}": (store.study_dir("a@s") / "runs" / run.id).stat().st_size
    }
    second = opened(store)  # it fences the first attempt
    half = "trials/t1/attempts/1/checkpoints/20"
    assert listed(store).keys() >= {temporary, half}
    store.remove(store.gc())
    assert listed(store) == {}
    assert os.listdir(second.path.parent / "1" / "checkpoints") == ["10"]
    checkpoint = second.resume()
    assert checkpoint is not None
    assert checkpoint.step == 10


def found_size(store: Store, worker: str) -> int:
    return (store.home / "workers" / worker).stat().st_size - 16


def test_living_workers_stay(store: Store) -> None:
    worker = Worker(store.home / "workers")
    assert listed(store) == {}
    worker.path.write_bytes(b"0" * 16)
    assert listed(store) == {}, "nobody knows whose it is"

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from paribus.store import Beat, Store, StoreError, owners, workers
from paribus.store.workers import Watch, Worker


def test_a_worker_beats_until_it_is_closed(tmp_path: Path) -> None:
    store = Store(tmp_path, patience=0.2)
    worker, other = store.new_worker(), store.new_worker()
    assert worker.id != other.id
    assert store.beat("nobody") is None
    path = tmp_path / "workers" / worker.id
    before = path.read_bytes()
    assert before[:16] == b"0" * 15 + b"-"
    worker.step = 300
    deadline = time.monotonic() + 10
    while store.beat(worker.id) != Beat(300, workers.WORKING) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert store.beat(worker.id) == Beat(300, workers.WORKING)
    assert path.stat().st_size == len(before), "rewritten in place"
    worker.mark = workers.DISK
    assert store.beat(worker.id) == Beat(300, workers.DISK), "at once"
    with pytest.raises(StoreError, match="valid: - d i"):
        worker.mark = "x"
    worker.close()
    other.close()
    assert os.listdir(tmp_path / "workers") == []
    worker.beat()
    assert os.listdir(tmp_path / "workers") == [], "a closed worker is silent"


def test_a_file_that_was_cleared_away_comes_back(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    (tmp_path / worker.id).unlink()
    worker.beat()
    assert workers.beat(tmp_path, worker.id) == Beat(0, workers.WORKING)
    who = workers.identity_of(tmp_path / worker.id)
    assert who is not None
    assert owners.mine(who, worker.id)
    (tmp_path / worker.id).write_bytes(b"nonsense")
    assert workers.beat(tmp_path, worker.id) is None
    assert workers.identity_of(tmp_path / worker.id) is None


def test_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PARIBUS_PATIENCE", raising=False)
    assert Store(tmp_path).patience == 60
    monkeypatch.setenv("PARIBUS_PATIENCE", "1.5")
    assert Store(tmp_path).patience == 1.5
    assert Store(tmp_path, 3).patience == 3
    for wrong in ("x", "0", "-1", "nan", "inf"):
        monkeypatch.setenv("PARIBUS_PATIENCE", wrong)
        with pytest.raises(StoreError, match=f"PARIBUS_PATIENCE='{wrong}'"):
            Store(tmp_path)


class Elsewhere:
    """An owner on another machine, and a watcher with a clock to turn."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.worker = Worker(folder)
        self.claim: dict[str, Any] = {
            **owners.identity(self.worker.id),
            "boot": "other",
            "host": "elsewhere",
        }
        self.watch = Watch(folder, 60, clock=lambda: self.now)

    def lost_after(self, *gaps: float) -> bool:
        """Whether it is lost at the last of looks with these gaps before them."""
        for gap in gaps:
            self.now += gap
            lost, self.reason = self.watch.judge(self.claim)
        return lost


def test_an_owner_elsewhere_is_lost_when_its_beat_stands_still(tmp_path: Path) -> None:
    it = Elsewhere(tmp_path)
    assert not it.lost_after(0, *[10] * 5, 9)
    assert "59 s ago" in it.reason
    it.worker.beat()
    assert not it.lost_after(1, *[10] * 5)
    assert it.lost_after(10)
    assert "no sign of life for 60 s" in it.reason
    it.worker.beat()
    assert not it.lost_after(1), "it was only slow; its attempt may be gone all the same"


def test_a_missing_file_is_no_sign_of_life(tmp_path: Path) -> None:
    it = Elsewhere(tmp_path)
    assert not it.lost_after(0, *[10] * 3)
    it.worker.path.unlink()
    assert not it.lost_after(*[10] * 2)
    assert it.lost_after(*[10] * 2)
    it.worker.beat()
    assert not it.lost_after(1)


def test_nobody_is_lost_after_everything_stood_still(tmp_path: Path) -> None:
    it = Elsewhere(tmp_path)
    assert not it.lost_after(0, 3600)
    assert not it.lost_after(3600, 3600)
    it.worker.beat()
    assert not it.lost_after(1, 3600, 3600, 3600)
    assert it.lost_after(3600)


def test_a_patient_owner_is_given_its_time(tmp_path: Path) -> None:
    it = Elsewhere(tmp_path)
    it.claim["patience"] = 120.0
    assert not it.lost_after(0, *[20] * 5)
    assert it.lost_after(20, 1)


def test_a_beat_that_cannot_be_read_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = Elsewhere(tmp_path)
    assert not it.lost_after(0, 10)
    it.worker.path.unlink()
    it.worker.path.mkdir()  # reading it is an error
    assert not it.lost_after(*[10] * 20)
    it.worker.path.rmdir()
    assert it.lost_after(*[10] * 5)


def test_taken_over_from_another_machine(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(store.home / "workers")
    here = owners.place()
    with monkeypatch.context() as patch:
        patch.setattr(owners, "place", lambda: {**here, "boot": "other", "host": "elsewhere"})
        attempt = store.open("t1", worker.id)
    assert attempt is not None
    now = 0.0
    store.watch.clock = lambda: now
    assert store.open("t1", "mine") is None
    for _ in range(3):
        now += 15
        assert store.open("t1", "mine") is None
        assert store.state("t1").state == "running"
    now += 15
    assert store.history("t1").losses == 1, "lost, although nobody has ended it yet"
    second = store.open("t1", "mine")
    assert second is not None
    assert second.number == 2
    assert not attempt.end("released", "woke up")
    end = store.attempts("t1")[0].end
    assert end is not None
    assert end["state"] == "fenced"


def test_blocked(store: Store) -> None:
    worker = store.new_worker()
    assert store.open("t1", worker.id) is not None
    assert (store.state("t1").state, store.state("t1").beat) == ("running", Beat(0, "-"))
    worker.step = 7
    for mark, words in ((workers.DISK, "waits for the disk"),):
        worker.mark = mark
        state = store.state("t1")
        assert (state.state, state.beat) == ("blocked", Beat(7, mark))
        assert state.reason.startswith(f"{words}: process {os.getpid()}")
    worker.mark = workers.WORKING
    assert store.state("t1").state == "running"
    worker.close()
    assert (store.state("t1").state, store.state("t1").beat) == ("running", None)


def test_threads_that_look_at_once_count_no_time_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(workers._Seen):
        """What was seen, with a pause between its two halves."""

        def __setattr__(self, name: str, value: object) -> None:
            if name == "at":
                time.sleep(0.02)
            super().__setattr__(name, value)

    monkeypatch.setattr(workers, "_Seen", Late)
    now = 0.0
    watch = Watch(tmp_path, 60, clock=lambda: now)
    claim = {**owners.identity("w"), "boot": "other", "host": "elsewhere"}
    assert not watch.judge(claim)[0]
    now = 10.0
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(watch.judge, [claim] * 8))
    assert "last sign of life 10 s ago" in watch.judge(claim)[1]

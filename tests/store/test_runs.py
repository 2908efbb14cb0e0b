from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paribus.store import DiskError, Store, StoreError, owners

Start = Callable[[str], subprocess.Popen[str]]


def test_runs_come_and_go(store: Store, python: Start) -> None:
    assert store.runs("a@s") == []
    mine = store.begin_run("a@s", {"command": ["run"]})
    (run,) = store.runs("a@s")
    assert (run.id, run.alive, run.what) == (mine, True, {"command": ["run"]})
    assert run.identity["pid"] == os.getpid()
    other = python('print(store.begin_run("a@s", {}), flush=True); sys.stdin.read()')
    assert other.stdout
    theirs = other.stdout.readline().strip()
    assert {run.id: run.alive for run in store.runs("a@s")} == {mine: True, theirs: True}
    other.kill()
    other.wait()
    assert {run.id: run.alive for run in store.runs("a@s")} == {mine: True, theirs: False}
    store.end_run("a@s", mine)
    store.end_run("a@s", mine)
    assert [run.id for run in store.runs("a@s")] == [theirs]
    with pytest.raises(StoreError, match="an id has"):
        store.end_run("a@s", "../x")


def test_a_run_elsewhere(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    here = owners.place()
    with monkeypatch.context() as patch:
        patch.setattr(owners, "place", lambda: {**here, "boot": "other", "host": "elsewhere"})
        store.begin_run("a@s", {})
    assert [run.alive for run in store.runs("a@s")] == [None]
    (store.study_dir("a@s") / "runs" / "damaged").write_text("{")
    assert len(store.runs("a@s")) == 1


def test_a_run_begins_once_although_the_disk_complains(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(descriptor: int) -> None:
        if any((store.study_dir("a@s") / "runs").glob("[0-9a-f]*")):
            raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(DiskError):
            store.begin_run("a@s", {})
    run = store.begin_run("a@s", {})
    assert [found.id for found in store.runs("a@s")] == [run]


def test_a_stop_is_asked_for(store: Store) -> None:
    def token() -> Any:
        return (store.stop_asked("a@s") or {}).get("token")

    before = token()
    store.ask_stop("a@s", now=False)
    asked = store.stop_asked("a@s")
    assert asked is not None
    assert (asked["now"], token() != before) == (False, True)
    noted = token()
    store.ask_stop("a@s", now=True)
    assert token() != noted, "asked again, a later run stops, too"
    asked = store.stop_asked("a@s")
    assert asked is not None
    assert asked["now"] is True
    assert Path(store.study_dir("a@s") / "stop").is_file()

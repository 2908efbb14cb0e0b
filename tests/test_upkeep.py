"""stop and gc: who is told, who is waited for, what goes and what stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paribus import parts, upkeep
from paribus.cli import main
from paribus.store import DiskError, Store
from tests.stubs import Stub, plan_of, study_file


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    stub = Stub(plan_of(study_file(tmp_path)))
    yield stub
    stub.close()
    parts.use_local(None)


def options(**given: Any) -> Any:
    from argparse import Namespace

    base = dict(study="stub.py", scale=None, seeds=None, home=None, now=False)
    return Namespace(**{**base, **given})


# ── stop ──


def test_stop_when_nothing_runs(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stop", "stub.py"]) == 0
    assert "nothing runs stub@main" in capsys.readouterr().out
    assert stub.store.stop_asked("stub@main") is None


def test_stop_asks_and_waits_for_the_end(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    run = stub.store.begin_run("stub@main", {"command": "paribus run stub.py"})
    looks = []

    def work(_: float) -> None:
        looks.append(stub.store.stop_asked("stub@main"))
        if len(looks) == 3:
            stub.store.end_run("stub@main", run)

    assert upkeep.do_stop(options(now=True), sleep=work) == 0
    assert len(looks) == 3
    assert looks[0] is not None and looks[0]["now"] is True
    said = capsys.readouterr().out
    assert "asked to stop without waiting for checkpoints" in said
    assert "ended: process" in said and "paribus run stub.py" in said


def test_stop_on_a_full_disk_names_the_processes(
    stub: Stub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.store.begin_run("stub@main", {})

    def full(*_: Any) -> None:
        raise DiskError("stop: No space left on device", 28)

    monkeypatch.setattr(Store, "ask_stop", full)
    assert main(["stop", "stub.py"]) == 1
    assert "kill -TERM" in capsys.readouterr().err


# ── gc ──


def test_gc_asks_lists_and_frees(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(stub.items)[:2]:
        attempt = stub.open(name)
        attempt.seal(50, {"state": b"x" * 5000}, {})
        attempt.end("released", "stopped")
    stub.train(next(iter(stub.items)))
    home = str(tmp_path / "runs")
    assert main(["gc", "--home", home, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "a checkpoint of a finished trial" in said
    assert main(["gc", "--home", home]) == 2  # no terminal to ask at
    refused = capsys.readouterr().err
    assert "--yes" in refused and len(refused.splitlines()) == 1
    done, open_ = (stub.store.trial_dir(stub.items[n].trial.id) for n in list(stub.items)[:2])
    assert (done / "attempts/1/checkpoints/50").exists()
    assert main(["gc", "--home", home, "--yes", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["removed"] and data["freed"] >= 5000
    assert not (done / "attempts/1/checkpoints/50").exists()
    assert (done / "attempts/2/weights").exists()
    assert (open_ / "attempts/1/checkpoints/50").exists()
    assert main(["gc", "--home", home]) == 0  # nothing is left to ask about
    assert "nothing that could go" in capsys.readouterr().out


def test_gc_of_a_folder_that_is_no_home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gc", "--home", str(tmp_path)]) == 2
    assert "is no home of results" in capsys.readouterr().err


def test_trunks_stay_while_a_child_of_any_study_is_unfinished(stub: Stub) -> None:
    store, names = stub.store, list(stub.items)
    ids = [stub.items[n].trial.id for n in names]
    for trunk in ("t1", "t2", "t3"):
        store.declare(trunk, {"trunk": trunk})

    def study(instance: str, trials: dict[str, str | None], parents: dict[str, str | None]) -> None:
        store.write_study(
            instance,
            {"trials": [{"id": t, "trunk": trunk} for t, trunk in trials.items()],
             "trunks": [{"id": t, "parent": parent} for t, parent in parents.items()]},
            {},
        )  # fmt: skip

    study("a@main", {ids[0]: "t2"}, {"t1": None, "t2": "t1"})
    study("b@main", {ids[1]: "t3", ids[2]: None}, {"t3": None})
    assert upkeep.needed_trunks(store) == {"t1", "t2", "t3"}
    for trunk in ("t1", "t2"):
        attempt = store.open(trunk, stub.worker.id)
        assert attempt is not None
        attempt.seal(10, {"state": b"x"}, {})
        attempt.finish(None, {"step": 10}, keep=1)
    assert upkeep.needed_trunks(store) == {"t2", "t3"}  # t2 is there: nobody forks from t1
    stub.train(names[0])
    assert upkeep.needed_trunks(store) == {"t3"}
    stub.open(names[1]).end("failed", "ValueError: boom")
    assert upkeep.needed_trunks(store) == {"t3"}  # it may be tried again
    stub.train(names[1])
    assert upkeep.needed_trunks(store) == set()
    store.retire(ids[0], "asked")
    assert upkeep.needed_trunks(store) == {"t2"}

"""A trial that had ended and was removed by hand is missed: in rows, verdicts, status and run."""

from __future__ import annotations

import shutil

import pytest

from paribus import grid
from paribus.api import Loaded
from paribus.cli import main
from paribus.running import register
from paribus.standing import standing
from paribus.study import source
from tests.analysis import homes
from tests.stubs import Stub

NAME = "rope-lr0.001-s1"


def removed(stub: Stub) -> None:
    shutil.rmtree(stub.store.trial_dir(stub.items[NAME].trial.id))


def test_its_rows_say_so_and_its_claim_is_missing(shared: Stub) -> None:
    removed(shared)
    loaded = Loaded.of(shared.plan.again())
    rows = [r for r in loaded.results() if r["trial"] == NAME]
    assert {r["status"] for r in rows} == {"removed"}
    assert all("it had ended (done, " in r["reason"] and r["value"] is None for r in rows)
    (verdict,) = loaded.verdicts()
    assert verdict.verdict == "missing"
    assert any(m.startswith(f"{NAME} at span=4: removed (it had ended") for m in verdict.missing)
    assert f"{NAME} at span=4: removed" in loaded.verdict_text()


def test_status_names_it(shared: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    assert "removed by hand" not in grid.text(standing(shared.plan, "cpu"), grid.Style())
    removed(shared)
    assert main(["status", "shared.py"]) == 0
    said = capsys.readouterr().out
    assert f"removed by hand\n  {NAME}: it had ended (done, " in said


def test_a_new_result_in_its_place_is_told_apart(shared: Stub) -> None:
    removed(shared)
    item = shared.items[NAME]
    shared.store.declare(item.trial.id, item.trial.data)
    homes.train(shared, NAME, 0.99)
    (gap,) = standing(shared.plan.again(), "cpu")["gaps"]
    assert gap.startswith(f"{NAME}: what had ended (done, ")
    assert gap.endswith("is gone; what stands there now is something else")
    assert {r["status"] for r in Loaded.of(shared.plan.again()).results()} == {"done"}
    homes.told(shared)  # the new end is told, too; that there was another one stays
    assert standing(shared.plan.again(), "cpu")["gaps"]


def test_what_was_asked_for_again_is_no_gap(shared: Stub) -> None:
    trial = shared.items[NAME].trial.id
    shared.store.retire(trial, "asked")
    homes.told(shared)
    homes.train(shared, NAME, 0.99)
    homes.told(shared)
    assert standing(shared.plan.again(), "cpu")["gaps"] == []
    assert [e["attempt"] for e in shared.store.ended(homes.INSTANCE)[trial]] == [1, 2]


def test_run_tells_what_had_ended(shared: Stub) -> None:
    shutil.rmtree(shared.store.study_dir(homes.INSTANCE) / "ended")
    register(source.load("shared.py"), shared.plan.again())
    assert len(shared.store.ended(homes.INSTANCE)) == 8

"""Several processes for one trial: what the death of one costs.  The real command, real kills."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from paribus import arrays, parts
from tests.crash import planted

TWO = ("--only", "position=none", "--ranks-per-trial", "2")
ONE = TWO[:2]


def ended(study: Path) -> list[dict[str, Any]]:
    """The ends of the trial's attempts."""
    plan = planted.plan_of(study)
    return [v.end or {} for v in plan.store.attempts(plan.items[0].trial.id)]


def outcome(study: Path) -> dict[str, Any]:
    """What must be equal to the bit: weights, curves, evaluations."""
    plan = planted.plan_of(study)
    trial = plan.items[0].trial.id
    result = plan.store.result(trial)
    assert result is not None
    records = plan.store.evaluations(trial)
    return {
        "weights": result.end["weights"],
        "curves": result.end["curves"],
        "counts": [result.end["tokens"], result.end["targets"]],
        "records": {k: (r["metrics"], r["items"]) for k, r in sorted(records.items())},
    }


def loss(study: Path) -> list[float]:
    return list(arrays.unpack(outcome(study)["curves"]["loss"]))


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks, left in peace."""
    study = planted.make(tmp_path_factory.mktemp("calm"))
    code, text = planted.run(study, *TWO)
    parts.use_local(None)
    assert code == 0, text
    return study


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    study = planted.make(tmp_path_factory.mktemp("alone"))
    assert planted.run(study, *ONE)[0] == 0
    found = loss(study)
    parts.use_local(None)
    return found


def test_the_record_says_who_trained(calm: Path, alone: list[float]) -> None:
    (end,) = ended(calm)
    engine = end["engine"]
    assert (engine["world"], engine["devices"]) == (2, ["cpu", "cpu"])
    assert (engine["micro_batch"], engine["accumulation"]) == (4, 1)  # of 8 rows a step
    assert loss(calm) == pytest.approx(alone, rel=1e-6)
    plan = planted.plan_of(calm)
    records = plan.store.evaluations(plan.items[0].trial.id).values()
    assert {r["engine"]["world"] for r in records} == {2}


@pytest.mark.parametrize("rank", ["0", pytest.param("1", marks=pytest.mark.full)])
def test_a_killed_rank_costs_what_was_trained_since_the_checkpoint(
    rank: str, calm: Path, tmp_path: Path
) -> None:
    """SIGKILL of the leader or of the follower: all end, fresh ones go on, to the same bits."""
    study = planted.make(tmp_path)
    plant = f"KILL:7:{tmp_path / 'mark'}"
    code, text = planted.run(study, *TWO, plant=plant, rank=rank)
    assert code == 0, text
    assert [e["state"] for e in ended(study)] == ["fenced", "done"]
    assert outcome(study) == outcome(calm)


def test_an_error_of_one_rank_is_the_trials_and_one_process_goes_on(
    alone: list[float], tmp_path: Path
) -> None:
    """Two ranks, then one: the number of ranks is no part of the mathematics."""
    study = planted.make(tmp_path)
    code, _ = planted.run(study, *TWO, plant=f"raise:7:{tmp_path / 'mark'}", rank="1")
    assert code == 1
    (end,) = ended(study)
    assert (end["state"], end["reason"]) == (
        "failed", "ParibusError: rank 1: ValueError: planted in two lines"
    )  # fmt: skip
    code, text = planted.run(study, *ONE, "--retry")
    assert code == 0, text
    assert ended(study)[-1]["engine"]["world"] == 1
    assert loss(study) == pytest.approx(alone, rel=1e-6)


@pytest.mark.full
def test_a_leader_that_is_asked_to_stop_takes_its_follower_along(
    calm: Path, tmp_path: Path
) -> None:
    study = planted.make(tmp_path)
    plant = f"TERM:7:{tmp_path / 'mark'}"
    code, text = planted.run(study, *TWO, plant=plant, rank="0")
    assert code == 0, text
    assert [e["state"] for e in ended(study)] == ["released", "done"]
    assert outcome(study) == outcome(calm)


@pytest.mark.full
def test_a_trial_goes_on_with_more_ranks(alone: list[float], tmp_path: Path) -> None:
    study = planted.make(tmp_path)
    assert planted.run(study, *ONE, plant=f"raise:7:{tmp_path / 'mark'}")[0] == 1
    code, text = planted.run(study, *TWO, "--retry")
    assert code == 0, text
    assert [e["state"] for e in ended(study)] == ["failed", "done"]
    assert loss(study) == pytest.approx(alone, rel=1e-6)


@pytest.mark.full
def test_a_follower_that_breaks_by_itself_counts_against_the_trial(tmp_path: Path) -> None:
    study = planted.make(tmp_path)
    plant = f"SEGV:7:{tmp_path / 'mark'}"
    assert planted.run(study, *TWO, plant=plant, rank="1")[0] == 1
    assert ended(study)[0]["state"] == "failed"
    assert f"died of {signal.SIGSEGV.name}" in ended(study)[0]["reason"]


@pytest.mark.full
def test_a_rank_that_hangs_is_timed_out_with_all(tmp_path: Path) -> None:
    study = planted.make(tmp_path)
    plant = f"hang:7:{tmp_path / 'mark'}"
    code, _ = planted.run(study, *TWO, "--timeout", "3s", plant=plant, rank="1")
    assert code == 1
    assert "timed out" in ended(study)[0]["reason"]

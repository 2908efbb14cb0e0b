"""Trials that freeze different things, trained by a worker: their records say what was frozen."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paribus import cli, parts
from paribus.engine.settings import Settings
from paribus.engine.worker import Worker
from paribus.nn.freeze import tensors
from paribus.store import Store
from paribus.study import source
from paribus.study.measures import metrics_of
from paribus.study.plan import Plan, study_record, work
from paribus.text import paths

STUDY = """
from paribus import *
freeze = Factor("freeze", {"none": (), "qk": ("*.attn.q", "*.attn.k")EXTRA}, "freeze")
study = Study("w", "?",
    base=Spec(model=presets.quickstart(width=32), task=tasks.copying(span=4),
              optim=optim.adamw(lr=1e-3), schedule=schedules.constant(), rows=4, steps=4),
    factors=[freeze], evaluate=[Eval("copy")], names="{freeze}",
    criteria=dict(H1=criterion(freeze["qk"], than=freeze["none"], on=metric("parameters_trained"),
                               below="-10%")))
"""
FROZEN = 2 * 2 * 32 * 32


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    parts.use_local(None)
    paths.use_base(None)


def ran(folder: Path, stack: int, extra: str = "") -> Plan:
    folder.mkdir()
    (folder / "w.py").write_text(STUDY.replace("EXTRA", extra))
    plan = Plan(source.load(str(folder / "w.py")).study, Store(folder / "runs"))
    for trial_id, item in plan.unique.items():
        plan.store.declare(trial_id, item.trial.data)
    worker = Worker(work(plan, plan.items, stack, base=folder), Settings())
    worker.say = lambda **_: None  # type: ignore[method-assign]
    assert worker.run() == 0
    return Plan(plan.study, plan.store)


def whole(plan: Plan, trial: str) -> dict[str, Any]:
    result = plan.store.result(trial)
    return (result.end if result else plan.store.state(trial).end) or {}


def ends(plan: Plan) -> dict[str, dict[str, Any]]:
    return {i.trial.name: whole(plan, i.trial.id) for i in plan.items}


def test_the_record_of_every_trial_audits_its_parameters(tmp_path: Path) -> None:
    stacked, alone = ends(ran(tmp_path / "a", 2)), ends(ran(tmp_path / "b", 1))
    for name, end in stacked.items():
        assert end["engine"]["stack"] == 2 and alone[name]["engine"]["stack"] == 1
        for key in ("parameters", "curves", "tokens"):
            assert end[key] == alone[name][key]
    none, qk = stacked["none"]["parameters"], stacked["qk"]["parameters"]
    assert none["total"] == none["trained"] == qk["total"] == qk["trained"] + FROZEN
    assert qk["frozen"] == FROZEN and none["frozen"] == 0
    for found in (none, qk):
        assert found["optimizer_bytes"] == 2 * 4 * found["trained"]
    assert {k for k, t in tensors(qk).items() if t["frozen"]} == {
        f"blocks.{i}.attn.{w}" for i in (0, 1) for w in "qk"
    }


def test_each_freezing_is_a_graph_of_the_preflight_and_all_may_stack(tmp_path: Path) -> None:
    plan = ran(tmp_path / "a", 2, ', "head": ("embed.*",)')
    assert [g["name"] for g in plan.graphs()] == ["none", "qk", "head"]
    assert len({i.trial.pack_key for i in plan.items}) == 1
    assert len({i.trial.id for i in plan.items}) == 3


def test_a_pattern_that_matches_nothing_ends_its_trial_alone(tmp_path: Path) -> None:
    found = ends(ran(tmp_path / "a", 3, ', "wrong": ("*.attn.z",)'))
    assert {name: end["state"] for name, end in found.items()} == {
        "none": "done", "qk": "done", "wrong": "failed"
    }  # fmt: skip
    assert "matches no parameter" in found["wrong"]["reason"]


def test_totals_are_shown_and_can_be_claimed_about(tmp_path: Path) -> None:
    plan = ran(tmp_path / "a", 2)
    record = study_record(plan)
    assert metrics_of(record)["parameters_trained"]["better"] == "lower"
    infos = record["variants_info"]
    assert infos["none"]["parameters_trained"] - infos["qk"]["parameters_trained"] == FROZEN
    out = io.StringIO()
    home = ["--home", str(tmp_path / "a" / "runs")]
    with contextlib.redirect_stdout(out):
        assert cli.main(["show", str(tmp_path / "a" / "w.py"), "qk", *home]) == 0
    total = infos["qk"]["parameters"]
    line = f"params   {total:,}: {total - FROZEN:,} trained, {FROZEN:,} frozen; optimizer state "
    assert line in out.getvalue()

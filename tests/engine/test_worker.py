"""The worker: outcomes are data; a refused condition is recorded, a failing trial does not stop
the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paribus import parts
from paribus.analysis import records
from paribus.engine.settings import Settings
from paribus.engine.worker import Worker
from paribus.store import Store
from paribus.study import source
from paribus.study.plan import Plan, study_record, work
from paribus.text import paths

STUDY = """
from paribus import *
levels = {{"none": None, "learned": positions.learned(length=16)}}
position = Factor("position", levels, "model.position")
span = Factor("span", [4, 8, 16], "task.span")
study = Study("w", "?",
    base=Spec(model=presets.quickstart(width=32), task=tasks.copying(span=8, examples=8),
              optim={optim}, schedule=schedules.constant(), rows=4, steps=4, clip=None{more}),
    factors=[position], evaluate=[Eval("copy", over=[span], every=2)], names="{{position}}")
"""


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    parts.use_local(None)
    paths.use_base(None)


def ran(folder: Path, optim: str = "optim.adamw(lr=1e-3)", more: str = "") -> list[dict[str, Any]]:
    (folder / "w.py").write_text(STUDY.format(optim=optim, more=more))
    plan = Plan(source.load(str(folder / "w.py")).study, Store(folder / "runs"))
    for trial_id, item in plan.unique.items():
        plan.store.declare(trial_id, item.trial.data)
    told = work(plan, plan.items, 4, base=folder)
    worker = Worker(told, Settings())
    worker.say = lambda **_: None  # type: ignore[method-assign]
    assert worker.run() == 0
    again = Plan(plan.study, plan.store)
    return records.rows(plan.store, study_record(again))


def test_a_length_beyond_a_learned_table_is_refused_and_not_scored(tmp_path: Path) -> None:
    rows = [r for r in ran(tmp_path) if r["metric"] == "loss"]
    by = {(r["variant"], r["span"]): r for r in rows}
    assert by["learned", "16"]["status"] == "refused"
    assert by["learned", "16"]["value"] is None
    assert "ends at 16 tokens" in by["learned", "16"]["reason"]
    others = [r for k, r in by.items() if k != ("learned", "16")]
    assert len(others) == 5
    assert all(r["status"] == "done" and r["value"] > 0 for r in others)
    assert all(r["tokens"] == 4 * 4 * 16 for r in others)


def test_a_diverged_trial_is_a_result(tmp_path: Path) -> None:
    rows = ran(tmp_path, "optim.sgd(lr=1e38)")
    assert {r["status"] for r in rows} == {"diverged"}
    assert all(r["value"] is None and "at step" in r["reason"] for r in rows)


def test_a_failing_trial_is_recorded_with_its_reason(tmp_path: Path) -> None:
    rows = ran(tmp_path, more=', freeze=("*.attn.z",)')
    assert {r["status"] for r in rows} == {"failed"}
    assert all("matches no parameter" in r["reason"] for r in rows)


def test_arms_of_different_text_have_baselines_of_their_own(tmp_path: Path) -> None:
    from paribus.api import Loaded

    for name, text in (("a", "ab " * 3000), ("b", "the quick brown fox " * 400)):
        (tmp_path / f"{name}.txt").write_text(text)
    (tmp_path / "w.py").write_text('''
from paribus import *
levels = {n: corpora.files(path=n + ".txt") for n in "ab"}
text = Factor("text", levels, "task.corpus")
study = Study("w", "?",
    base=Spec(model=presets.quickstart(width=32),
              task=tasks.lm(corpus=corpora.files(path="a.txt"), tokenizer=tokenizers.bytes(),
                            length=16, eval_tokens=64),
              optim=optim.adamw(lr=1e-3), schedule=schedules.constant(), rows=4, steps=2),
    factors=[text], evaluate=[Eval("lm")], names="{text}")
''')  # fmt: skip
    plan = Plan(source.load(str(tmp_path / "w.py")).study, Store(tmp_path / "runs"))
    for trial_id, item in plan.unique.items():
        plan.store.declare(trial_id, item.trial.data)
    worker = Worker(work(plan, plan.items, 1, base=tmp_path), Settings())
    worker.say = lambda **_: None  # type: ignore[method-assign]
    assert worker.run() == 0
    table = Loaded.of(Plan(plan.study, plan.store)).table()
    assert "unigram of a" in table
    assert "unigram of b" in table


def test_dropout_of_attention_runs_on_the_reference_kernel(tmp_path: Path) -> None:
    text = STUDY.replace("width=32)", "width=32, attn_dropout=0.1)")
    (tmp_path / "w.py").write_text(text.format(optim="optim.adamw(lr=1e-3)", more=""))
    plan = Plan(source.load(str(tmp_path / "w.py")).study, Store(tmp_path / "runs"))
    for trial_id, item in plan.unique.items():
        plan.store.declare(trial_id, item.trial.data)
    worker = Worker(work(plan, plan.items, 4, base=tmp_path), Settings())
    worker.say = lambda **_: None  # type: ignore[method-assign]
    assert worker.run() == 0
    found = records.rows(plan.store, study_record(Plan(plan.study, plan.store)))
    assert {r["kernel"] for r in found} == {"reference"}

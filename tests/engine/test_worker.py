"""The worker: outcomes are data; a refused condition is recorded, a failing trial does not stop
the others."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from paribus import parts
from paribus.analysis import records
from paribus.engine import training
from paribus.engine.members import Stopped
from paribus.engine.settings import Settings
from paribus.engine.worker import Worker
from paribus.store import Attempt, DiskError, Store
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


def stacked(folder: Path) -> tuple[Worker, list[str]]:
    """A worker that has done nothing yet, and the units of one stack of eight seeds."""
    text = STUDY.replace("factors=[position]", "factors=[position], seeds=8")
    (folder / "w.py").write_text(text.format(optim="optim.adamw(lr=1e-3)", more=""))
    plan = Plan(source.load(str(folder / "w.py")).study, Store(folder / "runs"))
    for trial_id, item in plan.unique.items():
        plan.store.declare(trial_id, item.trial.data)
    worker = Worker(work(plan, plan.items, 8, base=folder), Settings())
    worker.say = lambda **_: None  # type: ignore[method-assign]
    return worker, list(worker.work["packs"][0])


def refusing(worker: Worker, unit: str, again: int) -> Callable[[str, str], Attempt | None]:
    """`Store.open` as a disk would have it that refuses one unit, so many times."""
    plain, left = worker.store.open, again

    def opened(trial: str, who: str) -> Attempt | None:
        nonlocal left
        if trial == unit and left:
            left -= 1
            raise DiskError("full", errno.ENOSPC)
        return plain(trial, who)

    return opened


def test_a_claim_that_the_disk_refuses_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, units = stacked(tmp_path)
    monkeypatch.setattr(worker.store, "open", refusing(worker, units[5], 1))
    assert [m.trial for m in training._claimed(worker, units)] == units
    worker.id = "another"
    assert training._claimed(worker, units[3:]) == [], "held already: the pack is left alone"
    worker.me.close()


def test_claims_are_given_back_where_a_worker_is_stopped_among_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, units = stacked(tmp_path)
    monkeypatch.setattr(worker.store, "open", refusing(worker, units[3], 99))
    monkeypatch.setattr(worker, "stop", lambda: True)
    with pytest.raises(Stopped):
        training._claimed(worker, units)
    states = [worker.store.state(u).state for u in units]
    assert states == ["interrupted"] * 3 + ["planned"] + ["interrupted"] * 4
    worker.me.close()


def test_one_whose_result_is_not_taken_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process ends a member of a stack while it is finished: the rest are done."""
    worker, units = stacked(tmp_path)
    plain = Attempt.finish

    def finish(self: Attempt, *a: Any, **k: Any) -> str | None:
        if self.trial == units[2]:
            os.rename(self.path / "claim", self.path / "gone")
        return plain(self, *a, **k)

    monkeypatch.setattr(Attempt, "finish", finish)
    assert training.train(worker, units)
    states = {u: worker.store.state(u).state for u in units}
    assert states.pop(units[2]) != "done"
    assert set(states.values()) == {"done"}
    worker.me.close()


def test_work_that_others_hold_is_looked_at_soon_and_then_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever has waited long may go on a little later, and a disk of many workers has rest."""
    now, pauses = [100.0], list[float]()
    monkeypatch.setattr("paribus.engine.worker.time.monotonic", lambda: now[0])

    def wait(pause: float) -> None:
        pauses.append(pause)
        now[0] += pause

    free = Worker.__new__(Worker)
    held = [True] * 300 + [False]
    for name, value in {
        "work": {"packs": [["a"]]}, "stop": lambda: False, "_wait": wait,
        "_sorted": lambda pack: ([], held.pop(0)), "_attend": lambda pack, free: False,
    }.items():  # fmt: skip
        setattr(free, name, value)
    assert free._run() == 0
    waited = [sum(pauses[:i]) for i in range(len(pauses))]
    assert pauses[:20] == [0.2] * 20
    assert all(p <= max(0.2, 0.05 * w + 1e-9) for p, w in zip(pauses, waited, strict=True))
    assert pauses[-1] == max(pauses) == 2.0

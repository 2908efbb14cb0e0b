"""Evaluations of trials of a pack: together, with the records that each has alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paribus import parts
from paribus.engine import judging
from paribus.engine.settings import Settings
from paribus.engine.worker import Worker
from paribus.store import Store
from paribus.study import source
from paribus.study.plan import Plan, work
from paribus.text import paths

STUDY = """
from paribus import *
lr = Factor("lr", [1e-3, 3e-3], "optim.lr")
study = Study("w", "?",
    base=Spec(model=presets.quickstart(width=32), task=tasks.copying(span=8, examples=8),
              optim=optim.adamw(lr=1e-3), schedule=schedules.constant(), rows=4, steps=3),
    factors=[lr], seeds=2, names="{lr}",
    evaluate=[Eval("copy", over=[Factor("span", [4, 8], "task.span")])])
"""


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    parts.use_local(None)
    paths.use_base(None)


def records(folder: Path, stack: int) -> dict[tuple[str, str], dict[str, Any]]:
    """Every record by trial and condition."""
    folder.mkdir()
    (folder / "w.py").write_text(STUDY)
    plan = Plan(source.load(str(folder / "w.py")).study, Store(folder / "runs"))
    for trial_id, item in plan.unique.items():
        plan.store.declare(trial_id, item.trial.data)
    worker = Worker(work(plan, plan.items, stack, base=folder), Settings())
    worker.say = lambda **_: None  # type: ignore[method-assign]
    assert worker.run() == 0
    found = {}
    for item in plan.items:
        for record in plan.store.evaluations(item.trial.id).values():
            found[item.trial.name, record["key"]] = record
    return found


def test_a_pack_is_judged_together_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    plain = judging.evaluate

    def counted(params: Any, specs: Any, *rest: Any) -> Any:
        sizes.append(len(specs))
        return plain(params, specs, *rest)

    monkeypatch.setattr(judging, "evaluate", counted)
    alone = records(tmp_path / "alone", 1)
    assert sizes == [1] * 8
    sizes.clear()
    together = records(tmp_path / "together", 4)
    assert sizes == [4, 4]
    assert together.keys() == alone.keys()
    for key, record in together.items():
        for part in ("condition", "key", "metrics", "items", "slices", "baselines", "size"):
            assert record[part] == alone[key][part], (key, part)
        assert record["engine"]["stack"] == 4


def test_what_cannot_be_judged_together_is_judged_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = judging.evaluate

    def one_breaks(params: Any, specs: Any, seeds: Any, *rest: Any) -> Any:
        if len(specs) > 1:
            raise SystemExit("a part of somebody's own ends the process")
        return plain(params, specs, seeds, *rest)

    monkeypatch.setattr(judging, "evaluate", one_breaks)
    found = records(tmp_path / "w", 4)
    assert len(found) == 8
    assert all(r["engine"]["stack"] == 1 for r in found.values())

"""Every declared factor has an effect: its levels change the identity of a trial and, beyond it,
the data, the course of the learning rate, or what two steps of training make of the weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from paribus.cli import main
from paribus.engine.effects import Trained, apart, course, idle
from paribus.engine.settings import Settings, apply
from paribus.study import source
from paribus.text.data import Data

SETTINGS = Settings(device="cpu", compile="off")
ALIKE = {
    # At ratio 1 no pair is left that the rest could turn with; both are arms of claims over ratios.
    "parallelmind-controls": {"residual: columnar-flat-r10-none, columnar-time-r10-none",
                              "residual: isolated-flat-r10-none, isolated-time-r10-none"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _on_one_cpu() -> None:
    apply(SETTINGS)


@pytest.mark.parametrize("name", sorted(source.shipped()))
def test_every_factor_of_a_shipped_study_changes_something(name: str, tmp_path: Path) -> None:
    e = source.load(name, scale="smoke").study.expand()
    trained, alike = Trained(e, SETTINGS, Data(tmp_path)), set()
    for f in e.study.factors:
        pairs = list(apart(e, f.name))
        there = {v.tags[f.name] for v in e.variants} - {None}
        assert pairs or len(there) < 2, f"{f.name}: no two arms differ in it alone"
        for a, b in pairs:
            assert a.digest(1, data=True) != b.digest(1, data=True)
            if a.data == b.data and course(a) == course(b) and trained.equal(a, b):
                alike.add(f"{f.name}: {a.name}, {b.name}")
    assert alike == ALIKE.get(name, set())
    assert idle(e, SETTINGS, Data(tmp_path)) == []
    for trial in {t.variant.index: t for t in e.trials}.values():
        asked = [c.shape(trial) for c in e.conditions if c.applies(trial)]
        assert len({*asked}) == len(asked), "two conditions evaluate the same thing"


PLANTED = """
from paribus import *

study = Study(
    "planted", "Does what the other pairs turn with matter in a row of one text?",
    base=Spec(model=presets.llama(width=32, layers=1, heads=2, position=positions.rope2d()),
              task=tasks.copying(span=4, symbols=8), optim=optim.adamw(lr=1e-3),
              schedule=schedules.wsd(decay=.5), rows=2, steps=4),
    factors=[FACTOR], seeds=1, evaluate=[Eval("copying")])
"""
FACTORS = {
    'Factor("residual", ["flat", "time"], "model.position.residual")': ["residual"],
    'Factor("residual", ["flat", "time"], "model.position.residual", control=True)': [],
    'Factor("base", [1e4, 1e6], "model.position.base")': [],
    'Factor("decay", [.5, .25], "schedule.decay")': [],
    'Factor("eps", [1e-8, 1e-7], "optim.eps")': [],
    'Factor("span", [4, 5], "task.span")': [],
}


@pytest.mark.parametrize("factor", FACTORS)
def test_a_factor_that_is_read_and_changes_nothing_is_found(factor: str, tmp_path: Path) -> None:
    """In a row of one text its flat index is its time: both are read, and nothing moves."""
    file = tmp_path / "planted.py"
    file.write_text(PLANTED.replace("FACTOR", factor))
    e = source.load(str(file)).study.expand()
    assert idle(e, SETTINGS, Data(tmp_path)) == FACTORS[factor]


def test_check_refuses_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "planted.py"
    file.write_text(PLANTED.replace("FACTOR", next(iter(FACTORS))))
    assert main(["check", str(file), "--home", str(tmp_path / "runs"), "--device", "cpu"]) == 2
    said = capsys.readouterr().out
    assert "FAILED factor residual: has no effect" in said and said.count("FAILED") == 1

"""What was registered stays registered, whatever becomes of the study file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from paribus import parts
from paribus.analysis.verdicts import Verdict
from paribus.api import Loaded
from paribus.running import register
from paribus.store import Store
from paribus.study import source
from paribus.study.plan import Plan
from tests.stubs import Stub

STUDY = """
from paribus import *
loss = metric("loss")
position = Factor("position", {levels}, "model.position")
span = Factor("span", [4, 8], "task.span")
study = Study("stub", "What do stubs show?",
    base=Spec(model=presets.quickstart(width=32, heads=4), task=tasks.copying(span=4),
              optim=optim.adamw(lr=1e-3), schedule=schedules.constant(), rows=4, steps={steps}),
    factors=[position], seeds=2, evaluate=[Eval("copy", over=[span])], baseline=position["none"],
    hypotheses=dict(H=better(position[{arm}], than=position["none"], on=loss.at(span[8]))))
"""
LEVELS = '"none": None, "rope": positions.rope()'


class Lab:
    """A study file that is edited, and its home."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "stub.py"

    def run(self, levels: str = LEVELS, steps: int = 100, arm: str = "rope") -> Plan:
        """Register the study as it is now, and give its trials results."""
        text = STUDY.replace("{levels}", "{" + levels + "}").replace("{steps}", str(steps))
        self.path.write_text(text.replace("{arm}", repr(arm)))
        found = source.load(str(self.path))
        plan = Plan(found.study, Store(self.path.parent / "runs"))
        register(found, plan)
        stub = Stub(plan)
        for k, name in enumerate(n for n in stub.items if not stub.items[n].done):
            stub.train(name)
            stub.evaluate(name, value=1.5 + 0.01 * k)
        stub.close()
        return plan.again()

    def verdicts(self, plan: Plan) -> list[Verdict]:
        return Loaded.of(plan).verdicts()

    def amendments(self) -> list[dict[str, object]]:
        stored = Store(self.path.parent / "runs").read_study("stub@main")
        assert stored is not None
        return list(stored["amendments"])


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    yield Lab(tmp_path)
    parts.use_local(None)


def test_another_base_does_not_wipe_the_registration(lab: Lab) -> None:
    (first,) = lab.verdicts(lab.run())
    assert not first.post_hoc
    assert lab.amendments() == []
    # Not one trial of the grid is done any more; what was there was seen all the same.
    (v,) = lab.verdicts(lab.run(steps=50))
    assert v.post_hoc
    assert v.late == "late_grid"
    (amendment,) = lab.amendments()
    assert amendment["results_seen"] == 4
    assert "position=rope" in amendment["definitions"]  # type: ignore[operator]
    old, new = lab.verdicts(
        lab.run(steps=50, arm="none2", levels=LEVELS + ', "none2": positions.alibi()')
    )
    assert (old.post_hoc, new.post_hoc) == (True, True)
    assert len(lab.amendments()) == 2


def test_an_arm_that_means_something_else_is_an_amendment(lab: Lab, capsys) -> None:  # type: ignore[no-untyped-def]
    lab.run()
    (v,) = lab.verdicts(lab.run(LEVELS.replace("rope()", "rope(base=100.0)")))
    assert v.late == "late_grid"
    said = capsys.readouterr().out
    assert "amendment 1" in said
    assert "position=rope changed after 4 results were seen" in said
    assert len(lab.amendments()) == 1
    lab.run(LEVELS.replace("rope()", "rope(base=100.0)"))
    assert len(lab.amendments()) == 1  # it is told once
    # As it was registered it is judged as it was registered; that it was changed is on record.
    (v,) = lab.verdicts(lab.run())
    assert not v.post_hoc
    assert len(lab.amendments()) == 2


def test_a_larger_grid_is_no_amendment(lab: Lab) -> None:
    lab.run()
    (v,) = lab.verdicts(lab.run(LEVELS + ', "alibi": positions.alibi()'))
    assert not v.post_hoc
    assert lab.amendments() == []


def test_before_the_first_result_all_can_be_changed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stub, "train", lambda *_: None)
    monkeypatch.setattr(Stub, "evaluate", lambda *_, **__: None)
    lab.run()
    monkeypatch.undo()
    (v,) = lab.verdicts(lab.run(steps=50))
    assert not v.post_hoc
    assert lab.amendments() == []

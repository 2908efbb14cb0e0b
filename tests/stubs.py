"""Homes with stub attempts: a small study whose trials were trained by a few calls of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paribus import parts
from paribus.store import Store
from paribus.study import source
from paribus.study.plan import Item, Plan

STUDY = """
from paribus import *
position = Factor("position", {{"none": None, "rope": positions.rope()}}, "model.position")
lr = Factor("lr", {lrs}, "optim.lr")
span = Factor("span", [4, 8], "task.span")
study = Study("stub", "What do stubs show?",
    base=Spec(model=presets.quickstart(width=32, heads=4), task=tasks.copying(span=4),
              optim=optim.adamw(lr=1e-3), schedule=schedules.constant(), rows=4, steps=100),
    factors=[position, lr], seeds={seeds}, evaluate=[Eval("copy", over=[span])],
    baseline=position["none"])
"""


def study_file(folder: Path, lrs: list[float] | None = None, seeds: int = 2) -> Path:
    """A study of 2 positions x learning rates x seeds x 2 conditions."""
    path = folder / "stub.py"
    path.write_text(STUDY.format(lrs=lrs or [0.001], seeds=seeds))
    return path


def plan_of(path: Path) -> Plan:
    """The study beside the home `runs` in its folder; parts are looked for as usual again."""
    try:
        return Plan(source.load(str(path)).study, Store(path.parent / "runs"))
    finally:
        parts.use_local(None)


class Stub:
    """Does to trials what workers do, without training."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.store = plan, plan.store
        for item in plan.items:
            self.store.declare(item.trial.id, item.trial.data)
        self.worker = self.store.new_worker()
        self.items = {i.trial.name: i for i in plan.items}

    def close(self) -> None:
        self.worker.close()

    def open(self, name: str) -> Any:
        attempt = self.store.open(self.items[name].trial.id, self.worker.id)
        assert attempt is not None
        return attempt

    def train(self, name: str, seconds: float = 10.0, **info: Any) -> Item:
        """A result with a curve."""
        attempt = self.open(name)
        attempt.log("step 100/100 loss 1.0000")
        about = {"step": 100, "tokens": 3200, "seconds": seconds, "curves": {}, "checks": []}
        attempt.finish(b"weights", {**about, "engine": {"stack": 1, "device": "cpu"}, **info})
        return self.items[name]

    def evaluate(self, name: str, only: int | None = None, value: float = 1.5) -> None:
        """Records of all conditions, or of one."""
        item = self.items[name]
        for cell in item.cells if only is None else [item.cells[only]]:
            with self._claim(item, cell) as claim:
                metrics = {"loss": {"value": value, "count": 8.0}}
                claim.publish(
                    {"status": "done", "metrics": metrics, "slices": {}, "seconds": 0.5,
                     "items": {"loss": {"sum": "x" * 1000, "count": "y" * 1000}}, "groups": None}
                )  # fmt: skip

    def refuse(self, name: str, only: int, reason: str) -> None:
        item = self.items[name]
        with self._claim(item, item.cells[only]) as claim:
            claim.publish({"status": "refused", "reason": reason})

    def fail(self, name: str, only: int, reason: str) -> None:
        item = self.items[name]
        with self._claim(item, item.cells[only]) as claim:
            claim.fail(reason)

    def _claim(self, item: Item, cell: Any) -> Any:
        claim = self.store.claim_evaluation(item.trial.id, cell.id, self.worker.id)
        assert claim is not None
        return claim

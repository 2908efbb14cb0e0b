"""Homes with several days of work, made of stub attempts whose times are set by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paribus import arrays
from paribus.running import tell_ended
from paribus.store import Store
from tests.stubs import Stub, plan_of

STUDY = """
from paribus import *
position = Factor("position", {{"none": None, "rope": positions.rope()}}, "model.position")
lr = Factor("lr", [0.001, 0.002], "optim.lr")
span = Factor("span", [4, 8], "task.span")
acc = metric("accuracy")
study = Study("shared", "Do stubs <b>share</b>?",
    base=Spec(model=presets.quickstart(width=32, heads=4), task=tasks.copying(span=4),
              optim=optim.adamw(lr=1e-3), schedule=schedules.constant(), rows=4, steps=100),
    factors=[position, lr], seeds={seeds}, evaluate=[Eval("copy", over=[span])],
    baseline=position["none"],
    hypotheses=dict(helps=better(position["rope"], than=position["none"], on=acc.mean(span, lr))))
{more}
"""
INSTANCE = "shared@main"


def made(folder: Path, seeds: int = 2, more: str = "") -> Stub:
    """The study file in `folder` and its home, registered as `run` does; nothing is trained."""
    from paribus.study.record import registration_hash

    path = folder / "shared.py"
    path.write_text(STUDY.format(seeds=seeds, more=more))
    stub = Stub(plan_of(path))
    record = {**stub.plan.record, "file": str(path), "registered": "2026-03-28T08:00:00+00:00"}
    record["registration_hash"] = registration_hash(record)
    stub.store.write_study(INSTANCE, record, {"home": str(stub.store.home)})
    stub.store.keep_sources(INSTANCE, {"shared.py": path.read_bytes()})
    return stub


def evaluate(stub: Stub, name: str, accuracy: float, only: int | None = None) -> None:
    """Records whose items have this mean accuracy, 8 each."""
    item = stub.items[name]
    for k, cell in enumerate(item.cells):
        if only not in (None, k):
            continue
        value = accuracy - 0.01 * k
        items = {m: {"sum": arrays.pack([value * 4] * 8), "count": arrays.pack([4.0] * 8)}
                 for m in ("accuracy", "loss")}  # fmt: skip
        metrics = {m: {"value": value, "count": 32.0} for m in ("accuracy", "loss")}
        with stub._claim(item, cell) as claim:
            claim.publish({"status": "done", "metrics": metrics, "slices": {}, "seconds": 0.5,
                           "items": items, "groups": None, "size": 8})  # fmt: skip


def train(stub: Stub, name: str, accuracy: float | None = None, **info: Any) -> None:
    engine = {"stack": 1, "device": "cpu AVX2", "kernel": "sdpa", "python": "3.11.7"}
    stub.train(name, engine={**engine, **info})
    if accuracy is not None:
        evaluate(stub, name, accuracy)


def attempt(store: Store, trial: str, number: int = 1) -> Path:
    return store.trial_dir(trial) / "attempts" / str(number)


def at(stub: Stub, name: str, began: str, ended: str | None, number: int = 1) -> None:
    """Set when an attempt began and ended."""
    place = attempt(stub.store, stub.items[name].trial.id, number)
    for file, when in (("claim", began), ("end", ended)):
        if when is not None:
            change(place / file, at=when)


def change(path: Path, **more: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def told(stub: Stub) -> None:
    tell_ended(stub.plan.again())

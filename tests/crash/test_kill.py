"""kill -9 at any step, then the same command: the result is that of a calm run, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from paribus.engine.settings import Settings
from paribus.engine.train import Trainer
from paribus.engine.worker import Worker
from paribus.store import Store
from paribus.study import source
from paribus.study.plan import Plan, work

STUDY = """
from paribus import *
position = Factor("position", {"none": None, "rope": positions.rope()}, "model.position")
span = Factor("span", [4, 8], "task.span")
study = Study("tiny", "Which one copies?",
    base=Spec(model=presets.quickstart(width=32), task=tasks.copying(span=8, examples=16),
              optim=optim.adamw(lr=3e-3), schedule=schedules.cosine(warmup=2), rows=4, steps=STEPS),
    factors=[position], seeds=2, evaluate=[Eval("copy", over=[span], every=7)], names="{position}")
"""
STEPS = 24


def make(folder: Path, steps: int = STEPS) -> Plan:
    path = folder / "tiny.py"
    path.write_text(STUDY.replace("STEPS", str(steps)))
    plan = Plan(source.load(str(path)).study, Store(folder / "runs"))
    for trial_id, item in plan.unique.items():
        plan.store.declare(trial_id, item.trial.data)
    return plan


def settings() -> Settings:
    return Settings(checkpoint_steps=5)


def worker(plan: Plan, kill_at: int | None) -> int:
    """Run a worker in a child process; SIGKILL at the n-th step that it takes.  Returns its
    wait status."""
    told = work(plan, plan.items, 2, base=Path.cwd())
    pid = os.fork()
    if pid == 0:
        try:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            real, taken = Trainer._after_step, iter(range(1, 10**9))

            def after(self: Trainer) -> None:
                real(self)
                if next(taken) == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

            Trainer._after_step = after  # type: ignore[method-assign]
            code = Worker(told, settings()).run()
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 99
        os._exit(code)
    return os.waitpid(pid, 0)[1]


def outcome(plan: Plan) -> dict[str, Any]:
    """What must be equal: weights, curves, interval evaluations, records."""
    out = {}
    for item in plan.items:
        result = plan.store.result(item.trial.id)
        assert result is not None, item.trial.name
        end = result.end
        records = plan.store.evaluations(item.trial.id)
        out[item.trial.name] = {
            "weights": end["weights"],
            "curves": end["curves"],
            "checks": end["checks"],
            "tokens": end["tokens"],
            "records": {k: (r["metrics"], r["items"]) for k, r in sorted(records.items())},
        }
    return out


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    plan = make(tmp_path_factory.mktemp("calm"))
    assert worker(plan, None) == 0
    found = outcome(plan)
    assert len(found) == 4
    assert all(len(r["records"]) == 2 for r in found.values())
    assert all([c["step"] for c in r["checks"]] == [7, 14, 21] for r in found.values())
    return found


# Two stacks of two trials take 24 steps each: 48 steps of a worker.
POINTS = sorted(random.Random(2026).sample(range(1, 2 * STEPS), 20))


@pytest.mark.parametrize(
    "point",
    [pytest.param(p, marks=() if i % 3 == 0 else pytest.mark.full) for i, p in enumerate(POINTS)],
)
def test_killed_at_a_random_step(point: int, calm: dict[str, Any], tmp_path: Path) -> None:
    plan = make(tmp_path)
    assert os.WTERMSIG(worker(plan, point)) == signal.SIGKILL
    if point % 3 == 0:  # and once more, soon after it went on
        assert os.WTERMSIG(worker(plan, 2)) == signal.SIGKILL
    assert worker(plan, None) == 0
    assert outcome(plan) == calm


@pytest.mark.full  # test_chaos does it many times
def test_the_command_itself_killed(calm: dict[str, Any], tmp_path: Path) -> None:
    """The real command, launcher and workers killed together; then the same command."""
    plan = make(tmp_path, steps=120)
    command = [
        sys.executable, "-m", "paribus.cli", "run", str(tmp_path / "tiny.py"),
        "--no-check", "--checkpoint-steps", "5",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        states = [plan.store.state(i.trial.id) for i in plan.items]
        if any(s.last_step >= 10 and s.state == "running" for s in states):
            break
        time.sleep(0.05)
    claims = [s.claim for s in states if s.claim and s.state == "running"]
    assert claims
    os.killpg(process.pid, signal.SIGKILL)
    for claim in claims:
        os.kill(claim["pid"], signal.SIGKILL)
    process.wait()
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    untouched = tmp_path / "untouched"
    untouched.mkdir()
    other = make(untouched, steps=120)
    assert worker(other, None) == 0
    mine = outcome(plan)
    assert json.dumps(mine, sort_keys=True) == json.dumps(outcome(other), sort_keys=True)

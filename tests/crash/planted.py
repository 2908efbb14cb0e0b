"""Studies whose training does what it is told to do wrong: a copy of the copying task with a
fault in it, as a part beside the study file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paribus.store import Store
from paribus.study import source
from paribus.study.plan import Plan
from tests.command import paribus

SHIPPED = Path(__file__).parents[2] / "src" / "paribus" / "tasks" / "copying.py"

FAULT = '''
def _stack(outputs):
    """$PLANT stack:n:: no memory for a stack of more than n."""
    import os

    import torch

    kind, number, _ = (os.environ.get("PLANT") or "none:0:").split(":")
    if kind == "stack" and outputs.requires_grad and len(outputs) > int(number):
        raise torch.OutOfMemoryError(f"planted: {len(outputs)} trials")


def _plant(step, rows):
    """$PLANT: kind:number:mark; with a mark, only the first time.  $PLANT_RANK: on this one."""
    import os, signal, time

    import torch

    kind, number, mark = (os.environ.get("PLANT") or "none:0:").split(":")
    if rank := os.environ.get("PLANT_RANK"):
        import torch.distributed as dist

        if not dist.is_initialized() or dist.get_rank() != int(rank):
            return
    if kind == "oom":
        if len(rows) > int(number):
            raise torch.OutOfMemoryError(f"planted: {len(rows)} rows")
        return
    if kind == "hog":
        if len(rows) > int(number):
            np.ones(1_500_000_000, dtype=np.uint8)  # more than the control group allows
        return
    if kind == "slow":
        time.sleep(float(number) / 1000)
        return
    if kind in ("none", "stack") or step != int(number) or (mark and os.path.exists(mark)):
        return
    if mark:
        open(mark, "w").close()
    if kind == "raise":
        raise ValueError("planted\\nin two lines")
    if kind == "exit":
        raise SystemExit(3)
    if kind == "leave":
        os._exit(0)
    if kind == "disk":
        raise OSError(28, "No space left on device (planted)")
    if kind in ("SEGV", "KILL", "TERM", "ABRT"):
        os.kill(os.getpid(), getattr(signal, f"SIG{kind}"))
    if kind == "hang":
        time.sleep(1000)
'''

STUDY = """
from paribus import *
position = Factor("position", {"none": None, "rope": positions.rope()}, "model.position")
span = Factor("span", [4, 8], "task.span")
study = Study("planted", "Which one copies?",
    base=Spec(model=presets.quickstart(width=32), task=tasks.planted(span=8, examples=16),
              optim=optim.adamw(lr=3e-3), schedule=schedules.cosine(warmup=2), rows=8, steps=STEPS),
    factors=[position], seeds=SEEDS, evaluate=[Eval("copy", over=[span])], names="{position}"MORE)
"""


def make(folder: Path, steps: int = 20, seeds: int = 1, more: str = "") -> Path:
    """The study file with its part beside it."""
    part = folder / "parts" / "tasks" / "planted.py"
    part.parent.mkdir(parents=True, exist_ok=True)
    text = SHIPPED.read_text().replace("class Copying(", "class Planted(")
    text = text.replace("task: Copying", "task: Planted")
    text = text.replace(
        '        return self._rows(Stream(seed, "copying"), rows)',
        '        _plant(step, rows)\n        return self._rows(Stream(seed, "copying"), rows)',
    )
    text = text.replace(
        "        loss, counted = nats(", "        _stack(outputs)\n        loss, counted = nats(", 1
    )
    part.write_text(text + FAULT)
    path = folder / "planted_study.py"
    given = STUDY.replace("STEPS", str(steps)).replace("SEEDS", str(seeds)).replace("MORE", more)
    path.write_text(given)
    return path


def options(study: Path, *more: str) -> list[str]:
    return [
        "run", str(study), "--no-check", "--checkpoint-steps", "5", "--workers", "1", *more,
    ]  # fmt: skip


def command(study: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "paribus.cli", *options(study, *more)]


def start(study: Path, *more: str, plant: str = "", **popen: Any) -> subprocess.Popen[str]:
    """The command as a process of its own, to be killed, stopped or waited for."""
    return subprocess.Popen(
        command(study, *more), env={**os.environ, "PLANT": plant}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **popen,
    )  # fmt: skip


def run(
    study: Path, *more: str, plant: str = "", rank: str = "", report: bool = False
) -> tuple[int, str]:
    """(exit code, what was printed) of the command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANT", plant)
        patch.setenv("PLANT_RANK", rank)
        done = paribus(*options(study, *more), report=report)
    return done.returncode, done.stdout + done.stderr


def plan_of(study: Path) -> Plan:
    return Plan(source.load(str(study)).study, Store(study.parent / "runs"))


def losses(plan: Plan) -> dict[str, list[float]]:
    """Training losses of every finished trial."""
    from paribus import arrays

    out = {}
    for item in plan.items:
        result = plan.store.result(item.trial.id)
        assert result is not None, (item.trial.name, plan.store.state(item.trial.id))
        out[item.trial.name] = list(arrays.unpack(result.end["curves"]["loss"]))
    return out

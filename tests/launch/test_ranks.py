"""Several processes for one trial: who gets which devices, and whose end decides."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from paribus import cli, running
from paribus.errors import SpecError
from paribus.launch import gpus, ranks
from paribus.launch.gpus import Gpu
from paribus.launch.ranks import LOST, Group
from paribus.store import Store
from paribus.study import source
from paribus.study.plan import Plan
from paribus.study.shares import shares
from tests.command import paribus

STUDY = """
from paribus import *
seed = Factor("width", [32, 64, 96, 128], "model.width")
study = Study("shared", "?",
    base=Spec(model=presets.quickstart(width=32), task=tasks.copying(span=8),
              optim=optim.adamw(lr=1e-3), schedule=schedules.constant(), rows=4, steps=1000),
    factors=[seed], evaluate=[Eval("copy")])
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "shared.py"
    path.write_text(STUDY)
    return path


def slots(study: Path, *options: str) -> list[tuple[str, ...]]:
    o: Namespace = cli.parser().parse_args(["run", str(study), *options])
    plan = Plan(source.load(str(study)).study, Store(study.parent / "runs"))
    return [s.devices for s in running.slots_of(plan, plan.left(), o)[0]]


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> list[Gpu]:
    """A machine of four GPUs, the second one busy."""
    found = [Gpu(i, f"GPU-{i}", "H", 10 << 30, (9 << 30) * (i == 1)) for i in range(4)]
    monkeypatch.setattr(gpus, "gpus", lambda: found)
    return found


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        (("--gpus", "0,1,2,3", "--gpus-per-trial", "2"), ["0 1", "2 3"]),
        (("--gpus", "3,0", "--gpus-per-trial", "2"), ["3 0"]),
        (("--gpus", "0,1"), ["0", "1"]),
        (("--gpus", "auto:4", "--gpus-per-trial", "4"), ["0 1 2 3"]),
        (("--device", "cpu", "--ranks-per-trial", "2", "--workers", "3"), ["cpu cpu"] * 3),
    ],
)
def test_trials_get_disjoint_groups(
    study: Path, four: list[Gpu], options: tuple[str, ...], groups: list[str]
) -> None:
    want = [tuple(n if n == "cpu" else f"cuda:{n}" for n in g.split()) for g in groups]
    assert slots(study, *options) == want
    used = [d for g in want for d in g if d != "cpu"]
    assert len(set(used)) == len(used)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--gpus", "0,1,2", "--gpus-per-trial", "2"), "are 3, no whole groups; give 2 or 4"),
        (("--gpus", "0", "--gpus-per-trial", "2"), "are 1, no whole groups; give 2"),
        (("--gpus", "0,1", "--gpus-per-trial", "2", "--per-gpu", "2"), "leave out --per-gpu"),
        (("--gpus", "0,1", "--gpus-per-trial", "2", "--workers", "2"), "at most 1 --workers"),
        (("--gpus-per-trial", "0"), "--gpus-per-trial 0: give at least one"),
        (("--device", "cpu", "--gpus-per-trial", "5"), "has 4 rows a step, so at most 4"),
        (("--device", "mps", "--gpus-per-trial", "2"), "mps is one device"),
    ],
)
def test_what_cannot_be_is_refused(
    study: Path, four: list[Gpu], options: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        slots(study, *options)


def test_a_group_waits_for_each_of_its_gpus(study: Path, four: list[Gpu]) -> None:
    o = cli.parser().parse_args(
        ["run", str(study), "--gpus", "0,1,2,3", "--gpus-per-trial", "2"]
    )  # fmt: skip
    plan = Plan(source.load(str(study)).study, Store(study.parent / "runs"))
    first, second = running.slots_of(plan, plan.left(), o)[0]
    assert first.busy().startswith("GPU 1: 10 GB in use")
    assert second.busy() == ""


def test_the_plan_says_who_trains_what_and_for_how_long(study: Path) -> None:
    plan = Plan(source.load(str(study)).study, Store(study.parent / "runs"))
    one, two = (
        shares(plan, plan.left(), [("cpu",) * world] * 2, stack=1) for world in (1, 2)
    )  # fmt: skip
    for who in (one, two):
        assert sorted(n for s in who for n in s.names) == sorted(i.trial.name for i in plan.items)
    assert max(s.seconds for s in two) < max(s.seconds for s in one)
    # What no product explains is a stack's, not each trial's.
    seeds = Plan(plan.study.with_(seeds=2), plan.store)
    pairs, alone = (shares(seeds, seeds.left(), [("cuda:0",)], k)[0].seconds for k in (2, 1))
    assert alone / 2 < pairs < 0.6 * alone
    options = ("--device", "cpu", "--workers", "2", "--ranks-per-trial", "2")
    said = paribus("plan", str(study), "--home", str(study.parent / "runs"), *options).stdout
    assert "2 worker(s), cpu + cpu" in said
    assert "where     worker 1 on cpu + cpu: about " in said
    assert "          worker 2 on cpu + cpu: about " in said


# ── whose end decides ───────────────────────────────────────────────────────────────────────


def group(*scripts: str) -> Group:
    """Ranks that are shells."""

    def start(told: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        assert os.path.isdir(told["meet"])
        return subprocess.Popen(["sh", "-c", scripts[told["rank"]]])

    return Group(len(scripts), start, {})


@pytest.mark.parametrize(
    ("scripts", "code"),
    [
        (("exit 0", "exit 0"), 0),
        (("exit 75", "exit 0"), 75),
        (("sleep .1; exit 3", "exit 0"), 3),
        ((f"exit {LOST}", "kill -9 $$"), -signal.SIGKILL),
        ((f"exit {LOST}", "kill -SEGV $$"), -signal.SIGSEGV),
        ((f"exit {LOST}", "exit 1", f"exit {LOST}"), 1),
        (("kill -9 $$", f"sleep .1; exit {LOST}"), -signal.SIGKILL),
        ((f"exit {LOST}", f"exit {LOST}"), -signal.SIGKILL),
        (("exec sleep 60", "exit 1"), 1),
        (("kill -ABRT $$", "exec sleep 60"), -signal.SIGABRT),
        (("exit 0", "exec sleep 60"), 0),
    ],
)
def test_the_death_that_came_first_decides(
    scripts: tuple[str, ...], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever outlives another rank is ended."""
    if any("sleep 60" in s for s in scripts):  # the others end by themselves, on a busy machine too
        monkeypatch.setattr(ranks, "GRACE", 0.3)
    began = time.monotonic()
    assert group(*scripts).wait() == code
    assert time.monotonic() - began < 30


def test_signals_go_to_the_leader_and_sigkill_to_all(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    wait = f"trap 'exit 75' TERM; : > {ready}; while :; do sleep .05; done"
    g = group(wait, "exec sleep 2")
    while not ready.exists():
        time.sleep(0.02)
    g.terminate()
    assert g.wait() == 75
    g = group("exec sleep 60", "exec sleep 60")
    g.kill()
    assert g.wait() == -signal.SIGKILL

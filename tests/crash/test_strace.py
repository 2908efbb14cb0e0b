"""System calls of the real command that fail, or kill, at the n-th time; then a plain run."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from paribus import parts
from tests.crash import planted

CALLS = {
    "fsync:error=EIO": 60,
    "fsync:error=ENOSPC": 60,
    "fsync:signal=KILL": 60,
    "link,linkat:error=EIO": 16,
    "link,linkat:signal=KILL": 16,
    "rename,renameat,renameat2:error=EIO": 6,
    "rename,renameat,renameat2:signal=KILL": 6,
    "write:error=ENOSPC": 120,
    "write:error=EINTR": 120,
    "write:signal=KILL": 120,
}
"""What is injected, and about how many such calls a run makes."""

_luck = random.Random(14)
ALL = [(what, n) for what, top in CALLS.items() for n in sorted(_luck.sample(range(1, top), 4))]
QUICK = {ALL[i] for i in (1, 17)}  # writes: test_faults.py
CASES = [
    pytest.param(what, n, marks=() if (what, n) in QUICK else (pytest.mark.full,))
    for what, n in ALL
]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    study = planted.make(tmp_path_factory.mktemp("calm"), steps=12)
    assert planted.run(study)[0] == 0
    found = planted.losses(planted.plan_of(study))
    parts.use_local(None)
    return found


@pytest.mark.parametrize(("what", "n"), CASES)
def test_after_any_fault_a_plain_run_completes(
    what: str, n: int, calm: dict[str, list[float]], tmp_path: Path
) -> None:
    if shutil.which("strace") is None:
        pytest.skip("NO strace HERE: failing system calls are not tested (system-packages.sh)")
    study = planted.make(tmp_path, steps=12)
    calls, _, fault = what.partition(":")
    inject = f"inject={calls}:{fault}:when={n}"
    hurt = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", inject,
         *planted.command(study, "--stop-after", "60s")],
        env={**os.environ, "PARIBUS_PATIENCE": "2"}, capture_output=True, text=True, timeout=240,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "Traceback" not in hurt.stdout, hurt.stdout
    code, text = planted.run(study)
    assert code == 0, f"{hurt.stdout}\n{hurt.stderr}\n--- then ---\n{text}"
    plan = planted.plan_of(study)
    assert planted.losses(plan) == calm
    assert all(c.done for i in plan.items for c in i.cells)
    assert not any(plan.store.weights_lost(i.trial.id) for i in plan.items)

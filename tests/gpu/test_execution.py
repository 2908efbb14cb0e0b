"""Real memory on a real GPU: what runs out is halved; what others fill is waited for."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from paribus import parts
from paribus.store import Store
from paribus.study import source
from paribus.study.plan import Plan
from paribus.text import paths

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

STUDY = """
from paribus import *
position = Factor("position", {"rope": positions.rope(), "none": None}, "model.position")
study = Study("memory", "?",
    base=Spec(model=presets.llama(width=512, layers=6, heads=8),
              task=tasks.copying(span=256, symbols=4000, examples=16),
              optim=optim.adamw(lr=1e-4), schedule=schedules.constant(), rows=32, steps=12),
    factors=[position], evaluate=[Eval("copy")], names="{position}")
"""
FILL = """
import sys, time, torch
free, total = torch.cuda.mem_get_info()
x = torch.empty(free - (2 << 30), dtype=torch.uint8, device="cuda")
x.zero_()
print("full", flush=True)
time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    gc.collect()
    torch.cuda.empty_cache()  # what other tests took in this process is another process's to a run
    yield
    parts.use_local(None)
    paths.use_base(None)


def command(folder: Path, *more: str) -> list[str]:
    (folder / "memory.py").write_text(STUDY)
    return [
        sys.executable, "-m", "paribus.cli", "run", str(folder / "memory.py"), "--no-check",
        "--device", "cuda:0", "--compile", "off", "--stack", "1", "--checkpoint-steps", "4", *more,
    ]  # fmt: skip


def losses(folder: Path) -> dict[str, list[float]]:
    from paribus import arrays

    plan = Plan(source.load(str(folder / "memory.py")).study, Store(folder / "runs"))
    out = {}
    for item in plan.items:
        result = plan.store.result(item.trial.id)
        assert result is not None
        out[item.trial.name] = list(arrays.unpack(result.end["curves"]["loss"]))
        print(item.trial.name, result.end["engine"])
    return out


def test_memory_that_runs_out_is_halved_and_the_losses_stay(tmp_path: Path) -> None:
    calm, tight = tmp_path / "calm", tmp_path / "tight"
    for folder in (calm, tight):
        folder.mkdir()
    subprocess.run(command(calm), check=True, timeout=280)
    total = torch.cuda.get_device_properties(0).total_memory
    share = f"{100 * 3.5e9 / total:.2f}%"
    done = subprocess.run(
        command(tight, "--gpu-memory", share), capture_output=True, text=True, timeout=280
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stderr
    assert "going on with" in done.stderr
    expected = losses(calm)
    for name, found in losses(tight).items():
        print(name, max(abs(a - b) / abs(b) for a, b in zip(found, expected[name], strict=True)))
        assert found == pytest.approx(expected[name], rel=1e-5)
    plan = Plan(source.load(str(tight / "memory.py")).study, Store(tight / "runs"))
    for item in plan.items:
        result = plan.store.result(item.trial.id)
        assert result is not None
        engine = result.end["engine"]
        assert engine["halvings"] >= 1
        assert engine["micro_batch"] * engine["accumulation"] == 32


def test_memory_for_not_even_one_row_is_an_outcome(tmp_path: Path) -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    done = subprocess.run(
        command(tmp_path, "--gpu-memory", f"{100 * 0.3e9 / total:.3f}%"),
        capture_output=True,
        text=True,
        timeout=280,
    )
    print(done.stderr)
    assert done.returncode == 1
    assert "rope: out of memory" in done.stderr


def test_a_gpu_that_another_process_fills_is_waited_for(tmp_path: Path) -> None:
    filler = subprocess.Popen([sys.executable, "-c", FILL], stdout=subprocess.PIPE, text=True)
    try:
        assert filler.stdout is not None
        assert filler.stdout.readline() == "full\n"
        began = time.monotonic()
        done = subprocess.run(
            command(tmp_path, "--until", "12s"), capture_output=True, text=True, timeout=120
        )
        print(done.stderr)
        assert done.returncode == 75, done.stderr
        assert "GPU 0:" in done.stderr
        assert "in use" in done.stderr
        assert time.monotonic() - began < 60
        waiting = subprocess.Popen(
            command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        time.sleep(8)
        assert waiting.poll() is None
    finally:
        os.kill(filler.pid, signal.SIGKILL)
        filler.wait()
    _, text = waiting.communicate(timeout=280)
    print(text)
    assert waiting.returncode == 0, text
    assert len(losses(tmp_path)) == 2

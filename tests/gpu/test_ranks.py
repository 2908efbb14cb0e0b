"""One trial on two GPUs beside one, over NCCL; on the CPU the same script over gloo."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench" / "ddp.py"
TWO = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NO TWO CUDA DEVICES: not tested")


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.full), pytest.param("cuda", marks=TWO)]
)
def test_two_ranks_beside_one(device: str, tmp_path: Path) -> None:
    out = tmp_path / "ddp.json"
    command = [sys.executable, str(BENCH), "--tiny", "--device", device, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    one, two = json.loads(out.read_text())["runs"]
    assert (one["engine"]["world"], two["engine"]["world"]) == (1, 2)
    assert two["engine"]["devices"] == (["cpu"] * 2 if device == "cpu" else ["cuda:0", "cuda:1"])
    assert two["largest_difference"] < (1e-6 if device == "cpu" else 1e-4)

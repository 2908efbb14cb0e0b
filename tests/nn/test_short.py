"""The kernel of short sequences against the naive reference: in Triton's interpreter on the CPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

SCRIPT = """
import torch
from tests.nn import short_cases
short_cases.all_of_them("cpu", [torch.float32, torch.float16])
"""


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="NO TRITON: the short kernel is not tested"
)
def test_outputs_and_gradients_are_those_of_the_reference() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("equal") == 28, done.stdout

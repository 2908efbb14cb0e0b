"""The kernel of short sequences against the naive reference: in Triton's interpreter on the CPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from paribus.nn import short

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
    assert done.stdout.count("equal") == 42, done.stdout


MACHINE_CODE = """
import sys, torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from paribus.nn import _short
tokens, capability = int(sys.argv[1]), int(sys.argv[2])
low = torch.empty(0, dtype=torch.bfloat16)
for name in ("forward", "backward"):
    kernel = getattr(_short, name)
    of = _short._sizes(tokens, tokens, 32, True, None, True, 0.2, low, name == "backward")
    options = {k: of.pop(k) for k in ("num_warps", "num_stages")}
    kinds = dict.fromkeys("q k v add at o g dq dk dv".split(), "*bf16")
    kinds |= {"sums": "*fp32", "totals": "*fp32"}
    given = {n: kinds.get(n, "constexpr" if n in of else "i32") for n in kernel.arg_names}
    made = triton.compile(
        ASTSource(kernel, given, constexprs=of), target=GPUTarget("cuda", capability, 32),
        options=options)
    print(name, len(made.asm["cubin"]), made.metadata.shared)
"""


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="NO TRITON: the short kernel is not compiled"
)
@pytest.mark.parametrize(
    ("tokens", "capability"), [(83, 90), pytest.param(23, 80, marks=pytest.mark.full)]
)
def test_it_is_compiled_for_gpus_that_are_not_here(
    tokens: int, capability: int, tmp_path: Path
) -> None:
    """What the interpreter takes need not be what the compiler takes; one tile of keys, and two.
    48 KB of shared memory are there on every GPU."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-c", MACHINE_CODE, str(tokens), str(capability)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, *_ in found] == ["forward", "backward"]
    assert all(int(code) > 1000 and int(shared) <= 48 << 10 for _, code, shared in found)


def test_rows_that_would_be_compiled_for_minutes_are_left_to_torch() -> None:
    low, exact = torch.bfloat16, torch.float32
    if short.TRITON:
        assert short.fits(128, 128, low) and short.fits(64, 32, exact) and short.fits(23, 64, exact)
    assert not short.fits(129, 16, low) and not short.fits(83, 32, exact)
    assert not short.fits(64, 64, exact) and not short.fits(40, 48, exact), "padded to 64 · 64"

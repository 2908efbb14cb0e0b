"""Gradients that sum over tokens on the way, in Triton's interpreter on the CPU, against float64;
and a whole model with them beside the same without."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paribus.nn import _cuda
from paribus.nn._operators import namespace

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="NO TRITON: kernels are not tested"
)


def ran(script: str, *arguments: str, **more: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


ONE_BY_ONE = """
import torch
from tests.nn import sums_cases
sums_cases.all_of_them("cpu", [torch.float32, torch.float16])
"""


def test_values_and_gradients_are_those_of_float64() -> None:
    assert ran(ONE_BY_ONE, TRITON_INTERPRET="1").count("equal") == 24


MODEL = """
import torch
from paribus import presets, tasks
from paribus.engine.net import Net
from paribus.nn import linear, short, transformer
from paribus.nn.mlps import gelu
from paribus.nn.norms import layernorm
from paribus.spec import resolve
from tests.engine import tiny

spec = resolve(tiny.spec(model=presets.gpt2(width=32, layers=2, heads=2),
                         task=tasks.copying(span=4, symbols=8, examples=4)))
source = spec.task.open(tiny.Data(tiny.Path("unused")).bind("train"), "cpu")
batch = {k: torch.stack([t, t]) for k, t in source.batch(1, 0, range(3)).items()}
p = Net([spec, spec], "cpu", "sdpa").initial([1, 2])
made = torch.Generator().manual_seed(0)
p = {k: x + 0.1 * torch.randn(x.shape, generator=made) for k, x in p.items()}
# As they are while a stack trains: views of one tensor.
flat = torch.cat([x.flatten(1) for x in p.values()], 1)
parts = flat.split([x[0].numel() for x in p.values()], 1)
p = {k: v.view(x.shape).detach().requires_grad_() for (k, x), v in zip(p.items(), parts)}

def gradients(kernel):
    net = Net([spec, spec], "cpu", kernel)
    loss = spec.task.loss(net(p, batch), batch)[0].sum()
    return torch.autograd.grad(loss, list(p.values()))

want = gradients("sdpa")
whole, seen = short.attend_packed, []
short.attend_packed = lambda *a, **k: (seen.append(a), whole(*a, **k))[1]
linear.on_gpu = transformer.on_gpu = gelu.summed = layernorm.summed = lambda x: True
found = gradients("short")
assert len(seen) == 2, seen
for name, a, b in zip(p, want, found):
    torch.testing.assert_close(b, a, rtol=1e-4, atol=2e-6, msg=lambda m: f"{name}: {m}")
    assert b.is_contiguous(), name
print("equal", len(found))
"""


def test_a_model_whose_gradients_are_made_so() -> None:
    """Queries, keys and values are one product, their biases added within attention."""
    assert ran(MODEL, TRITON_INTERPRET="1") == "equal 36\n"


MACHINE_CODE = """
import sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from paribus.nn import _sums
kinds = dict.fromkeys("g y bias dy dn low".split(), "*bf16") | dict.fromkeys(
    "sums ds s mean rstd gain dx gains biases".split(), "*fp32")
for name, of in {"gelu_kernel": {"R": 64, "M": 16, "C": 256},
                 "norm_kernel": {"D": 300, "PD": 512, "R": 64, "M": 8}}.items():
    kernel = getattr(_sums, name)
    given = {n: kinds.get(n, "constexpr" if n in of else "i32") for n in kernel.arg_names}
    made = triton.compile(ASTSource(kernel, given, constexprs=of),
        target=GPUTarget("cuda", int(sys.argv[1]), 32))
    print(name, len(made.asm["cubin"]), made.metadata.shared)
"""


def test_operators_of_other_sources_have_other_names(tmp_path: Path) -> None:
    """For torch's compiler keeps what it made by their names."""
    a, b = tmp_path / "a.py", tmp_path / "b.py"
    a.write_text("1")
    b.write_text("2")
    names = [namespace(*map(str, files)) for files in ([a], [b], [a, b])]
    assert len(set(names)) == 3 and names[0] == namespace(str(a))
    from paribus.nn import _short, _sums

    for operator in (_sums.biased_gelu, _sums.added_norm):
        assert operator._qualname.startswith(namespace(_sums.__file__, _cuda.__file__) + "::")
    for operator in (_short.attention, _short.packed):
        assert operator._qualname.startswith(namespace(_short.__file__) + "::")


def test_it_is_compiled_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    found = ran(MACHINE_CODE, "90", TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    lines = [line.split() for line in found.splitlines()]
    assert [name for name, *_ in lines] == ["gelu_kernel", "norm_kernel"]
    assert all(int(code) > 1000 and int(shared) <= 48 << 10 for _, code, shared in lines)

"""Gradients that sum over tokens on the way, on a CUDA device; and stacks that train with them."""

from __future__ import annotations

import pytest
import torch

from paribus import presets
from paribus.nn import linear
from tests.engine import tiny
from tests.nn import sums_cases

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE: not tested")


@pytest.mark.parametrize("compiled", [False, True])
def test_values_and_gradients_are_those_of_float64(compiled: bool) -> None:
    torch.compiler.reset()
    sums_cases.all_of_them("cuda:0", [torch.float32, torch.bfloat16], compiled)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_stack_trains_as_its_operations_do_one_by_one(precision: str) -> None:
    """Each trial of it: gains and biases of a stack are views of a longer row for each."""
    model = presets.gpt2(width=64, layers=2, heads=2)
    assert linear.TRITON

    def curves(how: str) -> torch.Tensor:
        torch.compiler.reset()
        changes = {"model": model, "precision": precision, "steps": 40}
        members = [tiny.member(n, **changes) for n in (1, 2, 3)]
        trained = tiny.train(members, compile=how, device="cuda:0")
        assert trained.loss_of.engine == ("compiled" if how == "on" else "eager")
        assert trained.net.kernel == "short"
        return torch.tensor([trained.curve(e)["loss"] for e in range(3)])

    plain, fast = curves("off"), curves("on")
    near = 1e-4 if precision == "fp32" else 5e-3
    torch.testing.assert_close(fast, plain, rtol=near, atol=near)
    assert (plain[:, 0] - plain[:, -1]).min() > 5 * near, "nothing was learned that could differ"

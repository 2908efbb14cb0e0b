"""The kernel of short sequences on a CUDA device."""

from __future__ import annotations

import pytest
import torch

from paribus.nn import short
from tests.nn import short_cases

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE: not tested")


@pytest.mark.parametrize("compiled", [False, True])
def test_outputs_and_gradients_are_those_of_the_reference(compiled: bool) -> None:
    torch.compiler.reset()
    dtypes = [torch.float32, torch.bfloat16] if compiled else list(short_cases.BOUND)
    short_cases.all_of_them("cuda:0", dtypes, compiled)


def test_it_is_this_kernel_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    whole = short.attend
    monkeypatch.setattr(short, "attend", lambda *a, **k: (ran.append(1), whole(*a, **k))[1])
    short_cases.apart(short_cases.CASES[0], "cuda:0", torch.bfloat16)
    assert ran


def test_a_row_does_not_depend_on_how_many_there_are() -> None:
    made = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(3, 64, 4, 23, 32, generator=made, device="cuda", dtype=torch.bfloat16)
    how = {"causal": True, "mask": None, "bias": None, "scale": 0.2}
    whole = short.attend(x, x, x, **how)
    alone = short.attend(x[1:2, 5:6], x[1:2, 5:6], x[1:2, 5:6], **how)
    assert torch.equal(whole[1:2, 5:6], alone)

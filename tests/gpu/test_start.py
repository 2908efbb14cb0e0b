"""First values on a CUDA device: drawn there, and those of a CPU to the bit."""

from __future__ import annotations

import pytest
import torch

from paribus import init, presets, rng
from paribus.nn import initialise as drawing
from paribus.nn.initialise import initialise
from paribus.spec import InitScheme

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE: not tested")


@pytest.mark.parametrize("scheme", [init.gpt2(), init.torch_default(), init.orthogonal()], ids=str)
def test_first_values_are_those_of_a_cpu(scheme: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "MANY", 0)
    assert rng.exact("cuda:0")
    model = presets.gpt2(width=256, layers=2, heads=4, vocab=300)
    given = model, InitScheme(every=scheme), [1, 2, 3]  # type: ignore[arg-type]
    here, there = initialise(*given), initialise(*given, device="cuda:0")
    assert here.keys() == there.keys()
    for k, t in there.items():
        assert t.is_cuda
        assert torch.equal(here[k], t.cpu()), k

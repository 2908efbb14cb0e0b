"""Parameters given in the compute dtype: the same values and the same gradients, to the bit."""

from __future__ import annotations

import typing

import pytest
import torch

from paribus import mlps, norms, positions, presets, tasks
from paribus.engine.net import Net
from paribus.spec import Spec, resolve
from tests.engine import tiny

SMALL: dict[str, typing.Any] = {"width": 16, "layers": 2, "heads": 2, "vocab": 11}
MODELS = {
    "gpt2": presets.gpt2(position=positions.learned(length=8), **SMALL),
    "llama": presets.llama(kv_heads=1, q_norm=norms.rmsnorm(), k_norm=norms.rmsnorm(), **SMALL),
    "untied": presets.llama(mlp=mlps.relu2(), tied=False, softcap=15.0, **SMALL),
    "fire": presets.llama(position=positions.fire(), **SMALL),
}


@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients(name: str) -> None:
    spec = resolve(
        tiny.spec(
            model=MODELS[name],
            task=tasks.copying(span=4, symbols=8, examples=4),
            precision="bf16",
        )
    )
    assert isinstance(spec, Spec)
    net = Net([spec, spec], "cpu", "sdpa")
    low = net.lowered()
    assert {"blocks.0.attn.q", "blocks.1.attn.o", "blocks.1.mlp.up"} <= set(low)
    assert not {"embed.tokens", "final_norm.gain"} & set(low)
    ids = torch.randint(11, (2, 3, 8), generator=torch.Generator().manual_seed(0))
    found = []
    for paths in ((), low):
        p = net.initial([1, 2])
        given = {
            k: (t.to(torch.bfloat16) if k in paths else t).requires_grad_() for k, t in p.items()
        }
        out = net(given, {"inputs": ids})
        assert out.dtype == torch.float32
        grads = torch.autograd.grad(out.square().sum(), list(given.values()), allow_unused=True)
        found.append((out, grads))
    (a, g), (b, h) = found
    assert torch.equal(a, b)
    for k, x, y in zip(net.declared, g, h, strict=True):
        assert (x is None) == (y is None)
        if x is not None and y is not None:
            assert y.dtype == (torch.bfloat16 if k in low else torch.float32)
            assert torch.equal(x, y.float()), k

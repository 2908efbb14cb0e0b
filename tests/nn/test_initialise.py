"""First values drawn by a device against those that a processor draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from paribus import init, mlps, presets, rng
from paribus.nn import initialise as drawing
from paribus.nn.initialise import initialise
from paribus.spec import InitScheme

SCHEMES = [init.gpt2(), init.torch_default(), init.orthogonal()]


@pytest.mark.parametrize("together", [1, 1 << 26])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
def test_a_device_draws_the_same(
    scheme: object, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of a GPU, on the CPU, whose root is made the nearest number as that of a GPU is."""
    monkeypatch.setattr(rng.torch, "sqrt", lambda t: torch.from_numpy(np.sqrt(t.numpy())))
    monkeypatch.setattr(rng, "exact", lambda device: True)
    monkeypatch.setattr(drawing, "MANY", 0)
    monkeypatch.setattr(drawing, "TOGETHER", together)
    there = drawing._there
    asked: list[list[str]] = []

    def here(
        name: str, n: int, rules: Mapping[str, Any], seeds: list[int], device: str
    ) -> torch.Tensor:
        asked.append(list(rules))
        return there(name, n, rules, seeds, "cpu")

    monkeypatch.setattr(drawing, "_there", here)
    monkeypatch.setattr(torch.Tensor, "to", lambda t, x: t if isinstance(x, str) else t.type(x))
    model = presets.gpt2(width=32, layers=2, heads=4, vocab=50, mlp=mlps.gelu(bias=True))
    other = InitScheme(every=init.torch_default())  # uniform where others are normal
    schemes = [InitScheme(every=scheme), InitScheme(every=scheme)]  # type: ignore[arg-type]
    mixed = initialise(model, [schemes[0], other], [3, 1], device="cuda:0")
    for e, one in enumerate((schemes[0], other)):
        alone = initialise(model, one, [(3, 1)[e]])
        assert all(torch.equal(mixed[k][e], alone[k][0]) for k in mixed)
    asked.clear()
    given = model, schemes, [3, 1]
    found, want = initialise(*given, device="cuda:0"), initialise(*given)
    assert list(found) == list(want)
    assert all(torch.equal(t, want[k]) for k, t in found.items())
    if scheme.name == "orthogonal":  # type: ignore[attr-defined]
        assert not [k for of in asked for k in of if "norm" not in k], "of draws numpy makes them"
    else:
        assert sorted(k for of in asked for k in of) == sorted(found)
        assert (max(map(len, asked)) > 1) == (together > 1)

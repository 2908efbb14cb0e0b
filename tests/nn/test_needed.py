"""Tokens that the scored output does not depend on are left out, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from paribus import masks, positions, schedules
from paribus.engine.net import Net
from paribus.optim.adam import Adam
from paribus.presets import gpt2
from paribus.spec import Spec, resolve
from paribus.tasks.connectivity import Connectivity
from paribus.text.data import Data

LAYERS = 5
ARMS: dict[str, tuple[Any, Any, list[int | None]]] = {
    # mask, position, tokens (of 23 at V = 5) that enter and that leave each layer
    "causal": (masks.causal(), positions.learned(length=None), [23, 23, 23, 23, 23, 1]),
    "full": (masks.full(), positions.learned(length=None), [23, 23, 23, 23, 23, 1]),
    "window": (masks.sliding_window(size=3), positions.learned(length=None), [11, 9, 7, 5, 3, 1]),
    "blocks": (masks.schema_blocks(causal=False), positions.tiled(), [23, 23, 8, 8, 8, 1]),
    "causal blocks": (masks.schema_blocks(causal=True), positions.tiled(), [23, 23, 8, 8, 8, 1]),
    "biased": (masks.causal(), positions.alibi(), [None] * 6),
    "rotated": (masks.causal(), positions.rope(), [None] * 6),
}


def net_of(mask: Any, position: Any, **model: Any) -> Net:
    spec = Spec(
        model=gpt2(
            width=32, layers=LAYERS, heads=4, mask=mask, position=position, read_in="vectors",
            read_out="scalar", **model,
        ),
        task=Connectivity(V=5, examples=64, batch=8, eval_examples=64),
        optim=Adam(lr=1e-3), schedule=schedules.constant(), precision="fp64", steps=1,
    )  # fmt: skip
    return Net([resolve(spec)] * 2, "cpu", "sdpa")


def batch_of(net: Net) -> dict[str, torch.Tensor]:
    source = net.specs[0].task.open(Data(Path("unused"), "train"), "cpu")
    one = source.batch(1, 0, range(8))
    found = {k: t[None].expand(2, *t.shape) for k, t in one.items()}
    return {**found, "inputs": found["inputs"].double()}


@pytest.mark.parametrize("arm", ARMS)
def test_what_is_left_out_changes_neither_logits_nor_gradients(arm: str) -> None:
    mask, position, sizes = ARMS[arm]
    net = net_of(mask, position)
    batch = batch_of(net)
    ready = net.prepare(batch, [0, 0])
    assert ready is not None
    left = [23]
    for places in ready.go:
        left.append(left[-1] if places is None else len(places))
    assert (left[1:] if ready.go else [None] * (LAYERS + 1)) == sizes
    places = {k[4:]: t[:1] for k, t in batch.items() if k.startswith("pos.")}
    whole = net.core.ready((2, 8, 23), places, dtype=torch.float64)
    found = []
    for at in (ready, whole):
        p = {k: t.requires_grad_() for k, t in net.initial([1, 2]).items()}
        out = net(p, batch, ready=at)[..., -1]
        assert out.shape == (2, 8)
        grads = torch.autograd.grad(out.sin().sum(), list(p.values()), allow_unused=True)
        found.append((out, grads))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-12, atol=1e-12)
    for one, other, path in zip(found[0][1], found[1][1], net.declared, strict=True):
        if one is None:  # a layer that leaves the table out: its gradient is zero
            assert other is None or not other.any(), path
        else:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, msg=path)


def test_dropout_goes_by_place_so_all_tokens_stay() -> None:
    net = net_of(masks.causal(), positions.learned(length=None), dropout=0.1)
    ready = net.prepare(batch_of(net), [0, 0])
    assert ready is not None and not ready.go

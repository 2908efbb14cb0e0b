"""One tensor of all that is updated alike against tensor by tensor: the same bits."""

from __future__ import annotations

import typing

import pytest
import torch

from paribus import mlps, optim, positions, schedules
from paribus.engine.updating import Flat, Update
from tests.engine import tiny

OPTIMIZERS = {
    "adamw": optim.adamw(lr=3e-3, weight_decay=0.1),
    "adam": optim.adam(lr=3e-3),
    "sgd": optim.sgd(lr=0.1, momentum=0.9),
    "lion": optim.lion(lr=1e-3),
    "schedule-free": optim.schedule_free(lr=1e-2, warmup=2),
}


def stack(**changes: typing.Any) -> list[tiny.Member]:
    """Two of one shape, with odd sizes, and a rate of its own each."""
    model = tiny.model(position=positions.rope(), mlp=mlps.relu2(hidden=27))
    return [
        tiny.member(s, **{"optim.lr": 1e-2 / s}, model=model, clip=0.5, **changes) for s in (1, 2)
    ]


def bits(members: list[tiny.Member]) -> list[dict[str, torch.Tensor]]:
    return [tiny.result(m)[0] for m in members]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_tensor_is_tensor_by_tensor(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, typing.Any] = {"optim": OPTIMIZERS[name], "steps": 6}
    if name == "schedule-free":
        changes["schedule"] = schedules.constant()
    one, two = stack(**changes), stack(**changes)
    assert type(tiny.train(one).update) is Flat
    monkeypatch.setattr(Flat, "able", staticmethod(lambda *_: False))
    assert type(tiny.train(two).update) is Update
    for x, y in zip(bits(one), bits(two), strict=True):
        assert x.keys() == y.keys()
        assert all(torch.equal(x[k], y[k]) for k in x)


def test_mixed_freezing_goes_tensor_by_tensor() -> None:
    mixed = [tiny.member(1), tiny.member(2, freeze=("*.attn.q",))]
    assert type(tiny.train(mixed).update) is Update

"""One tensor of all that is updated alike against tensor by tensor, and the CPU's own operations
against torch's: the same bits."""

from __future__ import annotations

import typing

import pytest
import torch

from paribus import mlps, optim, positions, schedules
from paribus.engine.updating import Flat, Update
from paribus.nn import attention
from paribus.nn._cpu import SquaredRelu
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_turned_halves_are_those_of_the_formula(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    made = torch.randn(2, 3, 7, 4, 10, dtype=dtype, requires_grad=True)
    x = made.transpose(2, 3)  # as queries lie
    angle = torch.randn(2, 1, 7, 5)
    t = {"cos": angle.cos().to(dtype), "sin": angle.sin().to(dtype)}
    cos, sin = (t[k].unsqueeze(2) for k in ("cos", "sin"))
    a, b = x.chunk(2, -1)
    want = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    found = positions.rope().rotate(t, {}, x)
    assert torch.equal(found, want)
    g = torch.randn_like(want)
    assert torch.equal(*(torch.autograd.grad(y, made, g)[0] for y in (found, want)))


def test_squared_relu_is_that_of_torch() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 333, requires_grad=True)
    found, want = SquaredRelu.apply(x), torch.relu(x).square()
    assert torch.equal(found, want)
    g = torch.randn_like(want)
    assert torch.equal(*(torch.autograd.grad(y, x, g)[0] for y in (found, want)))


def test_bf16_attends_in_fp32_on_the_cpu() -> None:
    """As near to float64 as its output's own rounding lets it be."""
    torch.manual_seed(0)
    dtype = torch.bfloat16
    q, k, v = (torch.randn(1, 2, 3, 40, 8, dtype=dtype) for _ in range(3))
    at = attention.Pattern(causal=True)
    found = attention.attend(q, k, v, at, scale=0.3)
    want = attention.attend(q.double(), k.double(), v.double(), at, scale=0.3, kernel="reference")
    assert found.dtype == dtype
    torch.testing.assert_close(found, want.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-5)

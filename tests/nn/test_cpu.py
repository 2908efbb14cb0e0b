"""The CPU's own operations against torch's."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from paribus import positions
from paribus.nn import _cpu, attention
from paribus.nn._cpu import Product, SquaredRelu
from paribus.nn.linear import linear


@pytest.mark.parametrize("rows", [(2, 64, 8), (1, 33, 257), (3, 1, 5)])
def test_products_and_their_gradients_are_those_of_float64(rows: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    E, N, F = rows
    x, w = torch.randn(E, N, 48, requires_grad=True), torch.randn(E, F, 48, requires_grad=True)
    wide = [t.detach().double().requires_grad_() for t in (x, w)]
    y, want = Product.apply(x, w), wide[0] @ wide[1].mT
    torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-5)
    g = torch.randn_like(y)
    for mine, theirs in zip(
        torch.autograd.grad(y, (x, w), g), torch.autograd.grad(want, wide, g.double()), strict=True
    ):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-4)


def test_a_trial_in_a_stack_is_the_trial_alone() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(3, 100, 64, requires_grad=True), torch.randn(3, 96, 64, requires_grad=True)
    g = torch.randn(3, 100, 96)
    y = Product.apply(x, w)
    dx, dw = torch.autograd.grad(y, (x, w), g)
    for e in range(3):
        own = [t[e : e + 1].detach().requires_grad_() for t in (x, w)]
        alone = Product.apply(*own)
        assert torch.equal(alone[0], y[e])
        one, two = torch.autograd.grad(alone, own, g[e : e + 1])
        assert torch.equal(one[0], dx[e])
        assert torch.equal(two[0], dw[e])


def test_only_what_must_be_differentiated_is() -> None:
    x, w = torch.randn(1, 4, 8), torch.randn(1, 3, 8, requires_grad=True)
    Product.apply(x, w).sum().backward()
    assert x.grad is None
    assert w.grad is not None


def test_small_products_other_dtypes_and_watched_ones_stay_torch_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_cpu, "by_onednn", lambda: True)
    x, w = torch.randn(1, 1024, 64), torch.randn(1, 64, 64)
    assert _cpu.suits(x, w)
    assert not _cpu.suits(x[:, :32], w)
    assert not _cpu.suits(x.double(), w.double())
    with FlopCounterMode(display=False) as counted:
        linear(x[:, None], w)
    assert counted.get_total_flops() == 2 * 1024 * 64 * 64


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

"""The CPU's own operations against torch's."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from paribus import mlps, norms, positions
from paribus.nn import _cpu, attention
from paribus.nn._cpu import Product, SquaredRelu, SquaredReluMaps
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


def _weights(E: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    made = torch.randn(E, 3, 40, 16), torch.randn(E, 27, 16), torch.randn(E, 16, 27)
    return tuple(t.requires_grad_() for t in made)


def test_hidden_units_and_their_gradients_are_those_of_float64() -> None:
    x, up, down = given = _weights(2)
    wide = [t.detach().double().requires_grad_() for t in given]
    y = SquaredReluMaps.of(x, up, down)
    want = torch.relu(wide[0] @ wide[1][:, None].mT).square() @ wide[2][:, None].mT
    torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-4)
    g = torch.randn_like(y)
    mine, theirs = torch.autograd.grad(y, given, g), torch.autograd.grad(want, wide, g.double())
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("trained", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)])
def test_hidden_units_differentiate_what_they_must(trained: tuple[int, ...]) -> None:
    given = [t.detach().requires_grad_(bool(n)) for t, n in zip(_weights(1), trained, strict=True)]
    every = _weights(1)
    SquaredReluMaps.of(*given).square().sum().backward()
    SquaredReluMaps.of(*every).square().sum().backward()
    for mine, whole, n in zip(given, every, trained, strict=True):
        assert (mine.grad is not None) == bool(n)
        assert not n or torch.equal(mine.grad, whole.grad)


@pytest.mark.parametrize("bias", [True, False])
def test_norms_and_hidden_units_of_a_stack_are_those_of_trials_alone(bias: bool) -> None:
    x, up, down = _weights(3)
    norm = norms.layernorm(bias=bias)
    p = {n: torch.randn(3, 1, 1, 16, requires_grad=True) for n in norm.params(16)}

    def both(x: torch.Tensor, p: dict[str, torch.Tensor], *w: torch.Tensor) -> list[torch.Tensor]:
        y = SquaredReluMaps.of(norm.forward(p, x), *w)
        return [y, *torch.autograd.grad(y.square().sum(), (x, *p.values(), *w))]

    stacked = both(x, p, up, down)
    for e in range(3):
        own = [t[e : e + 1].detach().requires_grad_() for t in (x, up, down)]
        alone = {n: t[e : e + 1].detach().requires_grad_() for n, t in p.items()}
        for one, every in zip(both(own[0], alone, *own[1:]), stacked, strict=True):
            assert torch.equal(one[0], every[e])


@pytest.mark.parametrize("hidden", [1, 2])
def test_few_hidden_units_of_a_stack_are_those_of_trials_alone(hidden: int) -> None:
    torch.manual_seed(0)
    mlp, x = mlps.relu2(hidden=hidden), torch.randn(3, 2, 50, 16)
    p = {"up": torch.randn(3, hidden, 16), "down": torch.randn(3, 16, hidden)}
    stacked = mlp.forward(p, x)
    for e in range(3):
        alone = mlp.forward({n: t[e : e + 1] for n, t in p.items()}, x[e : e + 1])
        assert torch.equal(alone[0], stacked[e])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_layer_norm_and_its_gradients_are_those_of_float64(bias: bool, shared: bool) -> None:
    torch.manual_seed(0)
    norm = norms.layernorm(bias=bias)
    x = torch.randn(1 if shared else 2, 3, 5, 16, requires_grad=True)
    p = [torch.randn(2, 1, 1, 16, requires_grad=True) for _ in norm.params(16)]
    wide = [t.detach().double().requires_grad_() for t in (x, *p)]
    y = norm.forward(dict(zip(norm.params(16), p, strict=True)), x)
    mean, gap = wide[0].mean(-1, keepdim=True), wide[0].var(-1, keepdim=True, correction=0)
    want = (wide[0] - mean) / (gap + norm.eps).sqrt() * wide[1] + (wide[2] if bias else 0)
    torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-5)
    g = torch.randn_like(y)
    mine = torch.autograd.grad(y, (x, *p), g)
    for a, b in zip(mine, torch.autograd.grad(want, wide, g.double()), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)


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

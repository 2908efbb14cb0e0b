"""Products and cross-entropy of nn/_cuda.py, on the CPU: values and gradients of torch's own."""

from __future__ import annotations

import typing

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from paribus import lazy, presets, tasks
from paribus.contracts import IGNORE
from paribus.engine.net import Net
from paribus.nn import linear, losses
from paribus.nn._cuda import Product, Surprisal, gelu
from paribus.nn.mlps import gelu as gelu_mlp
from paribus.spec import resolve
from tests.engine import tiny

TARGETS = torch.tensor([0, 3, IGNORE, 8, 2, IGNORE])


def made(*shapes: tuple[int, ...]) -> list[Tensor]:
    draws = torch.Generator().manual_seed(0)
    kind: dict[str, typing.Any] = {"dtype": torch.float64, "generator": draws}
    return [torch.randn(*s, **kind).requires_grad_() for s in shapes]


def test_a_product_is_differentiable_and_its_weight_gradient_lies_as_the_weight() -> None:
    x, w, b = made((2, 7, 5), (2, 4, 5), (2, 4))
    assert torch.autograd.gradcheck(Product.apply, (x, w, b))
    assert torch.autograd.gradcheck(lambda x, w: Product.apply(x, w, None), (x, w))
    (dw,) = torch.autograd.grad(Product.apply(x, w, b).sum(), [w])
    assert dw.is_contiguous()
    w.requires_grad_(False)
    (dx,) = torch.autograd.grad(Product.apply(x, w, None).sum(), [x])
    assert torch.allclose(dx, w.sum(1, keepdim=True).expand_as(dx))


def test_a_product_of_one_trial() -> None:
    x, w, b = made((1, 7, 5), (1, 4, 5), (1, 4))
    assert torch.autograd.gradcheck(Product.apply, (x, w, b))
    assert torch.allclose(Product.apply(x, w, b), x @ w.mT + b[:, None])


def test_cross_entropy() -> None:
    (z,) = made((6, 9))
    found = Surprisal.apply(z, TARGETS)
    want = F.cross_entropy(z, TARGETS, reduction="none", ignore_index=IGNORE)
    assert torch.allclose(found, want, atol=1e-12)
    assert torch.autograd.gradcheck(lambda z: Surprisal.apply(z, TARGETS), (z,))
    far = z.detach() * 1e4
    assert torch.isfinite(Surprisal.apply(far, TARGETS)).all()


@pytest.mark.parametrize("V", [192, 2048])
def test_cross_entropy_by_pieces(V: int) -> None:
    (z,) = made((6, V))
    of = torch.tensor([0, 3, IGNORE, V - 1, 70, 64])
    want = F.cross_entropy(z, of, reduction="none", ignore_index=IGNORE)
    found = Surprisal.apply(z, of)
    assert torch.allclose(found, want, atol=1e-12)
    a, b = (torch.autograd.grad(x.sum(), [z])[0] for x in (found, want))
    assert torch.allclose(a, b, atol=1e-14)
    assert torch.isfinite(Surprisal.apply(z.detach() * 1e4, of)).all()
    left_out = z.detach().clone()
    left_out[:, 64:128] = float("-inf")  # a whole piece
    want = F.cross_entropy(left_out, of.clamp(max=63), reduction="none", ignore_index=IGNORE)
    assert torch.allclose(Surprisal.apply(left_out, of.clamp(max=63)), want, atol=1e-12)


def test_gelu() -> None:
    x = torch.linspace(-12, 12, 2001, dtype=torch.float64, requires_grad=True)
    found, want = gelu(x), F.gelu(x, approximate="tanh")
    assert torch.allclose(found, want, rtol=0, atol=1e-14)
    a, b = (torch.autograd.grad(y.sum(), [x])[0] for y in (found, want))
    assert torch.allclose(a, b, rtol=0, atol=1e-13)
    low = x.detach().bfloat16()
    # Far below zero torch's 1 + tanh u is nothing but its rounding.
    want = F.gelu(low.float(), approximate="tanh").bfloat16()
    torch.testing.assert_close(gelu(low), want, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("freeze", [(), ("*.attn.q",)])
def test_a_training_loss_compiled_with_them(
    freeze: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = resolve(
        tiny.spec(
            model=presets.gpt2(width=16, layers=2, heads=2),
            task=tasks.copying(span=4, symbols=8, examples=4),
            freeze=freeze,
        )
    )
    net = Net([spec, spec], "cpu", "sdpa")
    p = net.initial([1, 2])
    for k in net.trained:
        p[k].requires_grad_()
    source = spec.task.open(tiny.Data(tiny.Path("unused")).bind("train"), "cpu")
    batch = {k: torch.stack([t, t]) for k, t in source.batch(1, 0, range(3)).items()}

    def loss(p: typing.Any, batch: typing.Any) -> Tensor:
        return spec.task.loss(net(p, batch), batch)[0].sum()  # type: ignore[no-any-return]

    leaves = [p[k] for k in net.trained]
    want = torch.autograd.grad(loss(p, batch), leaves)
    monkeypatch.setattr(linear, "on_gpu", lambda x: True)
    monkeypatch.setattr(losses, "on_gpu", lambda x: True)
    monkeypatch.setattr(gelu_mlp, "on_gpu", lambda x: True)
    monkeypatch.setattr(linear, "TRITON", False)  # whose kernels run on a GPU: test_sums.py
    torch.compiler.reset()
    lazy.fill()
    for run in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        found = torch.autograd.grad(run(p, batch), leaves)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(want, found, strict=True))
        assert all(g.is_contiguous() for g in found)


@pytest.mark.parametrize("bias", [False, True])
def test_an_odd_number_of_outputs_is_padded(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = made((2, 3, 5, 4), (2, 13, 4), (2, 13))
    given = (x, w, b) if bias else (x, w)
    want = linear.linear(*given)
    wanted = torch.autograd.grad(want.square().sum(), given)
    monkeypatch.setattr(linear, "on_gpu", lambda x: True)
    monkeypatch.setattr(linear, "ODD", 8)
    widths = []
    apply = Product.apply
    monkeypatch.setattr(
        Product, "apply", lambda x, w, b: (widths.append(w.shape[1]), apply(x, w, b))[1]
    )
    found = linear.linear(*given)
    assert widths == [64]
    assert torch.allclose(want, found)
    for a, c in zip(wanted, torch.autograd.grad(found.square().sum(), given), strict=True):
        assert torch.allclose(a, c)

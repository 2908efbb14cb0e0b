"""Attention and dropout by themselves: dead queries, padding, masks with biases, micro-batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from paribus import parts
from paribus.errors import Refused
from paribus.nn.attention import KERNELS, attend, pattern
from paribus.nn.dropout import Dropout
from paribus.nn.transformer import Transformer
from tests.nn.models import model_with, parameters, tokens

E, B, H, T, D = 2, 3, 4, 7, 16
PINNED = "11110111111000111111101101111111"


def qkv(dtype: torch.dtype = torch.float32, G: int = 2) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    shapes = [(E, B, H, T, D), (E, B, G, T, D), (E, B, G, T, D)]
    return [
        torch.randn(s, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes
    ]


def holes() -> Tensor:
    """A causal mask where some queries may read nothing at all."""
    mask = torch.ones(1, B, 1, T, T, dtype=torch.bool).tril()
    mask[0, 0, 0, 3] = False
    mask[0, 1] = False
    return mask


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("biased", [False, True, "learned"])
def test_dead_queries_give_zeros_and_finite_gradients(kernel, biased):
    x = qkv()
    bias = None
    if biased:
        bias = torch.randn(E, 1, H, T, T, generator=torch.Generator().manual_seed(2))
        bias.requires_grad_(biased == "learned")
    o = attend(*x, pattern(holes(), bias), scale=0.25, kernel=kernel)
    dead = ~holes().any(-1, keepdim=True)
    assert (o.masked_select(dead) == 0).all()
    assert o.masked_select(~dead).abs().min() > 0
    o.square().sum().backward()
    for t in [*x, *([bias] if biased == "learned" else [])]:
        assert t.grad.isfinite().all()
    assert (x[0].grad[:, 1] == 0).all(), "a row that reads nothing learns nothing"
    assert (x[2].grad[:, 1] == 0).all()


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("masked", [None, "causal", "holes"])
def test_kernels_agree_with_the_formula(biased, masked):
    q, k, v = qkv(torch.float64)
    bias = torch.randn(1, B, H, T, T, dtype=torch.float64) if biased else None
    mask = holes() if masked == "holes" else None
    s = q @ k.repeat_interleave(2, 2).mT * 0.3
    s = s if bias is None else s + bias
    if masked:
        allowed = holes() if masked == "holes" else torch.ones(T, T, dtype=torch.bool).tril()
        s = s.masked_fill(~allowed, float("-inf"))
    want = s.softmax(-1).nan_to_num(0.0) @ v.repeat_interleave(2, 2)
    for kernel in KERNELS:
        at = pattern(mask, bias, masked == "causal")
        torch.testing.assert_close(attend(q, k, v, at, scale=0.3, kernel=kernel), want)


def test_padding_changes_nothing():
    for position in (parts.Namespace("positions").alibi(), parts.Namespace("positions").rope()):
        core = Transformer(model_with(position))
        p = parameters(core.model, [0, 1])
        ids = tokens([0, 1])
        valid = torch.ones(1, *ids.shape[1:], dtype=torch.bool)
        valid[0, 1, 10:] = False
        valid[0, 2] = False  # nothing but padding
        out = core(p, ids, valid_EBT=valid)
        torch.testing.assert_close(out[:, 1, :10], core(p, ids[:, 1:2, :10])[:, 0])
        assert out.isfinite().all()
        other = torch.where(valid, ids, (ids + 1) % 97)
        torch.testing.assert_close(core(p, other, valid_EBT=valid)[:, 1, :10], out[:, 1, :10])
        out.square().sum().backward()
        assert all(t.grad.isfinite().all() for t in p.values())


def test_dropout_of_probabilities_needs_the_reference():
    core = Transformer(model_with(None, attn_dropout=0.2))
    p, drop = parameters(core.model, [0]), Dropout(Dropout.keys([0]), 0)
    with pytest.raises(Refused, match="reference"):
        core(p, tokens([0]), drop=drop)
    with pytest.raises(Refused, match="no attention kernel"):
        core(p, tokens([0]), kernel="warp")
    kept = core(p, tokens([0]), drop=drop, kernel="reference")
    assert not torch.equal(kept, core(p, tokens([0])))


def test_dropout_does_not_see_stacks_or_micro_batches():
    rates = {"dropout": 0.3, "embed_dropout": 0.1, "attn_dropout": 0.2}
    core = Transformer(model_with(None, **rates))
    ids = tokens([0, 1], rows=4)
    keys = Dropout.keys([0, 1])
    p = parameters(core.model, [0, 1])

    def run(e: slice, rows: slice, step: int = 5) -> Tensor:
        own = {k: t[e] for k, t in p.items()}
        drop = Dropout(keys[e], step, 100 + rows.start)
        return core(own, ids[e, rows], drop=drop, kernel="reference")

    whole = run(slice(0, 2), slice(0, 4))
    assert torch.equal(run(slice(1, 2), slice(0, 4)), whole[1:])
    torch.testing.assert_close(run(slice(0, 2), slice(2, 4)), whole[:, 2:], atol=1e-6, rtol=1e-5)
    assert (run(slice(0, 2), slice(0, 4), step=6) - whole).abs().max() > 1e-2


def test_dropout_mask_is_fair_and_pinned():
    drop = Dropout(Dropout.keys([0, 1]), 3, 7)
    keep = drop.keep(torch.Size((2, 64, 50, 40)), 0.25, 1)
    n = keep[0].numel()
    assert float(keep.float().mean()) == pytest.approx(0.75, abs=4 * (0.1875 / 2 / n) ** 0.5)
    other = drop.keep(keep.shape, 0.25, 2)
    late = Dropout(drop.keys_E, 4, 7).keep(keep.shape, 0.25, 1)
    for a, b in ((keep[0], keep[1]), (keep, other), (keep, late), (keep[:, :-1], keep[:, 1:])):
        agree = float((a == b).float().mean())
        assert agree == pytest.approx(0.625, abs=5 * (0.2344 / a.numel()) ** 0.5)
    assert torch.equal(
        Dropout(drop.keys_E, 3, 17).keep(torch.Size((2, 4, 50, 40)), 0.25, 1), keep[:, 10:14]
    )
    x = torch.ones(2, 64, 50, 40)
    assert float(drop.apply(x, 0.25, 1).mean()) == pytest.approx(1, abs=0.01)
    # The bits are part of every result with dropout: they must never change.
    assert "".join(map(str, keep[0, 0, 0, :32].int().tolist())) == PINNED

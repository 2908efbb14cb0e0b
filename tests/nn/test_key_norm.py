"""KeyNorm against its formula: what it does to logits, with RoPE, at zero, on every kernel."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from paribus import parts
from paribus.contracts import View
from paribus.errors import SpecError
from paribus.nn.attention import attend, pattern
from paribus.nn.transformer import Transformer
from tests.nn.models import model_with, parameters, tokens

norms, scales, positions = (parts.Namespace(k) for k in ("norms", "scales", "positions"))
D = 64


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def keyed(**fields):
    """A model with KeyNorm and heads of 64."""
    own = {"width": 128, "heads": 2, "kv_heads": 2, "k_norm": norms.l2()}
    return model_with(**{**own, "logit_scale": scales.fixed(value=1.0), **fields})


@pytest.mark.parametrize("c", [1e-3, 0.5, 7.0, 1e4])
def test_logits_do_not_see_the_length_of_keys(c):
    q, k, norm = drawn(5, D), drawn(9, D, seed=1), norms.l2()
    torch.testing.assert_close(
        q @ norm.forward({}, c * k).T, q @ norm.forward({}, k).T, rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("c", [0.25, 40.0])
def test_a_model_does_not_see_the_length_of_keys(c):
    core = Transformer(keyed())
    p, ids = parameters(core.model, [0, 1]), tokens([0, 1])
    scaled = {path: c * t if path.endswith("attn.k") else t for path, t in p.items()}
    torch.testing.assert_close(core(scaled, ids), core(p, ids), atol=1e-5, rtol=1e-5)
    plain = Transformer(keyed(k_norm=None))
    assert (plain(scaled, ids) - plain(p, ids)).abs().max() > 1e-3


@pytest.mark.parametrize(("length", "ratio"), [(3.5, 2.2857), (9.0, 0.8889)])
def test_it_is_the_standard_logit_times_root_d_over_the_length(length, ratio):
    """8 / 3.5 = 2.2857 at heads of 64, where the notes say 2.1."""
    q = drawn(5, D)
    k = F.normalize(drawn(9, D, seed=1), dim=-1) * length
    standard = q @ k.T * scales.sqrt_d().factor(Transformer(keyed()).dims)
    own = q @ norms.l2().forward({}, k).T * scales.fixed(value=1.0).factor(None)
    torch.testing.assert_close(own, standard * (math.sqrt(D) / length), rtol=1e-10, atol=1e-10)
    assert float((own / standard).mean()) == pytest.approx(ratio, abs=5e-5)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_without_a_gain_of_each_channel_it_commutes_with_rope(layout):
    rope, d = positions.rope(layout=layout), Transformer(keyed()).dims
    table = rope.tables(d, View({"token": torch.arange(9, dtype=torch.float64).view(1, 1, 9)}))
    x = drawn(1, 1, 2, 9, D)
    for norm, p in [
        (norms.l2(), {}),
        (norms.l2(gain="scalar"), {"gain": torch.tensor([3.0], dtype=torch.float64)}),
    ]:
        before = rope.rotate(table, {}, norm.forward(p, x))
        after = norm.forward(p, rope.rotate(table, {}, x))
        torch.testing.assert_close(before, after, rtol=1e-6, atol=1e-9)
    norm, p = norms.l2(gain="channel"), {"gain": 1 + 0.5 * drawn(D)}
    before = rope.rotate(table, {}, norm.forward(p, x))
    assert (before - norm.forward(p, rope.rotate(table, {}, x))).abs().max() > 1e-3


@pytest.mark.parametrize(("gain", "equal"), [("none", True), ("scalar", True), ("channel", False)])
def test_the_order_is_the_norms_own(gain, equal):
    ids, out = tokens([0]), []
    for after in (False, True):
        core = Transformer(keyed(k_norm=norms.l2(gain=gain, after_rotation=after)))
        p = parameters(core.model, [0])
        p = {
            k: t * (1 + torch.arange(t.shape[-1]) / 64) if "k_norm" in k else t
            for k, t in p.items()
        }
        out.append(core(p, ids))
    assert torch.allclose(*out, atol=1e-5) == equal


def test_a_zero_key_is_finite():
    core = Transformer(keyed())
    p = parameters(core.model, [0])
    p["blocks.0.attn.k"] = torch.zeros_like(p["blocks.0.attn.k"]).requires_grad_()
    out = core(p, tokens([0]))
    grads = torch.autograd.grad(out.square().mean(), list(p.values()))
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in grads)


def test_kernels_agree():
    core = Transformer(keyed(mask=parts.Namespace("masks").sliding_window(size=7)))
    p, ids = parameters(core.model, [0, 1]), tokens([0, 1])
    wanted = core(p, ids, kernel="reference")
    torch.testing.assert_close(core(p, ids, kernel="sdpa"), wanted, atol=1e-5, rtol=1e-5)
    ready = core.ready((2, *ids.shape[1:]), {}, kernel="flex")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled
        found = core(p, ids, kernel="flex", ready=ready)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_attention_over_unit_keys_is_that_of_the_formula():
    q, k, v = (drawn(1, 1, 2, 6, 16, seed=i) for i in range(3))
    unit = norms.l2().forward({}, k)
    mask = torch.ones(1, 1, 1, 6, 6, dtype=torch.bool).tril()
    s = (q @ (k / k.norm(dim=-1, keepdim=True)).mT).masked_fill(~mask, -math.inf)
    for kernel in ("sdpa", "reference"):
        o = attend(q, unit, v, pattern(mask), scale=1.0, kernel=kernel)
        torch.testing.assert_close(o, s.softmax(-1) @ v, rtol=1e-9, atol=1e-9)


def test_the_scale_is_fixed_learned_or_grows():
    declared = Transformer(keyed(k_norm=norms.l2(gain="scalar", start=5.0))).declared
    assert declared["blocks.0.attn.k_norm.gain"].shape == (1,)
    assert declared["blocks.0.attn.k_norm.gain"].init == "value:5.0"
    d = Transformer(keyed()).dims
    grows = scales.log_n(original=16, value=1.0)
    place = View({"token": torch.tensor([[[0.0, 15.0, 255.0]]])})
    assert grows.factor(d) == 1
    assert grows.queries(place).tolist() == [[pytest.approx([1.0, 1.0, 2.0])]]
    assert scales.log_n(original=16).factor(d) == d.head_dim**-0.5
    with pytest.raises(SpecError, match="nothing is learned"):
        norms.l2(start=2.0)

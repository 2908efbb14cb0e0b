"""What every part of the model promises; a new file in a parts folder is tested by being there."""

from __future__ import annotations

import pytest
import torch

from paribus import parts
from paribus.contracts import View
from paribus.engine import contract
from paribus.errors import Refused, SpecError
from paribus.nn.declare import declare
from paribus.nn.initialise import initialise
from paribus.nn.transformer import Transformer
from paribus.spec import InitScheme
from tests.nn.models import (
    INIT,
    LENGTH,
    assert_cache_is_full_forward,
    assert_kernels_agree,
    assert_mask_is_reachability,
    assert_stack_is_bit_equal,
    every_part,
    model_with,
    parameters,
    part_of,
    tokens,
    train_step,
)

by_name = pytest.mark.parametrize("part", every_part(), ids=lambda p: f"{p.kind}.{p.name}")
base = pytest.mark.parametrize("base", ["llama", "gpt2"])


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@by_name
@base
def test_stack_is_bit_equal(part, base):
    assert_stack_is_bit_equal([model_with(part, base)] * 3)


@by_name
def test_stackable_fields_differ_inside_a_stack(part):
    for field in sorted(part.stackable):
        levels = contract.levels(part, field, 3)
        assert_stack_is_bit_equal([model_with(level) for level in levels])


@by_name
def test_kernels_agree(part):
    assert_kernels_agree(model_with(part))


@pytest.mark.parametrize("position", every_part("positions"), ids=lambda p: p.name)
@pytest.mark.parametrize("mask", every_part("masks"), ids=lambda p: p.name)
def test_kernels_agree_for_every_position_and_mask(position, mask):
    assert_kernels_agree(model_with(position, mask=mask))


@pytest.mark.parametrize("position", every_part("positions"), ids=lambda p: p.name)
@pytest.mark.parametrize("mask", every_part("masks"), ids=lambda p: p.name)
def test_cache_is_full_forward(position, mask):
    if mask.sdpa == "full":
        pytest.skip("a token that reads later ones cannot be decoded one at a time")
    assert_cache_is_full_forward(model_with(position, mask=mask))


@pytest.mark.parametrize("kernel", ["sdpa", "reference"])
@pytest.mark.parametrize("mask", every_part("masks"), ids=lambda p: p.name)
def test_mask_is_reachability(mask, kernel):
    assert_mask_is_reachability(mask, kernel)


@pytest.mark.parametrize("mask", every_part("masks"), ids=lambda p: p.name)
def test_mask_keeps_its_promise(mask):
    T = 11
    q = Transformer(model_with()).view(T).map(lambda c: c.view(1, 1, 1, T, 1))
    k = q.map(lambda c: c.transpose(-1, -2))
    whole = torch.ones(T, T, dtype=torch.bool)
    for layer in range(3):
        allowed = mask.allowed(layer, q, k).expand(1, 1, 1, T, T)[0, 0, 0]
        if mask.sdpa is not None:
            assert torch.equal(allowed, whole.tril() if mask.sdpa == "causal" else whole)
        assert mask.mean_keys(T) >= float(allowed.sum(1).float().mean()) - 1e-6


@by_name
def test_training_lowers_the_loss(part):
    model = model_with(part)
    core, p, ids = Transformer(model), parameters(model, [0]), tokens([0])
    losses = []
    for _ in range(12):
        logits = core(p, ids[..., :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 2), ids[..., 1:].flatten())
        losses.append(loss.item())
        for t, g in zip(p.values(), torch.autograd.grad(loss, list(p.values())), strict=True):
            t.data -= 0.3 * g / (g.norm() + 1e-6)
    assert losses[-1] < losses[0] - 0.3, losses


@pytest.mark.parametrize("part", every_part("positions"), ids=lambda p: p.name)
def test_positions_tell_places_apart(part):
    """Under a full mask, order is visible through the position alone."""
    model = model_with(part, mask=parts.Namespace("masks").full())
    p, ids = parameters(model, [0]), tokens([0])[..., :LENGTH]
    order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(0))
    back = order.argsort()
    core = Transformer(model)
    assert (core(p, ids) - core(p, ids[..., order])[:, :, back]).abs().max() > 1e-3
    without = Transformer(model_with(None, mask=model.mask, position=None))
    torch.testing.assert_close(without(p, ids), without(p, ids[..., order])[:, :, back])


@by_name
def test_gradients_reach_every_parameter(part):
    _, grads, _ = train_step(model_with(part), [0])
    assert [path for path, g in grads.items() if not g.any()] == []


def test_relative_positions_do_not_see_a_shift():
    for part in every_part("positions"):
        if part.embed is not None or part.name == "growing":  # whose angles grow with the place
            continue
        core, p = Transformer(model_with(part)), parameters(model_with(part), [0])
        ids = tokens([0])
        moved = core(p, ids, View({"token": torch.arange(ids.shape[-1]) + 50}))
        torch.testing.assert_close(moved, core(p, ids), atol=2e-5, rtol=1e-4)


def test_learned_table_ends():
    part = parts.Namespace("positions").learned(length=8)
    core = Transformer(model_with(part))
    with pytest.raises(Refused, match="end at 8"):
        core(parameters(core.model, [0]), tokens([0]))


def test_alibi_slopes():
    from paribus.nn.positions.alibi import slopes

    assert slopes(8) == [2.0**-i for i in range(1, 9)]
    assert slopes(12) == [*(2.0**-i for i in range(1, 9)), *(2.0**-i for i in (0.5, 1.5, 2.5, 3.5))]
    assert slopes(1) == [2.0**-8]


def test_partial_and_interleaved_rope():
    rope = parts.Namespace("positions").rope
    d = Transformer(model_with()).dims
    x = torch.randn(1, 1, 2, 5, 16, dtype=torch.float64)
    view = View({"token": torch.arange(5).view(1, 1, 5)})
    half, inter = rope(), rope(layout="interleaved")
    order = torch.arange(16).view(2, 8).T.flatten()  # half's pairs laid side by side
    y = half.rotate(half.tables(d, view), {}, x)
    z = inter.rotate(inter.tables(d, view), {}, x[..., order])
    torch.testing.assert_close(y[..., order], z)
    part = rope(fraction=0.25)
    w = part.rotate(part.tables(d, view), {}, x)
    assert torch.equal(w[..., 4:], x[..., 4:])
    assert not torch.equal(w[..., 1:, :4], x[..., 1:, :4])
    with pytest.raises(SpecError, match="even"):
        declare(model_with(rope(fraction=0.2)))


def test_sinusoidal_table_has_the_stated_size():
    part = parts.Namespace("positions").sinusoidal(scale=0.02)
    core = Transformer(model_with(part))
    wave = core.tables(core.view(512), dtype=torch.float64)["wave"]
    assert float(wave.square().mean().sqrt()) == pytest.approx(0.02, rel=1e-9)


@pytest.mark.parametrize("cls", list(parts.scan("init")), ids=lambda c: c.__part__)
def test_init_has_the_moments_that_it_states(cls):
    scheme = InitScheme(every=part_of(cls))
    model = model_with(None, "gpt2", width=128, heads=4, vocab=512)
    drawn = initialise(model, scheme, [5], torch.float64)
    dims = Transformer(model).dims
    for path, p in declare(model).items():
        if p.init is not None:
            continue
        kind, x = scheme.every.rule(p, dims)
        t = drawn[path]
        if kind == "constant":
            assert (t == x).all()
            continue
        std = x if kind == "normal" else x / 3**0.5
        slack = 5 / t.numel() ** 0.5
        assert float(t.mean()) == pytest.approx(0, abs=slack * std), path
        assert float(t.std()) == pytest.approx(std, rel=slack), path
        if kind == "uniform":
            assert t.abs().max() <= x


def test_shared_parameters_are_bit_equal_across_arms():
    arms = [model_with(p, b) for p in every_part("positions") for b in ("gpt2", "llama")]
    drawn = [initialise(m, INIT, [3, 4]) for m in arms]
    for other in drawn:
        for path in drawn[0].keys() & other.keys():
            if drawn[0][path].shape == other[path].shape:
                assert torch.equal(drawn[0][path], other[path]), path
    first = drawn[0]
    assert not torch.equal(first["blocks.0.attn.q"], first["blocks.1.attn.q"])
    assert not torch.equal(first["blocks.0.attn.q"][0], first["blocks.0.attn.q"][1])
    torch.testing.assert_close(
        initialise(arms[0], INIT, [4])["embed.tokens"][0], first["embed.tokens"][1], rtol=0, atol=0
    )

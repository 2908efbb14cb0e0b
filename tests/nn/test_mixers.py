"""Gated linear attention against its recurrence in float64, in chunks, by tokens, with padding."""

from __future__ import annotations

import pytest
import torch

from paribus import masks, parts, positions
from paribus.errors import SpecError
from paribus.nn.cache import Cache, generate
from paribus.nn.flops import forward
from paribus.nn.reach import reach
from paribus.nn.transformer import Transformer
from tests.engine import tiny
from tests.nn.models import model_with, parameters, tokens

mixers, memories = parts.Namespace("mixers"), parts.Namespace("memories")
E, B, H, T, D = 2, 3, 4, 50, 8


def drawn(dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    make = lambda *s: torch.randn(s, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    p = {"gate": make(E, H, 16) / 4, "gate_bias": make(E, H)}
    return p, make(E, B, H, T, D), make(E, B, H, T, D), make(E, B, H, T, D), make(E, B, T, 16)


def recurrence(p, q, k, v, h, tau, eps=1e-5):
    """S ← a S + kᵀ v, o = q S, one token at a time."""
    S, out = torch.zeros(E, B, H, D, D, dtype=torch.float64), []
    for t in range(q.shape[3]):
        gate = torch.einsum("ebd,ehd->ebh", h[:, :, t], p["gate"]) + p["gate_bias"][:, None]
        a = torch.sigmoid(gate) ** (1 / tau)
        S = a[..., None, None] * S + k[..., t, :, None] * v[..., t, None, :]
        out.append(torch.einsum("ebhd,ebhdf->ebhf", q[..., t, :], S))
    o = torch.stack(out, 3)
    return o / (o.square().mean(-1, keepdim=True) + eps).sqrt(), S


@pytest.mark.parametrize("chunk", [1, 7, 16, 64])
@pytest.mark.parametrize("tau", [1.0, 16.0])
def test_chunks_are_the_recurrence(chunk, tau):
    p, q, k, v, h = drawn()
    wanted, last = recurrence(p, q, k, v, h, tau)
    part = mixers.gated_linear(chunk=chunk, tau=tau)
    o, S = part.forward(p, q, k, v, h, None, None)
    torch.testing.assert_close(o, wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(S, last, rtol=1e-10, atol=1e-10)
    p, q, k, v, h = drawn(torch.float32)
    o, S = part.forward(p, q, k, v, h, None, None)
    torch.testing.assert_close(o.double(), wanted, rtol=1e-4, atol=1e-5)


def test_a_long_row_forgets_exactly():
    """Where much was forgotten before, what is kept later is not rounded away."""
    p, q, k, v, h = drawn(torch.float32)
    p = {"gate": p["gate"] * 0, "gate_bias": p["gate_bias"] * 0}
    h[:, :, :25, 0], h[:, :, 25:, 0] = -1.0, 1.0
    p["gate"][..., 0] = 3e5  # a = e^−3e5 for 25 tokens, then 1: the last write of these stays
    _, S = mixers.gated_linear(chunk=4, tau=1.0).forward(p, q, k, v, h, None, None)
    late = [x[..., 24:, :].double() for x in (q, k, v)]
    _, wanted = recurrence(
        {n: t.double() * 0 + 99 for n, t in p.items()}, *late, h[:, :, 24:].double().abs(), 1.0
    )
    torch.testing.assert_close(S.double(), wanted, rtol=1e-4, atol=1e-4)


def test_a_state_goes_on():
    p, q, k, v, h = drawn()
    part = mixers.gated_linear(chunk=16)
    wanted, last = part.forward(p, q, k, v, h, None, None)
    out, S = [], None
    for a, b in ((0, 20), (20, 21), (21, T)):
        o, S = part.forward(p, *(x[..., a:b, :] for x in (q, k, v)), h[:, :, a:b], S, None)
        out.append(o)
    torch.testing.assert_close(torch.cat(out, 3), wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(S, last, rtol=1e-10, atol=1e-10)


def test_padding_leaves_the_state_as_it_is():
    core = Transformer(model_with(mixer=mixers.gated_linear(chunk=8), position=None))
    p, ids = parameters(core.model, [0]), tokens([0])
    n = ids.shape[2]
    valid = torch.ones(1, 3, n, dtype=torch.bool)
    valid[..., :9] = False
    found = core(p, ids, valid_EBT=valid)[:, :, 9:]
    torch.testing.assert_close(found, core(p, ids[..., 9:]), atol=1e-5, rtol=1e-5)


def test_long_decays_stay_finite():
    p, q, k, v, h = drawn(torch.float32)
    p["gate_bias"] = p["gate_bias"] - 200
    p = {n: t.requires_grad_() for n, t in p.items()}
    o, S = mixers.gated_linear(tau=1.0).forward(p, q, k, v, h, None, None)
    grads = torch.autograd.grad(o.sum() + S.sum(), list(p.values()))
    assert all(x.isfinite().all() for x in (o, S, *grads))


def test_decoding_holds_a_state_of_constant_size():
    model = model_with(mixer=mixers.gated_linear(chunk=8))
    core, p = Transformer(model), parameters(model, [0, 1])
    prompt = tokens([0, 1], length=10)
    new = generate(core, p, prompt, 12)
    whole = core(p, torch.cat([prompt, new], 2))
    assert torch.equal(whole[:, :, 9:-1].argmax(-1), new)
    cache = Cache(core.dims, 2, 3, 100)
    core(p, prompt, cache=cache)
    had = cache.bytes
    core(p, new, cache=cache)
    told = reach(model, 10)
    assert cache.bytes == had == 2 * 3 * told.state_bytes
    assert reach(model, 100_000).state_bytes == told.state_bytes == 2 * 4 * 16 * 16 * 4
    assert forward(model, 64)["scores"] == forward(model, 65536)["scores"]
    twice = cache.repeated(torch.tensor([2, 0, 0]), 100)
    assert torch.equal(twice.state(0), cache.state(0)[:, [2, 0, 0]])


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"mask": masks.sliding_window(size=4)}, "masks.causal"),
        ({"position": positions.alibi()}, "changes scores"),
        ({"attn_dropout": 0.1}, "no attention probabilities"),
        ({"memory": memories.recurrence(segment=4, cache=4)}, "memory of its own"),
    ],
)
def test_what_does_not_go_with_it_is_refused(fields, why):
    with pytest.raises(SpecError, match=why):
        tiny.spec(model=tiny.model(mixer=mixers.gated_linear(), **fields))


def test_trials_stack_and_resume():
    def members():
        return [
            tiny.member(s, model=tiny.model(mixer=mixers.gated_linear(chunk=8))) for s in (1, 2)
        ]

    stack = members()
    tiny.train(stack)
    for mine, m in zip(stack, members(), strict=True):
        trainer = tiny.Trainer([m], tiny.Settings(), tiny.Data(tiny.Path("unused")))
        trainer.hooks.stop = iter([False] * 5 + [True] * 9).__next__
        with pytest.raises(tiny.Stopped):
            trainer.run()
        m.state = trainer.snapshot(0)
        tiny.train([m])
        assert tiny.equal(m, mine)

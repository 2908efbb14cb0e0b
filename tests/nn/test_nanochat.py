"""nanochat's model and recipe against its published counts and against a second writing of both,
in plain float64, from which nothing is taken."""

from __future__ import annotations

import math

import pytest
import torch

from paribus import parts, presets
from paribus.engine.train import Trainer
from paribus.nn import flops
from paribus.nn.declare import counts, declare, total
from paribus.nn.initialise import initialise
from paribus.nn.transformer import Transformer
from paribus.spec import InitScheme
from tests.engine import tiny
from tests.nn.models import assert_stack_is_bit_equal, parameters, tokens

masks, norms, schedules = (parts.Namespace(k) for k in ("masks", "norms", "schedules"))
INIT = {"every": parts.Namespace("init").nanochat()}


@pytest.mark.parametrize("depth", [2, 4, 8, 12, 20, 26, 32])
def test_parameters_are_those_of_the_formula(depth):
    model = presets.nanochat(depth)
    D = 64 * depth
    assert total(model) == 2 * 65_536 * D + 12 * depth * D**2
    assert counts(model)["groups"].keys() == {"embedding", "attention", "mlp", "head"}
    assert declare(model)["blocks.0.attn.q"].shape == (D, D)
    assert model.heads == D // 128


def test_parameters_and_flops_as_published():
    """Its FLOPs count attention over all keys; under a causal mask half of that is done."""
    assert total(presets.nanochat()) == total(presets.nanochat(20)) == 560_988_160
    dense = presets.nanochat(20, mask=masks.full())
    assert flops.training(dense, 2048) == pytest.approx(3.491758e9, abs=500)
    assert flops.training(dense, 8192) == pytest.approx(5.379195e9, abs=500)
    own = flops.forward(presets.nanochat(20), 2048)
    assert own["scores"] == flops.forward(dense, 2048)["scores"] * 2049 / 4096


def test_first_values():
    model = presets.nanochat(4, vocab=512)
    p = initialise(model, InitScheme(**INIT), [0], torch.float64)
    for path, t in p.items():
        if path == "head" or path.endswith((".o", ".down")):
            assert not t.any(), path
            continue
        out, into = t.shape[1:]
        std = 1.0 if path == "embed.tokens" else min(1, math.sqrt(out / into)) / math.sqrt(into)
        assert t.std().item() == pytest.approx(std, rel=0.02), path
    ids = tokens([0], 2, 9)
    assert not Transformer(model)(p, ids).any(), "all tokens are equally likely at first"


# ── a second writing ────────────────────────────────────────────────────────────────────────


def rms(x):
    return x / (x.square().mean(-1, keepdim=True) + 2**-23).sqrt()


def turned(x_BTHd):
    """Half-split, by −θ, before the norm: as nanochat's code has it.  A turn by −θ is one by θ of a
    head whose second half has the other sign, so with the same weights scores differ; here the sign
    is taken off first, and everything else (init, norms, Muon) knows no difference."""
    T, d = x_BTHd.shape[1], x_BTHd.shape[3]
    angle = torch.arange(T, dtype=torch.float64)[:, None] * 10000.0 ** (
        -torch.arange(0, d, 2, dtype=torch.float64) / d
    )
    cos, sin = angle.cos()[None, :, None], angle.sin()[None, :, None]
    a, b = x_BTHd[..., : d // 2], -x_BTHd[..., d // 2 :]
    return torch.cat([a * cos + b * sin, -a * sin + b * cos], 3)


def plain(p, ids_BT, layers, heads):
    """Logits [B,T,V] of one trial's parameters."""
    x = rms(p["embed.tokens"][ids_BT])
    B, T = ids_BT.shape
    for i in range(layers):
        own = {k.rsplit(".", 1)[1]: t for k, t in p.items() if k.startswith(f"blocks.{i}.")}
        h = rms(x)
        q, k, v = ((h @ own[n].T).view(B, T, heads, -1) for n in "qkv")
        q, k = rms(turned(q)), rms(turned(k))
        s = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1])
        s = s.masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
        o = torch.einsum("bhts,bshd->bthd", s.softmax(-1), v).reshape(B, T, -1)
        x = x + o @ own["o"].T
        x = x + (rms(x) @ own["up"].T).relu() ** 2 @ own["down"].T
    return 15 * torch.tanh(rms(x) @ p["head"].T / 15)


SMALL = {"vocab": 96}


def test_logits_are_those_of_the_second_writing():
    model = presets.nanochat(4, **SMALL)
    p = {k: t.detach() * 4 for k, t in parameters(model, [3], torch.float64).items()}
    ids = tokens([3], 2, 17) % 96
    found = Transformer(model)(p, ids)[0]
    want = plain({k: t[0] for k, t in p.items()}, ids[0], 4, 2)
    assert want.abs().max() > 5, "the cap shows"
    torch.testing.assert_close(found, want, atol=1e-10, rtol=1e-10)


def orthogonal(g):
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def test_ten_steps_of_the_recipe_are_those_of_the_second_writing():
    """Model, init, clip, Muon, AdamW groups and warm-down together: losses to 1e-9."""
    steps, vocab = 10, tiny.spec().task.io().vocab
    member = tiny.member(
        5, model=presets.nanochat(2, vocab=vocab), optim=parts.Namespace("optim").muon_adamw(),
        schedule=schedules.wsd(decay=0.2, reach=False), steps=steps, clip=1.0, precision="fp64",
        init=INIT,
    )  # fmt: skip
    spec = member.phases[0].spec
    trainer = Trainer([member], tiny.Settings(), tiny.Data(tiny.Path("unused")))
    source = spec.task.open(trainer.data.bind("train"), "cpu")
    p = initialise(spec.model, spec.init, [5], torch.float64)
    p = {k: t[0].clone().requires_grad_() for k, t in p.items()}
    first, second = ({k: torch.zeros_like(t) for k, t in p.items()} for _ in range(2))
    losses = []
    for step in range(steps):
        batch = source.batch(5, step, range(step * spec.rows, (step + 1) * spec.rows))
        logits = plain(p, batch["inputs"].long(), 2, 1)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
        losses.append(loss.item())
        grads = dict(zip(p, torch.autograd.grad(loss, list(p.values())), strict=True))
        norm = sum(g.square().sum() for g in grads.values()) ** 0.5
        factor = min(1.0, (steps - step) / (0.2 * steps))
        mu = 0.85 + 0.1 * step / 300
        for k, w in p.items():
            g = grads[k] * min(1.0, 1 / (norm.item() + 1e-6))
            if k in ("head", "embed.tokens"):
                lr = {"head": 0.004, "embed.tokens": 0.2}[k] * (128 / 768) ** -0.5
                first[k] = 0.8 * first[k] + 0.2 * g
                second[k] = 0.95 * second[k] + 0.05 * g * g
                m, v = first[k] / (1 - 0.8 ** (step + 1)), second[k] / (1 - 0.95 ** (step + 1))
                change = lr * m / (v.sqrt() + 1e-10)
            else:
                first[k] = mu * first[k] + (1 - mu) * g
                u = (1 - mu) * g + mu * first[k]
                change = 0.02 * max(1, w.shape[0] / w.shape[1]) ** 0.5 * orthogonal(u)
            with torch.no_grad():
                w -= factor * change
    trainer.run()
    found = trainer.curve(0)["loss"]
    assert losses[0] == pytest.approx(math.log(vocab), rel=1e-12)
    gap = max(abs(a / b - 1) for a, b in zip(found, losses, strict=True))
    print("largest relative gap", gap)
    assert gap < 1e-9
    assert max(losses) - min(losses) > 0.05


def test_a_stack_is_bit_equal_to_its_trials():
    assert_stack_is_bit_equal([presets.nanochat(2, vocab=128)] * 3)


def test_a_norm_of_the_embedding_learns_where_it_has_gains():
    model = presets.nanochat(2, vocab=96, embed_norm=norms.layernorm())
    assert {"embed_norm.gain", "embed_norm.bias"} <= declare(model).keys()
    p, ids = parameters(model, [0]), tokens([0], 2, 9) % 96
    Transformer(model)(p, ids).square().sum().backward()
    assert p["embed_norm.gain"].grad.any()

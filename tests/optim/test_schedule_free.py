"""Schedule-free AdamW against the published loop, and which weights it is judged by."""

from __future__ import annotations

import pytest
import torch

from paribus import optim, parts
from paribus.engine import checkpoint
from paribus.engine.members import weights_of
from paribus.nn.transformer import Transformer
from tests.engine import tiny
from tests.optim.test_optimizers import DECAY, DECLARED, LR, run, stack, vectors

schedules = parts.Namespace("schedules")


def published(first, fed, lr, decay, betas, warmup, eps=1e-8):
    """The loop of facebookresearch/schedule_free (AdamWScheduleFree, r = 0, weight_lr_power = 2):
    (y, x)."""
    y, z, square, total, top = first.clone(), first.clone(), torch.zeros_like(first), 0.0, 0.0
    for k, g in enumerate(fed):
        now = lr * (min((k + 1) / warmup, 1.0) if warmup else 1.0)
        top = max(top, now)
        weight = top**2
        total += weight
        c = weight / total if total else 0.0
        square = betas[1] * square + (1 - betas[1]) * g * g
        step = g / ((square / (1 - betas[1] ** (k + 1))).sqrt() + eps) + decay * y
        y = y.lerp(z, c) + step * now * (betas[0] * (1 - c) - 1)
        z = z - now * step
    return y, y.lerp(z, 1 - 1 / betas[0])


@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("decay", ["matrices", "all"])
def test_it_is_the_published_loop(warmup, decay):
    part = optim.schedule_free(lr=1, betas=(0.9, 0.99), warmup=warmup, decay=decay)
    first, _, fed, _ = run(part)
    params = {k: t.clone() for k, t in first.items()}
    state = part.state(params, DECLARED)
    for step, grads in enumerate(fed):
        part.update(
            vectors(stack(part), step, dtype=torch.float64), params, grads, state, step, DECLARED
        )
    kept = part.weights(params, state)
    for e in range(3):
        for path, t in first.items():
            own = DECAY[e] if decay == "all" or DECLARED[path].decay else 0.0
            y, x = published(t[e], [g[path][e] for g in fed], LR[e], own, (0.9, 0.99), warmup)
            torch.testing.assert_close(params[path][e], y, atol=1e-10, rtol=1e-10)
            torch.testing.assert_close(kept[path][e], x, atol=1e-10, rtol=1e-10)


def test_what_is_kept_is_the_mean_of_the_iterates():
    """Without a warm-up x is the plain mean of all z; y stands between."""
    part = optim.schedule_free(lr=1, weight_decay=0.0)
    first, _, fed, _ = run(part)
    params = {k: t.clone() for k, t in first.items()}
    state, seen = part.state(params, DECLARED), []
    for step, grads in enumerate(fed):
        v = vectors(stack(part), step, dtype=torch.float64)
        part.update(v, params, grads, state, step, DECLARED)
        seen.append(state["z"]["w"].clone())
    mean = torch.stack(seen).mean(0)
    torch.testing.assert_close(part.weights(params, state)["w"], mean, atol=1e-10, rtol=1e-10)
    between = 0.9 * mean + 0.1 * seen[-1]
    torch.testing.assert_close(params["w"], between, atol=1e-10, rtol=1e-10)


def test_a_trial_is_judged_by_the_mean_and_resumes_from_what_it_trains():
    own = {"optim": optim.schedule_free(lr=1e-2, warmup=3), "schedule": schedules.constant()}
    m = tiny.member(1, **own)
    trainer = tiny.train([m])
    kept, y = weights_of(m.state[0], m.phases[-1].spec.optim), m.state[0]
    assert any(not torch.equal(t, y[f"param/{k}"]) for k, t in kept.items())
    for k, t in trainer.weights().items():
        assert torch.equal(t[0], kept[k])
    batch = trainer._batch(0, range(8))
    losses = {}
    for name, p in (("x", kept), ("y", {k: y[f"param/{k}"] for k in kept})):
        out = Transformer(trainer.specs[0].model)(
            {k: t[None] for k, t in p.items()}, batch["inputs"]
        )
        s, n = trainer.specs[0].task.loss(out, batch)
        losses[name] = float(s / n)
    assert losses["x"] != losses["y"]
    part = tiny.member(1, **own)
    half = tiny.Trainer([part], tiny.Settings(), tiny.Data(tiny.Path("unused")))
    half.hooks.stop = iter([False] * 5 + [True] * 9).__next__
    with pytest.raises(tiny.Stopped):
        half.run()
    part.state = half.snapshot(0)
    assert checkpoint.encode(*part.state)
    tiny.train([part])
    assert tiny.equal(part, m)


def test_a_later_phase_with_another_optimizer_begins_with_the_mean():
    a = tiny.spec(optim=optim.schedule_free(lr=1e-2), schedule=schedules.constant(), steps=6)
    b = tiny.spec(optim=optim.adamw(lr=0.0), schedule=schedules.constant(), steps=2)
    both, first = tiny.member(1, a, b, optims=("reset", "reset")), tiny.member(1, a)
    tiny.train([both])
    tiny.train([first])
    for k, t in weights_of(first.state[0], a.optim).items():
        assert torch.equal(both.state[0][f"param/{k}"], t)

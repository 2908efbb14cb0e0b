"""Optimizers against torch's own, in float64, with a learning rate for each trial."""

from __future__ import annotations

import pytest
import torch

from paribus import parts
from paribus.contracts import P
from paribus.engine.updating import vectors
from paribus.errors import SpecError

optim = parts.Namespace("optim")
SHAPES = {"w": (3, 4), "bias": (5,), "table": (2, 3, 2)}
DECLARED = {path: P(shape, decay=path != "bias") for path, shape in SHAPES.items()}
LR, DECAY = [1e-2, 3e-3, 0.0], [0.1, 0.4, 0.2]


def stack(part, trials=(0, 1, 2)):
    """The part with the rate and decay of each trial."""
    fields = parts.hints(type(part))
    own = [{"lr": LR[e], "weight_decay": DECAY[e]} for e in trials]
    return [parts.changed(part, {k: x for k, x in of.items() if k in fields}) for of in own]


def run(part, steps=12, dtype=torch.float64):
    """(our parameters [E, …], the gradients fed) after some steps; the lr falls as it goes."""
    g = torch.Generator().manual_seed(0)
    make = lambda s: torch.randn(3, *s, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    params = {path: make(s) for path, s in SHAPES.items()}
    first = {path: t.clone() for path, t in params.items()}
    fed = [{path: make(s) for path, s in SHAPES.items()} for _ in range(steps)]
    state = part.state(params, DECLARED)
    for step, grads in enumerate(fed):
        before = {path: t.clone() for path, t in grads.items()}
        v = vectors(stack(part), step, [1 / (step + 1)] * 3, dtype=torch.float64)
        part.update(v, params, grads, state, step, DECLARED)
        assert all(torch.equal(grads[k], before[k]) for k in grads), "gradients are only read"
    return first, params, fed, state


def theirs(make, first, fed, trial, decay):
    """torch's optimizer on one trial."""
    ours = {path: t[trial].clone().requires_grad_() for path, t in first.items()}
    groups = [
        {"params": [t], "weight_decay": DECAY[trial] if path in decay else 0.0}
        for path, t in ours.items()
    ]
    optimizer = make(groups)
    for step, grads in enumerate(fed):
        for group in optimizer.param_groups:
            group["lr"] = LR[trial] / (step + 1)
        for path, t in ours.items():
            t.grad = grads[path][trial].clone()
        optimizer.step()
    return ours


CASES = {
    "adamw": (
        optim.adamw(lr=1, betas=(0.9, 0.95)),
        lambda g: torch.optim.AdamW(g, lr=1, betas=(0.9, 0.95)),
        {"w", "table"},
    ),
    "adamw-all": (
        optim.adamw(lr=1, decay="all", eps=1e-3),
        lambda g: torch.optim.AdamW(g, lr=1, betas=(0.9, 0.95), eps=1e-3),
        set(SHAPES),
    ),
    "adam": (optim.adam(lr=1), lambda g: torch.optim.Adam(g, lr=1), set()),
    "sgd": (optim.sgd(lr=1), lambda g: torch.optim.SGD(g, lr=1), {"w", "table"}),
    "momentum": (
        optim.sgd(lr=1, momentum=0.8, decay="all"),
        lambda g: torch.optim.SGD(g, lr=1, momentum=0.8),
        set(SHAPES),
    ),
    "nesterov": (
        optim.sgd(lr=1, momentum=0.8, nesterov=True),
        lambda g: torch.optim.SGD(g, lr=1, momentum=0.8, nesterov=True),
        {"w", "table"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_torch(case):
    part, make, decay = CASES[case]
    first, params, fed, _ = run(part)
    for trial in range(3):
        for path, t in theirs(make, first, fed, trial, decay).items():
            torch.testing.assert_close(params[path][trial], t.detach(), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("cls", list(parts.scan("optim")), ids=lambda c: c.__part__)
def test_stack_is_bit_equal_and_state_is_per_trial(cls):
    part = parts.construct(cls, getattr(cls, "example", {}))
    first, params, fed, state = run(part, dtype=torch.float32)
    for tensors in state.values():
        for path, t in tensors.items():
            assert t.shape[0] == 3, path
            assert t.dtype == torch.float32
    for trial in range(3):
        own = {path: t[trial : trial + 1].clone() for path, t in first.items()}
        mine = part.state(own, DECLARED)
        for step, grads in enumerate(fed):
            v = vectors(stack(part, [trial]), step, [1 / (step + 1)], dtype=torch.float64)
            one = {path: t[trial : trial + 1] for path, t in grads.items()}
            part.update(v, own, one, mine, step, DECLARED)
        for path in own:
            assert torch.equal(own[path][0], params[path][trial]), path


@pytest.mark.parametrize("cls", list(parts.scan("optim")), ids=lambda c: c.__part__)
def test_state_is_fp32_at_least(cls):
    part = parts.construct(cls, getattr(cls, "example", {}))
    for dtype, want in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        state = part.state({"w": torch.zeros(2, 3, dtype=dtype)}, {"w": P((3,))})
        assert all(t.dtype == want for s in state.values() for t in s.values())


def test_nesterov_needs_momentum():
    with pytest.raises(SpecError, match="momentum"):
        optim.sgd(lr=0.1, nesterov=True)


@pytest.mark.parametrize("decay", ["matrices", "all"])
def test_lion_is_the_published_loop(decay):
    part = optim.lion(lr=1, betas=(0.9, 0.98), decay=decay)
    first, params, fed, _ = run(part)
    for e in range(3):
        for path, t in first.items():
            w, m = t[e].clone(), torch.zeros_like(t[e])
            decays = DECAY[e] if decay == "all" or DECLARED[path].decay else 0.0
            for step, grads in enumerate(fed):
                lr, g = LR[e] / (step + 1), grads[path][e]
                w = w * (1 - lr * decays) - lr * torch.sign(0.9 * m + 0.1 * g)
                m = 0.98 * m + 0.02 * g
            torch.testing.assert_close(params[path][e], w, atol=1e-12, rtol=1e-12)

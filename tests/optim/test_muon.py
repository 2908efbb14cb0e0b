"""Muon and AdamW: against torch's own, a singular value decomposition, and a plain loop."""

from __future__ import annotations

import math

import pytest
import torch

from paribus import parts
from paribus.contracts import P
from paribus.engine.updating import vectors
from paribus.nn import flops
from paribus.nn.declare import declare
from tests.engine import tiny

muon = parts.Namespace("optim").muon_adamw
ROLES = {
    "embed.tokens": P((50, 24), role="embedding"),
    "blocks.0.attn.q": P((24, 24), role="q"),
    "blocks.1.attn.q": P((24, 24), role="q"),
    "blocks.0.mlp.up": P((96, 24), role="up"),
    "blocks.0.mlp.down": P((24, 96), role="down"),
    "blocks.0.norm1.gain": P((24,), decay=False, role="gain"),
    "position.table": P((16, 24), role="position"),
    "head": P((50, 24), role="head"),
}
MATRICES = [k for k in ROLES if ".attn." in k or ".mlp." in k]
TRIALS = 3


def drawn(dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    make = lambda p: torch.randn(TRIALS, *p.shape, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    return {k: make(p) for k, p in ROLES.items()}


def trained(stack, steps=6, dtype=torch.float64, factor=lambda step: 1 / (step + 1)):
    """(first, last parameters [E, …], gradients of each step, state)."""
    first = drawn(dtype)
    w, fed = {k: t.clone() for k, t in first.items()}, [drawn(dtype, 1 + i) for i in range(steps)]
    state = stack[0].state(w, ROLES)
    for step, grads in enumerate(fed):
        v = vectors(stack, step, [factor(step)] * TRIALS, dtype=dtype)
        stack[0].update(v, w, grads, state, step, ROLES)
    return first, w, fed, state


def quintic(u):
    """The published iteration on one matrix, in its own words."""
    x = u.T if u.shape[0] > u.shape[1] else u
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if u.shape[0] > u.shape[1] else x


def test_matrices_go_as_the_published_loop_says():
    """fp64: μ rises from 0.85 to 0.95, the factor of tall matrices, rates of their own."""
    stack = [muon(lr=lr, momentum_steps=4) for lr in (0.02, 0.05, 0.0)]
    first, w, fed, state = trained(stack)
    assert set(state["momentum"]) == set(MATRICES)
    for e, part in enumerate(stack):
        for path in MATRICES:
            mine, m = first[path][e].clone(), torch.zeros_like(first[path][e])
            for step, grads in enumerate(fed):
                g, mu = grads[path][e], 0.85 + 0.1 * min(step / 4, 1)
                m = m.lerp(g, 1 - mu)
                scale = max(1, mine.shape[0] / mine.shape[1]) ** 0.5
                mine = mine - part.lr / (step + 1) * scale * quintic(g.lerp(m, mu))
            torch.testing.assert_close(w[path][e], mine, atol=1e-12, rtol=1e-10)


def test_momentum_rises_over_300_steps():
    """The published ramp: at step 150 it is 0.9."""
    part, path = muon(), "blocks.0.attn.q"
    for step, mu in ((0, 0.85), (150, 0.9), (300, 0.95), (9000, 0.95)):
        w, g = drawn(), drawn(seed=1)
        state = part.state(w, ROLES)
        part.update(vectors([part] * TRIALS, step), w, g, state, step, ROLES)
        torch.testing.assert_close(state["momentum"][path], (1 - mu) * g[path])


@pytest.mark.parametrize("iteration", ["bf16", "fp32"])
def test_equals_torchs_muon(iteration):
    """torch iterates in bf16: steps agree to a few per cent of their size."""
    part = muon(lr=0.02, momentum_start=0.95, iteration=iteration)
    first, w, fed, _ = trained([part] * TRIALS, dtype=torch.float32)
    worst = 0.0
    for path in MATRICES:
        t = first[path][0].clone().requires_grad_()
        theirs = torch.optim.Muon([t], lr=0.02, weight_decay=0.0, momentum=0.95, nesterov=True)
        for step, grads in enumerate(fed):
            theirs.param_groups[0]["lr"] = 0.02 / (step + 1)
            t.grad = grads[path][0].clone()
            theirs.step()
        moved, mine = t.detach() - first[path][0], w[path][0] - first[path][0]
        worst = max(worst, float((moved - mine).norm() / moved.norm()))
    print(f"{iteration}: {worst:.4f} of a step")
    assert worst < 0.03


@pytest.mark.parametrize("iteration", ["bf16", "fp32"])
@pytest.mark.parametrize("shape", [(24, 24), (96, 24), (24, 96), (4, 60)])
def test_singular_values_come_near_one_and_vectors_stay(shape, iteration):
    """Of values above a hundredth of the norm: 0.68 … 1.14, as the five steps are made to; and
    Uᵀ o(u) V is diagonal, since the step is an odd polynomial of u."""
    g = torch.Generator().manual_seed(0)
    u = torch.randn(5, *shape, generator=g)
    part = muon(iteration=iteration)
    x = u if shape[0] <= shape[1] else u.mT
    o = part._orthogonal(x).double()
    U, S, Vh = torch.linalg.svd(x.double(), full_matrices=False)
    inner = U.mT @ o @ Vh.mT
    values = inner.diagonal(dim1=1, dim2=2)
    off = inner - torch.diag_embed(values)
    clear = S / S.square().sum(1, keepdim=True).sqrt() > 0.01
    assert clear.float().mean() > 0.9
    assert values[clear].min() > 0.67
    assert values[clear].max() < 1.15
    assert values.min() > 0
    assert off.abs().max() < (0.05 if iteration == "bf16" else 2e-5)


def test_the_rest_goes_as_torchs_adamw():
    """fp64, 1e-12: rates of their own, those of embedding and head by width, no decay."""
    for by_width in (True, False):
        part = muon(embedding_lr=0.2, head_lr=0.004, rest_lr=0.01, by_width=by_width)
        first, w, fed, state = trained([part] * TRIALS)
        wide = (24 / 768) ** -0.5 if by_width else 1.0
        rates = {"embed.tokens": 0.2 * wide, "head": 0.004 * wide}
        for path in ROLES.keys() - set(MATRICES):
            t = first[path].clone().requires_grad_()
            rate = rates.get(path, 0.01)
            theirs = torch.optim.AdamW([t], lr=1, betas=(0.8, 0.95), eps=1e-10, weight_decay=0)
            for step, grads in enumerate(fed):
                theirs.param_groups[0]["lr"] = rate / (step + 1)
                t.grad = grads[path].clone()
                theirs.step()
            torch.testing.assert_close(w[path], t.detach(), atol=1e-12, rtol=1e-12)
            assert path in state["mean"]
            assert path in state["square"]


@pytest.mark.parametrize("iteration", ["bf16", "fp32"])
def test_a_stack_is_bit_equal_to_its_trials(iteration):
    """With one thread, in bf16 too on processors that were tried; fp32 is what is promised."""
    part = muon(iteration=iteration)
    stack = [parts.changed(part, {"lr": lr}) for lr in (0.02, 0.05, 0.1)]
    first, w, fed, _ = trained(stack, dtype=torch.float32)
    for e in range(TRIALS):
        own = {k: t[e : e + 1].clone() for k, t in first.items()}
        state = part.state(own, ROLES)
        for step, grads in enumerate(fed):
            v = vectors(stack[e : e + 1], step, [1 / (step + 1)])
            one = {k: t[e : e + 1] for k, t in grads.items()}
            part.update(v, own, one, state, step, ROLES)
        assert all(torch.equal(own[k][0], w[k][e]) for k in own)


def test_a_model_trains_in_a_stack_as_alone():
    part = muon(iteration="fp32", embedding_lr=0.003)  # a tied table is an embedding
    a, b = (tiny.member(seed, optim=part, steps=40) for seed in (1, 2))
    losses = tiny.train([a, b]).curve(0)["loss"]
    assert sum(losses[-5:]) < sum(losses[:5]) - 1
    alone = tiny.member(1, optim=part, steps=40)
    tiny.train([alone])
    assert tiny.equal(a, alone)


def test_the_estimate_of_memory_counts_its_state():
    model = tiny.spec().model
    declared, part = declare(model), muon()
    w = {k: torch.empty(1, *p.shape) for k, p in declared.items()}
    made = part.state(w, declared)
    held = sum(t.nbytes for of in made.values() for t in of.values())
    assert flops.memory(model, trials=1, rows=1, length=8, optim=part)["optimizer"] == held
    matrices = sum(math.prod(p.shape) for k, p in declared.items() if k.startswith("blocks"))
    assert held < 8 * sum(math.prod(p.shape) for p in declared.values()) - 3 * matrices

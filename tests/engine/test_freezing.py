"""Freezing in training: what is frozen stays, alone and in stacks that freeze different things."""

from __future__ import annotations

import itertools
import typing

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from paribus import init, mlps, norms, optim, positions
from paribus.engine.freezing import Freezing
from paribus.engine.members import Member, Stopped
from paribus.engine.train import Hooks, Trainer
from paribus.nn import transformer
from paribus.nn.declare import declare
from paribus.spec import pack_key
from tests.engine import tiny

QK = ("*.attn.q", "*.attn.k")
KINDS = {
    "free": (),
    "qk": QK,
    "q": ("*.attn.q",),
    "ffn": ("*.mlp.*",),
    "all but embeddings": ("blocks.*", "final_norm.*"),
}


def gpt(**changes: typing.Any) -> typing.Any:
    more = dict(position=positions.learned(length=32), norm=norms.layernorm(), attn_bias=False)
    return tiny.model(**{**more, "mlp": mlps.gelu(ratio=2, exact=True), **changes})


def arm(name: str, seed: int = 1, **changes: typing.Any) -> Member:
    """A: GPT; B: orthogonal queries and keys; C: B with both frozen."""
    own: dict[str, typing.Any] = {} if name == "A" else {"init.qk": init.orthogonal()}
    own |= {"freeze": QK} if name == "C" else {}
    return tiny.member(seed, **{"model": gpt(), "init": {"every": init.normal()}, **own, **changes})


def begun(m: Member) -> Trainer:
    trainer = Trainer([m], tiny.Settings(), tiny.Data(tiny.Path("unused")))
    trainer._enter(0)
    return trainer


def frozen(path: str) -> bool:
    return path.endswith((".attn.q", ".attn.k"))


def off(w: torch.Tensor) -> float:
    w = w.detach().double()
    return float((w @ w.T - torch.eye(len(w))).abs().max())


@pytest.mark.parametrize("clip", [1.0, None])
def test_fifty_steps_leave_frozen_tensors_to_the_bit_and_move_all_others(clip) -> None:
    how = {"optim": optim.adamw(lr=3e-3, weight_decay=0.1), "steps": 50, "clip": clip}
    for name, kept in (("B", False), ("C", True)):
        first = {k: t.detach().clone() for k, t in begun(arm(name, **how)).params.items()}
        m = arm(name, **how)
        trainer = tiny.train([m])
        for path, t in trainer.params.items():
            same = kept and frozen(path)
            assert torch.equal(t, first[path]) == same, path
            if frozen(path):
                assert (off(t[0]) <= 1e-5) == kept and (off(t[0]) > 1e-4) != kept
                assert t.requires_grad != kept and t.grad is None
                assert all((path in of) != kept for of in trainer.state.values())
        saved, _ = tiny.result(m)
        assert any("optim/" in k and frozen(k) for k in saved) != kept


def test_decay_of_all_leaves_frozen_tensors_too() -> None:
    m = arm("C", optim=optim.adamw(lr=1e-2, weight_decay=1.0, decay="all"))
    first = begun(m).params["blocks.0.attn.q"].clone()
    assert torch.equal(tiny.train([m]).params["blocks.0.attn.q"], first)


def test_the_frozen_arm_begins_as_the_free_one() -> None:
    b, c, a = (begun(arm(name)) for name in "BCA")
    for path, t in b.params.items():
        assert torch.equal(t, c.params[path]), path
        assert torch.equal(t, a.params[path]) != frozen(path), path
    (gb, sum_b, _), (gc, sum_c, _) = b._gradients(0), c._gradients(0)
    assert torch.equal(sum_b, sum_c)
    grads = dict(zip(b.net.trained, gb, strict=True))
    assert not set(c.net.trained) & {k for k in grads if frozen(k)}
    for path, g in zip(c.net.trained, gc, strict=True):
        assert torch.equal(g, grads[path]), path


def test_the_clip_norm_is_that_of_what_is_trained() -> None:
    c = begun(arm("C"))
    grads, _, _ = c._gradients(0)
    want = torch.cat([g[0].double().flatten() for g in grads]).norm()
    b = begun(arm("B"))
    whole, _, _ = b._gradients(0)
    torch.testing.assert_close(c.net.freezing.norms(grads)[0].double(), want, rtol=1e-6, atol=0)
    assert b.net.freezing.norms(whole)[0] > c.net.freezing.norms(grads)[0]


def test_the_gradient_passes_through_frozen_queries_and_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against finite differences in float64, and against the gradient with both cut off."""
    m = arm("C", precision="fp64", **{"model.tied": False})
    trainer = begun(m)
    p, batch = trainer.params, trainer._batch(0, range(4))
    embed = p["embed.tokens"]

    def loss(table: torch.Tensor) -> torch.Tensor:
        return trainer._loss({**p, "embed.tokens": table}, batch, None, None)[0].sum()

    (g,) = torch.autograd.grad(loss(embed), [embed])
    step, worst = 1e-5, 0.0
    where = [(0, int(i), int(j)) for i in batch["inputs"].unique()[:4] for j in (0, 7, 31)]
    with torch.no_grad():
        for place in where:
            up, down = embed.clone(), embed.clone()
            up[place] += step
            down[place] -= step
            found = (loss(up) - loss(down)) / (2 * step)
            worst = max(worst, float((found - g[place]).abs() / g.abs().max()))
    assert worst <= 1e-5

    real = transformer.attend

    def cut(q: torch.Tensor, k: torch.Tensor, *rest: typing.Any, **how: typing.Any) -> typing.Any:
        return real(q.detach(), k.detach(), *rest, **how)

    monkeypatch.setattr(transformer, "attend", cut)
    (other,) = torch.autograd.grad(loss(embed), [embed])
    assert float((other - g).abs().max() / g.abs().max()) > 1e-3


def test_the_products_of_frozen_weights_are_left_out() -> None:
    """Counted in a step of the trainer: one product a matrix and trial less, and no other."""
    counted = {}
    for name, kinds in {"free": ["B", "B"], "mixed": ["B", "C"], "frozen": ["C", "C"]}.items():
        members = [arm(kind, s) for s, kind in enumerate(kinds)]
        trainer = Trainer(members, tiny.Settings(), tiny.Data(tiny.Path("unused")))
        trainer._enter(0)
        with FlopCounterMode(display=False) as counter:
            trainer._gradients(0)
        counted[name] = counter.get_total_flops()
    spec = members[0].phases[0].spec
    tokens = (spec.rows or 0) * (spec.task.io().length or 0)
    assert counted["free"] - counted["frozen"] == 2 * 2 * 2 * (2 * tokens * 32 * 32)
    assert counted["mixed"] == counted["free"]


# ── stacks ──────────────────────────────────────────────────────────────────────────────────


CHANGES: dict[str, dict[str, typing.Any]] = {
    "adamw": {"optim": optim.adamw(lr=3e-3, weight_decay=0.3, decay="all")},
    "momentum": {"optim": optim.sgd(lr=0.1, momentum=0.9, weight_decay=0.1)},
    "sgd": {"optim": optim.sgd(lr=0.1)},
    "no clip": {"clip": None},
    "hard clip": {"clip": 0.05},
    "fp16": {"precision": "fp16"},
    "fp64": {"precision": "fp64"},
    "dropout": {"model.dropout": 0.1},
}


def mixed(**changes: typing.Any) -> list[Member]:
    return [tiny.member(s, freeze=f, **changes) for s, f in enumerate(KINDS.values())]


@pytest.mark.parametrize("how", CHANGES)
def test_a_stack_of_frozen_and_free_trials_gives_the_bits_of_each_alone(how: str) -> None:
    changes = {"model": gpt(), "steps": 6, **CHANGES[how]}
    stacked = mixed(**changes)
    assert len({pack_key(m.phases[0].spec) for m in stacked}) == 1
    trainer = tiny.train(stacked)
    for e, (m, alone) in enumerate(zip(stacked, mixed(**changes), strict=True)):
        single = tiny.train([alone])
        assert tiny.equal(m, alone), list(KINDS)[e]
        a, b = trainer.net.freezing, single.net.freezing
        assert a.state_bytes(e, trainer.state) == b.state_bytes(0, single.state)


def test_arms_that_begin_apart_are_stacked_to_the_bits_of_each_alone() -> None:
    """Orthogonal, Gaussian and ordinary first values, frozen and free, in one stack."""

    def arms() -> list[Member]:
        gaussian = {"init.qk": init.normal(std=0.2), "freeze": QK}
        return [arm("A"), arm("B"), arm("C"), arm("A", **gaussian), arm("B", seed=2)]

    stacked = arms()
    assert len({pack_key(m.phases[0].spec) for m in stacked}) == 1
    tiny.train(stacked)
    for m, alone in zip(stacked, arms(), strict=True):
        tiny.train([alone])
        assert tiny.equal(m, alone)


def test_what_all_members_freeze_costs_no_gradient() -> None:
    both = [tiny.member(1, freeze=QK), tiny.member(2, freeze=("*.attn.*",))]
    trainer = Trainer(both, tiny.Settings(), tiny.Data(tiny.Path("unused")))
    trainer._enter(0)
    assert not any(frozen(k) for k in trainer.net.trained)
    assert trainer.net.freezing.mixed.keys() == {
        f"blocks.{i}.attn.{w}" for i, w in itertools.product((0, 1), "vo")
    }
    assert not any(t.requires_grad for k, t in trainer.params.items() if frozen(k))


def test_a_diverged_member_leaves_the_others() -> None:
    rates = [1e-3, 1e30, 1e-3]

    def members() -> list[Member]:
        return [
            tiny.member(s, freeze=KINDS[f], optim=optim.adamw(lr=lr), steps=8)
            for s, f, lr in zip((1, 2, 3), ("qk", "free", "free"), rates, strict=True)
        ]

    stacked, alone = members(), members()
    tiny.train(stacked)
    for m in alone:
        tiny.train([m])
    assert stacked[1].reason and alone[1].reason
    assert tiny.equal(stacked[0], alone[0]) and tiny.equal(stacked[2], alone[2])


def test_resumed_into_another_stack_gives_the_same_bits() -> None:
    calm = mixed()
    tiny.train(calm)
    begun_ = mixed()
    trainer = Trainer(begun_, tiny.Settings(), tiny.Data(tiny.Path("unused")))
    steps = iter(range(100))
    trainer.hooks = Hooks(stop=lambda: next(steps) >= 5)
    with pytest.raises(Stopped):
        trainer.run()
    states = [trainer.snapshot(e) for e in range(len(begun_))]
    again = mixed()
    for m, state in zip(again, states, strict=True):
        m.state = state
    order = [3, 0, 4]
    tiny.train([again[e] for e in order])
    for e in (1, 2):
        tiny.train([again[e]])
    for a, b in zip(again, calm, strict=True):
        assert tiny.equal(a, b)


def test_phases_may_freeze_and_free() -> None:
    """State is kept for what both phases train; what is freed begins with fresh state."""

    def members() -> list[Member]:
        out = []
        for s, kinds in enumerate((("free", "qk", "free"), ("qk", "free", "ffn"), ("q", "q", "q"))):
            specs = [tiny.spec(freeze=KINDS[k], steps=4) for k in kinds]
            out.append(tiny.member(s, *specs, optims=("reset", "keep", "keep")))
        return out

    stacked, alone = members(), members()
    tiny.train(stacked)
    for m, other in zip(stacked, alone, strict=True):
        tiny.train([other])
        assert tiny.equal(m, other)
    forked = members()
    for m in forked:
        trunk = Member(m.trial, m.name, m.seed, m.phases, until=4)
        tiny.train([trunk])
        m.state = trunk.state
    tiny.train(forked)
    for m, other in zip(forked, alone, strict=True):
        assert tiny.equal(m, other)


def test_groups_of_a_stack() -> None:
    specs = [tiny.spec(freeze=f) for f in KINDS.values()]
    declared = declare(specs[0].model)  # type: ignore[arg-type]
    found = Freezing(declared, specs)
    assert found.trained == list(declared)
    for k, members in found.mixed.items():
        assert members == [e for e, own in enumerate(found.own) if k not in own]

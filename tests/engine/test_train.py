"""Training: stacks, resume, batches, divergence, precision."""

from __future__ import annotations

import random
import typing

import numpy as np
import pytest
import torch

from paribus import arrays, masks, mlps, norms, optim, positions, schedules, tasks
from paribus.engine.budget import Budget, OutOfMemory
from paribus.engine.checkpoint import decode, encode
from paribus.engine.members import Stopped
from paribus.engine.train import Hooks, Trainer
from paribus.engine.updating import Update
from paribus.errors import SpecError
from paribus.spec import resolve
from tests.engine import tiny

VARIED = {
    "positions": {
        "model.position": [
            None, positions.rope(), positions.alibi(), positions.learned(length=32),
            positions.sinusoidal(), positions.kerple(),
        ],
    },
    "rest": {
        "model.mask": [masks.sliding_window(size=5)],
        "model.norm": [norms.layernorm()],
        "model.mlp": [mlps.gelu(ratio=2), mlps.relu2(ratio=2)],
        "model.q_norm": [norms.rmsnorm()],
        "model.kv_heads": [1],
        "model.attn_bias": [True],
        "model.tied": [False],
        "model.dropout": [0.1],
        "optim": [optim.sgd(lr=0.1, momentum=0.9), optim.adam(lr=1e-3)],
        "schedule": [schedules.wsd(decay=0.25), schedules.linear(), schedules.constant()],
        "clip": [None, 0.1],
        "precision": ["fp64", "bf16", "fp16"],
    },
}  # fmt: skip
CASES = [(k, v) for group in VARIED.values() for k, vs in group.items() for v in vs]


@pytest.mark.parametrize(("path", "value"), CASES, ids=lambda x: str(x)[:40])
def test_a_stack_gives_the_bits_of_its_trials_alone(path: str, value: typing.Any) -> None:
    changes = {path: value, "steps": 6}
    stacked = [tiny.member(s, **changes) for s in (1, 2, 3)]
    tiny.train(stacked)
    for s, m in zip((1, 2, 3), stacked, strict=True):
        alone = tiny.member(s, **changes)
        tiny.train([alone])
        assert tiny.equal(m, alone), f"seed {s}"


@pytest.mark.parametrize("size", [2, 5])
def test_stackable_settings_may_differ_in_a_stack(size: int) -> None:
    def each() -> list[typing.Any]:
        return [
            tiny.member(
                s,
                **{
                    "optim": optim.adamw(lr=1e-3 * (s + 1), weight_decay=0.1 * s),
                    "schedule": schedules.cosine(warmup=s + 1),
                    "model.position": positions.rope(base=100.0 * (s + 1)),
                    "steps": 6,
                },
            )
            for s in range(size)
        ]

    stacked = each()
    tiny.train(stacked)
    for m, alone in zip(stacked, each(), strict=True):
        tiny.train([alone])
        assert tiny.equal(m, alone)


class Interrupted(Exception):
    pass


def interrupted(members: list[typing.Any], step: int) -> None:
    """Train to a step, then put the state through a checkpoint's bytes."""

    def stop() -> bool:
        return trainer.step == step

    trainer = Trainer(
        members, tiny.Settings(), tiny.Data(tiny.Path("unused")), Hooks(stop=lambda: stop())
    )
    with pytest.raises(Stopped):
        trainer.run()
    for e, m in enumerate(members):
        m.state = trainer.snapshot(e)


def two(precision: str) -> list[typing.Any]:
    return [tiny.member(s, **{"precision": precision, "model.dropout": 0.1}) for s in (1, 2)]


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def calm(request: pytest.FixtureRequest) -> list[typing.Any]:
    """Two trials of a precision, trained without interruption."""
    members = two(request.param)
    tiny.train(members)
    return members


@pytest.mark.parametrize("step", [1, 5, 6, 7, 11])
def test_resume_is_bit_equal_also_into_another_stack(
    step: int, calm: list[typing.Any], tmp_path: typing.Any
) -> None:
    torn = two(calm[0].phases[0].spec.precision)
    interrupted(torn, step)
    for m in torn:
        for name, content in encode(*m.state).items():
            (tmp_path / name).write_bytes(content)
        m.state = decode({n: tmp_path / n for n in ("state.safetensors", "notes.json")})
        tiny.train([m])  # alone now
    assert all(tiny.equal(a, b) for a, b in zip(calm, torn, strict=True))


def test_phases_go_on_and_resume_bit_equal() -> None:
    first = tiny.spec(steps=5)
    then = tiny.spec(steps=4, optim=optim.adamw(lr=1e-4), schedule=schedules.constant())
    calm, torn = tiny.member(1, first, then), tiny.member(1, first, then)
    tiny.train([calm])
    interrupted([torn], 7)
    tiny.train([torn])
    assert tiny.equal(calm, torn)
    lr = arrays.unpack(tiny.result(calm)[1]["lr"])
    assert len(lr) == 9
    assert np.all(lr[5:] == 1e-4)


@pytest.mark.parametrize("micro", [1, 3, 4])
def test_accumulation_is_the_whole_batch(micro: int) -> None:
    """8 ≡ 4 × 2 within float64 rounding, also where rows count different numbers of targets."""
    changes = {"precision": "fp64", "model.dropout": 0.1}
    whole, cut = tiny.member(1, **changes), tiny.member(1, **changes)
    tiny.train([whole])
    tiny.train([cut], micro=micro)
    (a, _), (b, _) = tiny.result(whole), tiny.result(cut)
    for k in a:
        torch.testing.assert_close(a[k], b[k], rtol=1e-10, atol=1e-12)


def test_accumulation_is_weighted_by_tokens() -> None:
    """Against a float64 reference: the gradient of the mean over all targets of the step."""
    m = tiny.member(1, precision="fp64", steps=1, optim=optim.sgd(lr=1.0), clip=None)
    trainer = tiny.train([m], micro=2)
    start = tiny.member(1, precision="fp64", steps=1, optim=optim.sgd(lr=1.0), clip=None)
    fresh = Trainer([start], tiny.Settings(), tiny.Data(tiny.Path("unused")))
    fresh._enter(0)
    p = {k: t.detach().requires_grad_() for k, t in fresh.params.items()}
    batch = fresh._batch(0, range(8))
    sum_E, count_E = m.phases[0].spec.task.loss(fresh.net(p, batch), batch)
    (sum_E / count_E).sum().backward()
    lr = m.phases[0].spec.schedule.factor(0, 1)
    for k, t in p.items():
        torch.testing.assert_close(trainer.params[k].detach(), t.detach() - lr * t.grad)


def test_no_global_generator_is_read_or_changed() -> None:
    def states() -> tuple[typing.Any, ...]:
        return (
            random.getstate(),
            np.random.get_state()[1].tobytes(),
            torch.get_rng_state().numpy().tobytes(),
        )

    results = []
    for poison in (0, 12345):
        random.seed(poison)
        np.random.seed(poison)
        torch.manual_seed(poison)
        before = states()
        m = tiny.member(1, **{"model.dropout": 0.2, "model.position": positions.kerple()})
        tiny.train([m])
        assert states() == before
        results.append(m)
    assert tiny.equal(*results)


def test_batches_are_equal_across_arms_and_shared_parameters_too() -> None:
    arms = [tiny.member(1, **{"model.position": p}) for p in (None, positions.learned(length=64))]
    seen = []
    for m in arms:
        t = Trainer([m], tiny.Settings(), tiny.Data(tiny.Path("unused")))
        t._enter(0)
        seen.append((t.params, [t._batch(i, range(8)) for i in range(3)]))
    (pa, ba), (pb, bb) = seen
    assert set(pa) < set(pb)
    assert all(torch.equal(pa[k], pb[k]) for k in pa)
    assert all(torch.equal(x[k], y[k]) for x, y in zip(ba, bb, strict=True) for k in x)


def test_a_diverged_member_ends_alone() -> None:
    def members() -> list[typing.Any]:
        return [
            tiny.member(s, optim=optim.sgd(lr=1e38 if s == 2 else 0.1), clip=None)
            for s in (1, 2, 3)
        ]

    stack = members()
    tiny.train(stack)
    assert "step" in stack[1].reason
    assert stack[0].reason is None
    alone = members()[0]
    tiny.train([alone])
    assert tiny.equal(stack[0], alone)


def test_the_realised_lr_is_recorded() -> None:
    m = tiny.member(1)
    tiny.train([m])
    s = m.phases[0].spec
    wanted = [s.optim.lr * s.schedule.factor(i, 12) for i in range(12)]
    assert arrays.unpack(tiny.result(m)[1]["lr"]).tolist() == wanted


def test_frozen_parameters_stay_and_pattern_must_match() -> None:
    m = tiny.member(1, freeze=("*.attn.q", "*.attn.k"))
    trainer = tiny.train([m])
    fresh = Trainer([tiny.member(1)], tiny.Settings(), tiny.Data(tiny.Path("unused")))
    fresh._enter(0)
    for k, t in fresh.params.items():
        assert torch.equal(trainer.params[k], t) == k.endswith((".attn.q", ".attn.k")), k
    assert not any(k.startswith("optim") and ".attn.q" in k for k in tiny.result(m)[0])
    with pytest.raises(SpecError, match="matches no parameter"):
        tiny.train([tiny.member(1, freeze=("*.attn.z",))])


def test_memory_runs_out_at_most_three_times_and_the_batch_stays() -> None:
    first = OutOfMemory(stack=6, micro=24, halvings=0).less()
    assert first == {"stack": 3, "micro": 24, "halvings": 0}
    micro, halvings = 24, 0
    for expected in (12, 6, 3):
        less = OutOfMemory(1, micro, halvings).less()
        assert less is not None
        micro, halvings = less["micro"], less["halvings"]
        assert micro == expected
        pieces = Budget(rows=24, micro=micro).pieces()
        assert [r for piece in pieces for r in piece] == list(range(24))
    assert OutOfMemory(1, micro, halvings).less() is None
    assert OutOfMemory(1, 1, 0).less() is None


@pytest.mark.parametrize("late", [False, True])
def test_out_of_memory_shrinks_the_micro_batch_and_keeps_the_mathematics(
    late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fresh trainer goes on with less from the checkpoint, also when memory ran out in the
    middle of an update: then the step before counts."""
    calm = tiny.member(1, precision="fp64")
    tiny.train([calm])
    owner, place = (Update, "__call__") if late else (Trainer, "_gradients")
    real, failures = getattr(owner, place), iter([True])
    sealed: list[typing.Any] = []

    def broken(self: typing.Any, *given: typing.Any) -> typing.Any:
        if (given[-1] if late else self.step) == 3 and next(failures, False):
            raise torch.OutOfMemoryError("planted")
        return real(self, *given)

    def save(self: Trainer) -> None:
        tensors, notes = self.snapshot(0)
        sealed.append(({k: x.clone() for k, x in tensors.items()}, notes))

    monkeypatch.setattr(owner, place, broken)
    monkeypatch.setattr(Trainer, "save", save)
    m = tiny.member(1, precision="fp64")
    with pytest.raises(OutOfMemory) as found:
        tiny.train([m], checkpoint_steps=2)
    assert [notes["step"] for _, notes in sealed] == ([2] if late else [2, 3])
    less = found.value.less()
    assert less is not None
    again = tiny.member(1, precision="fp64")
    again.state = sealed[-1]
    settings = tiny.Settings()
    data = tiny.Data(tiny.Path("unused"))
    trainer = Trainer([again], settings, data, Hooks(), less["micro"], less["halvings"])
    trainer.run()
    assert trainer.summary(0)["engine"]["micro_batch"] == 4
    assert trainer.summary(0)["engine"]["halvings"] == 1
    for k, t in tiny.result(calm)[0].items():
        torch.testing.assert_close(tiny.result(again)[0][k], t, rtol=1e-10, atol=1e-12)


def test_a_trunk_and_its_fork_give_the_bits_of_a_whole_training() -> None:
    changes: dict[str, typing.Any] = {"schedule": schedules.wsd(decay=0.25)}
    whole = tiny.member(1, **changes)
    tiny.train([whole])
    trunk = tiny.member(1, **changes)
    trunk.until = 7
    tiny.train([trunk])
    assert trunk.step == 7
    child = tiny.member(1, **changes)
    child.state, child.parent = trunk.state, "trunk"
    trainer = tiny.train([child])
    assert tiny.equal(child, whole)
    assert trainer.summary(0)["parent"] == "trunk"


def test_training_lowers_the_loss() -> None:
    m = tiny.member(1, steps=150, optim=optim.adamw(lr=1e-2))
    trainer = tiny.train([m])
    loss = trainer.curve(0)["loss"]
    assert loss[-1] < 0.5 * loss[0]


def test_heads_must_divide() -> None:
    with pytest.raises(SpecError, match="3 heads do not divide width 32"):
        resolve(tiny.spec(**{"model.heads": 3, "model.head_dim": None}))


def test_task_and_model_must_fit() -> None:
    with pytest.raises(SpecError, match="smaller than the tokenizer's vocabulary"):
        tiny.spec(**{"model.vocab": 5})
    with pytest.raises(SpecError, match="ends at 4 tokens"):
        tiny.spec(**{"model.position": positions.learned(length=4)})
    assert tasks.copying(span=3).io().length == 6

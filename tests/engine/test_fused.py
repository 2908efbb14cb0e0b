"""The fused end of a step against the plain one: all parameters as one tensor, compiled."""

from __future__ import annotations

import typing

import pytest
import torch

from paribus import optim
from paribus.engine.train import Hooks, Trainer
from paribus.engine.updating import Flat, Fused, Update
from tests.engine import tiny

HOW: dict[str, typing.Any] = {"compile": "on", "deterministic": False}


@pytest.fixture(autouse=True)
def only_the_update_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass itself takes a minute of a CPU's compiler and is not what is tested."""
    plain = Trainer._enter

    def enter(self: Trainer, index: int) -> None:
        plain(self, index)
        self.loss_of._fast = None

    monkeypatch.setattr(Trainer, "_enter", enter)


def stack(**changes: typing.Any) -> list[tiny.Member]:
    return [tiny.member(s, **{"optim.lr": 3e-3 / s}, **changes) for s in (1, 2)]


def near(a: tiny.Member, b: tiny.Member) -> bool:
    (x, curves), (y, others) = tiny.result(a), tiny.result(b)
    assert x.keys() == y.keys()
    assert curves.keys() == others.keys()
    return all(torch.allclose(x[k], y[k], rtol=1e-4, atol=1e-5) for k in x)


@pytest.mark.parametrize(
    "part",
    [
        optim.adamw(lr=3e-3),
        pytest.param(optim.adam(lr=3e-3), marks=pytest.mark.full),
        pytest.param(optim.sgd(lr=0.1, momentum=0.9), marks=pytest.mark.full),
    ],
)
def test_it_does_what_the_plain_update_does(part: typing.Any) -> None:
    changes = {"optim": part, "clip": 0.5, "steps": 6}
    one, two = stack(**changes), stack(**changes)
    a, b = tiny.train(one), tiny.train(two, **HOW)
    assert type(a.update) is Flat
    assert type(b.update) is Fused
    assert b.update.run.engine == "compiled"
    for x, y in zip(one, two, strict=True):
        assert near(x, y)


@pytest.mark.parametrize("last", [3, 7])
def test_a_diverged_member_ends_alone_and_stays_as_it_was(last: int) -> None:
    """Also at the very last step, after which no other looks at it."""
    ends: list[str] = []
    hooks = Hooks(diverged=lambda m: ends.append(m.name))
    members = [tiny.member(1, steps=8), tiny.member(2, steps=8)]
    for m in members:
        m.attempt = typing.cast(typing.Any, Attempt())
    trainer = Trainer(members, tiny.Settings(**HOW), tiny.Data(tiny.Path("unused")), hooks)
    real, poisoned = Trainer._gradients, []

    def poison(self: Trainer, local: int) -> typing.Any:
        grads, sums, counts = real(self, local)
        if local == last:
            grads[0][0] = float("nan")
            poisoned.append({k: t[0].detach().clone() for k, t in self.params.items()})
        return grads, sums, counts

    trainer._gradients = typing.cast(typing.Any, lambda local: poison(trainer, local))
    trainer.run()
    assert ends == ["t1"]
    assert members[0].reason is not None
    assert f"at step {last + 1} of 8" in members[0].reason
    assert members[0].attempt is None and members[1].attempt is not None
    for k, t in poisoned[0].items():
        assert torch.equal(trainer.params[k][0], t), k
    alone = tiny.member(2, steps=8)
    tiny.train([alone], **HOW)
    members[1].state = trainer.snapshot(1)
    assert near(members[1], alone)


class Attempt:
    def end(self, *_: typing.Any, **__: typing.Any) -> None: ...

    def seal(self, *_: typing.Any, **__: typing.Any) -> None: ...

    def retain(self, *_: typing.Any, **__: typing.Any) -> None: ...


def test_it_goes_on_from_a_checkpoint_and_through_phases() -> None:
    whole = tiny.member(1, steps=8, clip=1.0)
    tiny.train([whole], **HOW)
    m = tiny.member(1, steps=8, clip=1.0)
    trainer = Trainer([m], tiny.Settings(**HOW), tiny.Data(tiny.Path("unused")))
    trainer._enter(0)
    for _ in range(3):
        trainer._advance()
    trainer._settle()
    again = tiny.member(1, steps=8, clip=1.0)
    tensors, notes = trainer.snapshot(0)
    again.state = {k: t.clone() for k, t in tensors.items()}, notes
    tiny.train([again], **HOW)
    assert near(whole, again)
    two = [tiny.spec(steps=4), tiny.spec(steps=4, **{"optim.lr": 1e-3})]
    a, b = tiny.member(1, *two), tiny.member(1, *two)
    tiny.train([a])
    tiny.train([b], **HOW)
    assert near(a, b)


def test_what_it_cannot_do_is_left_to_the_plain_update() -> None:
    mixed = [tiny.member(1, freeze=("*.attn.q",)), tiny.member(2)]
    assert type(tiny.train(mixed, **HOW).update) is Update
    frozen = [tiny.member(1, freeze=("*.attn.q",)), tiny.member(2, freeze=("*.attn.q",))]
    trainer = tiny.train(frozen, **HOW)
    assert type(trainer.update) is Fused
    plain = [tiny.member(1, freeze=("*.attn.q",)), tiny.member(2, freeze=("*.attn.q",))]
    tiny.train(plain)
    assert all(near(a, b) for a, b in zip(frozen, plain, strict=True))

"""When checkpoints are written, and that one member's trouble is its own."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from paribus import optim
from paribus.engine import checkpoint, resuming, train
from paribus.engine.members import weights_of
from paribus.engine.updating import Flat
from paribus.store import DiskError, Fenced, at_once
from tests.engine import tiny


class Attempt:
    """What a trainer asks of an attempt; `trouble`: what its first seal raises."""

    def __init__(self, name: str, meet: threading.Barrier, trouble: Exception | None) -> None:
        self.name, self.meet, self.trouble = name, meet, trouble
        self.sealed: list[int] = []
        self.kept: list[int] = []
        self.ended = ""

    def seal(self, step: int, files: dict[str, bytes], info: dict[str, str]) -> None:
        assert info == {"name": self.name, "trial": self.name}
        assert {*files} == {*checkpoint.encode({}, {})}
        trouble, self.trouble = self.trouble, None
        if not self.sealed:
            self.meet.wait(20)  # breaks where seals go one after another
        if trouble is not None:
            raise trouble
        self.sealed.append(step)

    def end(self, state: str, *_: Any, **__: Any) -> None:
        self.ended = state

    def retain(self, n: int, also: list[int]) -> None:
        assert n == 1 and not also
        self.kept.append(self.sealed[-1])


def attempts(members: list[tiny.Member], *trouble: Exception | None) -> list[Attempt]:
    meet = threading.Barrier(len(members))
    out = [Attempt(m.name, meet, t) for m, t in zip(members, trouble, strict=True)]
    for m, a in zip(members, out, strict=True):
        m.attempt = a  # type: ignore[assignment]
    return out


def test_members_are_sealed_side_by_side_and_each_for_itself() -> None:
    members = [tiny.member(s, steps=4) for s in (1, 2, 3)]
    calm, fenced, full = attempts(members, None, Fenced("taken over"), DiskError("disk full", 28))
    again: list[Any] = []

    def write(call: Any) -> Any:  # as a worker's, which waits for the disk
        again.append(call)
        full.meet.reset()
        full.sealed.append(0)
        return call()

    tiny.train(members, hooks=tiny.Hooks(write=write), checkpoint_steps=2)
    assert len(again) == 1
    assert (calm.sealed, calm.kept) == ([2, 4], [2, 4])
    assert (full.sealed, full.kept) == ([0, 2, 4], [2, 4])
    assert (fenced.sealed, fenced.kept) == ([], [])
    assert members[1].attempt is None and members[1].reason == "taken over"


def test_few_states_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [tiny.member(s, steps=2) for s in (1, 2)]
    one, two = attempts(members, None, None)
    one.meet = two.meet = threading.Barrier(1)
    calls: list[int] = []

    def counted(some: list[Any]) -> Any:
        calls.append(len(some))
        return at_once(some)

    monkeypatch.setattr(resuming, "HELD", 1)
    monkeypatch.setattr(resuming, "at_once", counted)
    tiny.train(members, checkpoint_steps=2)
    assert one.sealed == two.sealed == [2]
    assert calls == [1, 1, 2], "each for itself; old ones are retired together"


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, [6, 12, 18, 24]), (1, [6, 26]), (60, [6, 17, 28])]
)
def test_checkpoints_take_a_twentieth_of_the_time_at_most(
    seconds: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step a second, a checkpoint every five; those that take a second are 19 apart, and none is
    more than (here) ten."""
    clock, saved = [0.0], []

    class Time:
        monotonic = staticmethod(lambda: clock[0])

    def save(trainer: train.Trainer) -> float:
        saved.append(trainer.step)
        clock[0] += seconds
        return float(seconds)

    advance = train.Trainer._advance

    def slow(self: train.Trainer) -> None:
        clock[0] += 1.0
        advance(self)

    if seconds == 60:
        monkeypatch.setattr(train, "LONGEST", 10.0)
    monkeypatch.setattr(train, "time", Time)
    monkeypatch.setattr(resuming, "save", save)
    monkeypatch.setattr(train.Trainer, "_advance", slow)
    tiny.train([tiny.member(1, steps=28)], checkpoint_every=5.0)
    assert saved == expected


def test_what_is_kept_is_what_the_optimizer_would_have_evaluated() -> None:
    """Of a trial whose optimizer takes its gradients elsewhere, one of them with frozen parts."""
    part = optim.schedule_free(lr=1e-2)
    members = [
        tiny.member(s, steps=4, optim=part, freeze=f) for s, f in ((1, ()), (2, ("embed*",)))
    ]
    trainer = tiny.train(members)
    for e in (0, 1):
        kept = resuming.kept(trainer, e)
        expected = weights_of(trainer.snapshot(e)[0], part)
        assert kept.keys() == expected.keys() == trainer.params.keys()
        assert all(torch.equal(t, expected[k]) for k, t in kept.items())
        differ = [k for k, t in kept.items() if not torch.equal(t, trainer.params[k][e])]
        assert differ and not (e and any(k.startswith("embed") for k in differ))


def test_waiting_for_a_full_disk_is_no_time_that_a_checkpoint_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]

    class Time:
        monotonic = staticmethod(lambda: clock[0])

    def write(call: Any) -> Any:
        clock[0] += 1800.0
        return call()

    members = [tiny.member(1, steps=2)]
    (full,) = attempts(members, DiskError("disk full", 28))
    monkeypatch.setattr(resuming, "time", Time)
    trainer = tiny.train(members, hooks=tiny.Hooks(write=write), checkpoint_steps=2)
    assert full.sealed == [2] and clock == [1800.0]
    assert trainer._took == 0.0


@pytest.mark.parametrize("last", [3, 7])
def test_what_a_checkpoint_finds_diverged_is_ended(
    last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where a step is looked at one step later, and before a checkpoint: the only
    trial, whose training is over with it."""
    member = tiny.member(1, steps=8)
    (attempt,) = attempts([member], None)
    real = train.Trainer._gradients

    def poisoned(self: train.Trainer, local: int, *given: Any) -> Any:
        grads, sums, counts = real(self, local, *given)
        if local == last:
            grads[0][0] = float("nan")
        return grads, sums, counts

    monkeypatch.setattr(train.Trainer, "_gradients", poisoned)
    monkeypatch.setattr(Flat, "late", True)
    tiny.train([member], checkpoint_steps=last + 1)
    assert (attempt.ended, attempt.sealed) == ("diverged", [])
    assert member.attempt is None
    assert member.reason and member.reason.endswith(f"at step {last + 1} of 8")

"""Several processes that train one trial: the same mathematics as one, and one end for all."""

from __future__ import annotations

import os
import signal
import time
import typing

import pytest
import torch

from paribus import optim, schedules
from paribus.engine import evaluate as judging
from paribus.engine.budget import OutOfMemory
from paribus.engine.evaluate import Setting, evaluate
from paribus.engine.members import Stopped
from paribus.engine.net import make_net
from paribus.engine.ranks import ALONE, LOST, Ranks
from paribus.engine.train import Trainer
from paribus.engine.updating import Update
from paribus.errors import ParibusError, Refused
from tests.engine import several, tiny

# ── the same mathematics ────────────────────────────────────────────────────────────────────


def two_phases() -> list[tiny.Member]:
    first = tiny.spec(steps=5)
    then = tiny.spec(steps=4, optim=optim.adamw(lr=1e-4), schedule=schedules.constant())
    return [tiny.member(1, first, then)]


WAYS: dict[str, tuple[typing.Callable[[], list[tiny.Member]], dict[str, typing.Any]]] = {
    "plain": (lambda: [tiny.member(1)], {}),
    "dropout": (lambda: [tiny.member(1, **{"model.dropout": 0.1})], {}),
    "uneven": (lambda: [tiny.member(1, rows=7, clip=None)], {"micro": 2}),
    "accumulation": (lambda: [tiny.member(1)], {"micro": 1}),
    "a stack, partly frozen": (
        lambda: [tiny.member(s, freeze=f) for s, f in ((1, ()), (2, ("*.attn.q", "*.attn.k")))],
        {},
    ),
    "all frozen alike": (lambda: [tiny.member(1, freeze=("*.attn.q", "*.attn.k"))], {}),
    "fp16": (lambda: [tiny.member(1, precision="fp16", **{"model.dropout": 0.1})], {}),
    "phases": (two_phases, {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_train_what_one_does(way: str) -> None:
    make, settings = WAYS[way]
    alone = make()
    calm = several.outcome(alone, several.train(alone, ALONE, **settings))

    def do(ranks: Ranks) -> typing.Any:
        members = make()
        return several.outcome(members, several.train(members, ranks, **settings))

    codes, (leader, follower) = several.together(do)
    assert codes == [0, 0]
    assert several.same(leader, follower), "ranks hold the same bits"
    several.close(calm, leader, *((2e-3, 3e-2) if way == "fp16" else ()))


def test_three_ranks_and_a_micro_batch_of_one_in_double_precision() -> None:
    """Seven rows over three ranks: what is left is the order of sums."""
    alone = [tiny.member(1, rows=7, precision="fp64")]
    calm = several.outcome(alone, several.train(alone, ALONE))

    def do(ranks: Ranks) -> typing.Any:
        members = [tiny.member(1, rows=7, precision="fp64")]
        trainer = several.train(members, ranks, micro=2)
        return several.outcome(members, trainer), trainer.budget.pieces()

    codes, found = several.together(do, world=3)
    assert codes == [0, 0, 0]
    assert [pieces for _, pieces in found] == [
        [range(0, 2), range(2, 3)], [range(3, 5)], [range(5, 7)],
    ]  # fmt: skip
    several.close(calm, found[0][0], 1e-11, 1e-11)


def test_more_ranks_than_rows_are_refused() -> None:
    assert [list(Ranks(r, 3).part(2)) for r in range(3)] == [[0], [1], []]

    def do(ranks: Ranks) -> str:
        with pytest.raises(ParibusError, match="1 rows a step are too few for 2 ranks") as found:
            several.train([tiny.member(1, rows=1)], Ranks(ranks.rank, 2))
        return str(found.value)

    assert "too few" in do(Ranks(1, 2))


# ── resume ──────────────────────────────────────────────────────────────────────────────────


def torn(ranks: Ranks, at: int, **changes: typing.Any) -> list[tiny.Member]:
    """Two trials, stopped after so many steps."""
    members = [tiny.member(s, **changes) for s in (1, 2)]
    data = tiny.Data(tiny.Path("unused"))
    steps = iter(range(10**6))
    hooks = tiny.Hooks(stop=lambda: next(steps) == at and ranks.rank == 0)
    trainer = Trainer(members, tiny.Settings(), data, hooks, ranks=ranks)
    with pytest.raises(Stopped):
        trainer.run()
    for e, m in enumerate(members):
        m.state = trainer.snapshot(e)
    return members


def test_resume_is_bit_equal_and_the_number_of_ranks_may_change() -> None:
    changes: dict[str, typing.Any] = {"model.dropout": 0.1}
    whole = [tiny.member(s, **changes) for s in (1, 2)]
    calm = several.outcome(whole, several.train(whole, ALONE))
    begun_alone = torn(ALONE, 5, **changes)

    def do(ranks: Ranks) -> typing.Any:
        members = [tiny.member(s, **changes) for s in (1, 2)]
        uninterrupted = several.outcome(members, several.train(members, ranks))
        resumed = torn(ranks, 5, **changes)
        states = [m.state for m in resumed]
        again = several.outcome(resumed, several.train(resumed, ranks))
        joined = several.outcome(begun_alone, several.train(begun_alone, ranks))
        return uninterrupted, states, again, joined

    codes, ((uninterrupted, states, again, joined), _) = several.together(do)
    assert codes == [0, 0]
    assert several.same(uninterrupted, again)
    several.close(calm, joined)
    alone = [tiny.member(s, **changes) for s in (1, 2)]
    for m, state in zip(alone, states, strict=True):
        m.state = state
    several.close(calm, several.outcome(alone, several.train(alone, ALONE)))


# ── evaluation ──────────────────────────────────────────────────────────────────────────────


def test_evaluation_is_divided_and_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every item's sums are those of one process, to the bit, whatever the rows of a pass; three
    ranks have two passes at one of them."""
    s = tiny.spec()
    params = make_net([s], "cpu", "sdpa").initial([1])
    length = s.task.io().length or 1
    data = tiny.Data(tiny.Path("unused"))

    def judge(ranks: Ranks, rows: int) -> list[dict[str, typing.Any]]:
        monkeypatch.setattr(judging, "TOKENS", rows * length)
        setting = Setting("c", "copy", s, "test", 20, ())
        return evaluate(params, [s], [1], setting, data, tiny.Settings(), ranks=ranks)

    each = {rows: judge(ALONE, rows)[0] for rows in (1, 7, 16)}

    def do(ranks: Ranks) -> typing.Any:
        return {rows: judge(ranks, rows) for rows in each}

    for world in (2, 3):
        codes, (leader, *followers) = several.together(do, world)
        assert codes == [0] * world
        for rows, record in each.items():
            (found,) = leader[rows]
            assert found["metrics"] == record["metrics"]
            assert found["items"] == record["items"]
        assert not any(found for f in followers for found in f.values())


# ── one end for all ─────────────────────────────────────────────────────────────────────────


def test_who_stops_or_runs_out_of_memory_tells_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that one rank lacks halves the micro-batch of all; in the middle of an update, too."""
    real_gradients, real_update = Trainer._gradients, Update.__call__

    def gradients(self: Trainer, local: int) -> typing.Any:
        if self.step == 3 and self.ranks.rank == 1 and place == "gradients":
            raise torch.OutOfMemoryError("planted")
        return real_gradients(self, local)

    def update(self: Update, *given: typing.Any) -> typing.Any:
        if given[-1] == 3 and here == 1 and place == "update":
            raise torch.OutOfMemoryError("planted")
        return real_update(self, *given)

    place, here = "gradients", 0
    monkeypatch.setattr(Trainer, "_gradients", gradients)
    monkeypatch.setattr(Update, "__call__", update)

    def run(ranks: Ranks) -> typing.Any:
        try:
            several.train([tiny.member(1)], ranks)
        except OutOfMemory as error:
            if ranks.rank:
                raise torch.OutOfMemoryError(str(error)) from None
            return error.less()
        return None

    def do(ranks: Ranks) -> typing.Any:
        nonlocal here
        here = ranks.rank
        if ranks.rank:
            for_them: dict[str, typing.Callable[[dict[str, typing.Any]], None]] = {
                "train": lambda about: run_at(ranks, about["place"])
            }
            ranks.follow(for_them)
            return None
        found = []
        for at in ("gradients", "update"):
            with ranks.job("train", {"place": at}):
                found.append(run_at(ranks, at))
        ranks.close()
        return found

    def run_at(ranks: Ranks, at: str) -> typing.Any:
        nonlocal place
        place = at
        return run(ranks)

    codes, (less, _) = several.together(do)
    assert codes == [0, 0]
    assert less == [{"stack": 1, "micro": 2, "halvings": 1}] * 2


def test_what_a_follower_raises_the_leader_raises_and_both_go_on() -> None:
    errors = {"refuse": Refused("too long"), "break": ValueError("planted")}

    def work(ranks: Ranks, kind: str) -> None:
        with ranks.together():
            if ranks.rank == 1 and kind in errors:
                raise errors[kind]
        if ranks.rank == 1 and kind == "apart":
            raise ValueError("between two meetings")
        ranks.agree(False, [True])

    def do(ranks: Ranks) -> typing.Any:
        if ranks.rank:
            ranks.follow({"work": lambda about: work(ranks, about["kind"])})
            return None
        said = []
        for kind in ("refuse", "break", "apart", "fine", "leave"):
            try:
                with ranks.job("work", {"kind": kind}):
                    if kind != "leave":  # the leader alone gives up: the other one is let go
                        work(ranks, kind)
                said.append("done")
            except ParibusError as error:
                said.append(f"{type(error).__name__}: {error}")
        ranks.close()
        return said

    codes, (said, _) = several.together(do)
    assert codes == [0, 0]
    assert said == [
        "Refused: too long",
        "ParibusError: rank 1: ValueError: planted",
        "ParibusError: rank 1: ValueError: between two meetings",
        "done",
        "done",
    ]


def test_a_member_that_the_leader_lost_is_lost_to_all() -> None:
    """Another process ended an attempt: all ranks go on without its member."""

    def do(ranks: Ranks) -> typing.Any:
        members = [tiny.member(s) for s in (1, 2)]

        def progress(trainer: Trainer) -> None:
            if trainer.step == 4 and ranks.rank == 0:
                trainer.alive[1], members[1].reason = False, "fenced"

        trainer = several.train(members, ranks, tiny.Hooks(progress=progress))
        return trainer.alive, trainer.params, trainer.step

    codes, (leader, follower) = several.together(do)
    assert codes == [0, 0]
    assert leader[0] == follower[0] == [True, False]
    assert leader[2] == follower[2] == 12
    assert all(torch.equal(leader[1][k], follower[1][k]) for k in leader[1])


def test_ranks_that_drift_apart_are_found() -> None:
    def do(ranks: Ranks) -> str:
        weights = {"a": torch.arange(5.0), "b": torch.ones(3)}
        ranks.same(weights)
        weights["b"][1] += 1e-7 * ranks.rank
        with pytest.raises(ParibusError, match="different weights") as found:
            ranks.same(weights)
        return str(found.value)

    assert several.together(do)[0] == [0, 0]


@pytest.mark.parametrize("victim", [0, 1])
def test_who_loses_another_rank_ends(victim: int) -> None:
    """Whether it waits for it or is at something else."""

    def do(ranks: Ranks) -> None:
        if ranks.rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        if victim:
            time.sleep(50)  # the watch ends it
        ranks.gather(1)

    began = time.monotonic()
    codes = several.together(do)[0]
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == LOST
    assert time.monotonic() - began < 20


def test_who_waits_too_long_ends() -> None:
    def do(ranks: Ranks) -> None:
        if ranks.rank == 1:
            time.sleep(4)
        ranks.gather(1)

    assert several.together(do, patience=1.5)[0][0] == LOST

"""Steps started from a recording against steps as they are; the graph's place is taken here by
calling the recorded function again (tests/gpu/test_recorded.py has real graphs)."""

from __future__ import annotations

import typing
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from paribus import optim
from paribus.engine import recorded
from paribus.engine.recorded import MISSES, WARM, Recorded
from paribus.engine.train import Trainer
from tests.engine import tiny

HOW: dict[str, typing.Any] = {"compile": "on", "deterministic": False}


class Again:
    """A graph that runs its function, and writes where the first outputs lie."""

    def __init__(self, function: Callable[[], tuple[Tensor, ...]]) -> None:
        self.function, self.out = function, ()
        self.times = 0

    def replay(self) -> None:
        self.times += 1
        for mine, new in zip(self.out, self.function(), strict=True):
            mine.copy_(new)


class Fake(Recorded):
    def captured(self, function: Callable[[], tuple[Tensor, ...]]) -> tuple[typing.Any, typing.Any]:
        graph = Again(function)
        graph.out = tuple(torch.empty(()).expand(2).clone() for _ in range(4))
        return graph, graph.out


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Trainer._enter

    def enter(self: Trainer, index: int) -> None:
        plain(self, index)
        self.loss_of._fast = self.loss_of._plain  # the pass takes a minute of a CPU's compiler
        self.update.run._fast = self.update.run._plain  # type: ignore[attr-defined]
        self.recorded = Fake(self._on_device)

    monkeypatch.setattr(Trainer, "_enter", enter)


def stack(**changes: typing.Any) -> list[tiny.Member]:
    return [tiny.member(s, **{"optim.lr": 3e-3 / s}, **changes) for s in (1, 2)]


@pytest.mark.parametrize("part", [optim.adamw(lr=3e-3), optim.sgd(lr=0.1, momentum=0.9)])
def test_recorded_steps_are_the_same_steps(
    part: typing.Any, faked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"optim": part, "clip": 0.5, "steps": 9}
    one, two = stack(**changes), stack(**changes)
    with monkeypatch.context() as m:
        m.setattr(recorded, "WARM", 100)
        a = tiny.train(one, **HOW)
    b = tiny.train(two, **HOW)
    assert a.recorded is not None
    assert not a.recorded.on
    assert b.recorded is not None
    assert b.recorded._graph.times == 9 - WARM
    assert b.engine.endswith("CUDA graph")
    assert torch.equal(a.tokens, b.tokens)
    for x, y in zip(one, two, strict=True):
        (p, curves), (q, others) = tiny.result(x), tiny.result(y)
        assert curves == others
        assert all(torch.equal(p[k], q[k]) for k in p)


def made() -> tuple[Fake, list[Tensor]]:
    kept = [torch.zeros(2)]

    def step(batch: typing.Any, ready: typing.Any, v: typing.Any) -> tuple[Tensor, ...]:
        kept[0] += batch["x"].sum() * v["lr"]
        return (kept[0].clone(),) * 4

    return Fake(step), kept


def test_what_a_source_gave_is_not_written_to_and_no_result_is() -> None:
    it, _ = made()
    xs = [torch.full((3,), float(i)) for i in range(8)]
    seen = []
    for x in xs:
        out = it({"x": x}, None, {"lr": torch.ones(2)})
        if out is not None:
            seen.append(out[0])
    assert [x[0].item() for x in xs] == list(map(float, range(8)))
    want = torch.tensor([9.0, 21.0, 36.0, 54.0, 75.0])  # three times 3 + 4 + …
    assert torch.equal(torch.stack(seen)[:, 0], want)


def test_steps_of_another_shape_are_left_alone_and_many_end_it() -> None:
    it, kept = made()
    v = {"lr": torch.ones(2)}
    for _ in range(WARM + 1):
        out = it({"x": torch.ones(3)}, None, v)
    assert out is not None
    before = kept[0].clone()
    assert it({"x": torch.ones(4)}, None, v) is None
    assert it({"x": torch.ones(3)}, object(), v) is None
    assert torch.equal(kept[0], before)
    assert it({"x": torch.ones(3)}, None, v) is not None
    for _ in range(MISSES):
        assert it.on
        assert it({"x": torch.ones(3, dtype=torch.float64)}, None, v) is None
    assert not it.on
    assert it({"x": torch.ones(3)}, None, v) is None


def test_a_step_that_cannot_be_recorded_goes_on_as_it_is() -> None:
    def broken(*_: typing.Any) -> tuple[Tensor, ...]:
        raise torch.OutOfMemoryError("no room")

    class Eager(Recorded):
        def captured(self, function: typing.Any) -> typing.Any:
            return None, function()

    it = Eager(broken)
    for _ in range(WARM + 3):
        assert it({"x": torch.ones(3)}, None, {}) is None
    assert it.given_up

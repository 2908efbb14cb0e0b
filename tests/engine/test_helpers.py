"""Processes that help to compile, dead and hanging, and who waits for them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from paribus.engine import helpers
from paribus.engine.compiled import Either
from paribus.engine.settings import Settings


@pytest.fixture
def pool() -> Iterator[Any]:
    from torch._inductor import config
    from torch._inductor.compile_worker.subproc_pool import SubprocPool

    with config.patch(compile_threads=4):
        pool = SubprocPool(1)
        yield pool
        pool.process.kill()
        pool.process.wait()


def test_a_dead_helper_is_given_up(pool: Any) -> None:
    from torch._inductor import config

    future = pool.submit(time.sleep, 5)
    watch, before = helpers.Watch(), helpers.lost
    watch.look([pool], 0.0)
    watch.look([pool], 60.0)
    assert not future.done(), "it is at work"
    pool.process.kill()
    pool.process.wait()
    for i in range(3):
        watch.look([pool], 61.0 + i)
    with pytest.raises(Exception, match=r"does not answer|closed|terminated"):
        future.result(timeout=30)
    assert helpers.lost == before + 1
    assert config.compile_threads == 1, "this process compiles by itself"


def test_one_that_hangs_is_given_up_and_one_that_answers_is_not(pool: Any) -> None:
    first = pool.submit(time.sleep, 0)
    assert first.result(timeout=60) is None
    future = pool.submit(time.sleep, 5)
    watch = helpers.Watch(patience=100)
    for now in (0.0, 90.0):
        watch.look([pool], now)
    assert not future.done()
    watch.look([pool], 101.0)
    with pytest.raises(helpers.NoAnswer):
        future.result(timeout=0)


def test_it_is_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once helpers were given up; what fails for another reason runs as it is."""
    monkeypatch.setattr(helpers, "lost", 0)
    monkeypatch.setattr(helpers, "watch", lambda: None)
    calls = []

    def fast(x: int) -> int:
        calls.append(x)
        if len(calls) == 1:
            helpers.lost += 1
            raise RuntimeError("wrapped by torch")
        if len(calls) == 3:
            raise RuntimeError("another")
        return x + 1

    monkeypatch.setattr(torch, "compile", lambda function, dynamic: fast)
    either = Either(lambda x: -x, Settings(compile="on", deterministic=False), able=True)
    assert either(1) == 2
    assert (calls, either.engine) == ([1, 1], "compiled")
    assert either(5) == -5
    assert either.engine == "eager (compile: RuntimeError)"

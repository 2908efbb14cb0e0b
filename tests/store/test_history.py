from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from paribus.store import Attempt, History, Store, StoreError, owners

Start = Callable[[str], subprocess.Popen[str]]


def opened(store: Store) -> Attempt:
    attempt = store.open("t1", f"w{len(store.attempts('t1'))}")
    assert attempt is not None
    return attempt


@pytest.fixture
def lose(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Attempt]:
    """Attempt the trial, do something, and be lost."""

    def losing(*seals: int, trunk: str | None = None) -> Attempt:
        with monkeypatch.context() as patch:
            patch.setattr(owners, "look", lambda claim: (False, "lost"))
            attempt = opened(store)
            attempt.resume(trunk)
            for step in seals:
                attempt.seal(step, {"a": b"x"}, {})
        real = owners.look
        token = attempt.claim["token"]
        monkeypatch.setattr(
            owners, "look", lambda c: (False, "lost") if c.get("token") == token else real(c)
        )
        return attempt

    return losing


def test_nothing_happened(store: Store) -> None:
    assert store.history("t1") == History(0, None, 0)
    assert store.attempts("t1") == []
    opened(store)
    assert store.history("t1") == History(0, None, 0), "at work"


def test_losses_without_a_checkpoint(store: Store, lose: Callable[..., Attempt]) -> None:
    for n in (1, 2, 3):
        lose()
        assert store.history("t1").losses == n
    opened(store).end("released", "stop")
    assert store.history("t1").losses == 3, "released without a checkpoint: it got nowhere either"
    lose(10)
    assert store.history("t1").losses == 0, "it got on"
    lose()
    assert store.history("t1").losses == 1, "what it had taken over is not its own"
    first, *_ = store.attempts("t1")
    assert (first.number, first.steps, first.retired) == (1, [], None)
    assert first.end is not None
    assert first.end["state"] == "fenced"
    assert [view.steps for view in store.attempts("t1")][-2:] == [[10], [10]]
    opened(store).seal(20, {"a": b""}, {})
    assert store.history("t1").losses == 1, "at work: it neither counts nor ends the row"


def test_a_trunk_is_no_progress(store: Store, lose: Callable[..., Attempt]) -> None:
    store.declare("trunk", {})
    attempt = store.open("trunk", "w")
    assert attempt is not None
    attempt.seal(10, {"a": b""}, {})
    attempt.finish(None, {}, keep=1)
    lose(trunk="trunk")
    assert store.history("t1").losses == 1


def test_memory(store: Store, lose: Callable[..., Attempt]) -> None:
    opened(store).end("released", "memory", oom={"stack": 4})
    opened(store).end("released", "memory", oom={"stack": 2})
    opened(store).end("released", "stop")
    lose()
    assert store.history("t1") == History(1, {"stack": 2}, 0)
    opened(store).end("out of memory", "at micro-batch 1", oom={"stack": 1})
    assert store.history("t1") == History(0, None, 0), "tried again, it begins anew"


def test_failures(store: Store, lose: Callable[..., Attempt]) -> None:
    lose()
    opened(store).end("failed", "oops")
    lose()
    opened(store).end("failed", "oops")
    assert store.history("t1") == History(0, None, 2)
    opened(store).finish(b"", {})
    store.retire("t1", "why")
    assert store.history("t1") == History(0, None, 0)


def test_ended_for_a_dead_worker(store: Store, python: Start) -> None:
    owner = python("""
attempt = store.open("t1", "first")
print("claimed", flush=True)
sys.stdin.read()
""")
    assert owner.stdout
    assert owner.stdout.readline() == "claimed\n"

    def end(pid: int, state: str = "failed") -> bool:
        return store.end_for_dead("t1", pid, state, "SIGSEGV", signal=11)

    assert not end(owner.pid), "it lives"
    owner.kill()
    owner.wait()
    assert not end(os.getpid()), "another's"
    with pytest.raises(StoreError, match="valid: diverged"):
        end(owner.pid, "done")
    assert end(owner.pid)
    state = store.state("t1")
    assert (state.state, state.reason) == ("failed", "SIGSEGV")
    assert state.end is not None
    assert state.end["signal"] == 11
    assert end(owner.pid), "said again: fine"
    assert not end(owner.pid, "released")
    assert store.history("t1").failures == 1
    assert opened(store).number == 2
    assert not end(owner.pid), "the attempt of now is another's"


def test_of_several_that_retire_one_counts(store: Store) -> None:
    opened(store).finish(b"old", {})
    assert store.retire("t1", "forced", number=1)
    assert store.retire("t1", "forced", number=1), "nobody has gone on from there yet"
    opened(store).finish(b"new", {})
    assert not store.retire("t1", "forced", number=1), "somebody has done it already"
    assert store.state("t1").state == "done"

"""Killed before any single file operation, the next worker brings the trial to its end.

Before the next operation is after the last one, so this covers both.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paribus.store import Store

CALLS = ("open", "write", "fsync", "link", "unlink", "mkdir", "rmdir", "replace")


def work(store: Store) -> int:
    """What a worker does; returns the step from which it went on."""
    store.declare("t", {"steps": 30})
    store.link_name("a@s", "name", "t")
    store.write_study("a@s", {"registration": {"h": 1}}, {})
    start = 0
    if attempt := store.open("t", "w"):
        if checkpoint := attempt.resume():
            start = checkpoint.step
            assert checkpoint.files["a"].read_bytes() == b"%d" % start
        for step in range(start + 10, 30, 10):
            attempt.seal(step, {"a": b"%d" % step}, {"curve": list(range(step))})
            attempt.retain()
        attempt.finish(b"weights", {"step": 30})
    if claim := store.claim_evaluation("t", "c", "w"):
        claim.publish({"loss": 1})
    return start


def killed_at(n: int, home: Path) -> bool:
    """Work in a child that dies at its n-th file operation; False if it came to the end."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9), "the work itself failed"
        return code == 9
    count = itertools.count(1)

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if next(count) == n:
                os._exit(9)
            return real(*args, **more)

        return call

    for name in CALLS:
        setattr(os, name, deadly(getattr(os, name)))
    try:
        work(Store(home))
        os._exit(0)
    finally:
        os._exit(1)


def test_killed_at_any_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A kill loses nothing that was written; only a power cut does.  So fsync may be counted
    # without being done, which is most of the time.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    resumed = set()
    for n in itertools.count(1):
        store = Store(tmp_path / str(n))
        if not killed_at(n, store.home):
            break
        before = store.state("t")
        assert before.state in ("planned", "interrupted", "done")
        done = store.evaluation("t", "c")
        start = work(store)
        if before.state != "done":
            assert start == before.last_step
        resumed.add(start)
        state, result = store.state("t"), store.result("t")
        assert result is not None
        assert (state.state, state.last_step) == ("done", 30)
        assert state.attempt <= 2
        assert result.weights.read_bytes() == b"weights"
        record = store.evaluation("t", "c")
        assert record == {"loss": 1, "weights": result.end["weights"]}
        assert done in (None, record)
        study = store.read_study("a@s")
        assert study is not None
        assert study["registration"] == {"h": 1}
    assert n > 60
    assert resumed == {0, 10, 20}

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paribus.store import DiskError, EvaluationClaim, Fenced, Store, StoreError, evaluations, owners
from paribus.store.files import encode

Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def done(store: Store) -> Store:
    attempt = store.open("t1", "w")
    assert attempt is not None
    attempt.finish(b"weights", {})
    return store


def claimed(store: Store, worker: str = "w") -> EvaluationClaim:
    claim = store.claim_evaluation("t1", "c", worker)
    assert claim is not None
    return claim


def test_once(done: Store) -> None:
    assert done.evaluations("t1") == {}
    claim = claimed(done)
    assert done.claim_evaluation("t1", "c", "w2") is None, "a live owner holds it"
    assert done.claim_evaluation("t1", "other", "w2") is not None
    claim.publish({"loss": 1.5})
    record = done.evaluation("t1", "c")
    assert record == {"loss": 1.5, "weights": claim.weights}
    assert done.evaluations("t1") == {"c": record}
    assert done.claim_evaluation("t1", "c", "w2") is None
    with pytest.raises(Fenced):
        claim.publish({"loss": 2.5})
    assert done.evaluation("t1", "c") == record


def test_nothing_to_evaluate(store: Store) -> None:
    assert store.claim_evaluation("t1", "c", "w") is None
    attempt = store.open("t1", "w")
    assert attempt is not None
    attempt.finish(b"weights", {})
    (attempt.path / "weights").unlink()
    assert store.claim_evaluation("t1", "c", "w") is None, "its weights were deleted"


def test_a_deleted_record_is_evaluated_again(done: Store) -> None:
    claim = claimed(done)
    claim.publish({"loss": 1})
    (claim.folder / "c.1").unlink()
    assert done.evaluation("t1", "c") is None
    again = claimed(done)  # although the process that sealed the first one is alive
    again.publish({"loss": 1})
    assert sorted(path.name for path in claim.folder.iterdir()) == ["c.1"]


def test_a_killed_owner_does_not_block(done: Store, python: Start) -> None:
    owner = python("""
claim = store.claim_evaluation("t1", "c", "first")
print("claimed", flush=True)
sys.stdin.read()
""")
    assert owner.stdout
    assert owner.stdout.readline() == "claimed\n"
    assert done.claim_evaluation("t1", "c", "second") is None
    owner.kill()
    deadline = time.monotonic() + 5
    claim = None
    while claim is None and time.monotonic() < deadline:
        claim = done.claim_evaluation("t1", "c", "second")
    assert claim is not None
    assert claim.k == 2
    claim.publish({"loss": 1})
    (claim.folder / "c.2").unlink()
    assert claimed(done).k == 2


def test_an_owner_taken_for_lost_cannot_change_the_record(
    done: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = claimed(done)
    with monkeypatch.context() as patch:
        patch.setattr(owners, "look", lambda claim: (False, "lost"))
        second = claimed(done, "w2")
    assert second.k == 2
    with pytest.raises(Fenced, match="taken over"):
        first.publish({"loss": 1})
    assert done.evaluations("t1") == {}
    second.publish({"loss": 2})
    record = done.evaluation("t1", "c")
    assert record is not None
    assert record["loss"] == 2
    assert done.failed_evaluations("t1") == {}


def test_of_two_that_look_at_once_one_seals(done: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = claimed(done)
    with monkeypatch.context() as patch:
        patch.setattr(owners, "look", lambda claim: (False, "lost"))
        link = os.link

        def late(source: Path, target: Path) -> None:
            # The owner has looked, found its claim and is about to seal: now it is taken over.
            monkeypatch.setattr(os, "link", link)
            assert claimed(done, "w2").k == 2
            link(source, target)

        monkeypatch.setattr(os, "link", late)
        with pytest.raises(Fenced, match="record already"):
            first.publish({"loss": 1})
    assert done.evaluations("t1") == {}, "and not first one record, then another"


def test_failed_and_released(done: Store) -> None:
    claimed(done).fail("out of memory")
    assert done.evaluations("t1") == {}
    assert done.failed_evaluations("t1") == {"c": ["out of memory"]}
    with pytest.raises(RuntimeError), claimed(done) as claim:
        raise RuntimeError
    assert claim.settled
    with claimed(done) as claim:
        assert claim.k == 2
        with pytest.raises(StoreError, match="JSON"):
            claim.publish({"loss": float("nan")})
        with pytest.raises(StoreError, match="other weights"):
            claim.publish({"weights": "x"})
        claim.publish({"loss": 1})
    assert done.evaluation("t1", "c") is not None


def test_records_of_other_weights_are_ignored(done: Store) -> None:
    claim = claimed(done)
    claim.publish({"loss": 1})
    (claim.folder / "c.1").write_bytes(encode({"loss": 0, "weights": "others"}))
    assert done.evaluation("t1", "c") is None
    assert claimed(done).k == 2


def test_sealed_while_another_looked(done: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = claimed(done)
    real = evaluations.names

    def stale(folder: str | Path) -> list[str]:
        """A listing from before the claim; meanwhile its record is sealed."""
        monkeypatch.setattr(evaluations, "names", real)
        first.publish({"loss": 1})
        return []

    monkeypatch.setattr(evaluations, "names", stale)
    assert done.claim_evaluation("t1", "c", "w2") is None
    assert os.listdir(first.folder) == ["c.1"]


def test_asked_for_again(done: Store) -> None:
    claimed(done).publish({"loss": 1})
    assert done.record_numbers("t1") == {"c": (1, 0)}
    assert done.claim_evaluation("t1", "c", "w") is None
    claim = done.claim_evaluation("t1", "c", "w", above=1)
    assert claim is not None
    assert done.evaluation("t1", "c") == {"loss": 1, "weights": claim.weights}, "the old one stays"
    claim.fail("oops")
    assert done.record_numbers("t1") == {"c": (1, 1)}
    claim = done.claim_evaluation("t1", "c", "w", above=1)
    assert claim is not None
    claim.publish({"loss": 3})
    assert done.record_numbers("t1") == {"c": (3, 1)}
    assert done.evaluation("t1", "c") == {"loss": 3, "weights": claim.weights}
    assert done.claim_evaluation("t1", "c", "w", above=1) is None, "done by another already"
    assert (claim.folder / "c.1").exists()


def test_numbers_of_records_that_a_person_wrote(done: Store) -> None:
    claim = claimed(done)
    record = {"loss": 1, "weights": claim.weights}
    (claim.folder / "c.1").write_bytes(encode(record))
    (claim.folder / "d.2").write_bytes(encode({**record, "zeta": 1}, wide=True))
    (claim.folder / "e.1").write_bytes(encode({**record, "weights": "others"}, wide=True))
    assert done.record_numbers("t1") == {"c": (1, 0), "d": (2, 0), "e": (0, 0)}
    (claim.folder / "c.1").write_bytes(encode(record)[:-20])
    assert done.record_numbers("t1")["c"] == (0, 0)
    assert claimed(done).k == 2, "a damaged one is made again, beside it"


@pytest.mark.parametrize("call", ["link", "fsync", "write"])
def test_after_a_disk_error_one_calls_again(
    done: Store, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real, failing = getattr(os, call), True

    def broken(*arguments: Any) -> Any:
        if failing and call == "write":
            raise OSError(errno.ENOSPC, "full")
        result = real(*arguments)
        if failing:
            raise OSError(errno.EIO, "after taking effect")
        return result

    def until_it_works(what: Callable[[], Any]) -> Any:
        nonlocal failing
        failing = True
        # A link that took effect is found by reading back, whatever it said.
        if call != "link":
            with pytest.raises(DiskError):
                what()
        failing = False
        return what()

    monkeypatch.setattr(os, call, broken)
    claim = until_it_works(lambda: done.claim_evaluation("t1", "c", "w"))
    assert claim is not None
    assert claim.k == 1
    until_it_works(lambda: claim.publish({"loss": 1}))
    assert done.record_numbers("t1") == {"c": (1, 0)}
    assert os.listdir(claim.folder) == ["c.1"]


def test_a_scan_is_fast(store: Store) -> None:
    weights = "0" * 64
    for i in range(500):
        folder = store.trial_dir(f"scan{i}") / "attempts" / "1"
        (folder / "evaluations").mkdir(parents=True)
        (folder / "claim").write_bytes(encode(owners.identity("w")))
        (folder / "end").write_bytes(
            encode({"state": "done", "reason": "", "weights": weights, "curve": [1.5] * 50})
        )
        for c in range(7):
            record = {"loss": 1.5, "weights": weights, "items": [1.5] * 10}
            (folder / "evaluations" / f"c{c}.1").write_bytes(encode(record, wide=True))
    best = 9.0
    for _ in range(3):
        start = time.perf_counter()
        for i in range(500):
            assert store.state(f"scan{i}").state == "done"
            assert len(store.evaluations(f"scan{i}")) == 7
        best = min(best, time.perf_counter() - start)
    print(f"scan: {best:.3f} s")
    assert best < 1.0, "0.3 s on an idle machine; this one may be shared"

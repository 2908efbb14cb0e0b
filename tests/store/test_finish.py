"""Trunks, further files, and what an attempt keeps and takes over."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from paribus.store import Attempt, Store, StoreError, checkpoints


def opened(store: Store, trial: str = "t1", worker: str = "w") -> Attempt:
    attempt = store.open(trial, worker)
    assert attempt is not None
    return attempt


def steps(attempt: Attempt) -> list[int]:
    return sorted(int(name) for name in os.listdir(attempt.path / "checkpoints"))


def trunk(store: Store, until: int = 20) -> Attempt:
    store.declare("trunk", {"trunk": True})
    attempt = opened(store, "trunk")
    for step in (10, until):
        attempt.seal(step, {"a": b"%d" % step}, {"curve": [step]})
    assert attempt.finish(None, {"step": until}, keep=1) is None
    return attempt


def test_a_trunk_has_no_weights_and_keeps_a_checkpoint(store: Store) -> None:
    attempt = trunk(store)
    result = store.result("trunk")
    assert result is not None
    assert result.end["weights"] is None
    assert result.end["keep"] == steps(attempt) == [20]
    assert not result.weights.exists()
    assert store.weights_lost("trunk") == ""
    assert store.claim_evaluation("trunk", "c", "w") is None
    assert store.evaluations("trunk") == store.record_numbers("trunk") == {}


def test_a_child_begins_at_the_end_of_its_trunk(store: Store) -> None:
    attempt = opened(store)
    assert attempt.resume("trunk") is None, "there is no such trunk: alone, from the beginning"
    of_trunk = trunk(store)
    checkpoint = attempt.resume("trunk")
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.info) == (20, {"curve": [20]})
    assert checkpoint.files["a"].samefile(of_trunk.path / "checkpoints/20/a")
    assert checkpoint.files["a"].is_relative_to(attempt.path)
    attempt.seal(30, {"a": b"30"}, {})
    attempt.end("released", "stop")
    again = opened(store)
    checkpoint = again.resume("trunk")
    assert checkpoint is not None
    assert checkpoint.step == 30, "its own is newer"


def test_a_damaged_trunk_is_passed_over(store: Store) -> None:
    of_trunk = trunk(store)
    (of_trunk.path / "checkpoints/20/a").write_bytes(b"??")
    attempt = opened(store)
    assert attempt.resume("trunk") is None
    assert "checkpoint 20 of trunk trunk passed over" in (attempt.path / "log").read_text()


def test_a_retired_result_is_trained_anew_from_its_trunk(store: Store) -> None:
    trunk(store)
    first = opened(store)
    first.resume("trunk")
    first.seal(30, {"a": b"30"}, {})
    first.finish(b"weights", {}, keep=1)
    store.retire("t1", "asked")
    checkpoint = opened(store).resume("trunk")
    assert checkpoint is not None
    assert checkpoint.step == 20


def test_further_files_are_sealed_by_the_end(store: Store) -> None:
    attempt = opened(store)
    for wrong in ("weights", "end", ".x", "a/b", ""):
        with pytest.raises(StoreError, match="choose a plain name"):
            attempt.finish(b"w", {}, extra={wrong: b""})
    with pytest.raises(StoreError, match="may not hold"):
        attempt.finish(b"w", {"keep": 3})
    attempt.finish(b"w", {}, extra={"best.safetensors": b"best"})
    result = store.result("t1")
    assert result is not None
    assert result.end["files"] == {"best.safetensors": hashlib.sha256(b"best").hexdigest()}
    assert (attempt.path / "best.safetensors").read_bytes() == b"best"


def test_half_written_weights_are_written_anew(store: Store) -> None:
    attempt = opened(store)
    (attempt.path / "weights").write_bytes(b"wei")  # the disk refused that it be removed, too
    attempt.finish(b"weights", {})
    assert store.weights_lost("t1") == ""


def test_a_checkpoint_that_is_written_again_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are linked, but it is not known whether they are durable: look again."""
    first = opened(store)
    first.seal(10, {"a": b"ten"}, {})
    first.end("released", "stop")
    second = opened(store)
    manifest = first.path / "checkpoints" / "10" / "manifest"
    content, link, looks = manifest.read_bytes(), os.link, []

    def linking(source: Path, target: Path) -> None:
        link(source, target)
        if target.name == "a":
            looks.append(target)
            manifest.unlink(missing_ok=True)
            if len(looks) == 2:
                manifest.write_bytes(content)

    real = checkpoints.sealed
    monkeypatch.setattr(os, "link", linking)
    monkeypatch.setattr(  # the listing may be older than the manifest
        checkpoints, "sealed", lambda path: [10] if path == first.path else real(path)
    )
    monkeypatch.setattr(checkpoints, "_manifest", lambda place: (content, json.loads(content)))
    checkpoint = second.resume()
    assert checkpoint is not None
    assert len(looks) == 2


def test_retaining_the_best(store: Store) -> None:
    attempt = opened(store)
    for step in (10, 20, 30, 40):
        attempt.seal(step, {"a": b""}, {})
        attempt.retain(also=[20])
    assert steps(attempt) == [20, 40]
    attempt.end("released", "stop")
    second = opened(store)
    checkpoint = second.resume()
    assert checkpoint is not None
    assert checkpoint.step == 40
    best = second.adopt_step(20)
    assert best is not None
    assert best.files["a"].samefile(attempt.path / "checkpoints/20/a")
    assert second.adopt_step(20) == best
    assert second.adopt_step(30) is None
    assert steps(second) == [20, 40]
    second.finish(b"w", {}, keep=1)
    assert steps(second) == [40]


def test_provenance_is_written_once(store: Store) -> None:
    attempt = opened(store)
    path = attempt.describe(b"one")
    assert attempt.describe(b"two") == path == attempt.path / "provenance"
    assert path.read_bytes() == b"one"


def test_provenance_is_shared(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = store.home / "provenance" / "abc"
    one = opened(store).describe(b"same", shared)
    store.declare("t2", {})
    two = opened(store, "t2").describe(b"same", shared)
    assert one.samefile(two)
    assert one.samefile(shared)
    store.declare("t3", {})
    three = opened(store, "t3").describe(b"other", shared)
    assert three.read_bytes() == b"other"
    assert shared.read_bytes() == b"same"
    store.declare("t4", {})
    four = opened(store, "t4")
    monkeypatch.setattr(os, "link", no_links(os.link, four.path / "provenance"))
    assert four.describe(b"same", shared).read_bytes() == b"same"


def no_links(link: Callable[..., None], to: Path) -> Callable[..., None]:
    """os.link that refuses to link anything but temporary files to `to`."""

    def refusing(source: Path, target: Path) -> None:
        if target == to and not source.name.startswith("."):
            raise OSError(errno.EPERM, "not permitted")
        link(source, target)

    return refusing

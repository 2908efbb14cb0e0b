from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from paribus.store import DiskError, StoreError, at_once, find_home, init_home
from paribus.store.files import encode, exists, names, publish, read, replace, share, write


def test_the_first_to_publish_wins(tmp_path: Path) -> None:
    assert publish(tmp_path, "end", b"one")
    assert not publish(tmp_path, "end", b"two")
    assert publish(tmp_path, "end", b"one"), "what stands is ours: said again, it is still ours"
    assert (tmp_path / "end").read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["end"]


@pytest.mark.parametrize("takes_effect", [True, False])
@pytest.mark.parametrize("number", [errno.EIO, errno.EEXIST, errno.ESTALE])
def test_what_link_says_does_not_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes_effect: bool, number: int
) -> None:
    link = os.link

    def failing(source: Path, target: Path) -> None:
        if takes_effect:
            link(source, target)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", failing)
    if takes_effect:
        assert publish(tmp_path, "claim", b"mine")
        assert not publish(tmp_path, "claim", b"another's")
    else:
        with pytest.raises(DiskError) as caught:
            publish(tmp_path, "claim", b"mine")
        assert caught.value.errno == number
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_leaves_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    (tmp_path / "old").write_bytes(b"old")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "new", b"new")
    with pytest.raises(DiskError, match="No space") as caught:
        publish(tmp_path, "end", b"new")
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == ["old"]


@pytest.mark.parametrize("put", [publish, lambda folder, name, b: replace(folder / name, b)])
def test_a_temporary_file_may_be_cleared_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: Callable[[Path, str, bytes], Any]
) -> None:
    """Who frees space may take a living writer's for a dead one's; it is written again."""
    left = 2

    def clearing(real: Callable[..., None]) -> Callable[..., None]:
        def call(source: Path, target: Path) -> None:
            nonlocal left
            if left:
                left -= 1
                os.unlink(source)
            real(source, target)

        return call

    for name in ("link", "replace"):
        monkeypatch.setattr(os, name, clearing(getattr(os, name)))
    put(tmp_path, "end", b"one")
    assert left == 0
    assert (tmp_path / "end").read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["end"]


def test_what_cannot_be_seen_is_neither_there_nor_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert exists(tmp_path / "file")
    assert not exists(tmp_path / "none")
    assert not exists(tmp_path / "file" / "below")

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "stat", failing)
    monkeypatch.setattr(os, "listdir", failing)
    with pytest.raises(DiskError, match="Input/output"):
        exists(tmp_path / "file")
    with pytest.raises(DiskError, match="Input/output"):
        names(tmp_path)


def test_a_short_write_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data[:3])))
    write(tmp_path / "x", b"0123456789")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_a_copy_never_writes_into_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"data")
    link = os.link

    def failing(source: Path, target: Path) -> None:
        link(source, target)
        raise OSError(errno.EMLINK, "too many")

    monkeypatch.setattr(os, "link", failing)
    share(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b"data"
    assert not os.path.samefile(tmp_path / "a", tmp_path / "b")


def test_json(tmp_path: Path) -> None:
    assert encode({"b": 1, "a": [1, 2]}, wide=True) == b'{"a":[1,2],"b":1}\n'
    for wrong in (float("nan"), float("inf"), object()):
        with pytest.raises(StoreError, match="JSON"):
            encode({"x": wrong})
    assert read(tmp_path / "none") is None
    for damaged in ("", '{"a"', "[1]"):
        (tmp_path / "x").write_text(damaged)
        with pytest.raises(StoreError, match="damaged"):
            read(tmp_path / "x")


def test_the_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    deep = tmp_path / "lab" / "studies" / "one"
    deep.mkdir(parents=True)
    assert find_home(cwd=deep) == deep / "runs"
    assert find_home(deep / "study.py", cwd=tmp_path) == deep / "runs"
    assert not (deep / "runs").exists()
    init_home(tmp_path / "lab" / "runs")
    init_home(tmp_path / "lab" / "runs")
    assert os.listdir(tmp_path / "lab" / "runs") == [".paribus"]
    assert find_home(cwd=deep) == tmp_path / "lab" / "runs"
    assert find_home(deep / "study.py") == tmp_path / "lab" / "runs"
    assert find_home(Path("one/study.py"), cwd=deep.parent) == tmp_path / "lab" / "runs"
    assert find_home(tmp_path / "study.py", cwd=deep) == tmp_path / "runs", "the study file decides"
    (deep / "runs").mkdir()
    assert find_home(cwd=deep) == tmp_path / "lab" / "runs", "no marker: not a home"
    init_home(deep / "runs")
    assert find_home(cwd=deep) == deep / "runs", "the nearest"
    monkeypatch.setenv("PARIBUS_HOME", str(tmp_path / "elsewhere"))
    assert find_home(deep / "study.py") == tmp_path / "elsewhere"


def test_calls_go_side_by_side_and_each_has_its_own_outcome() -> None:
    meet = threading.Barrier(4)  # none comes back before all are at it

    def call(i: int) -> int:
        meet.wait(30)
        if i == 2:
            raise DiskError("full", errno.ENOSPC)
        return i

    done = at_once([partial(call, i) for i in range(4)])
    assert [d.result() for d in done if d.exception() is None] == [0, 1, 3]
    assert isinstance(done[2].exception(), DiskError)
    assert at_once([]) == []
    assert at_once([lambda: "alone"])[0].result() == "alone"

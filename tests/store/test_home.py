from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from paribus.store import DiskError, Store, StoreError, init_home


def test_a_home_says_its_format(tmp_path: Path) -> None:
    init_home(tmp_path / "runs")
    assert "\nformat 1\n" in (tmp_path / "runs" / ".paribus").read_text()
    Store(tmp_path / "runs")


def test_a_home_from_before_formats(tmp_path: Path) -> None:
    (tmp_path / ".paribus").write_text("Results of paribus.\n")
    init_home(tmp_path)
    Store(tmp_path)
    assert (tmp_path / ".paribus").read_text() == "Results of paribus.\n", "left as it is"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("format 2", r"newer paribus \(format 2\); this one reads format 1: upgrade"),
        ("format x", "format 'x' is no number"),
    ],
)
def test_a_home_that_cannot_be_read(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / ".paribus").write_text(f"Results of paribus.\n{line}\n")
    for call in (init_home, Store):
        with pytest.raises(StoreError, match=words) as caught:
            call(tmp_path)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == [".paribus"]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_read_only_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    home = tmp_path / "runs"
    init_home(home)
    real = os.open

    def refusing(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            raise OSError(number, os.strerror(number))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(DiskError, match="results cannot be written there") as caught:
        init_home(home)
    assert str(home) in str(caught.value)
    assert "--home" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_no_reason_to_refuse_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init_home(tmp_path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    init_home(tmp_path)


def test_a_file_where_the_home_should_be(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(DiskError, match="runs"):
        init_home(tmp_path / "runs")

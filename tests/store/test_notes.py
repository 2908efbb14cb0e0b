"""Notes are numbered, sealed and never changed; what had ended is remembered."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from paribus.doctor import contents
from paribus.store import Store, ended, init_home, notes

Python = Callable[[str], subprocess.Popen[str]]


def note(text: str, *on: tuple[str, str]) -> dict[str, object]:
    return {"text": text, "status": None, "author": "ada",
            "on": [{"kind": kind, "id": i, "name": i} for kind, i in on]}  # fmt: skip


def test_notes_are_numbered_in_the_order_in_which_they_came(store: Store) -> None:
    assert notes.notes(store.home) == []
    made = [notes.add(store.home, note("same")) for _ in range(11)]
    assert [n["id"] for n in made] == [f"n{k}" for k in range(1, 12)]
    assert notes.notes(store.home) == made
    assert len({n["token"] for n in made}) == 11


def test_two_processes_never_take_one_number(store: Store, python: Python) -> None:
    code = (
        "from paribus.store import notes\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "for k in range(20):\n"
        "    notes.add(store.home, {'text': sys.argv[0], 'status': None, 'on': [], 'author': ''})\n"
        "print('done', flush=True)\n"
    )
    workers = [python(code) for _ in range(3)]
    for w in workers:
        assert w.stdout is not None and w.stdout.readline() == "ready\n"
    for w in workers:
        assert w.stdin is not None
        w.stdin.write("\n")
        w.stdin.flush()
    for w in workers:
        assert w.stdout is not None and w.stdout.readline() == "done\n"
    assert [n["id"] for n in notes.notes(store.home)] == [f"n{k}" for k in range(1, 61)]


def test_a_gap_in_the_numbers_is_not_filled(store: Store) -> None:
    for _ in range(3):
        notes.add(store.home, note("x"))
    (store.home / "notes" / "n2.json").unlink()
    assert notes.add(store.home, note("y"))["id"] == "n4"
    assert [n["id"] for n in notes.notes(store.home)] == ["n1", "n3", "n4"]


def test_a_damaged_note_is_named_and_the_others_are_read(store: Store) -> None:
    init_home(store.home)
    notes.add(store.home, note("one"))
    notes.add(store.home, note("two"))
    (store.home / "notes" / "n1.json").write_bytes(b"{")
    first, second = notes.notes(store.home)
    assert first["id"] == "n1" and "damaged" in first["damaged"]
    assert second["text"] == "two"
    told = [str(f) for f in contents.Contents(store.home, 0.0).findings()]
    assert any("notes/n1.json is damaged; put it back from a copy" in t for t in told)


def test_what_a_killed_command_left_goes_with_gc(store: Store) -> None:
    notes.add(store.home, note("kept"))
    left = store.home / "notes" / ".n2.json-0123"
    left.write_bytes(b"half")
    removals = store.gc()
    assert [r.path for r in removals] == [left]
    store.remove(removals)
    assert [n["id"] for n in notes.notes(store.home)] == ["n1"]


def test_notes_about_a_study_come_with_those_that_point_to_them(store: Store) -> None:
    for more in (
        note("of the study", ("study", "a@s")),
        note("of a trial", ("trial", "t1")),
        note("of another one", ("study", "b@s")),
        note("takes n1 back", ("note", "n1")),
        note("about n4", ("note", "n4")),
        note("about n3", ("note", "n3")),
        note("of nothing"),
    ):
        notes.add(store.home, more)
    found = notes.about(notes.notes(store.home), "a@s", {"t1", "t2"})
    assert [n["id"] for n in found] == ["n1", "n2", "n4", "n5"]


# ── what had ended ──


def end(token: str, state: str = "done") -> dict[str, object]:
    return {"state": state, "token": token, "at": "2026-03-31T10:00:00+00:00"}


def test_what_has_ended_is_told_once(store: Store) -> None:
    folder = store.study_dir("a@s")
    assert store.ended("a@s") == {}
    ended.tell(folder, [("t1", "one", 1, end("x")), ("t2", "two", 1, end("y", "failed"))])
    ended.tell(folder, [("t1", "one", 1, end("x")), ("t3", "three", 0, None)])
    assert list(store.ended("a@s")) == ["t1"]
    assert len(list((folder / "ended").iterdir())) == 1
    ended.tell(folder, [("t1", "one", 2, end("z"))])
    assert [e["attempt"] for e in store.ended("a@s")["t1"]] == [1, 2]
    (folder / "ended" / "1.json").write_bytes(b"{")
    assert [e["attempt"] for e in store.ended("a@s")["t1"]] == [2]


@pytest.mark.parametrize(
    ("attempt", "now", "expected"),
    [
        (2, end("y"), ""),
        (3, None, ""),
        (0, None, "removed"),
        (1, end("z"), "replaced"),
        (2, end("z"), "replaced"),
        (2, None, "replaced"),
    ],
)
def test_gaps(attempt: int, now: dict[str, object] | None, expected: str) -> None:
    told = [{"attempt": 1, "token": "x"}, {"attempt": 2, "token": "y"}]
    assert ended.gap(told, attempt, now) == expected
    assert ended.gap([], attempt, now) == ""


def test_a_copied_home_knows_its_gaps(store: Store, tmp_path: Path) -> None:
    ended.tell(store.study_dir("a@s"), [("t1", "one", 1, end("x"))])
    shutil.copytree(store.home, tmp_path / "copy")
    assert Store(tmp_path / "copy").ended("a@s") == store.ended("a@s")

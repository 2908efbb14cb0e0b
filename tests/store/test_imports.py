"""Imported arms are sealed, one file an arm, and never replaced."""

from __future__ import annotations

import threading

import pytest

from paribus.doctor import contents
from paribus.store import Store, StoreError, imports, init_home

ROWS = [{"evaluation": "lm", "slice": "", "metric": "loss", "value": 2.5, "length": "64"}]


def arm(name: str) -> dict[str, object]:
    return {"name": name, "source": "a paper", "file": "x.csv", "sha256": "0", "unknown": ["data"],
            "rows": ROWS}  # fmt: skip


def test_arms_come_back_in_order(store: Store) -> None:
    folder = store.study_dir("a@s")
    assert store.imports("a@s") == []
    made = [imports.add(folder, arm(n)) for n in ("gpt-2", "study/rope", "..", ".x", "ö 1")]
    found = store.imports("a@s")
    assert sorted(a["name"] for a in found) == sorted(a["name"] for a in made)
    assert all(a["rows"] == ROWS for a in found)
    assert {p.parent for p in folder.rglob("*.json")} == {folder / "imports"}


def test_a_name_is_given_once(store: Store) -> None:
    folder = store.study_dir("a@s")
    imports.add(folder, arm("gpt-2"))
    assert imports.taken(folder, "gpt-2") and not imports.taken(folder, "GPT-3")
    before = (folder / "imports" / "gpt-2.json").read_bytes()
    with pytest.raises(StoreError, match="'gpt-2': there is one of this name"):
        imports.add(folder, arm("gpt-2"))
    assert (folder / "imports" / "gpt-2.json").read_bytes() == before
    for wrong in ("", "  ", "a\nb", "x" * 201):
        with pytest.raises(StoreError, match="name"):
            imports.add(folder, arm(wrong))


def test_of_two_at_once_one_is_taken(store: Store) -> None:
    folder, refused = store.study_dir("a@s"), []

    def add() -> None:
        try:
            imports.add(folder, arm("same"))
        except StoreError:
            refused.append(1)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(refused) == 7
    assert len(store.imports("a@s")) == 1


def test_a_damaged_arm_is_named(store: Store) -> None:
    init_home(store.home)
    imports.add(store.study_dir("a@s"), arm("gpt-2"))
    (store.study_dir("a@s") / "imports" / "gpt-2.json").write_bytes(b"{}x")
    with pytest.raises(StoreError, match=r"gpt-2\.json is damaged"):
        store.imports("a@s")
    told = [str(f) for f in contents.Contents(store.home, 0.0).findings()]
    assert any("imports/gpt-2.json is damaged; put it back" in t for t in told)

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from paribus.store import Store, StoreError


def study(hypothesis: str, seen: int = 0, **more: object) -> dict[str, object]:
    return {"registration": {"h": hypothesis}, "results_seen": seen, **more}


def test_a_study_is_written_and_read(store: Store) -> None:
    assert store.studies() == []
    assert store.read_study("a@small") is None
    store.write_study("a@small", study("x", rows=(1, 2)), {"trials": 3})
    assert store.studies() == ["a@small"]
    assert store.read_study("a@small") == {
        "registration": {"h": "x"},
        "rows": [1, 2],
        "amendments": [],
    }
    assert store.read_plan("a@small") == {"trials": 3}
    for wrong in ("a", "@s", "a@", "a/b@s", "../a@s", "a@b@c"):
        with pytest.raises(StoreError, match="name@scale"):
            store.study_dir(wrong)
    with pytest.raises(StoreError, match="JSON"):
        store.write_study("a@small", study("x"), {"x": float("nan")})


def test_volatile_keys_cause_no_rewrite(store: Store) -> None:
    store.write_study("a@s", study("x", date="monday", volatile=["date"]), {})
    path = store.study_dir("a@s") / "study.json"
    before = path.stat()
    store.write_study("a@s", study("x", date="tuesday", volatile=["date"]), {})
    assert path.stat() == before
    store.write_study("a@s", study("x", date="friday", volatile=["date"], title="t"), {})
    assert json.loads(path.read_text())["date"] == "friday"


def test_amendments(store: Store) -> None:
    def read() -> tuple[str, list[str]]:
        found = store.read_study("a@s")
        assert found is not None
        return found["registration"]["h"], [a["registration"]["h"] for a in found["amendments"]]

    store.write_study("a@s", study("draft"), {})
    store.write_study("a@s", study("x"), {})
    assert read() == ("x", []), "nothing was seen: replaced"
    store.write_study("a@s", study("x", seen=5), {})
    assert read() == ("x", [])
    for _ in range(2):
        store.write_study("a@s", study("y", seen=5, title="new"), {})
        assert read() == ("x", ["y"]), "the original stays, and an amendment is made once"
    store.write_study("a@s", study("x", seen=7), {})
    assert read() == ("x", ["y", "x"]), "going back is an amendment, too"
    store.write_study("a@s", study("z"), {})
    assert read() == ("x", ["y", "x", "z"]), "deleting the results does not undo having seen them"
    amendment = json.loads((store.study_dir("a@s") / "amendments" / "1.json").read_text())
    assert amendment["results_seen"] == 5
    assert amendment["at"][:2] == "20"


def test_declaring(store: Store) -> None:
    store.declare("t1", {"lr": 0.1})
    with pytest.raises(StoreError, match="another spec"):
        store.declare("t1", {"lr": 0.2})
    store.declare("t2", {"betas": (0.9, 0.95)})
    store.declare("t2", {"betas": (0.9, 0.95)})
    assert store.spec("t2") == {"betas": [0.9, 0.95]}
    assert store.trials() == ["t1", "t2"]
    with pytest.raises(StoreError, match="not in"):
        store.spec("t3")
    for wrong in ("", "../x", "a/b", ".a"):
        with pytest.raises(StoreError, match="an id has"):
            store.state(wrong)


def test_names(store: Store, tmp_path: Path) -> None:
    names = store.study_dir("a@s") / "names"
    store.link_name("a@s", "small-s1", "t1")
    store.link_name("a@s", "V=20/lr=0.1", "t1")
    assert os.readlink(names / "small-s1") == "../../../trials/t1"
    assert os.readlink(names / "V=20" / "lr=0.1") == "../../../../trials/t1"
    assert (names / "V=20" / "lr=0.1" / "spec.json").exists()
    store.declare("t2", {"lr": 2})
    store.link_name("a@s", "small-s1", "t2")
    assert (names / "small-s1").resolve().name == "t2"
    for wrong in ("", "/a", "a/", "a//b", "../a", "a/../b", ".a"):
        with pytest.raises(StoreError, match="name"):
            store.link_name("a@s", wrong, "t1")
    with pytest.raises(StoreError, match="already"):
        store.link_name("a@s", "small-s1/x", "t1")
    with pytest.raises(StoreError, match="in the way"):
        store.link_name("a@s", "V=20", "t1")
    assert sorted(p.name for p in store.trial_dir("t2").iterdir()) == ["spec.json"]
    shutil.move(store.home, tmp_path / "moved")
    assert (tmp_path / "moved/studies/a@s/names/small-s1/spec.json").exists()

"""An anonymous bundle holds no name of a machine, a person, a folder or an address, wherever it was
planted; what is told apart by names still is."""

from __future__ import annotations

import base64
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paribus import api, parts
from paribus.analysis.anonymous import Scrub, platform
from paribus.analysis.bundle import Bundle
from paribus.analysis.verifying import verify
from paribus.cli import main
from paribus.store import imports, notes
from paribus.text import paths
from tests.analysis import homes
from tests.stubs import Stub

HOST, USER, MACHINE = "gpubox-zq7.lab.example", "adalovelace", "0f0fmachineid0f0f"
HOME, SECRET = "home-of-zephyr", "/srv/zephyr space/data"
PLANTED = (
    "gpubox-zq7", "adalovelace", "0f0fmachineid", "zephyr", "bootbootboot", "pidnamespace",
    "hidden-remote", "babbage", "feature/analytical", "diffedline", "cafebabe", "qwertyuser",
)  # fmt: skip
MORE = f"""
# Author: {USER}@lab.example, see git@github.com:hidden-remote/x.git
DATA = "{SECRET}/books.jsonl"  # or https://github.com/hidden-remote/x
WINDOWS = "C:\\\\Users\\\\qwertyuser\\\\d"
HALF = 1 / 2  # a/b and/or </b>
"""


def provenance() -> dict[str, Any]:
    diff = base64.b64encode(zlib.compress(b"+ diffedline by adalovelace\n")).decode()
    return {
        "at": "2026-03-31T10:00:00+08:00",
        "command": ["paribus", "run", f"/home/{USER}/shared.py", "--on-event=mail b@babbage.de"],
        "folder": SECRET,
        "study": f"/home/{USER}/shared.py",
        "host": HOST,
        "user": USER,
        "repository": {"root": f"/home/{USER}/repo", "commit": "cafebabe", "diff": diff,
                       "branch": "feature/analytical", "untracked": ["zephyr.txt"]},
        "paribus": {"version": "0.1.0", "commit": "cafebabe",
                    "repository": {"root": f"/home/{USER}/paribus", "commit": "cafebabe"}},
        "python": {"version": "3.11.7", "implementation": "CPython",
                   "executable": f"/home/{USER}/venv/bin/python"},
        "platform": {"system": "Linux-6.1-zephyr-x86_64-with-glibc2.36", "machine": "x86_64"},
        "lock": {"file": f"{SECRET}/uv.lock", "sha256": "5a" * 32},
        "environment": {"SLURM_NODELIST": HOST, "LD_LIBRARY_PATH": SECRET, "OMP_NUM_THREADS": "1"},
        "packages": {"torch": "2.13.0"},
        "engine": {"device": "NVIDIA H200", "platform": "Linux-6.1-zephyr-x86_64-with-glibc2.36"},
        "settings": {"device": "cuda:0", "threads": 1},
        "gpus": {"driver": "570.1", "names": ["NVIDIA H200"]},
    }  # fmt: skip


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A home with those names in every place that takes some."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARIBUS_HOME", str(tmp_path / "runs"))
    stub = homes.made(tmp_path, seeds=1, more=MORE)
    who = {"host": HOST, "machine": MACHINE, "boot": "bootbootboot", "pidns": "pidnamespace",
           "worker": f"{HOST}-12-ab", "at": "2026-03-31T10:00:00+08:00"}  # fmt: skip
    names = list(stub.items)
    for name in names[:3]:
        homes.train(stub, name, 0.5, platform="Linux-6.1-zephyr-x86_64-with-glibc2.36",
                    code="0.1.0 cafebabe")  # fmt: skip
    stub.open(names[3]).end("failed", f"OSError: [Errno 2] No such file: '{SECRET}/x' on {HOST}")
    for name in names:
        place = homes.attempt(stub.store, stub.items[name].trial.id)
        homes.change(place / "claim", **who)
        (place / "provenance").write_text(json.dumps(provenance()))
    homes.told(stub)
    folder = stub.store.study_dir(homes.INSTANCE)
    homes.change(folder / "study.json", file=f"/home/{USER}/shared.py")
    about = [{"kind": "study", "id": homes.INSTANCE, "name": homes.INSTANCE}]
    notes.add(stub.store.home, {"text": f"asked {USER} on {HOST}, {SECRET}", "status": None,
                                "on": about, "author": "babbage"})  # fmt: skip
    row = {"evaluation": "copy", "slice": "", "metric": "loss", "value": 1.0, "span": "4"}
    imports.add(folder, {"name": f"{USER}'s run", "source": f"{HOST}:{SECRET}", "file": "x.csv",
                         "sha256": "", "unknown": [], "rows": [row]})  # fmt: skip
    (tmp_path / "runs").rename(tmp_path / HOME)
    monkeypatch.setenv("PARIBUS_HOME", str(tmp_path / HOME))
    yield stub
    stub.close()
    parts.use_local(None)
    paths.use_base(None)


def everything(self: api.Loaded, lang: str) -> str:
    """In place of the report: all that it is made of."""
    return json.dumps([
        self.study, self._rows, self.provenance(), self.imports(), self.ends,
        [v.data() for v in self.verdicts()], [f.data() for f in self.findings()], lang,
    ])  # fmt: skip


def unpacked(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def test_no_planted_name_is_in_an_anonymous_bundle(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(api.Loaded, "_html", everything)
    assert main(["bundle", "shared.py", "--weights", "-o", "open.zip"]) == 0
    assert main(["bundle", "shared.py", "--weights", "--anonymous", "-o", "closed.zip"]) == 0
    assert "names in prose are not found" in capsys.readouterr().out
    shown = b"".join(unpacked(Path("open.zip")).values()).decode(errors="replace").lower()
    for name in PLANTED:
        if name not in ("diffedline", "0f0fmachineid", "bootbootboot", "pidnamespace"):
            assert name in shown, f"{name} was not planted where a bundle could show it"
    files = unpacked(Path("closed.zip"))
    for name, content in [*files.items(), *((n, n.encode()) for n in files)]:
        text = content.decode(errors="replace").lower()
        found = [p for p in PLANTED if p in text]
        assert not found, f"{name}: {found}"
        assert str(Path.cwd()).lower() not in text, name
        assert "+08:00" not in text, name
        assert 'diff":' not in text and "branch" not in text, name
    with Bundle(Path("closed.zip")) as packed:
        report = verify(packed)
        source = packed.text("sources/shared.py")
        about = packed.json(packed.names("provenance/")[0])
    assert report.equal, report.differences
    assert "HALF = 1 / 2  # a/b and/or </b>" in source
    assert source.count("path-") == 2
    assert about["engine"]["device"] == "NVIDIA H200"
    assert about["platform"]["system"] == "Linux-x86_64-glibc2.36"
    assert about["environment"] == {"OMP_NUM_THREADS": "1"}
    assert about["packages"] == {"torch": "2.13.0"}


def test_the_real_report_shows_none_either(stub: Stub) -> None:
    assert main(["bundle", "shared.py", "--anonymous", "-o", "closed.zip"]) == 0
    html = unpacked(Path("closed.zip"))["report/report.html"].decode().lower()
    assert "do stubs &lt;b&gt;share" in html
    assert not [p for p in PLANTED if p in html]


# ── the words ──


def scrub(*keep: str) -> Scrub:
    names = {"host": [HOST, "gpubox-zq7"], "user": ["ada", "root", "x", "adam"]}
    return Scrub(names, ["/home/ada", SECRET], keep)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = a / b; y=a/b", "x = a / b; y=a/b"),
        ("open('/home/ada/data/x.txt')", "open('path-1')"),
        ("/a b/c of one value", "path-1"),
        (f"in {SECRET}/x y", "in path-1 y"),
        ("see https://arxiv.org/abs/1706.03762", "see https://arxiv.org/abs/1706.03762"),
        ("see ssh://u@h.example/x.git now", "see address-1 now"),
        ("git@gitlab.lab.org:ada/x.git", "address-1"),
        ("write ada@lab.org.", "write email-1."),
        ("quickstart@small, quickstart@small.paribus.zip",
         "quickstart@small, quickstart@small.paribus.zip"),
        ("adapter, ada, ADA_data", "adapter, user-1, user-1_data"),
        ("process 12 on gpubox-zq7 (worker gpubox-zq7-12-ab) is gone", "a process is gone"),
        ("2026-03-31T10:00:00+08:00", "2026-03-31T02:00:00+00:00"),
        ("</div></td><td>1/2</td>", "</div></td><td>1/2</td>"),
        ("C:\\Users\\ada\\x.py and ~ada/x and ~/y", "path-1 and path-2 and path-3"),
        ("root ran it", "root ran it"),
    ],
)  # fmt: skip
def test_words(text: str, expected: str) -> None:
    assert scrub().text(text) == expected


def test_the_same_name_has_the_same_word() -> None:
    s = scrub()
    told = s.data({"a": ["/data/one", "/data/two"], "/data/one": "x on " + HOST, "n": [1, None]})
    assert told == {"a": ["path-1", "path-2"], "path-1": "x on host-1", "n": [1, None]}
    assert s.counts == {"path": 2, "host": 1}


def test_a_name_that_is_a_word_of_the_study_is_left_and_told() -> None:
    s = scrub("adam", "part")
    assert s.text("adam by ada") == "adam by user-1"
    assert s.left == {"adam"}


def test_numbers_are_left_as_they_are() -> None:
    packed = "/abc/def+/xyz/"
    record = {"items": {"loss": {"sum": packed}}, "groups": packed, "curves": {"lr": packed}}
    assert scrub().data(record) == record


def test_platforms() -> None:
    assert platform("Linux-6.1-site-x86_64-with-glibc2.36") == "Linux-x86_64-glibc2.36"
    assert platform("macOS-14.1-arm64-arm-64bit") == "macOS-arm64"
    assert platform({"system": None, "machine": "x86_64"}) == {"machine": "x86_64"}

"""Bundles: equal contents, equal bytes; what was tampered with is named; nothing is executed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paribus import api, arrays, parts
from paribus.analysis.bundle import MANIFEST, Bundle
from paribus.analysis.verifying import Report, verify
from paribus.cli import main
from paribus.errors import SpecError
from paribus.text import paths
from tests.analysis import homes
from tests.stubs import Stub

NAME = "shared@main.paribus.zip"


@pytest.fixture(scope="module")
def packed_once(shared_home: tuple[Path, Stub]) -> Path:
    """A bundle of it, with weights."""
    place = shared_home[0].parent / "whole.zip"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shared_home[0])
        patch.delenv("PARIBUS_HOME", raising=False)
        patch.setattr(api.Loaded, "_html", lambda self, lang: "<html></html>")
        assert main(["bundle", "shared.py", "--weights", "-o", str(place)]) == 0
    parts.use_local(None)
    paths.use_base(None)
    return place


@pytest.fixture
def whole(packed_once: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(packed_once, tmp_path / "whole.zip"))


def bundled(*options: str) -> Path:
    assert main(["bundle", "shared.py", *options]) == 0
    return Path(options[-1] if "-o" in options else NAME)


def verified(path: Path) -> Report:
    with Bundle(path) as packed:
        return verify(packed)


def retouched(path: Path, change: Callable[[dict[str, bytes]], Any], *, sums: bool = True) -> Path:
    """A copy in which files were changed; with `sums` its manifest says what it now holds."""
    with zipfile.ZipFile(path) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    change(files)
    if sums:
        manifest = json.loads(files.pop(MANIFEST))
        manifest["files"] = {
            n: {"size": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in files.items()
        }
        files[MANIFEST] = json.dumps(manifest).encode()
    new = path.parent / "touched.zip"
    with zipfile.ZipFile(new, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return new


def edited(files: dict[str, bytes], name: str, change: Callable[[Any], Any]) -> None:
    """Change a JSON file in place."""
    content = json.loads(files[name])
    change(content)
    files[name] = json.dumps(content).encode()


def rows_of(files: dict[str, bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files["rows.jsonl"].splitlines()]


def record_of(files: dict[str, bytes], trial: str) -> str:
    return min(n for n in files if n.startswith(f"trials/{trial}/evaluations/"))


# ── what is packed ──────────────────────────────────────────────────────────────────────────


def test_a_bundle_verifies_and_is_the_same_each_time(
    shared: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundled()
    assert "missing" not in capsys.readouterr().out
    first = path.read_bytes()
    bundled("-o", "again.zip")
    assert Path("again.zip").read_bytes() == first
    assert main(["verify", str(path)]) == 0
    said = capsys.readouterr().out
    assert "same        helps: supported" in said
    assert "all that was checked is the same" in said
    report = verified(path)
    assert report.counts == {"files": len(Bundle(path).names()), "values": 32, "rows": 32,
                             "verdicts": 1}  # fmt: skip
    with zipfile.ZipFile(path) as packed:
        names = packed.namelist()
        assert {i.date_time for i in packed.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert sorted(n for n in names if n != MANIFEST) == [n for n in names if n != MANIFEST]
    told = "study.json rows.jsonl verdicts.json findings.json imports.json notes.json README.txt"
    assert {*told.split(), "report/report.html", "sources/shared.py"} <= set(names)
    assert not any(n.endswith("/weights") for n in names)


def test_every_record_comes_whole(shared: Stub) -> None:
    with Bundle(bundled("--weights")) as packed:
        for item in shared.items.values():
            result = shared.store.result(item.trial.id)
            assert result is not None
            here = f"trials/{item.trial.id}"
            assert packed.json(f"{here}/end.json") == result.end
            assert packed.json(f"{here}/spec.json") == shared.store.spec(item.trial.id)
            assert packed._bytes(f"{here}/weights") == b"weights"
            for cell in item.cells:
                record = shared.store.evaluation(item.trial.id, cell.id)
                assert packed.json(f"{here}/evaluations/{cell.id}.json") == record


def test_other_files_are_never_replaced(shared: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.zip").write_text("my thesis")
    assert main(["bundle", "shared.py", "-o", "mine.zip"]) == 2
    assert "is no bundle; it is left as it is" in capsys.readouterr().err
    assert Path("mine.zip").read_text() == "my thesis"
    path = bundled()
    retouched(path, lambda files: edited(files, MANIFEST, lambda m: m.update(study="other@x")))
    before = Path("touched.zip").read_bytes()
    assert main(["bundle", "shared.py", "-o", "touched.zip"]) == 2
    assert "a bundle of other@x, another study" in capsys.readouterr().err
    assert Path("touched.zip").read_bytes() == before
    bundled("-o", NAME)  # an older one of the same study is made anew
    assert not [p for p in Path().iterdir() if p.name.startswith(".")]


def test_what_is_missing_is_said(shared: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    names = list(shared.items)
    shutil.rmtree(shared.store.trial_dir(shared.items[names[0]].trial.id))
    trial = shared.items[names[1]].trial.id
    cell = shared.items[names[1]].cells[0].id
    (homes.attempt(shared.store, trial) / "evaluations" / f"{cell}.1").unlink()
    path = bundled()
    said = capsys.readouterr().out
    assert "of 8 trials" not in said
    assert "missing: 1 evaluations of trained trials" in said
    assert f"missing: {names[0]}: it had ended (done, " in said
    report = verified(path)
    assert report.equal
    assert [g.partition(":")[0] for g in report.gaps] == [names[0]]
    assert [v["verdict"] for v in report.verdicts] == ["missing"]
    assert f"{names[0]} at span=4: removed" in str(Bundle(path).json("verdicts.json"))


def test_a_study_that_was_never_run_is_packed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    monkeypatch.setattr(api.Loaded, "_html", lambda self, lang: "")
    (tmp_path / "shared.py").write_text(homes.STUDY.format(seeds=2, more=""))
    assert verified(bundled()).equal
    assert "missing: a registration" in capsys.readouterr().out
    parts.use_local(None)


def test_with_the_real_report(shared: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(Path(shared.store.home).parent)
    with Bundle(bundled()) as packed:
        assert "Do stubs &lt;b&gt;share&lt;/b&gt;?" in packed.text("report/report.html")


# ── tampering ───────────────────────────────────────────────────────────────────────────────


def test_a_changed_file_is_named(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(files: dict[str, bytes]) -> None:
        files["rows.jsonl"] = b" " + files["rows.jsonl"]
        del files["sources/shared.py"]
        files["extra"] = b""

    assert main(["verify", str(retouched(whole, change, sums=False))]) == 1
    said = capsys.readouterr().out
    assert "DIFFERENT   rows.jsonl: it is not what was packed" in said
    assert "DIFFERENT   sources/shared.py: the manifest names it, and it is gone" in said
    assert "DIFFERENT   extra: the manifest does not know it" in said


def test_a_changed_value_is_found_by_the_sums_of_its_items(
    whole: Path, shared_home: tuple[Path, Stub]
) -> None:
    item = shared_home[1].items["rope-lr0.001-s1"]

    def change(files: dict[str, bytes]) -> None:
        name = record_of(files, item.trial.id)
        edited(files, name, lambda r: r["metrics"]["accuracy"].update(value=0.99))

    report = verified(retouched(whole, change))
    assert any(d.startswith("rope-lr0.001-s1 at copy span=4: accuracy is 0.99 over 32.0, its items "
                            "say 0.7") for d in report.differences)  # fmt: skip
    assert not any(v["differences"] for v in report.verdicts)  # they rest on the sums


def test_changed_rows_are_named(whole: Path, shared_home: tuple[Path, Stub]) -> None:
    def change(files: dict[str, bytes]) -> None:
        rows = rows_of(files)
        rows[0]["value"] = 0.1
        del rows[1]
        rows.append({**rows[2], "slice": "easy"})
        files["rows.jsonl"] = "\n".join(map(json.dumps, rows)).encode()

    report = verified(retouched(whole, change))
    text = "\n".join(report.differences)
    assert "accuracy: value is 0.1, the records say 0.5" in text
    assert text.count("the row is gone") == 1
    assert text.count("no record has this row") == 1


def test_a_changed_verdict_is_named(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(files: dict[str, bytes]) -> None:
        edited(files, "verdicts.json", lambda v: v[0].update(verdict="refuted", effect=-0.5))

    assert main(["verify", str(retouched(whole, change))]) == 1
    said = capsys.readouterr().out
    assert "DIFFERENT   helps: verdict: the bundle says 'refuted', it is 'supported'" in said
    assert "DIFFERENT   helps: effect: the bundle says -0.5" in said


def test_a_trial_that_was_taken_out_is_missed(whole: Path, shared_home: tuple[Path, Stub]) -> None:
    item = shared_home[1].items["rope-lr0.002-s2"]

    def change(files: dict[str, bytes]) -> None:
        for name in [n for n in files if item.trial.id in n]:
            del files[name]
        rows = [r for r in rows_of(files) if r["id"] != item.trial.id]
        files["rows.jsonl"] = "\n".join(map(json.dumps, rows)).encode()

    report = verified(retouched(whole, change))
    assert "rope-lr0.002-s2: the study declares it and nothing of it is in the bundle" in (
        report.differences
    )
    (verdict,) = report.verdicts
    assert "verdict: the bundle says 'supported', it is 'missing'" in verdict["differences"]


def test_a_changed_registration_is_named(whole: Path, shared_home: tuple[Path, Stub]) -> None:
    def claim(study: dict[str, Any]) -> None:
        study["registration"]["hypotheses"]["helps"]["by"] = 0.5

    report = verified(retouched(whole, lambda f: edited(f, "study.json", claim)))
    assert sum(d.startswith("registration: its hash is") for d in report.differences) == 2
    assert report.verdicts[0]["differences"]


def test_weights_of_another_trial_are_named(whole: Path, shared_home: tuple[Path, Stub]) -> None:
    def change(files: dict[str, bytes]) -> None:
        files[next(n for n in files if n.endswith("/weights"))] = b"others"

    report = verified(retouched(whole, change))
    assert any(d.endswith("other weights than those that were evaluated")
               for d in report.differences)  # fmt: skip


def test_slices_must_add_up(whole: Path, shared_home: tuple[Path, Stub]) -> None:
    item = shared_home[1].items["none-lr0.001-s1"]

    def change(slices: dict[str, Any]) -> Callable[[dict[str, bytes]], None]:
        def to(files: dict[str, bytes]) -> None:
            name = record_of(files, item.trial.id)
            edited(files, name, lambda r: r.update(slices=slices))
            value = json.loads(files[name])["metrics"]["loss"]["value"]
            for part, shift in (("hops=1", 0.1), ("hops=2", -0.1)):
                slices[part] = {"loss": {"value": value + shift, "count": 16.0}}
            edited(files, name, lambda r: r.update(slices=slices))

        return to

    path = whole
    whole = verified(retouched(path, change({})))
    assert not any("add up" in d for d in whole.differences)
    part = verified(retouched(path, change({"hops=3": {"loss": {"value": 1.0, "count": 1.0}}})))
    assert any("the slices of loss by hops do not add up" in d for d in part.differences)


def test_what_was_not_finite_has_no_value(whole: Path, shared_home: tuple[Path, Stub]) -> None:
    item = shared_home[1].items["none-lr0.001-s1"]

    def change(files: dict[str, bytes]) -> None:
        def to(r: dict[str, Any]) -> None:
            r["items"]["loss"]["sum"] = arrays.pack([1e308, *[1.0] * 7])
            r["metrics"]["loss"]["value"] = None

        edited(files, record_of(files, item.trial.id), to)

    report = verified(retouched(whole, change))
    assert not any("its items say" in d for d in report.differences)


# ── nothing is executed, and torch is not needed ────────────────────────────────────────────


def test_nothing_of_a_bundle_is_executed_and_torch_is_not_loaded(
    whole: Path, shared_home: tuple[Path, Stub]
) -> None:
    def change(files: dict[str, bytes]) -> None:
        files["sources/shared.py"] = b"raise SystemExit('executed')"
        files["sources/parts/mlps/evil.py"] = b"raise SystemExit('executed')"

    path = retouched(whole, change)
    code = (
        "import sys\nfrom paribus.cli import main\n"
        f"code = main(['verify', {str(path)!r}])\n"
        "assert 'torch' not in sys.modules\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "all that was checked is the same" in done.stdout


# ── what is no bundle ───────────────────────────────────────────────────────────────────────


def put(name: str, content: bytes = b"{}", **more: Any) -> Callable[[zipfile.ZipFile], None]:
    info = zipfile.ZipInfo(name)
    for key, value in more.items():
        setattr(info, key, value)
    return lambda packed: packed.writestr(info, content)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([put("x")], "holds no manifest.json"),
        ([put("../../etc/passwd")], "is no name for a file of a bundle"),
        ([put("/etc/passwd")], "is no name for a file of a bundle"),
        ([put("a\\..\\b")], "is no name for a file of a bundle"),
        ([put("a/./b")], "is no name for a file of a bundle"),
        ([put("link", b"/etc/passwd", external_attr=0o120777 << 16)], "is no name for a file"),
        ([put("manifest.json", b"[]")], "makes no sense"),
        ([put("manifest.json", b"{")], "is damaged"),
        ([put("manifest.json", b"[" * 100_000)], "is damaged"),
        ([put("manifest.json", b'{"format": 1, "files": {"a": {"size": -1}}}')], "makes no sense"),
        ([put("manifest.json", b'{"format": 9, "files": {}}')], "upgrade paribus"),
        ([put("manifest.json", b'{"format": 1, "files": {}}')], "study.json is not in it"),
        ([put("big", bytes(10**7), compress_type=8)], "that unpack to"),
        ([put("a", compress_type=14)], "packed in a way that no bundle is"),
    ],
)
def test_what_is_no_bundle_is_refused_in_one_line(
    entries: list[Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for entry in entries:
            entry(packed)
    assert main(["verify", str(path)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_cut_or_flipped_bundle_is_damaged(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, cut = whole.read_bytes(), whole.parent / "cut.zip"
    for size in (0, 10, len(content) // 2, len(content) - 5):
        cut.write_bytes(content[:size])
        assert main(["verify", str(cut)]) == 2
        assert "is no bundle, or is cut short" in capsys.readouterr().err
    with zipfile.ZipFile(whole) as packed:
        place = packed.getinfo("rows.jsonl").header_offset + 60
    cut.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
    assert main(["verify", str(cut)]) == 2
    assert "rows.jsonl is damaged" in capsys.readouterr().err
    assert main(["verify", "nowhere.zip"]) == 2


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"trials": [1]}', b"null"])
def test_files_that_make_no_sense_are_one_line(whole: Path, content: bytes) -> None:
    path = retouched(whole, lambda files: files.update({"study.json": content}))
    with pytest.raises(SpecError, match=r"make no sense|cannot be verified"):
        verified(path)


def test_json(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(whole), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["equal"] and told["verdicts"][0]["verdict"] == "supported"
    assert len(told["registration"]) == 32

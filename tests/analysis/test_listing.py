"""completed.txt, errors.txt and results.csv: made from records, the same whatever happened."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from paribus import parts
from paribus.analysis import kept, listing, report
from paribus.api import Loaded
from paribus.store.scan import Scan
from tests.stubs import Stub, plan_of, study_file


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Stub]:
    stub = Stub(plan_of(study_file(tmp_path)))
    yield stub
    stub.close()
    parts.use_local(None)


def loaded(stub: Stub) -> Loaded:
    return Loaded.of(stub.plan.again())


def folder(stub: Stub) -> Path:
    return stub.store.study_dir("stub@main")


def test_a_line_a_finished_cell_and_a_line_a_failure(stub: Stub) -> None:
    a, b, c, d = stub.items
    stub.train(d)
    stub.evaluate(d)
    stub.train(a)
    stub.evaluate(a, 1)
    stub.fail(a, 0, "RuntimeError: two\nlines")
    stub.open(b).end("diverged", "loss nan at step 3 of 100")
    stub.open(c).end("released", "stopped")
    found = loaded(stub)
    assert listing.completed(found.study, found.looks).splitlines() == [
        f"{a} copy span=8",
        f"{d} copy span=4",
        f"{d} copy span=8",
    ]
    assert listing.errors(found.study, found.looks).splitlines() == [
        f"{a} copy span=4: failed: RuntimeError: two lines",
        f"{b}: diverged: loss nan at step 3 of 100",
    ]


PAGE = SimpleNamespace(html=lambda lang: "<html><head></head></html>")


def test_written_anew_where_they_differ_even_if_the_report_stays(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "Told", lambda *_, **__: PAGE)
    for name in stub.items:
        stub.train(name)
        stub.evaluate(name)
    place = loaded(stub).write_report()
    made = {p: p.read_bytes() for p in folder(stub).rglob("*") if p.is_file()}
    assert {p.name for p in made} >= {"results.csv", "completed.txt", "errors.txt", "report.html"}
    for path in made:
        path.unlink()
        assert loaded(stub).write_report() == place
        assert path.read_bytes() == made[path]
        path.write_bytes(b"edited by hand")
        loaded(stub).write_report()
        assert path.read_bytes() == made[path]
    for path in (stub.store.home / "cache").rglob("*.json"):
        path.unlink()
    times = {p: p.stat().st_mtime_ns for p in made}
    loaded(stub).write_report()
    assert {p: p.stat().st_mtime_ns for p in made} == times  # the same bytes are left alone


def test_nothing_is_made_again_while_nothing_changes(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    renders = []
    monkeypatch.setattr(report, "Told", lambda *_, **__: renders.append(1) or PAGE)
    first = next(iter(stub.items))
    stub.train(first)
    stub.evaluate(first)
    text = loaded(stub).text()
    loaded(stub).write_report()
    monkeypatch.setattr(Loaded, "table", lambda _: pytest.fail("computed again"))
    again = loaded(stub)
    assert again.text() == text
    again.write_report()
    assert len(renders) == 1
    monkeypatch.undo()
    monkeypatch.setattr(report, "Told", lambda *_, **__: renders.append(1) or PAGE)
    result = stub.store.result(stub.items[first].trial.id)
    assert result is not None
    next(result.evaluations.iterdir()).unlink()  # a person deletes a record
    changed = loaded(stub)
    assert changed.text() != text
    changed.write_report()
    assert len(renders) == 2
    assert len((folder(stub) / "completed.txt").read_text().splitlines()) == 1


def test_a_damaged_memory_is_passed_over(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "Told", lambda *_, **__: PAGE)
    loaded(stub).write_report()
    (place,) = (stub.store.home / "cache" / "concluded").iterdir()
    for content in (b"", b"[]", b"{", b'{"mark": 3}', b"\xff"):
        place.write_bytes(content)
        assert kept.load(stub.store, "stub@main", "x") == {}
        assert loaded(stub).text()


def test_interruptions_leave_no_trace_in_the_rows(tmp_path: Path) -> None:
    tables = []
    for calm in (True, False):
        place = tmp_path / str(calm)
        place.mkdir()
        stub = Stub(plan_of(study_file(place)))
        first = next(iter(stub.items))
        if not calm:
            for _ in range(3):
                stub.open(first).end("released", "stopped")
        stub.train(first, engine={"stack": 1 if calm else 4, "device": "cpu"})
        stub.evaluate(first)
        tables.append(loaded(stub).csv())
        stub.close()
    assert tables[0] == tables[1]
    rows = list(csv.DictReader(io.StringIO(tables[0])))
    assert "attempt" not in rows[0]
    assert rows[0]["parent"] == ""


def test_the_parent_of_a_forked_trial_is_a_column(stub: Stub) -> None:
    first = next(iter(stub.items))
    stub.train(first, parent="0123456789abcdef")
    stub.evaluate(first)
    rows = loaded(stub).results()
    assert {r["parent"] for r in rows if r["trial"] == first} == {"0123456789abcdef"}


def test_a_look_says_what_the_store_says_and_sees_every_change(stub: Stub) -> None:
    a, b, *_ = stub.items
    for name in (a, b):
        stub.train(name)
    stub.evaluate(a)
    stub.fail(b, 0, "first")
    stub.fail(b, 0, "second")
    stub.evaluate(b, 1)
    scan, store = Scan(stub.store), stub.store

    def agree() -> None:
        for item in stub.items.values():
            trial = item.trial.id
            look, result = scan.look(trial), store.result(trial)
            assert look.state.state == store.state(trial).state
            assert (look.result and look.result.path) == (result and result.path)
            whole = {
                cid: {k: v for k, v in record.items() if k not in ("items", "groups")}
                for cid, record in store.evaluations(trial).items()
            }
            assert look.records == whole
            assert look.failed == store.failed_evaluations(trial)

    agree()
    assert scan.look(stub.items[b].trial.id).failed[stub.items[b].cells[0].id] == [
        "first",
        "second",
    ]
    result = store.result(stub.items[a].trial.id)
    assert result is not None
    record = min(result.evaluations.iterdir())
    content = record.read_bytes()
    record.unlink()
    agree()
    record.write_bytes(content.replace(b"1.5", b"2.5"))
    agree()
    stub.evaluate(b, 0)
    store.retire(stub.items[a].trial.id, "asked")
    agree()
    stub.train(a)  # newer weights: the old records are no longer its own
    agree()
    assert scan.look(stub.items[a].trial.id).records == {}

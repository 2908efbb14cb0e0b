"""The notebook says what the records say, a page a day, and nothing that was not there that day."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from paribus import parts
from paribus.analysis.notebook import pages
from paribus.analysis.notebook.book import book
from paribus.analysis.notebook.strings import ranges, stretch, title
from paribus.cli import main
from paribus.store import notes
from paribus.text import paths
from tests.analysis import homes
from tests.stubs import Stub

# In Berlin: summer time begins on 29 March 2026.
ON = "2026-03-%02dT%02d:%02d:00+00:00"


def days_of(stub: Stub) -> None:
    """28 March: the baselines.  30 and 31: one trial in two parts, its arm, one failure.  Today:
    one that runs."""
    names = list(stub.items)
    for k, name in enumerate(n for n in names if n.startswith("none")):
        homes.train(stub, name, 0.5 + 0.01 * (k % 3), kernel="sdpa")
        homes.at(stub, name, ON % (28, 7, 3 * k), ON % (28, 7, 20 + 3 * k))
    first = "rope-lr0.001-s1"
    attempt = stub.open(first)
    attempt.end("released", "asked to stop")
    homes.at(stub, first, ON % (30, 21, 10), ON % (30, 21, 50))
    for k, name in enumerate((first, "rope-lr0.001-s2")):
        homes.train(stub, name, 0.9 + 0.03 * k, kernel="flash")
        homes.at(stub, name, ON % (31, 12, 0), ON % (31, 12, 20), 2 - k)
    stub.open("rope-lr0.002-s1").end("failed", "ValueError: <boom>\x1b[31m")
    homes.at(stub, "rope-lr0.002-s1", ON % (31, 14, 0), ON % (31, 14, 30))
    stub.open("rope-lr0.002-s2")
    homes.told(stub)


def note(stub: Stub, at: str, text: str, status: str | None = None, on: str = "") -> None:
    about = [{"kind": "note" if on.startswith("n") else "study", "id": on, "name": on}]
    made = notes.add(stub.store.home, {"text": text, "status": status, "author": "ada",
                                       "on": about if on else []})  # fmt: skip
    homes.change(stub.store.home / "notes" / f"{made['id']}.json", at=at)


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    stub = homes.made(tmp_path)
    days_of(stub)
    yield stub
    stub.close()
    parts.use_local(None)
    paths.use_base(None)
    monkeypatch.undo()
    time.tzset()


def by_day(stub: Stub) -> dict[str, dict[str, Any]]:
    return {d["day"]: d for d in book(stub.store)["days"]}


def study_on(stub: Stub, day: str) -> dict[str, Any]:
    (study,) = by_day(stub)[day]["studies"]
    return study


def test_what_ran_stands_on_its_day(stub: Stub) -> None:
    found = by_day(stub)
    assert list(found)[:3] == ["2026-03-28", "2026-03-30", "2026-03-31"]
    assert len(found) == 4
    first = study_on(stub, "2026-03-28")
    assert [(v["variant"], len(v["trials"])) for v in first["ended"]] == [
        ("none-lr0.001", 2),
        ("none-lr0.002", 2),
    ]
    assert [t["trial"] for t in study_on(stub, "2026-03-30")["went_on"]] == ["rope-lr0.001-s1"]
    last = study_on(stub, "2026-03-31")
    assert [(f["trial"], f["state"]) for f in last["failed"]] == [("rope-lr0.002-s1", "failed")]
    assert [t["trial"] for t in study_on(stub, list(found)[3])["running"]] == ["rope-lr0.002-s2"]


def test_parts_are_one_entry_and_the_gap_is_not_work(stub: Stub) -> None:
    day = study_on(stub, "2026-03-31")
    (joined,) = day["joined"]
    assert joined["trial"] == "rope-lr0.001-s1"
    assert joined["seconds"] == 60 * 60
    assert joined["gap_seconds"] == (14 * 60 + 10) * 60
    assert study_on(stub, "2026-03-30")["work_seconds"] == 40 * 60
    # The two trials of the arm were at work at one time in one worker: that counts once.
    assert day["work_seconds"] == (20 + 30) * 60
    assert by_day(stub)["2026-03-28"]["work_seconds"] == 29 * 60


def test_days_are_those_of_the_reader(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    found = by_day(stub)
    assert found["2026-03-28"]["zone"] == "CET, UTC+01:00"
    assert found["2026-03-31"]["zone"] == "CEST, UTC+02:00"
    assert "23:10" in pages.markdown(book(stub.store), "en")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    assert list(by_day(stub))[:2] == ["2026-03-28", "2026-03-31"]


def test_sentences_compare_with_the_baseline_by_seed(stub: Stub) -> None:
    assert [pages.sentence(s)["en"] for s in study_on(stub, "2026-03-28")["sentences"]] == [
        "the baseline none-lr0.001: loss 0.5050 nats/token at span=4, 2 seeds, sd 0.0071",
        "the baseline none-lr0.002: loss 0.510 nats/token at span=4, 2 seeds, sd 0.014",
    ]
    (s,) = study_on(stub, "2026-03-31")["sentences"]
    # Differences 0.90 − 0.50 and 0.93 − 0.51: mean 0.41, sd 0.0141; t(.95, 1) = 6.3138.
    assert s["effect"] == pytest.approx(0.41)
    assert s["high"] - s["effect"] == pytest.approx(6.313752 * 0.01)
    assert pages.sentence(s)["en"] == (
        "rope-lr0.001 against none-lr0.001: loss 0.410 nats/token at span=4, 90% interval "
        "0.347 … 0.473, 2 seeds"
    )
    one = {**s, "n": 1, "paired": 1, "low": None, "high": None}
    assert pages.sentence(one)["en"].endswith("; 1 seed: described, not tested")
    assert "没有共同的种子" in pages.sentence({**one, "paired": 0})["zh"]
    waits = {**s, "effect": None, "waits": True}
    assert pages.sentence(waits)["en"].endswith("none-lr0.001 is not there yet")


def test_a_table_names_its_query_and_what_differs(stub: Stub) -> None:
    table = study_on(stub, "2026-03-31")["table"]
    assert table["query"] == {
        "study": "shared@main", "metric": "loss", "ended_by": "2026-03-31",
        "variants": ["none-lr0.001", "none-lr0.002", "rope-lr0.001"],
        "conditions": ["span=4", "span=8"],
    }  # fmt: skip
    assert table["records"] == 12
    marked = ["none-lr0.001 (baseline)", "none-lr0.002 (baseline)", "rope-lr0.001"]
    assert [row[0] for row in table["rows"]] == marked
    assert [c["rule"] for c in table["confounds"]] == ["kernel"]
    assert not study_on(stub, "2026-03-28")["table"]["confounds"]
    again = study_on(stub, "2026-03-31")["table"]
    assert again["hash"] == table["hash"]
    item = stub.items["rope-lr0.001-s1"]
    record = homes.attempt(stub.store, item.trial.id, 2) / "evaluations" / f"{item.cells[0].id}.1"
    content = json.loads(record.read_text())
    content["metrics"]["loss"]["value"] = 0.2
    record.write_text(json.dumps(content))
    assert study_on(stub, "2026-03-31")["table"]["hash"] != table["hash"]
    assert study_on(stub, "2026-03-28")["table"]["hash"] != table["hash"]


def test_verdicts_that_changed(stub: Stub) -> None:
    assert all(not study["verdicts"] for d in by_day(stub).values() for study in d["studies"])
    for k, name in enumerate(("rope-lr0.002-s1", "rope-lr0.002-s2")):
        if k:
            attempt = homes.attempt(stub.store, stub.items[name].trial.id)
            (attempt / "claim").unlink()
        homes.train(stub, name, 0.8 + 0.012 * k)
        number = 1 if k else 2
        homes.at(stub, name, ON % (31, 18, 0), ON % (31, 18, 20), number)
    (v,) = study_on(stub, "2026-03-31")["verdicts"]
    assert (v["name"], v["before"], v["now"]) == ("helps", "missing", "supported")
    alone = book(stub.store, day=date(2026, 3, 31))
    assert alone["days"][0]["studies"][0]["verdicts"] == [v]


def test_days_without_entries_are_shown(stub: Stub) -> None:
    made = book(stub.store)
    assert made["nothing"][0] == ["2026-03-29", "2026-03-29"]
    assert made["nothing"][1][0] == "2026-04-01"
    text = pages.markdown(made, "en")
    assert "*29 March 2026: nothing*" in text
    assert text.index("28 March") < text.index("29 March") < text.index("30 March")
    assert stretch("2026-04-01", "2026-04-03")["en"] == "1–3 April 2026"
    assert stretch("2026-03-30", "2026-04-03")["en"] == "30 March – 3 April 2026"
    assert stretch("2025-12-30", "2026-01-02") == {
        "en": "30 December 2025 – 2 January 2026",
        "zh": "2025年12月30日至2026年1月2日",
    }
    assert title("2026-03-31") == {"en": "Tuesday, 31 March 2026", "zh": "2026年3月31日 星期二"}
    assert ranges([5, 1, 3, 2]) == "1–3, 5"


def test_what_was_removed_later_is_named_on_its_day(stub: Stub) -> None:
    trial = stub.items["none-lr0.001-s1"].trial.id
    shutil.rmtree(stub.store.trial_dir(trial))
    (told,) = study_on(stub, "2026-03-28")["removed"]
    assert told.startswith("none-lr0.001-s1: it had ended (done, 2026-03-28")


# ── remarks ─────────────────────────────────────────────────────────────────────────────────


def test_remarks_stand_in_their_place_and_are_struck_when_withdrawn(stub: Stub) -> None:
    note(stub, ON % (28, 12, 0), "RoPE will win\nby far", "hypothesis", "shared@main")
    note(stub, ON % (29, 12, 0), "the kernel differed", "withdrawn", "n1")
    note(stub, ON % (29, 13, 0), "no, it was the same", "withdrawn", "n2")
    note(stub, ON % (29, 14, 0), "it did, after all", "withdrawn", "n3")
    found = {n["id"]: n for d in by_day(stub).values() for n in d["notes"]}
    assert [found[f"n{k}"]["withdrawn"] for k in (1, 2, 3, 4)] == [True, False, True, False]
    text = pages.markdown(book(stub.store), "en")
    assert "**n1 · 13:00 · hypothesis** · on shared@main · withdrawn by n2" in text
    assert "~~RoPE will win~~\n  ~~by far~~" in text
    assert "~~the kernel differed~~" not in text
    html = pages.files(book(stub.store), "en")
    assert "<del>RoPE will win\nby far</del>" in html["2026-03-28.html"]
    assert '<a href="2026-03-29.html#n2">' in html["2026-03-28.html"]
    assert '<a href="2026-03-28.html#n1">n1</a>' in html["2026-03-29.html"]
    assert 'id="n2"' in html["2026-03-29.html"]


@pytest.mark.parametrize(
    ("on", "kind", "name"),
    [
        ("shared", "study", "shared@main"),
        ("shared@main", "study", "shared@main"),
        ("rope-lr0.001-s1", "trial", "rope-lr0.001-s1"),
        ("shared:rope-lr0.001-s1", "trial", "rope-lr0.001-s1"),
        ("ID", "trial", "rope-lr0.001-s1"),
    ],
)
def test_what_a_note_is_on(stub: Stub, on: str, kind: str, name: str) -> None:
    given = stub.items["rope-lr0.001-s1"].trial.id if on == "ID" else on
    assert main(["note", "look", "--on", given, "--home", "runs"]) == 0
    (made,) = notes.notes(stub.store.home)
    assert [(o["kind"], o["name"]) for o in made["on"]] == [(kind, name)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x", "--on", "rope-lr0.001-s7"], "did you mean 'rope-lr0.001-s"),
        (["x", "--on", "n1"], "no note 'n1'; there are none yet"),
        (["  "], "say something"),
        (["x", "--status", "withdrawn"], "say which note is withdrawn"),
        (["x", "--home", "nowhere"], "is no home of results"),
    ],
)
def test_a_wrong_note_is_refused(
    stub: Stub, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    home = [] if "--home" in arguments else ["--home", "runs"]
    assert main(["note", *arguments, *home]) == 2
    assert said in capsys.readouterr().err
    assert notes.notes(stub.store.home) == []
    assert not Path("nowhere").exists()


def test_a_name_of_two_studies_is_asked_about(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    record = stub.store.read_study("shared@main") or {}
    trials = [{**t, "id": f"other{k}"} for k, t in enumerate(record["trials"])]
    stub.store.write_study("twin@main", {**record, "trials": trials}, {})
    assert main(["note", "x", "--on", "rope-lr0.001-s1", "--home", "runs"]) == 2
    said = capsys.readouterr().err
    assert "say which: shared@main:rope-lr0.001-s1, twin@main:rope-lr0.001-s1" in said
    assert main(["note", "x", "--on", "twin:rope-lr0.001-s1", "--home", "runs"]) == 0


# ── pages ───────────────────────────────────────────────────────────────────────────────────


class Tags(HTMLParser):
    """Asserts that tags are closed in order."""

    VOID = ("meta", "input", "br", "link")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_pages_stand_alone_in_both_languages(stub: Stub) -> None:
    note(stub, ON % (28, 12, 0), "<script>alert(1)</script>\x1b[31m")
    assert main(["notebook", "--home", "runs", "-o", "book", "--lang", "zh"]) == 0
    names = {p.name for p in Path("book").iterdir()}
    assert {"index.html", "index.md", "2026-03-28.html", "2026-03-28.md"} <= names
    assert len(names) == 10
    for path in Path("book").glob("*.html"):
        text = path.read_text()
        tags = Tags()
        tags.feed(text)
        assert tags.open == []
        assert "<script>" not in text
        assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", text)
        linked = re.findall(r"href=\"([^\"#]+)", text)
        assert set(linked) <= names
    day = Path("book/2026-03-31.html").read_text()
    assert 'lang-zh" checked' in day
    assert "ValueError: &lt;boom&gt;\N{REPLACEMENT CHARACTER}[31m" in day
    for word in ("Failed", "失败", "rope-lr0.001 against none-lr0.001", "对 none-lr0.001"):
        assert word in day
    assert "失败" in Path("book/2026-03-31.md").read_text()
    index = Path("book/index.html").read_text()
    assert "29 March 2026: nothing" in index and "2026年3月29日：无" in index
    assert "Europe/Berlin" not in index and "CE" in index


def test_pages_take_the_place_of_their_own_alone(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("book").mkdir()
    Path("book/index.md").write_text("my own")
    assert main(["notebook", "--home", "runs", "-o", "book"]) == 2
    assert "index.md is there and is no page of a notebook" in capsys.readouterr().err
    assert [p.name for p in Path("book").iterdir()] == ["index.md"]
    Path("book/index.md").unlink()
    for _ in range(2):
        assert main(["notebook", "--home", "runs", "-o", "book"]) == 0
    assert main(["notebook", "--home", "runs", "-o", "shared.py"]) == 2


def test_one_day_and_plain_data(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["notebook", "--home", "runs", "--day", "2026-03-31", "--json"]) == 0
    (day,) = json.loads(capsys.readouterr().out)["days"]
    assert day == by_day(stub)["2026-03-31"]
    assert main(["notebook", "--home", "runs", "--day", "2026-03-29"]) == 0
    assert "*29 March 2026: nothing*" in capsys.readouterr().out
    assert main(["notebook", "--home", "runs", "--day", "31.3."]) == 2
    assert "write a day such as" in capsys.readouterr().err
    assert main(["notebook", "--home", "nowhere"]) == 2


def test_a_home_that_holds_little_or_is_damaged(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    (empty / "trials").mkdir(parents=True)
    assert main(["notebook", "--home", str(empty)]) == 0
    assert "nothing*" in capsys.readouterr().out
    (stub.store.study_dir("shared@main") / "study.json").write_text("{")
    assert main(["notebook", "--home", "runs"]) == 0
    said = capsys.readouterr().out
    assert "not read: shared@main: " in said
    assert "4 trials of studies that are no longer here were at work" in said

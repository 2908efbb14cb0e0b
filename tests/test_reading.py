"""The verbs that read, where the text of a study is another one; and what is never written over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import paribus
from paribus import api, parts
from paribus.errors import SpecError
from paribus.text import paths
from tests.command import paribus as command
from tests.study.test_registered import NAMES, Lab

NOTE = (
    "note: the text here is not the one that these trials were trained on (corpus: files); "
    "results are read as registered\n"
)
LISTS = ("results.csv", "completed.txt", "errors.txt")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A study whose trials are trained and told; the report is an empty page."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    monkeypatch.setattr(api.Loaded, "_html", lambda self, lang: "<html><head></head></html>")
    lab = Lab(tmp_path)
    lab.edit("seeds=2,", 'seeds=2, baseline=position["none"],')
    api.Loaded.of(lab.run()).write_report()
    yield lab
    parts.use_local(None)
    paths.use_base(None)


def files(lab: Lab) -> dict[str, bytes]:
    folder = lab.folder / "runs/studies/told@main"
    return {n: (folder / n).read_bytes() for n in (*LISTS, "report/report.html", "study.json")}


READING = [
    ("results",),
    ("results", "--format", "csv"),
    ("verdicts",),
    ("show", "rope-s1"),
    ("diff", "none", "rope"),
]


@pytest.mark.parametrize("words", READING, ids=" ".join)
@pytest.mark.parametrize("gone", [False, True], ids=["other", "gone"])
def test_read_as_on_the_text_itself(lab: Lab, words: tuple[str, ...], gone: bool) -> None:
    verb, *more = words
    then = command(verb, "told.py", *more)
    assert then.returncode == 0 and then.stderr == ""
    lab.write("text.txt", "another")
    if gone:
        (lab.folder / "text.txt").unlink()
    now = command(verb, "told.py", *more)
    assert (now.returncode, now.stdout) == (0, then.stdout)
    assert "cannot be read here" in now.stderr if gone else now.stderr == NOTE


def test_status_says_it_on_the_page(lab: Lab) -> None:
    lab.write("text.txt", "another")
    page = command("status", "told.py").stdout
    assert NOTE.removeprefix("note: ") in page
    assert "4: 4 done" in page
    assert json.loads(command("status", "told.py", "--json").stdout)["note"] in NOTE


def test_the_report_leaves_what_is_there(lab: Lab) -> None:
    before = files(lab)
    lab.write("text.txt", "another")
    said = command("report", "told.py")
    assert (said.returncode, said.stderr.startswith(NOTE)) == (0, True)
    assert files(lab) == before


def test_in_python(lab: Lab) -> None:
    then = paribus.load("told.py").results()
    lab.write("text.txt", "another")
    with pytest.warns(UserWarning, match="results are read as registered"):
        now = paribus.load("told.py")
    assert now.results() == then and [t["name"] for t in now.study["trials"]] == NAMES


def test_a_bundle_holds_what_was_trained(lab: Lab) -> None:
    lab.write("text.txt", "another")
    said = command("bundle", "told.py", "-o", "told.zip")
    assert said.returncode == 0 and "missing" not in said.stdout


def test_a_model_is_found_and_its_text_asked_for(lab: Lab) -> None:
    lab.write("text.txt", "another")
    said = command("evaluate", "told.py", "rope-s1")
    assert said.returncode == 2
    assert "the corpus has changed since it was trained; restore it" in said.stderr


# ── what is to be trained ───────────────────────────────────────────────────────────────────


def test_plan_and_run_keep_to_the_text_that_is_here_and_say_so(lab: Lab) -> None:
    lab.write("text.txt", "another")
    said = "note: 4 trials of this study were trained on other text (corpus: files)"
    planned = command("plan", "told.py")
    assert "4 to train, 0 done" in planned.stdout and said in planned.stdout
    told = json.loads(command("plan", "told.py", "--json").stdout)["notes"]
    assert told[0] in planned.stdout
    before = files(lab)
    run = command("run", "told.py", "--no-check", "--workers", "1", "--limit", "1", "--timeout",
                  "60s")  # fmt: skip
    assert run.stderr.startswith(said)
    assert files(lab)["results.csv"] != before["results.csv"]
    assert command("run", "told.py", "--dry-run").stdout.count(said) == 0  # it is registered now


# ── what is never written over ──────────────────────────────────────────────────────────────


def test_files_that_hold_more_are_left(lab: Lab) -> None:
    before = files(lab)
    lab.edit("steps=100", "steps=101")
    said = command("report", "told.py")
    assert said.returncode == 2 and said.stdout == ""
    assert "with other trials than it has here: of those 4 are trained, with 8" in said.stderr
    assert files(lab) == before
    loaded = paribus.load("told.py")
    with pytest.raises(SpecError, match="of these 0, with 0"):
        loaded.write_report()
    with pytest.raises(SpecError, match="are left as they are"):
        loaded.write_lists()
    with pytest.raises(SpecError, match="are left as they are"):
        loaded.write_report("page.html", paper=True)
    assert files(lab) == before


def test_a_report_elsewhere_is_written_all_the_same(lab: Lab) -> None:
    before = files(lab)
    lab.edit("steps=100", "steps=101")
    assert command("report", "told.py", "-o", "page.html").returncode == 0
    assert (lab.folder / "page.html").is_file()
    assert files(lab) == before


def test_fewer_seeds_or_conditions_are_fewer_results(lab: Lab) -> None:
    before = files(lab)
    assert command("report", "told.py", "--seeds", "1").returncode == 2
    lab.edit("[8, 16]", "[16]")
    assert "of these 4, with 4" in command("report", "told.py").stderr
    assert files(lab) == before


def test_what_was_registered_anew_is_written(lab: Lab) -> None:
    lab.edit("steps=100", "steps=101")
    plan = lab.run("none-s1")
    api.Loaded.of(plan).write_report()
    assert files(lab)["results.csv"].count(b",done,") == 2

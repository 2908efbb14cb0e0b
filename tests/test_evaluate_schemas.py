"""Questions written by hand, put to a trained model: each with its answer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paribus import parts
from paribus.cli import main
from paribus.engine import single
from paribus.engine.settings import Settings
from paribus.engine.worker import Worker
from paribus.running import register
from paribus.store import Store
from paribus.study import source
from paribus.study.plan import Plan, work
from paribus.text import paths

STUDY = """
from paribus import *
paths = {"task": tasks.join_paths(V=3, examples=64, eval_examples=40),
         "model.read_in": "tokens", "model.read_out": "lm"}
answer = Factor("answer", {"label": {}, "path": paths})
study = Study("joins", "Can they be joined?",
    base=Spec(model=presets.gpt2(width=32, layers=1, heads=4, read_in="vectors",
                                 read_out="scalar", position=positions.learned(length=None)),
              task=tasks.connectivity(V=3, examples=64, eval_examples=40),
              optim=optim.adam(lr=1e-3), schedule=schedules.constant(), rows=8, steps=2),
    factors=[answer], seeds=1, names="{answer}", evaluate=[Eval("test")],
    accept={"answer moves task": "meant"})
"""
PROBE = [
    {"tables": {"pets": ["id", "name", "owner"], "people": ["owner", "city", "age"],
                "places": ["city", "x", "y"]}, "asked": ["name", "x"]},
    {"tables": {"pets": ["id", "name", "owner"], "people": ["owner", "city", "age"],
                "places": ["place", "x", "y"]}, "asked": ["name", "x"]},
    {"tables": [[1, 2, 3], [3, 4, 5], [5, 6, 7]], "asked": [1, 4]},
    {"tables": [[1, 2, 3], [3, 4, 5], [5, 6, 7]], "asked": [1, 8]},
]  # fmt: skip
ASKED = ["name → x", "name → x", "1 → 4", "1 → 8"]
TRUTH = ["2 joins", "unconnected", "1 join", "absent"]
Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joins")
    (folder / "joins.py").write_text(STUDY)
    (folder / "probe.json").write_text(json.dumps(PROBE))
    found = source.load(str(folder / "joins.py"))
    plan = Plan(found.study, Store(folder / "runs"))
    register(found, plan)
    worker = Worker(work(plan, plan.items, 1, local=None, base=folder), Settings())
    worker.say = lambda **_: None  # type: ignore[method-assign]
    assert worker.run() == 0
    return folder


@pytest.fixture
def study(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(trained)
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    yield "joins.py"
    parts.use_local(None)
    paths.use_base(None)


def evaluated(capsys: Said, *arguments: str) -> list[Any]:
    assert main(["evaluate", *arguments, "--json"]) == 0
    conditions: list[Any] = json.loads(capsys.readouterr().out)["conditions"]
    return conditions


def test_each_question_with_its_answer(study: str, capsys: Said) -> None:
    (found,) = evaluated(capsys, study, "label", "--set", "task.schemas=probe.json")
    shown = found["shown"]
    assert [s["asked"] for s in shown] == ASKED
    assert [s["truth"] for s in shown] == TRUTH
    right, loss = 0, 0.0
    for s in shown:
        p = s["probability"]
        assert p == pytest.approx(1 / (1 + math.exp(-s["logit"])))
        assert s["said"] == ("yes" if s["logit"] > 0 else "no")
        yes = "join" in s["truth"]
        right += (s["said"] == "yes") == yes
        loss -= math.log(p if yes else 1 - p)
    assert (found["size"], found["metrics"]["accuracy"]["value"]) == (4, right / 4)
    assert found["metrics"]["loss"]["value"] == pytest.approx(loss / 4)


def test_paths_by_the_names_that_were_given(study: str, capsys: Said) -> None:
    (found,) = evaluated(capsys, study, "path", "--set", "task.schemas=probe.json")
    shown = found["shown"]
    assert [s["truth"] for s in shown] == TRUTH
    assert [s["path"] for s in shown] == ["owner city x", "none", "3 4", "none"]
    label = [(s["said"] == "yes") == ("join" in s["truth"]) for s in shown]
    assert found["metrics"]["label_accuracy"]["value"] == sum(label) / 4
    exact = [s["said path"] == "right" for s in shown]
    assert found["metrics"]["exact_match"]["value"] == sum(exact) / 4
    assert all(0 < s["P(none)"] < 1 for s in shown)


def test_a_line_for_each_question(study: str, capsys: Said) -> None:
    assert main(["evaluate", study, "label", "--set", "task.schemas=probe.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("items of task.schemas=probe.json")
    assert lines[at + 1].split() == ["asked", "truth", "logit", "probability", "said"]
    for n, (line, asked, truth) in enumerate(
        zip(lines[at + 2 : at + 6], ASKED, TRUTH, strict=True), 1
    ):
        number, rest = line.split(maxsplit=1)
        assert (number, rest.startswith(asked)) == (str(n), True)
        assert truth in line
        assert line.split()[-1] in ("yes", "no")
    assert lines[-1].startswith("not recorded")


def test_drawn_questions_are_shown_where_they_are_few(study: str, capsys: Said) -> None:
    """In the numbers of their columns; of more there is no list, and none is recorded."""
    few, many = (
        evaluated(capsys, study, "label", "--examples", str(n))[0]
        for n in (single.SHOWN, single.SHOWN + 1)
    )
    assert len(few["shown"]) == single.SHOWN
    assert many["shown"] == []
    assert few["shown"][0]["asked"].startswith("c")
    store = Store(Path("runs"))
    records = [r for trial in store.trials() for r in store.evaluations(trial).values()]
    assert len(records) == 2
    assert not any("shown" in r for r in records)


def test_the_file_is_found_beside_the_study(
    study: str, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.chdir(tmp_path)
    place = str(trained / "joins.py")
    (found,) = evaluated(capsys, place, "label", "--set", "task.schemas=probe.json")
    assert len(found["shown"]) == 4
    (tmp_path / "own.json").write_text(json.dumps(PROBE[:1]))
    own = str(tmp_path / "own.json")
    (found,) = evaluated(capsys, place, "label", "--set", f"task.schemas={own}")
    assert len(found["shown"]) == 1


ONE = PROBE[0]
BAD = {
    "no file": (None, ("task.schemas: no file", "bad.json")),
    "no JSON": ("[{", ("bad.json: no JSON",)),
    "no list": (ONE, ("bad.json: write a list of",)),
    "empty": ([], ("bad.json: write a list of",)),
    "no question": ([ONE, 3], ("bad.json, question 2", '"tables" and "asked"')),
    "misspelt": ([{**ONE, "ask": []}], ('has "tables" and "asked"; here: tables, asked, ask',)),
    "few tables": ([{**ONE, "tables": {"a": ["x", "y", "z"]}}], ("3 tables of 3 columns",)),
    "a wide table": ([{**ONE, "tables": [["a"] * 4, ["b"] * 3, ["c"] * 3]}], ("3 columns",)),
    "no table": ([{**ONE, "tables": [1, 2, 3]}], ("question 1", "3 tables of 3 columns")),
    "a word": ([{**ONE, "tables": ["abc", "def", "ghi"]}], ("question 1", "3 tables of 3")),
    "one asked": ([ONE, {**ONE, "asked": ["name"]}], ("question 2: two columns are asked for",)),
    "no column": ([{**ONE, "asked": ["name", {}]}], ("question 1: a column is called by a word",)),
    "too many": (
        [{"tables": [["a", "b", "c"], ["d", "e", "f"], ["g", "h", "i"]], "asked": ["j", "a"]}],
        ("question 1: 10 different columns; the model knows 9",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("name", ["label", "path"])
def test_a_wrong_file_is_one_line(name: str, what: str, study: str, capsys: Said) -> None:
    told, messages = BAD[what]
    file = Path("bad.json")
    file.unlink(missing_ok=True)
    if told is not None:
        file.write_text(told if isinstance(told, str) else json.dumps(told))
    assert main(["evaluate", study, name, "--set", "task.schemas=bad.json"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    for message in messages:
        assert message in said.err


def test_a_pattern_of_several_files_is_refused(study: str, capsys: Said) -> None:
    Path("probe2.json").write_text("[]")
    assert main(["evaluate", study, "label", "--set", "task.schemas=probe*.json"]) == 2
    assert "means 2 files; name one" in capsys.readouterr().err
    Path("probe2.json").unlink()

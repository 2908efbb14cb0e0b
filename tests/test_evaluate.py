"""One trained model under any condition: the numbers of the record, and nothing recorded."""

from __future__ import annotations

import csv
import json
import shutil
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paribus import evaluating, parts
from paribus.cli import main
from paribus.engine.settings import Settings
from paribus.engine.worker import Worker
from paribus.errors import SpecError
from paribus.running import register
from paribus.store import Store
from paribus.study import source
from paribus.study.plan import Plan, work
from paribus.text import paths

STUDY = """
from paribus import *
position = Factor("position", {"rope": positions.rope2d(), "mine": positions.mine(rate=0.2),
                               "table": positions.learned(length=48)}, "model.position")
branches = Factor("branches", {"1": 1, "3": 3, "2-5": (2, 5)}, "task.branches")
study = Study("beside", "Do texts beside each other disturb?",
    base=Spec(model=presets.quickstart(width=32, heads=2, mask=masks.branch()),
              task=tasks.branches(corpus=corpora.files(path="text.txt"),
                                  tokenizer=tokenizers.bytes(), length=12, branches=(1, 3),
                                  texts_per_step=8, eval_texts=21),
              optim=optim.adamw(lr=3e-3), schedule=schedules.cosine(), steps=4),
    factors=[position], seeds=[1, 2], names="{position}", keep=("last", "best:watch/loss"),
    evaluate=[Eval("lm", over=[branches], when=position["rope"]),
              Eval("watch", split="validation", examples=4, every=2, when=position["rope"])])
"""
PART = """
from paribus.contracts import Position
from paribus.lazy import torch

class Mine(Position, frozen=True, kw_only=True):
    rate: float = 0.1

    def embed(self, t, p, x):
        return x * (1 + self.rate)
"""
TEXT = "".join(f"line {i} says {i * i} and {i % 7}\n" for i in range(500))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a study whose first seed is trained, and evaluated where it says so."""
    folder = tmp_path_factory.mktemp("beside")
    (folder / "text.txt").write_text(TEXT)
    (folder / "beside.py").write_text(STUDY)
    (folder / "parts/positions").mkdir(parents=True)
    (folder / "parts/positions/mine.py").write_text(PART)
    found = source.load(str(folder / "beside.py"))
    plan = Plan(found.study, Store(folder / "runs"))
    register(found, plan)
    first = [i for i in plan.items if i.trial.seed == 1]
    local = plan.store.study_dir(found.study.instance) / "source"
    worker = Worker(work(plan, first, 1, local=local, base=folder), Settings())
    worker.say = lambda **_: None  # type: ignore[method-assign]
    assert worker.run() == 0
    before = held(folder / "runs")
    yield folder
    assert held(folder / "runs") == before  # whatever was asked, nothing was written


def held(home: Path) -> dict[str, Any]:
    """What a home holds and when it was written, without what can be made again."""
    return {
        str(p): (p.lstat().st_mtime_ns, p.read_bytes() if p.is_file() else b"")
        for p in sorted(home.rglob("*"))
        if p.relative_to(home).parts[0] != "cache"
    }


@pytest.fixture
def study(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(trained)
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    yield trained / "beside.py"
    parts.use_local(None)
    paths.use_base(None)


Said = pytest.CaptureFixture[str]


def evaluated(capsys: Said, *arguments: str) -> dict[str, Any]:
    assert main(["evaluate", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refusal(capsys: Said, *arguments: str) -> str:
    """The one line that a wrong request gets."""
    assert main(["evaluate", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    return said.err


def place(home: Path, name: str = "rope-s1") -> Path:
    return (home / "studies/beside@main/names" / name).resolve()


# ── the numbers ─────────────────────────────────────────────────────────────────────────────


def test_the_numbers_of_a_declared_condition_to_the_last_digit(study: Path, capsys: Said) -> None:
    found = evaluated(capsys, "beside.py", "rope-s1", "--over", "task.branches=1,3,[2,5]")
    plan = Plan(source.load("beside.py").study, Store(Path("runs")))
    (item,) = [i for i in plan.items if i.trial.name == "rope-s1"]
    cells = [c for c in item.cells if c.condition.evaluation.name == "lm"]
    assert len(cells) == len(found["conditions"]) == 3
    for cell, mine in zip(cells, found["conditions"], strict=True):
        record = plan.store.evaluation(item.trial.id, cell.id)
        assert record is not None
        for key in ("metrics", "baselines", "realised", "size", "split"):
            assert mine[key] == record[key], key
        assert mine["engine"]["kernel"] == record["engine"]["kernel"]
    assert len({c["metrics"]["loss"]["value"] for c in found["conditions"]}) == 3
    assert [c["changes"]["task.branches"] for c in found["conditions"]] == [1, 3, [2, 5]]
    assert found["recorded"] is False
    assert (found["name"], found["trial"], found["step"]) == ("rope-s1", item.trial.id, 4)


def test_a_split_and_some_examples_of_it(study: Path, capsys: Said) -> None:
    given = ("--split", "validation", "--examples", "4")
    (mine,) = evaluated(capsys, "beside.py", "rope-s1", *given)["conditions"]
    plan = Plan(source.load("beside.py").study, Store(Path("runs")))
    cell = next(c for c in plan.items[0].cells if c.condition.key == "watch")
    record = plan.store.evaluation(cell.trial.id, cell.id)
    assert record is not None
    assert (mine["metrics"], mine["size"]) == (record["metrics"], 4)


def test_a_trial_by_its_id_its_variant_its_folder_a_link_and_a_file_of_weights(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    home = study.parent / "runs"
    folder = place(home)
    want = evaluated(capsys, "beside.py", "rope-s1")
    assert want["conditions"][0]["changes"] == {}
    assert (
        evaluated(capsys, "beside.py", folder.name)["conditions"][0]["metrics"]
        == (want["conditions"][0]["metrics"])
    )
    assert evaluated(capsys, "beside.py", "rope", "--seeds", "1")["name"] == "rope"
    monkeypatch.chdir(tmp_path)  # its text and its parts are found from anywhere
    link = home / "studies/beside@main/names/rope-s1"
    for where in (folder, link, folder / "attempts/1/weights"):
        found = evaluated(capsys, str(where))
        assert found["conditions"][0]["metrics"] == want["conditions"][0]["metrics"]
        assert found["name"] == "rope-s1"
    assert evaluated(capsys, str(place(home, "mine-s1")))["name"] == "mine-s1"
    (best,) = (folder / "attempts/1").glob("best-*.safetensors")
    end = json.loads((folder / "attempts/1/end").read_text())
    found = evaluated(capsys, str(best), "--split", "validation", "--examples", "4")
    kept = end["best"]["watch loss"]
    assert found["conditions"][0]["metrics"]["loss"]["value"] == kept["value"]
    assert (found["step"], found["sha256"]) == (kept["step"], end["files"][best.name])


def test_a_folder_that_was_copied_out_of_its_home(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    want = evaluated(capsys, "beside.py", "rope-s1", "--set", "task.branches=2")
    shutil.copytree(place(study.parent / "runs"), tmp_path / "rope")
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    found = evaluated(capsys, "rope", "--set", "task.branches=2")
    assert found["conditions"][0]["metrics"] == want["conditions"][0]["metrics"]
    assert not (tmp_path / "cache").exists()
    (tmp_path / "text.txt").write_text(TEXT + "one more line\n")
    assert "the corpus has changed since it was trained" in refusal(capsys, "rope")
    evaluated(capsys, "rope", "--set", f"task.corpus.path={study.parent / 'text.txt'}")
    (tmp_path / "other.txt").write_text(TEXT[::-1])  # other text on purpose
    other = evaluated(capsys, "rope", "--set", "task.corpus.path=other.txt")
    assert other["conditions"][0]["realised"]["list"] != found["conditions"][0]["realised"]["list"]
    with open(tmp_path / "rope/attempts/1/weights", "ab") as file:
        file.write(b"!")
    assert "its weights are damaged" in refusal(capsys, "rope")


# ── how it is shown ─────────────────────────────────────────────────────────────────────────


def test_a_line_for_each_combination_with_what_its_rows_held(study: Path, capsys: Said) -> None:
    over = ("--over", "task.branches=1,[1,2]", "--over", "model.temperature=1,1.5")
    assert main(["evaluate", "beside.py", "rope-s1", *over, "--set", "task.eval_texts=9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (head,) = [i for i, line in enumerate(lines) if line.split()[:1] == ["loss"]]
    columns = "loss bpb ppl tokens items unigram loss bigram loss"
    assert lines[head].split() == columns.split()
    rows = [line.split() for line in lines[head + 1 : head + 5]]
    assert [(r[0], r[1]) for r in rows] == [
        (f"task.branches={b}", f"model.temperature={t}")
        for b in ("1", "[1,2]")
        for t in ("1", "1.5")
    ]
    assert [r[6] for r in rows] == ["9", "9", "5", "5"]  # items
    assert lines[head + 1].endswith("branches 1 (×9)")
    assert lines[head + 3].endswith("branches 1 (×1), 2 (×4)")
    (held_by_all,) = [line for line in lines if line.startswith("rows held:")]
    assert "texts 9" in held_by_all
    assert "list " in held_by_all
    assert lines[-1].startswith("not recorded; declare it as a condition")


def test_a_file_has_a_row_for_each_condition_and_replaces_an_older_one(
    study: Path, tmp_path: Path, capsys: Said
) -> None:
    file = tmp_path / "new" / "some.csv"
    over = ("--over", "task.branches=1,3", "--over", 'model.mask={"part":"branch"}')
    for _ in range(2):
        assert main(["evaluate", "beside.py", "rope-s1", *over, "-o", str(file)]) == 0
        assert capsys.readouterr().out == f"{file}\n"
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [(r["task.branches"], r["model.mask"]) for r in rows] == [
        ("1", "branch"),
        ("3", "branch"),
    ]
    want = evaluated(capsys, "beside.py", "rope-s1", *over)
    for row, c in zip(rows, want["conditions"], strict=True):
        assert float(row["loss"]) == c["metrics"]["loss"]["value"]
        assert float(row["unigram loss"]) == c["baselines"]["unigram"]["loss"]
        assert json.loads(row["realised"]) == c["realised"]
    plain = file.with_suffix(".json")
    assert main(["evaluate", "beside.py", "rope-s1", *over, "-o", str(plain)]) == 0
    written = json.loads(plain.read_text())
    for c in (*written["conditions"], *want["conditions"]):
        del c["seconds"]
    assert written == want


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("1,2", [1, 2]),
        ("1, [1,15], 2.5", [1, [1, 15], 2.5]),
        ("split,truncate", ["split", "truncate"]),
        ('{"part":"rope","base":5},null', [{"part": "rope", "base": 5}, None]),
        ('"a,b",1e3x,true', ["a,b", "1e3x", True]),
    ],
)
def test_levels_are_json_or_words(text: str, levels: list[Any]) -> None:
    assert list(evaluating._listed(text, "--over")) == levels


# ── what is refused ─────────────────────────────────────────────────────────────────────────

REFUSED = {
    "no NAME": ([], "name one of its trials: rope-s1, rope-s2"),
    "unknown": (["rop-s1"], "no trial or variant 'rop-s1'; did you mean 'rope-s1'?"),
    "variant": (["rope"], "is a variant of 2 trials; name one: rope-s1, rope-s2"),
    "untrained": (
        ["rope-s2"],
        "rope-s2: it is not trained (planned); paribus run beside.py --only "
        "variant=rope,seed=2 does that",
    ),
    "of training": (["rope-s1", "--set", "optim.lr=1"], "--set optim.lr: no condition of evaluat"),
    "of the batches": (["rope-s1", "--set", "task.offsets=true"], "training alone reads it"),
    "of shapes": (["rope-s1", "--over", "model.width=1,2"], "model.width: no condition of eval"),
    "misspelt": (["rope-s1", "--set", "task.lenght=3"], "did you mean 'length'?"),
    "no value": (["rope-s1", "--set", "task.length"], "write --set path=value"),
    "no level": (["rope-s1", "--over", "task.length=4,"], "a value is missing"),
    "type": (["rope-s1", "--over", "task.length=4,x"], "task.length=x: task.length: 'x' does not"),
    "twice": (["rope-s1", "--set", "task.main=1", "--over", "task.main=2"], "it is given twice"),
    "level twice": (["rope-s1", "--over", "task.main=2,2"], "task.main=2 is given twice"),
    "beyond a table": (
        ["table-s1", "--over", "task.branches=3,5"],
        "task.branches=5: model.position: positions.learned ends at 48 tokens, the task's rows "
        "have 60",
    ),
    "no such weights": (
        ["rope-s1", "--set", 'model.position={"part":"learned","length":64}'],
        "it needs position.table (64, 32), and what was trained has nothing",
    ),
    "other shape": (
        ["table-s1", "--set", "model.position.length=64"],
        "it needs position.table (64, 32), and what was trained has (48, 32)",
    ),
    "too little text": (["rope-s1", "--set", "task.branches=99999"], "fewer than one sample"),
    "later tokens": (["rope-s1", "--set", 'model.mask={"part":"full"}'], "shows later tokens"),
    "examples": (["rope-s1", "--examples", "0"], "give at least one"),
    "format": (["rope-s1", "-o", "x.md"], "no format is called .md; known: .csv, .json"),
    "no format": (["rope-s1", "-o", "x"], "name a file that ends in .csv or .json"),
    "device": (["rope-s1", "--device", "tpu"], "valid: cpu, mps, cuda"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_wrong_request_is_one_line(what: str, study: Path, capsys: Said) -> None:
    arguments, message = REFUSED[what]
    assert message in refusal(capsys, "beside.py", *arguments)


def test_what_is_no_trial_is_said(study: Path, tmp_path: Path, capsys: Said) -> None:
    home = study.parent / "runs"
    assert "is no trial's folder" in refusal(capsys, "runs")
    assert "is no file of weights" in refusal(capsys, "text.txt")
    assert "a study file ends in .py" in refusal(capsys, "text.txt", "rope-s1")
    assert "no study 'beside'" in refusal(capsys, "beside", "rope-s1")
    link = "runs/studies/beside@main/names/rope-s1"
    assert "leave out 'rope-s1'" in refusal(capsys, link, "rope-s1")
    assert "--scale goes with a study" in refusal(capsys, link, "--scale", "main")
    untrained = refusal(capsys, str(place(home, "rope-s2")))
    assert "rope-s2: it is not trained; paribus run " in untrained
    log = place(home) / "attempts/1/log"
    assert "holds no weights of an attempt that is done" in refusal(capsys, str(log))
    shutil.copytree(home, tmp_path / "runs", symlinks=True)
    (place(tmp_path / "runs") / "attempts/1/weights").unlink()
    again = refusal(capsys, "beside.py", "rope-s1", "--home", str(tmp_path / "runs"))
    assert "its weights are gone; paribus run beside.py --home" in again


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("running", "it is being trained (host, process 7); it can be evaluated when that is done"),
        ("out of memory", "out of memory: host, process 7); run it --retry oom tries again"),
        ("failed", "run it --retry failed tries again"),
        ("diverged", "it diverged (host, process 7), so there are no trained weights"),
        ("interrupted", "it is not trained (interrupted); run it does that"),
    ],
)
def test_what_to_do_about_a_trial_without_weights(state: str, said: str) -> None:
    assert said in evaluating._untrained(state, "host, process 7", "run it")


def test_parts_that_compute_something_else_are_refused(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    home = tmp_path / "runs"
    shutil.copytree(study.parent / "runs", home, symlinks=True)
    (home / "studies/beside@main/source/parts/positions/mine.py").write_text(PART + "# edited\n")
    said = refusal(capsys, str(place(home, "mine-s1")))
    assert "mine-s1: positions.mine has changed since it was trained" in said
    monkeypatch.setattr(evaluating, "CORE_REVISION", 99)
    said = refusal(capsys, str(place(home)))
    assert "trained by another revision of the core (1; this is 99)" in said


def test_a_tokenizer_that_is_made_from_the_text_stays_the_one_of_training(tmp_path: Path) -> None:
    from paribus import corpora, optim, presets, schedules, tasks, tokenizers
    from paribus.parts import dump
    from paribus.spec import Spec, resolve

    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"{name} " * 50)
    task = tasks.lm(corpus=corpora.files(path=str(tmp_path / "a.txt")),
                    tokenizer=tokenizers.bpe(vocab=300), length=8)  # fmt: skip
    spec = resolve(Spec(model=presets.quickstart(width=32), task=task, optim=optim.adamw(lr=1e-3),
                        schedule=schedules.constant(), rows=1, steps=1))  # fmt: skip
    told = {"phases": [{"spec": dump(spec)}], "data": task.fingerprints()}
    model = evaluating.Trained("t", "t", told, tmp_path, {}, None)

    def notes(*patches: str) -> list[str]:
        (wanted,) = evaluating.conditions(Namespace(patches=patches, over=[]), model.spec)
        return list(evaluating._same_data(model, wanted))

    other = f"task.corpus.path={tmp_path / 'b.txt'}"
    assert notes() == []
    with pytest.raises(SpecError, match="made from the text, so with other text ids would mean"):
        notes(other)
    (note,) = notes(other, 'task.tokenizer={"part":"bytes"}')
    assert "is not the one that the weights were trained with" in note
    assert notes('task={"part":"copying","span":4}') == []

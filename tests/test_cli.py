"""The command line: bad input in one line, reruns of exactly what is missing, a user's own part."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from paribus import parts
from paribus.cli import main
from paribus.text import paths
from tests.command import paribus

STUDY = """
from paribus import *
position = Factor("position", {"none": None, "rope": positions.rope()}, "model.position")
length = Factor("length", [16, 32], "task.length")
loss = metric("loss")
study = Study("mini", "Does RoPE help?",
    base=Spec(model=presets.quickstart(width=32, heads=4),
              task=tasks.lm(corpus=corpora.files(path="text.txt"), tokenizer=tokenizers.bytes(),
                            length=16, eval_tokens=512),
              optim=optim.adamw(lr=3e-3), schedule=schedules.cosine(), rows=4, steps=6),
    factors=[position], seeds=[1, 2], evaluate=[Eval("lm", over=[length])],
    baseline=position["none"], names="{position}",
    hypotheses=dict(helps=better(position["rope"], than=position["none"], on=loss.at(length[16]))))
"""
TEXT = "".join(f"line {i} says {i * i} and {i % 7}\n" for i in range(2000))


@pytest.fixture(autouse=True)
def _folders() -> Iterator[None]:
    """What a study file sets for its process is put back."""
    yield
    parts.use_local(None)
    paths.use_base(None)


@pytest.fixture
def mini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "mini.py").write_text(STUDY)
    return tmp_path / "mini.py"


def run(*more: str, study: str = "mini.py", report: bool = False) -> CompletedProcess[str]:
    """By one worker and without preflight."""
    return paribus("run", study, "--no-check", "--workers", "1", *more, report=report)


BAD = {
    "unknown key": ("plan", "optim.adamw(lr=3e-3)", "optim.adamw(l=3e-3)", "unknown key 'l'"),
    "wrong type": ("plan", "lr=3e-3", 'lr="fast"', r"optim\.adamw\.lr: 'fast' does not fit"),
    "unknown part": ("plan", "positions.rope()", "positions.rop()", "did you mean 'rope'"),
    "empty grid": ("plan", "seeds=[1, 2]", 'seeds=2, skip=[("all", lambda c: True)]', "empty grid"),
    "no effect": ("plan", '{"none": None,', '{"none": None, "no": None,', "has no effect"),
    "heads": ("plan", "heads=4", "heads=5", "5 heads do not divide width 32"),
    "missing file": ("plan", '"text.txt"', '"txt.txt"', r"no file .*txt\.txt"),
    "empty corpus": ("plan", '"text.txt"', '"empty.txt"', "empty.txt is empty"),
    "small corpus": ("check", "rows=4", "rows=4000", "fewer than the 4000 rows of one step"),
    "vocabulary": ("plan", "heads=4)", "heads=4, vocab=100)", "tokenizer's vocabulary 257"),
    "seeds repeated": ("plan", "seeds=[1, 2]", "seeds=[1, 2, 1]", "seed 1 is repeated"),
    "raises": ("plan", 'loss = metric("loss")', "loss = 1 / 0", r"mini\.py:5: ZeroDivisionError"),
    "syntax": ("plan", "study = Study(", "study = = Study(", r"mini\.py:6: SyntaxError"),
    "no study": ("plan", "study = Study(", "stud = Study(", "defines no 'study'"),
    "when": ("plan", '"model.position")', '"model.position", when="x")', "is no arm; write factor"),
    "skip": (
        "plan",
        "seeds=[1, 2]",
        "seeds=2, skip=[lambda c: True]",
        "list of .reason, predicate",
    ),
    "two lines": ("plan", 'loss = metric("loss")', 'raise ValueError("a\\nb")', "ValueError: a$"),
    "exit": ("plan", 'loss = metric("loss")', "raise SystemExit(3)", "SystemExit: 3"),
    "condition": ("plan", '"task.length"', '"model.width"', "is no condition of evaluation"),
    "file name": ("plan", 'names="{position}"', 'names="../{position}"', "is no file name"),
    "bare eval": ("plan", '[Eval("lm", over=[length])]', 'Eval("lm")', "is a list of Eval"),
    "mismatch": (
        "plan",
        'Eval("lm"',
        'Eval("c", tasks.copying(span=4, symbols=999)), Eval("lm"',
        "evaluation 'c': model.vocab: 257 is smaller than the tokenizer's vocabulary 1000",
    ),
    "baseline": (
        "plan",
        "hypotheses=",
        'checks={"k": criterion(on=loss.at(length[16]), below=baseline("bigrm"))}, hypotheses=',
        "no baseline 'bigrm'; did you mean 'bigram'",
    ),
    "missing path": ("plan", '"task.length"', '"task.lenght"', "did you mean 'length'"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    what: str, mini: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, old, new, message = BAD[what]
    assert old in STUDY
    (mini.parent / "empty.txt").write_text("")
    mini.write_text(STUDY.replace(old, new, 1))
    code = main([verb, "mini.py"])
    said = capsys.readouterr()
    lines = [ln for ln in (said.err or said.out).splitlines() if ln.strip()]
    assert code == 2, said
    assert re.search(message, "\n".join(lines)), lines
    assert len({ln.partition(": ")[2] for ln in lines}) == 1, lines  # one line a graph at most
    assert "Traceback" not in said.err + said.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "nowhere.py"], "no study file 'nowhere.py'"),
        (["plan", "quickstar"], "did you mean 'quickstart'"),
        (["plan", "text.txt"], "text.txt: a study file ends in .py"),
        (["plan", "quickstart", "--scale", "smal"], "did you mean 'small'"),
        (["run", "mini.py", "--only", "positon=rope"], "did you mean 'position'"),
        (["run", "mini.py", "--only", "position=rop"], "did you mean 'rope'"),
        (["show", "mini.py", "rope-s9"], "did you mean 'rope-s"),
        (["new", "mini.py"], "is there already"),
        (["new", "x.txt"], "ends in .py"),
        (["plan", "mini.py", "--seeds", "0"], "at least one"),
        (["try", "mini.py", "rope", "--set", "optim.l=3"], "did you mean 'lr'"),
    ],
)
def test_bad_requests(
    arguments: list[str], message: str, mini: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_a_setting_that_nothing_reads_is_refused(
    mini: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = mini.parent / "parts" / "scales"
    folder.mkdir(parents=True)
    (folder / "lazy_scale.py").write_text(
        "from paribus.contracts import Scale\n"
        "class LazyScale(Scale, frozen=True, kw_only=True):\n"
        "    strength: float = 1.0\n"
        "    def factor(self, d): return d.head_dim ** -0.5\n"
    )
    text = STUDY.replace("heads=4)", "heads=4, logit_scale=scales.lazy_scale())").replace(
        "factors=[position]",
        'factors=[position, Factor("strength", [1, 2], "model.logit_scale.strength")]',
    ).replace('names="{position}"', 'names="{position}-{strength}"').replace(
        "on=loss.at(length[16])", 'on=loss.at(length[16]).mean("strength")'
    )  # fmt: skip
    mini.write_text(text)
    code = main(["check", "mini.py"])
    said = capsys.readouterr().out
    assert code == 2
    assert "factor 'strength': model.logit_scale.strength" in said
    assert "has no effect: nothing read it" in said


def grid(home: Path) -> dict[str, Any]:
    """Trial name -> (attempts, weights, evaluation files)."""
    out = {}
    for link in sorted((home / "studies").glob("mini@main/names/*")):
        attempts = sorted((link.resolve() / "attempts").iterdir())
        ends = [json.loads((a / "end").read_text()) for a in attempts]
        files = sorted(p.name for a in attempts for p in (a / "evaluations").glob("*"))
        out[link.name] = (len(attempts), ends[-1]["weights"], files)
    return out


def test_again_one_more_seed_and_a_deleted_result(mini: Path) -> None:
    first = paribus("run", "mini.py", "--workers", "1")
    assert first.returncode == 0, first.stderr
    assert "helps:" in first.stdout
    home = mini.parent / "runs"
    before = grid(home)
    assert sorted(before) == ["none-s1", "none-s2", "rope-s1", "rope-s2"]
    assert all(n == 1 and len(files) == 2 for n, _, files in before.values())

    began = time.monotonic()
    again = paribus("run", "mini.py", "--workers", "1")
    assert again.returncode == 0
    assert time.monotonic() - began < 20  # nothing is trained; the figure is measured elsewhere
    assert again.stderr == ""
    assert grid(home) == before

    mini.write_text(STUDY.replace("seeds=[1, 2]", "seeds=[1, 3]"))
    more = run()
    assert more.returncode == 0, more.stderr
    after = grid(home)
    assert sorted(set(after) - set(before)) == ["none-s3", "rope-s3"]
    assert all(after[k] == before[k] for k in before)

    folder = (home / "studies/mini@main/names/rope-s1").resolve()
    record = folder / "attempts/1/evaluations" / before["rope-s1"][2][0]
    content = json.loads(record.read_text())
    record.unlink()
    assert run().returncode == 0
    assert grid(home) == after
    redone = json.loads(record.read_text())
    assert redone["metrics"] == content["metrics"]
    assert redone["items"] == content["items"]

    shutil.rmtree((home / "studies/mini@main/names/none-s3").resolve())
    assert run().returncode == 0
    assert grid(home) == after  # trained again, to the same bits

    results = paribus("results", "mini.py", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(results.stdout)))
    loss = [r for r in rows if r["metric"] == "loss"]
    assert len(loss) == 8
    assert {r["seed"] for r in loss} == {"1", "3"}
    verdicts = json.loads(paribus("verdicts", "mini.py", "--json").stdout)
    assert [v["name"] for v in verdicts] == ["helps"]
    status = json.loads(paribus("status", "mini.py", "--json").stdout)
    assert {t["state"] for t in status["trials"]} == {"done"}


def test_rows_go_into_pandas_and_polars(mini: Path) -> None:
    import pandas
    import polars

    import paribus as package

    rows = package.load("mini.py").results()
    assert len(rows) == 8  # cells that are not there yet are rows that say so
    assert {r["status"] for r in rows} == {"planned"}
    assert list(pandas.DataFrame(rows).columns) == list(rows[0])
    assert polars.DataFrame(rows).shape == (8, len(rows[0]))


MINE = '''
"""Sines of the position, added to the embedding."""
from __future__ import annotations

from paribus.contracts import Position
from paribus.lazy import torch


class Mine(Position, frozen=True, kw_only=True):
    rate: float = 0.1

    def tables(self, d, pos):
        angle = pos.token[..., None] * self.rate * torch.arange(1, d.width + 1, dtype=torch.float64)
        return {"sine": 0.02 * angle.sin()}

    def embed(self, t, p, x):
        return x + t["sine"].to(x.dtype)
'''


def test_a_users_own_study_and_part_from_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    assert paribus("new", "--from", "quickstart", "my.py").returncode == 0
    text = (tmp_path / "my.py").read_text()
    assert '"alibi": positions.alibi()' in text
    text = text.replace('"alibi": positions.alibi()', '"alibi": positions.mine(rate=0.2)')
    (tmp_path / "my.py").write_text(text)
    folder = tmp_path / "parts" / "positions"
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text(MINE)
    package = Path(parts.ROOT)
    before = {p: p.read_bytes() for p in package.rglob("*.py")}
    checked = paribus("check", "my.py", "--scale", "smoke")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "positions.mine" in checked.stdout
    plan = json.loads(paribus("plan", "my.py", "--scale", "smoke", "--json").stdout)
    assert plan["study"] == "my"
    assert (plan["trials"], plan["evaluations"]) == (9, 36)
    ran = subprocess.run(
        [sys.executable, "-m", "paribus.cli", "run", "my.py", "--scale", "smoke", "--seeds", "1"],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "not testable" in ran.stdout  # twenty steps do not beat the unigram counts
    made = paribus("report", "my.py", "--scale", "smoke", "--seeds", "1")
    assert made.returncode == 0
    page = Path(made.stdout.strip()).read_text()
    assert "alibi" in page
    source = tmp_path / "runs/studies/my@smoke/source"
    assert (source / "parts/positions/mine.py").read_text() == MINE
    assert (source / "my.py").is_file()
    assert before == {p: p.read_bytes() for p in package.rglob("*.py")}


def test_lost_weights_are_said_and_retried(mini: Path) -> None:
    assert run().returncode == 0
    home = mini.parent / "runs"
    folder = (home / "studies/mini@main/names/none-s1").resolve() / "attempts/1"
    weights = (folder / "weights").read_bytes()
    next((folder / "evaluations").iterdir()).unlink()
    for damage, word in ((weights[:100], "damaged"), (None, "gone")):
        (folder / "weights").unlink()
        if damage is not None:
            (folder / "weights").write_bytes(damage)
        again = run(report=True)
        assert again.returncode == 1
        assert f"none-s1: its weights are {word}" in again.stderr
        assert "Traceback" not in again.stderr
    assert run("--retry").returncode == 0
    found = grid(home)["none-s1"]
    assert found[0] == 2  # a second attempt, to the same bits
    assert found[1] == json.loads((folder / "end").read_text())["weights"]


def test_a_second_study_file_of_one_name_is_refused(
    mini: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--only", "seed=1").returncode == 0
    (mini.parent / "other.py").write_text(STUDY.replace("steps=6", "steps=7"))
    assert main(["run", "other.py"]) == 2
    assert "is that of" in capsys.readouterr().err


def test_a_copy_of_the_study_or_of_its_home_is_no_other_study(mini: Path) -> None:
    assert run("--only", "seed=1").returncode == 0
    (mini.parent / "twin.py").write_text(STUDY)
    assert run("--only", "seed=1", study="twin.py").returncode == 0
    away = mini.parent / "away"
    shutil.copytree(mini.parent / "runs", away / "runs", symlinks=True)
    (away / "text.txt").write_text(TEXT)
    (away / "mini.py").write_text(STUDY + "# changed there\n")
    done = run("--only", "seed=1", study=str(away / "mini.py"))
    assert done.returncode == 0, done.stderr

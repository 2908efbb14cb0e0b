"""The studies of frozen queries and keys: the document's groups and counts, what is refused
beforehand, and a run at the smallest scale.  (7) and others are acceptance checks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from paribus import corpora, parts, schedules, tasks, tokenizers
from paribus import spec as specs
from paribus.cli import main
from paribus.parts import dump
from paribus.store import Store
from paribus.study import source
from paribus.study.plan import Plan
from paribus.text import paths
from paribus.text.data import Data

STUDIES = ("qk-freeze", "qk-freeze-factorial")
GROUPS = ["gpt_base", "oelm_no_freeze", "oelm_freeze"]
Said = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    yield
    parts.use_local(None)
    paths.use_base(None)


def test_the_documents_groups_and_counts(capsys: Said) -> None:
    """(7) Three groups in the document's order; 41,751,040 of 44,896,768 parameters are trained
    where 3,145,728 are frozen."""
    assert main(["plan", "qk-freeze", "--scale", "paper", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [v["name"] for v in plan["variants"]] == GROUPS
    assert {v["parameters"] for v in plan["variants"]} == {44_896_768}
    trained = [v["parameters_trained"] for v in plan["variants"]]
    assert trained == [44_896_768, 44_896_768, 41_751_040]
    assert trained[1] - trained[2] == 3_145_728
    assert {v["tokens"] for v in plan["variants"]} == {819_200_000}  # of every group


def test_the_recipe_of_the_document() -> None:
    """(15) and the constants: equal for all groups but for first values and what is frozen."""
    for t in source.load("qk-freeze", scale="paper").study.trials():
        spec = t.variant.spec
        model, optim = spec.model, spec.optim
        assert (model.width, model.layers, model.heads, model.vocab) == (512, 6, 8, 50_257)
        assert (model.dropout, model.embed_dropout, model.attn_dropout) == (0.1, 0.1, 0.1)
        assert (spec.rows, spec.steps, spec.task.length, spec.clip) == (16, 100_000, 512, 1.0)
        assert (optim.lr, optim.betas, optim.weight_decay) == (3e-4, (0.9, 0.95), 0.1)
        assert t.seed == 42
        lr = [optim.lr * spec.schedule.factor(s, 100_000) for s in (0, 1999, 9_500, 99_000)]
        assert lr == pytest.approx([3e-4 / 2000, 3e-4, 2.961e-4, 3.007e-5], rel=2e-4)
        assert bool(spec.freeze) == (t.variant.name == "oelm_freeze")


def test_the_scripts_own_defaults_explain_the_unmatched_runs() -> None:
    """(15) Rates that the log of the better baselines shows: warm-up 4000, 5e-4 → 0."""
    script = schedules.cosine(warmup=4000, floor=0.0, reach=False)
    lr = [5e-4 * script.factor(s, 100_000) for s in range(0, 100_000, 100)]
    assert lr[0] == 5e-4 / 4000
    assert lr[990] == pytest.approx(1.339e-7, rel=1e-3)
    assert all(a > b for a, b in pairwise(lr[40:]))


@pytest.mark.parametrize(("name", "scale"), [("qk-freeze", "paper"), ("qk-freeze", "small")])
def test_what_a_worker_is_given_is_the_spec_itself(name: str, scale: str) -> None:
    """(18) No command line in between: a trial's plain data reads back as its spec."""
    for trial in source.load(name, scale=scale).study.trials():
        spec = trial.variant.spec
        text = json.dumps(dump(spec))
        assert specs.load(json.loads(text)) == spec
        assert json.dumps(dump(specs.load(json.loads(text)))) == text


def test_windows_of_the_documents_files(tmp_path: Path) -> None:
    """(16) Row i is ids [i T, i T + T], each the next one's target; (N − 1) mod T ids are lost."""
    ids = np.random.default_rng(1).integers(0, 50_257, 5 * 64 + 1 + 17).astype("<u2")
    ids.tofile("val.bin")
    ids[::-1].tofile("train.bin")
    paths.use_base(Path.cwd())
    corpus = corpora.files(path="train.bin", test="val.bin")
    task = tasks.lm(corpus=corpus, tokenizer=tokenizers.ids(), length=64, eval_tokens=10_000)
    found = task.open(Data(tmp_path / "cache", "test"), "cpu")
    assert (found.rows, found.size) == (5, 5)
    rows = found.examples(0, 5)
    for i in range(5):
        x, y = (rows[k][i].numpy() for k in ("inputs", "targets"))
        assert (x == ids[64 * i : 64 * i + 64]).all() and (x[1:] == y[:-1]).all()
        assert y[-1] == ids[64 * i + 64]


def test_the_documents_files_are_taken_where_they_are() -> None:
    """(16) Without the files, Python's own text."""
    folder = Path("data/tiny_stories")
    folder.mkdir(parents=True)
    ids = np.arange(60_000, dtype="<u2") % 50_257
    for name in ("train.bin", "val.bin"):
        ids.tofile(folder / name)
        ids = ids[::-1].copy()
    task = source.load("qk-freeze", scale="paper").study.trials()[0].variant.spec.task
    assert task.tokenizer.name == "ids"
    assert task.corpus.path.endswith("train.bin")
    for name in ("train.bin", "val.bin"):
        (folder / name).unlink()
    assert (
        source.load("qk-freeze", scale="paper").study.trials()[0].variant.spec.task.tokenizer.name
        == "bpe"
    )


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("scale", ["paper", "small", "smoke"])
def test_nothing_is_refused_beforehand(name: str, scale: str, tmp_path: Path) -> None:
    """Every claim has its numbers, and the audit refuses nothing."""
    from paribus.comparing import audited

    plan = Plan(source.load(name, scale=scale).study, Store(tmp_path / "home"))
    plan.refuse()
    assert not [f for f in audited(plan) if f.level == "refuse"]
    if scale == "small":  # an equal grid for every arm, several seeds, of one size and length
        arms: dict[str, set[str]] = {}
        for i in plan.items:
            levels = {k: t for k, t in i.trial.variant.tags.items() if k != "lr"}
            arms.setdefault(str(levels), set()).add(i.trial.variant.tags["lr"])
            spec = i.trial.variant.spec
            assert (spec.model.width, spec.model.layers, spec.steps) == (256, 4, 3000)
        assert {len(grid) for grid in arms.values()} == {3}
        assert len(plan.study.seeds) >= 3
        # None of its stacks mixes what freezes with what does not.
        for pack in plan.packs(15 if name == "qk-freeze" else 18):
            assert len({plan.unique[u].trial.variant.spec.freeze for u in pack}) == 1


TABLE = """
from paribus import *
from paribus.studies import _qk_freeze as shared

# The document's own table: 8 rows on each of two GPUs, and of four.
group = Factor("group", {
    "oelm_no_freeze": {"init.qk": init.orthogonal()},
    "oelm_freeze": {"init.qk": init.orthogonal(), "freeze": shared.QK, "rows": 32}})
study = Study("table", "?", base=shared.base("paper"), factors=[group], evaluate=[Eval("lm")])
"""


def test_the_documents_own_table_is_refused(tmp_path: Path, capsys: Said) -> None:
    """(19) Four GPUs against two at 8 rows each are twice the rows and tokens."""
    (tmp_path / "table.py").write_text(TABLE)
    assert main(["run", "table.py"]) == 2
    said = capsys.readouterr()
    assert "group moves rows" in said.err + said.out
    assert not list(tmp_path.glob("runs/trials/*"))


def test_a_plan_needs_none_of_the_gpus(capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """(18) As the document's dry run: on any machine, with nothing written."""
    from paribus.launch import gpus

    monkeypatch.setattr(gpus, "gpus", list)
    options = ["--scale", "paper", "--gpus", "0,1,2,3", "--gpus-per-trial", "2"]
    assert main(["run", "qk-freeze", *options, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "where     worker 1 on cuda:0 + cuda:1: about " in said
    assert "note: no GPU is seen here: this is a plan for another machine" in said
    assert "this command would train 3: gpt_base, oelm_no_freeze, oelm_freeze" in said
    only = ["--only", "variant=gpt_base,oelm_freeze"]
    assert main(["run", "qk-freeze", *options, "--dry-run", *only]) == 0
    said = capsys.readouterr().out
    (who,) = [line for line in said.splitlines() if "cuda:2 + cuda:3" in line]
    assert "oelm_freeze" in who
    assert "oelm_no_freeze" not in said.partition("variant ")[0]
    assert main(["plan", "qk-freeze", "--scale", "paper", "--gpus", "auto:2"]) == 2
    assert "give numbers, such as 0,1" in capsys.readouterr().err
    assert main(["plan", "qk-freeze", "--scale", "paper", "--gpus", "0,1,1"]) == 2
    assert "a GPU is named twice" in capsys.readouterr().err
    assert not list(Path.cwd().iterdir())


def test_half_of_the_documents_text_is_no_reason_to_take_another(capsys: Said) -> None:
    Path("data/tiny_stories").mkdir(parents=True)
    Path("data/tiny_stories/train.bin").write_bytes(b"")
    assert main(["plan", "qk-freeze", "--scale", "paper"]) == 2
    assert "train.bin is there and" in capsys.readouterr().err


def test_where_nothing_can_be_written_is_said_beforehand(capsys: Said) -> None:
    Path("file").write_text("")
    dry = ["run", "qk-freeze", "--scale", "smoke", "--dry-run", "--device", "cpu"]
    assert main([*dry, "--output", "file/deep/er"]) == 2
    assert "nothing can be written in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("variant=gpt_base,oelm_freeze", ["gpt_base", "oelm_freeze"]),
        ("group=gpt_base,group=oelm_freeze", ["gpt_base", "oelm_freeze"]),
        ("group=oelm_freeze,seed=42", ["oelm_freeze"]),
    ],
)
def test_groups_are_chosen_by_name(only: str, names: list[str], capsys: Said) -> None:
    """(20)"""
    dry = ["run", "qk-freeze", "--scale", "paper", "--dry-run", "--device", "cpu"]
    assert main([*dry, "--only", only]) == 0
    said = capsys.readouterr().out
    assert f"this command would train {len(names)}: {', '.join(names)}" in said


def test_an_unknown_group_is_named_with_the_known_ones(capsys: Said) -> None:
    """(20)"""
    dry = ["run", "qk-freeze", "--scale", "paper", "--dry-run"]
    assert main([*dry, "--only", "variant=oelm_frozen"]) == 2
    assert "did you mean 'oelm_freeze'" in capsys.readouterr().err


def test_groups_run_beside_each_other_on_gpus_of_their_own(
    capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(18), (20) Two GPUs a group, two groups at a time, the third one waits; nothing written."""
    from paribus.launch import gpus

    four = [gpus.Gpu(i, f"GPU-{i}", "H", 80 << 30, 0) for i in range(4)]
    monkeypatch.setattr(gpus, "gpus", lambda: four)
    options = ["--gpus", "0,1,2,3", "--gpus-per-trial", "2", "--json"]
    assert main(["plan", "qk-freeze", "--scale", "paper", *options]) == 0
    who = json.loads(capsys.readouterr().out)["workers"]
    assert [w["devices"] for w in who] == [["cuda:0", "cuda:1"], ["cuda:2", "cuda:3"]]
    assert [w["trials"] for w in who] == [["gpt_base", "oelm_freeze"], ["oelm_no_freeze"]]
    # The frozen group takes a little less.
    assert who[0]["seconds"] == pytest.approx(2 * who[1]["seconds"], rel=0.02)
    assert who[0]["seconds"] < 2 * who[1]["seconds"]
    pair = ["--gpus", "0,1", "--gpus-per-trial", "2", "--json"]  # one after another, in order
    assert main(["plan", "qk-freeze", "--scale", "paper", *pair]) == 0
    (one,) = json.loads(capsys.readouterr().out)["workers"]
    assert one["trials"] == GROUPS
    assert not list(Path.cwd().glob("runs/*"))


def test_the_smallest_scale_runs_to_its_verdicts_and_files(capsys: Said) -> None:
    """(22), (25) and the logs: what the console shows is in a file, each training has a log of its
    own, and results are made from records, not from logs."""
    command = ["run", "qk-freeze", "--scale", "smoke", "--device", "cpu", "--stack", "8"]
    assert main([*command, "--output", "experiments/analysis"]) == 0
    said = capsys.readouterr()
    for claim in (f"H{n}_{of}" for n in (1, 2, 3, 4) for of in ("plan", "code")):
        assert f"\n{claim}: " in said.out

    study = Path("runs/studies/qk-freeze@smoke")
    log = (study / "run.log").read_text()
    assert all(line in log for line in said.out.splitlines())
    for line in said.err.splitlines():  # "[4/4]  12 s  gpt_base-lr0.001: done"
        assert line.partition(" s  ")[2] in log
    for group in GROUPS:
        own = (study / "names" / f"{group}-lr0.001" / "attempts" / "1" / "log").read_text()
        assert "step 4/4 loss" in own

    folder = Path("experiments/analysis")
    listed = ["comparison_table.txt", "hypothesis_validation.txt", "analysis_results.json",
              "val_ppl_comparison.png", "parameter_distribution.png"]  # fmt: skip
    assert all((folder / name).stat().st_size for name in listed)
    found = json.loads((folder / "analysis_results.json").read_text())
    for x in found["experiments"]:
        assert {"trial", "status", "seconds", "parameters", "metrics", "step"} <= x.keys()
        ppl = x["metrics"]["lm"]["ppl"]
        assert ppl["best"] <= ppl["final"] and ppl["best_step"] in (2, 4)
    frozen = {x["variant"]: x["parameters"]["frozen"] for x in found["experiments"]}
    assert frozen["oelm_freeze-lr0.001"] == frozen["gaussian_freeze-lr0.001"] == 2 * 2 * 32 * 32

    for path in [study / "run.log", *Path("runs/trials").glob("*/attempts/*/log")]:
        path.unlink()
    before = {name: (folder / name).read_bytes() for name in listed}
    assert (
        main(["report", "qk-freeze", "--scale", "smoke", "--output", "experiments/analysis"]) == 0
    )
    assert {name: (folder / name).read_bytes() for name in listed} == before
    assert main([*command, "--output", "elsewhere"]) == 0  # nothing to train: only written
    assert all((Path("elsewhere") / name).stat().st_size for name in listed)
    (folder / "comparison_table.txt").write_text("mine")
    capsys.readouterr()
    assert main([*command, "--output", "experiments/analysis"]) == 2
    assert "comparison_table.txt is there" in capsys.readouterr().err
    assert (folder / "comparison_table.txt").read_text() == "mine"


@pytest.mark.full
def test_the_factorial_runs_to_its_verdicts(capsys: Said) -> None:
    command = ["run", "qk-freeze-factorial", "--scale", "smoke", "--device", "cpu", "--stack", "8"]
    assert main(command) == 0
    said = capsys.readouterr().out
    for claim in ("freezing", "orthogonality", "size", "heads", "stability"):
        assert f"\n{claim}: " in said


def test_patterns_of_freezing_that_match_nothing_are_refused_in_a_plan(capsys: Said) -> None:
    Path("odd.py").write_text(TABLE.replace("shared.QK", '("*.attn.Q",)').replace('"rows": 32', ""))
    for verb in (["plan"], ["run", "--dry-run"]):
        assert main([verb[0], "odd.py", *verb[1:]]) == 2
        assert "oelm_freeze: freeze: '*.attn.Q' matches no parameter" in capsys.readouterr().err

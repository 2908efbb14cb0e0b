"""The studies of table connectivity: the document's grid and names, what is refused beforehand, and
a run of each at the smallest scale.  (A23) and others are acceptance checks."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paribus import parts
from paribus.cli import main
from paribus.nn.declare import counts, total
from paribus.store import Store
from paribus.study import source
from paribus.study.plan import Plan
from paribus.text import paths

STUDIES = ("table-connectivity", "table-connectivity-factorial")
Said = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    yield
    parts.use_local(None)
    paths.use_base(None)


# ── A23 ─────────────────────────────────────────────────────────────────────────────────────


def test_the_documents_sixty_trials() -> None:
    """A23: number, order and names."""
    wanted = [
        f"table_connectivity_{model}_V{V}_N{N}_run{run}"
        for V in (5, 20)
        for N in (256, 512, 1024, 2048, 4096)
        for model in ("standard", "lowrank")
        for run in (1, 2, 3)
    ]
    study = source.load("table-connectivity", scale="paper").study
    assert [t.name for t in study.trials()] == wanted
    assert len(wanted) == len({t.id for t in study.trials()}) == 60


def test_the_recipe_of_the_document() -> None:
    """12 × 256 × 8 heads, Adam at 1e-4 for 1,001 steps of 256; arms differ in positions and masks
    alone, and in how many numbers those are (A11, A13)."""
    study = source.load("table-connectivity", scale="paper", seeds=1).study
    for t in study.trials():
        spec, levels = t.variant.spec, t.name.split("_")
        model, task = spec.model, spec.task
        assert (model.width, model.layers, model.heads, model.read_out) == (256, 12, 8, "scalar")
        assert (spec.optim.name, spec.optim.lr, spec.clip) == ("adam", 1e-4, None)
        assert {spec.schedule.factor(s, 1001) for s in (0, 500, 1000)} == {1.0}
        assert (spec.steps, spec.rows, task.C, task.density) == (1001, 256, 3, 0.5)
        assert (task.mode, task.names, task.eval_examples) == ("published", "run", 10_000)
        assert f"V{task.V}" == levels[3]
        assert f"N{task.examples}" == levels[4]
        position = counts(model)["roles"]["position"]
        whole = {5: 5_888, 20: 21_248}[task.V]
        assert position == (1_792 if levels[2] == "lowrank" else whole)
        assert total(model) == 9_477_632 + position + 6 * 256 + 257


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("scale", ["paper", "small", "smoke"])
def test_nothing_is_refused_beforehand(name: str, scale: str, tmp_path: Path) -> None:
    """Every claim has its numbers, and the audit refuses nothing."""
    from paribus.comparing import audited

    plan = Plan(source.load(name, scale=scale).study, Store(tmp_path / "home"))
    plan.refuse()
    assert not [f for f in audited(plan) if f.level == "refuse"]


@pytest.mark.parametrize("cell", ["V=5,N=256", "V=20,N=4096"])
def test_arms_differ_in_what_is_declared_alone(cell: str, capsys: Said) -> None:
    """A22's other side: here nothing else differs."""
    arms = [f"model={model},{cell}" for model in ("standard", "lowrank")]
    assert main(["diff", "table-connectivity", *arms, "--scale", "paper", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["settings"]
    assert {row["path"]: row["factor"] for row in found} == dict.fromkeys(
        ("model.position", "model.mask"), "model"
    )


TOO_FEW = """
from paribus import *
from paribus.studies import _table_connectivity as shared

N = shared.examples([16, 32, 64])
study = Study("few", "What do few examples teach?",
    base=shared.base(width=32, layers=1, heads=2, batch=32, steps=1, V=3, eval_examples=50),
    factors=[N], seeds=1, evaluate=[Eval("test")]{skip})
"""


def test_fewer_examples_than_a_batch_are_refused_before_anything_runs(
    tmp_path: Path, capsys: Said
) -> None:
    """A23: also where only some of the trials are so; or they are left out, and it is said."""
    (tmp_path / "few.py").write_text(TOO_FEW.replace("{skip}", ""))
    for verb in ("plan", "run"):
        assert main([verb, "few.py"]) == 2
        assert "16 examples are fewer than the 32 rows" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/trials/*"))
    (tmp_path / "few.py").write_text(TOO_FEW.replace("{skip}", ", skip=[shared.TOO_FEW]"))
    assert main(["plan", "few.py", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["trials"], plan["skipped"]) == (2, 1)


# ── runs ────────────────────────────────────────────────────────────────────────────────────

HAND = [
    {"tables": {"pets": ["id", "name", "owner"], "people": ["owner", "city", "age"],
                "places": ["city", "x", "y"]}, "asked": ["name", "x"]},
    {"tables": {"a": ["i", "j", "k"], "b": ["l", "m", "n"], "c": ["o", "p", "q"]},
     "asked": ["i", "l"]},
]  # fmt: skip


@pytest.mark.parametrize("name", [STUDIES[0], pytest.param(STUDIES[1], marks=pytest.mark.full)])
def test_a_run_at_the_smallest_scale(name: str, tmp_path: Path, capsys: Said) -> None:
    """Training, every condition, verdicts and the report; what is trivial stands beside every
    result (A5); one test set for all (A9); then a question by hand."""
    home = tmp_path / "home"
    where = ["--scale", "smoke", "--home", str(home)]
    assert main(["run", name, *where]) == 0
    assert "not testable" in capsys.readouterr().out  # four steps teach nothing
    report = (home / "studies" / f"{name}@smoke" / "report" / "report.html").read_text()
    assert "majority" in report
    assert "membership" in report
    records = [r for each in judged(home).values() for r in each]
    assert len({r["realised"]["list"] for r in records if r["split"] == "test"}) == 1
    for record in records:
        assert record["status"] == "done"
        metrics, trivial = record["metrics"], record["baselines"]
        assert set(trivial) == {"majority", "membership"}
        p = metrics["recall"]["count"] / record["size"]
        assert trivial["majority"]["accuracy"] == pytest.approx(max(p, 1 - p), abs=1e-12)
        assert ("duplicates" in record["realised"]) == (record["split"] != "train")
        if name == STUDIES[1]:
            assert (p, trivial["membership"]["accuracy"]) == (0.5, 0.5)
    assert main(["verdicts", name, *where, "--json"]) == 0
    said = {v["name"]: v for v in json.loads(capsys.readouterr().out)}
    study = source.load(name, scale="smoke").study
    assert said.keys() == {*study.hypotheses, *study.criteria, *study.checks}
    assert {said[h]["verdict"] for h in study.hypotheses} == {"not testable"}
    if name == STUDIES[0]:
        assert_criteria(home, said)
        assert_table(capsys, name, where)
        (tmp_path / "hand.json").write_text(json.dumps(HAND))
        trial = "table_connectivity_lowrank_V3_N64_run1"
        asked = ["--set", "task.schemas=hand.json", "--json"]
        assert main(["evaluate", name, trial, *where, *asked]) == 0
        (one,) = json.loads(capsys.readouterr().out)["conditions"]
        assert one["size"] == 2
        assert one["metrics"]["recall"]["count"] == one["metrics"]["specificity"]["count"] == 1


def judged(home: Path) -> dict[str, list[dict[str, Any]]]:
    store = Store(home)
    return {str(t): list(store.evaluations(t).values()) for t in store.trials()}


def assert_criteria(home: Path, said: dict[str, Any]) -> None:
    """Each arm against what is trivial, in accuracy and by its own record."""
    store, seen = Store(home), 0
    for trial in store.trials():
        for record in store.evaluations(trial).values():
            if record["split"] != "test":
                continue
            mask = store.spec(trial)["phases"][0]["spec"]["model"]["mask"]["part"]
            arm = "standard" if mask == "causal" else "lowrank"
            for rule in ("majority", "membership"):
                found = said[f"{arm}_above_{rule}"]
                mine = record["metrics"]["accuracy"]["value"]
                assert found["effect"] == pytest.approx(mine, abs=1e-12)
                met = mine > record["baselines"][rule]["accuracy"]
                assert found["verdict"] == ("met" if met else "not met")
                seen += 1
    assert seen == 4


def assert_table(capsys: Said, name: str, where: list[str]) -> None:
    """The wide table says of what questions each of its rows is."""
    assert main(["results", name, *where, "--format", "csv", "--wide"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    about = [(r["model"], r["evaluation"], r["slice"]) for r in rows]
    assert len(set(about)) == len(about)
    assert {("lowrank", "test", "present=both"), ("standard", "train", "")} <= set(about)

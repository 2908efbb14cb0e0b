"""The studies of parallel branches: the document's grids, names, columns and counts, and a run of
each at the smallest scale."""

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
from paribus.nn.declare import total
from paribus.store import Store
from paribus.study import source
from paribus.study.plan import Plan
from paribus.text import paths

STUDIES = ("branches", "heads", "head-dim", "controls")
DOCUMENTED = {
    "branches": (54, 378, {"512-h8-r05-bfixed4", "512-h8-r075-b1-15", "512-h8-r0875-b1-31"}),
    "heads": (216, 1512, {"1024-h16-r05-bfixed4", "1536-h24-r075-b1-15", "256-h4-r00-bfixed1"}),
    "head-dim": (162, 1134, {"512-d32-h16-r05-bfixed4", "512-d128-h4-r075-b1-15"}),
}
COLUMNS = {
    "branches": "rope_ratio,train_branch,eval_branch,loss,ppl",
    "heads": "num_heads,hidden_size,rope_ratio,train_branch,eval_branch,loss,ppl",
    "head-dim": "head_dim,num_heads,rope_ratio,train_branch,eval_branch,loss,ppl,"
    "freq_count,ratio_precision",
}


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    yield
    parts.use_local(None)
    paths.use_base(None)


def planned(capsys: pytest.CaptureFixture[str], name: str, *more: str) -> dict[str, Any]:
    command = ["plan", f"parallelmind-{name}", "--scale", "paper", "--seeds", "1", "--json"]
    assert main([*command, *more]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_documents_grid(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    trials, evaluations, names = DOCUMENTED[name]
    plan = planned(capsys, name)
    assert (plan["trials"], plan["evaluations"]) == (trials, evaluations)
    assert names <= {v["name"] for v in plan["variants"]}


def test_the_first_experiment_is_inside_the_other_two(capsys: pytest.CaptureFixture[str]) -> None:
    others = ("--with", "parallelmind-heads", "--with", "parallelmind-head-dim")
    both = planned(capsys, "branches", *others)["together"]
    assert (both["trials"], both["names"], both["trainings"]) == (432, 378, 324)
    assert both["evaluations"] == 3024
    assert both["inside"] == [
        "parallelmind-branches@paper is inside parallelmind-heads@paper",
        "parallelmind-branches@paper is inside parallelmind-head-dim@paper",
    ]


def test_parameters_of_the_documents_models() -> None:
    found = {
        name: {
            total(t.variant.spec.model)
            for t in source.load(f"parallelmind-{name}", scale="paper", seeds=1).study.trials()
        }
        for name in ("heads", "head-dim")
    }
    assert found["heads"] == {7_540_992, 25_829_888, 93_078_528, 201_745_920}
    assert found["head-dim"] == {25_305_600, 25_829_888, 26_878_464}


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("scale", ["paper", "small", "smoke"])
def test_nothing_is_refused_beforehand(name: str, scale: str, tmp_path: Path) -> None:
    """Every claim has its numbers, and the audit refuses nothing."""
    from paribus.comparing import audited

    found = source.load(f"parallelmind-{name}", scale=scale).study
    plan = Plan(found, Store(tmp_path / "home"))
    plan.refuse()
    assert not [f for f in audited(plan) if f.level == "refuse"]


def test_every_arm_gets_the_same_texts_a_step() -> None:
    for name in STUDIES:
        for t in source.load(f"parallelmind-{name}", scale="small", seeds=1).study.trials():
            task, rows = t.variant.spec.task, t.variant.spec.rows
            assert rows * sum(task.counts()) / 2 == 128, t.name


def test_the_recipe_of_the_document() -> None:
    """lr(s) = lr/10 + lr/2 · (1 + cos(πs/S)) with lr = 5e-4, decay of everything by 0.01."""
    import math

    (first, *_) = source.load("parallelmind-branches", scale="paper", seeds=1).study.trials()
    spec = first.variant.spec
    for step in (0, 1, 16_000, 31_999):
        wanted = 5e-5 + 2.5e-4 * (1 + math.cos(math.pi * step / 32_000))
        assert spec.optim.lr * spec.schedule.factor(step, 32_000) == pytest.approx(wanted, 1e-12)
    assert (spec.optim.weight_decay, spec.optim.decay, spec.clip) == (0.01, "all", 1.0)
    assert (spec.steps, spec.task.texts_per_step) == (32_000, 64)


@pytest.mark.parametrize(
    "name", [STUDIES[0], *(pytest.param(n, marks=pytest.mark.full) for n in STUDIES[1:])]
)
def test_a_run_at_the_smallest_scale(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training, every condition, verdicts and the report; the wide table in the document's order;
    each condition scored the same texts with the branches that were asked."""
    home, study = tmp_path / "home", f"parallelmind-{name}"
    assert main(["run", study, "--scale", "smoke", "--home", str(home)]) == 0
    out = capsys.readouterr().out
    assert "not testable" in out  # six steps teach nothing, and the check says so
    assert (home / "studies" / f"{study}@smoke" / "report" / "report.html").is_file()
    where = ["--scale", "smoke", "--home", str(home)]
    assert main(["results", study, *where, "--format", "csv", "--wide"]) == 0
    wide = capsys.readouterr().out
    if name in COLUMNS:
        assert wide.startswith(COLUMNS[name] + ",seed,status\n")
    if name == "head-dim":
        (row, *_) = csv.DictReader(io.StringIO(wide))
        assert (row["freq_count"], row["ratio_precision"]) == ("8.0", "0.125")
    assert main(["results", study, *where, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len({row["list"] for row in rows}) == 1
    assert {row["n"] for row in rows if row["metric"] == "loss"} == {"744.0"}  # 24 texts of 32
    store = Store(home)
    for trial in store.trials():
        for record in store.evaluations(trial).values():
            asked = int(record["key"].rpartition("=")[2].split()[-1])
            assert record["realised"]["branches"] == {str(asked): 24 // asked}
        end = store.state(trial).end or {}
        assert end["realised"]["train"]["tokens"] == end["tokens"]

"""The later grids of table connectivity: the document's counts, order and names, what is skipped
and what is refused, and a run of each at the smallest scale."""

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
from paribus.comparing import audited
from paribus.errors import SpecError
from paribus.store import Store
from paribus.study import source
from paribus.study.plan import Plan
from paribus.text import paths

STUDIES = ("arms", "few", "paths")
Said = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    yield
    parts.use_local(None)
    paths.use_base(None)


def loaded(name: str, scale: str = "paper") -> Any:
    return source.load(f"table-connectivity-{name}", scale=scale).study


def test_four_arms_of_twenty_runs() -> None:
    trials = loaded("arms").trials()
    assert [t.name for t in trials] == [
        f"table_connectivity_{model}_{names}_V5_N{2**n}_run{run}"
        for n in (15, 16, 17, 18)
        for model in ("standard", "lowrank")
        for names in ("random", "fixed")
        for run in range(1, 21)
    ]
    assert len(trials) == 320
    for t in trials:
        spec = t.variant.spec
        assert (spec.steps, spec.task.batch, spec.optim.lr) == (5001, 256, 1e-4)
        assert spec.task.names == ("fixed" if "_fixed_" in t.name else "run")
        assert (spec.model.width, spec.model.layers, spec.model.heads) == (256, 12, 8)


def test_few_examples_and_those_that_are_fewer_than_a_batch(capsys: Said) -> None:
    study = loaded("few")
    every = [
        f"table_connectivity_{model}_random_V{v}_N{n}_run{run}"
        for v in (3, 4, 5)
        for n in (32, 64, 128)
        for model in ("standard", "lowrank")
        for run in range(1, 21)
    ]
    assert len(every) == 360
    assert [t.name for t in study.trials()] == [name for name in every if "_N32_" not in name]
    assert main(["plan", "table-connectivity-few", "--scale", "paper", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["trials"], plan["skipped"]) == (240, 6)  # six variants of twenty runs
    assert main(["plan", "table-connectivity-few", "--scale", "paper"]) == 0
    assert "skipped 6: fewer examples than one batch" in capsys.readouterr().out


@pytest.mark.parametrize("scale", ["paper", "smoke"])
def test_without_the_skip_nothing_begins(scale: str) -> None:
    study = loaded("few", scale)
    with pytest.raises(SpecError, match=r"examples"):
        study.with_(skip=[]).trials()


def test_the_path_is_asked_of_the_same_questions() -> None:
    study = loaded("paths")
    trials = study.trials()
    assert len(trials) == 3 * 4 * 4 * 5
    by = {arm: [t for t in trials if t.name.startswith(arm)] for arm in ("cl", "label", "path")}
    for one, label, path in zip(*by.values(), strict=True):
        a, b, c = (t.variant.spec for t in (one, label, path))
        for field in ("V", "C", "examples", "mode", "batch", "eval_examples", "data_seed"):
            assert len({getattr(s.task, field) for s in (a, b, c)}) == 1
        assert (b.task.answer, c.task.answer) == ("label", "path")
        assert a.model.width == b.model.width == c.model.width
        assert a.optim == b.optim == c.optim
        assert b.model == c.model


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("scale", ["paper", "small", "smoke"])
def test_nothing_is_refused_beforehand(name: str, scale: str, tmp_path: Path) -> None:
    """Every claim has its numbers, and the audit refuses nothing."""
    plan = Plan(loaded(name, scale), Store(tmp_path / "home"))
    plan.refuse()
    assert not [f for f in audited(plan) if f.level == "refuse"]


def test_they_are_shown(capsys: Said) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in STUDIES:
        assert f"table-connectivity-{name}" in out


@pytest.mark.parametrize(
    "name", [STUDIES[0], *(pytest.param(n, marks=pytest.mark.full) for n in STUDIES[1:])]
)
def test_a_run_at_the_smallest_scale(name: str, tmp_path: Path, capsys: Said) -> None:
    home, study = tmp_path / "home", f"table-connectivity-{name}"
    assert main(["run", study, "--scale", "smoke", "--home", str(home)]) == 0
    out = capsys.readouterr().out
    assert "learned: " in out  # four steps teach nothing, so whether it is met is chance
    assert (home / "studies" / f"{study}@smoke" / "report" / "report.html").is_file()
    where = ["--scale", "smoke", "--home", str(home)]
    assert main(["results", study, *where, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    lists = {r["list"] for r in rows if r["evaluation"] == "test"}
    assert len(lists) == 1  # whatever is answered, one list of questions
    if name == "few":
        assert all("_N32_" in r["trial"] for r in rows)
    if name == "paths":
        metrics = {r["metric"] for r in rows if r["trial"].startswith("path")}
        assert {"exact_match", "label_accuracy", "balanced_accuracy", "auc"} <= metrics

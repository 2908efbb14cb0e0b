"""The studies of longer rows: the document's numbers, what the controls are, what is refused
beforehand, and a run at the smallest scale.  (18) and others are acceptance checks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from paribus import parts, schedules
from paribus import spec as specs
from paribus.analysis import importing
from paribus.cli import main
from paribus.errors import SpecError
from paribus.parts import dump
from paribus.store import Store
from paribus.studies import _rope_scaling as shared
from paribus.study import source
from paribus.study.plan import Plan
from paribus.text import paths
from tests.command import paribus
from tests.engine import tiny
from tests.probes import bundle

REPO = Path(__file__).resolve().parents[2]
STUDIES = (
    "rope-scaling",
    "rope-scaling-zero",
    "rope-scaling-controls",
    "rope-scaling-scratch",
)
Said = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    yield
    parts.use_local(None)
    paths.use_base(None)


def planned(name: str, scale: str) -> Plan:
    return Plan(source.load(name, scale=scale).study, Store(Path("home")))


def trials(name: str, scale: str) -> dict[str, Any]:
    return {t.name: t for t in source.load(name, scale=scale).study.trials()}


# ── the document's numbers ──────────────────────────────────────────────────────────────────


def test_the_documents_arms_and_counts(capsys: Said) -> None:
    """(20) 560,988,160 parameters, 21,400 steps and 5,000 more, of 524,288 tokens each."""
    assert main(["plan", "rope-scaling", "--scale", "paper", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    names = {v["name"] for v in plan["variants"]}
    assert {
        "d20-rope-t1-jump-long", "d20-pi-t1-jump", "d20-ntk13-t1-jump", "d20-yarn-ta-jump",
        "d20-ntk-t1-jump", "d20-rope-t1-jump-short", "d20-rope-t1-jump-untouched",
    } <= names  # fmt: skip
    assert {v["parameters"] for v in plan["variants"]} == {560_988_160}
    tokens = {v["name"]: v["tokens"] for v in plan["variants"]}
    assert tokens["d20-yarn-ta-jump"] == 26_400 * 524_288
    assert plan["trunks"] == 1  # the base is trained once


def test_the_recipe_of_the_document() -> None:
    """(2), (18), (19): the same recipe for all arms, the rate from .946970 down to 0, as many
    tokens a step at either length."""
    found = trials("rope-scaling", "paper")
    for name in ("rope-t1-jump-long", "pi-t1-jump", "ntk13-t1-jump", "yarn-ta-jump"):
        base, extend = (p.spec for p in found[f"d20-{name}"].variant.phases)
        assert (base.steps, base.task.length, base.rows) == (21_400, 2048, 256)
        assert (extend.steps, extend.task.length, extend.rows) == (5_000, 8192, 64)
        assert (extend.model.layers, extend.model.width, extend.model.heads) == (20, 1280, 10)
        assert extend.task.tokens_per_step == extend.rows * 8192 == 524_288
        assert found[f"d20-{name}"].variant.phases[1].optim == "keep"
        assert base.schedule.factor(21_399, 21_400) == pytest.approx(1 / 4280)
        rates = [extend.schedule.factor(s, 5_000) for s in (0, 2_500, 5_000)]
        assert rates == pytest.approx([0.946970, 0.473485, 0.0], abs=5e-7)
    scaled = {k: t.variant.spec.model for k, t in found.items()}
    assert scaled["d20-yarn-ta-jump"].temperature == pytest.approx(1.138629436)
    dims = scaled["d20-ntk13-t1-jump"].dims()
    slowest = {
        k: 2 * math.pi / float(scaled[f"d20-{k}"].position.frequencies(dims)[0][-1])
        for k in ("rope-t1-jump-long", "ntk13-t1-jump", "ntk-t1-jump")
    }
    assert list(slowest.values()) == pytest.approx([54_410, 707_332, 217_641], rel=1e-5)


def test_a_batch_that_does_not_fit_is_refused() -> None:
    """(19) The document's commands: 32 rows of 8,192 tokens on each of 8 GPUs are four times the
    tokens of a step.  Rows are what follows from the tokens: 8 on each."""
    spec = shared.base("paper", length=8192)
    assert specs.resolve(spec).rows == 64 == 8 * 8
    with pytest.raises(SpecError, match="256 rows a step are given, but the task's own words make"):
        specs.resolve(specs.patch(spec, "rows", 8 * 32))
    with pytest.raises(SpecError, match="no multiple of length"):
        specs.resolve(specs.patch(spec, "task.length", 8000))


# ── what the controls are ───────────────────────────────────────────────────────────────────


def test_every_arm_goes_on_from_the_same_base() -> None:
    """Sixty trainings share five trunks of 2,500 steps; arms of scalings stack."""
    plan = planned("rope-scaling", "small")
    assert len(plan.items) == 60
    forest = plan.forest
    assert [t.until for t in forest.trunks] == [2500] * 5
    assert set(forest.parent) == {i.trial.id for i in plan.items}
    packs = [pack for pack in plan.packs(25) if pack[0] in plan.unique]
    assert sorted(map(len, packs)) == [5, 5, 25, 25]


def test_temperature_and_frequencies_are_crossed() -> None:
    """The 2 × 2 that the document lacks: YaRN's frequencies without its temperature, and the
    temperature without its frequencies."""
    found = trials("rope-scaling", "small")
    for name in ("rope", "pi", "ntk", "ntk13", "yarn"):
        cold = f"{name}-t1-long-s1" if name == "rope" else f"{name}-t1-s1"
        models = [found[k].variant.spec.model for k in (cold, f"{name}-ta-s1")]
        assert [m.position.attention_factor() for m in models] == [1, 1]
        assert [m.temperature for m in models] == [1, pytest.approx(shared.HOT)]
        assert dump(models[0].position) == dump(models[1].position)


def test_the_base_itself_is_one_trial_of_two_studies() -> None:
    """At a rate of 0 a step changes nothing, to the bit."""
    (mine,) = (t for n, t in trials("rope-scaling", "smoke").items() if "untouched" in n)
    (other,) = trials("rope-scaling-zero", "smoke").values()
    assert mine.id == other.id
    assert mine.variant.spec.schedule.factor(0, 1) == 0
    specs_ = [
        tiny.spec(optim=shared.base("smoke").optim, steps=3),
        tiny.spec(optim=shared.base("smoke").optim, steps=1, schedule=schedules.rewarm(peak=0.0)),
    ]
    alone, after = tiny.member(1, specs_[0]), tiny.member(1, *specs_)
    tiny.train([alone])
    tiny.train([after])
    a, b = (tiny.result(m)[0] for m in (alone, after))
    weights = [k for k in a if k.startswith("param/")]
    assert any(k.endswith("attn.q") for k in weights)
    assert all(torch.equal(a[k], b[k]) for k in weights)


@pytest.mark.parametrize("name", STUDIES)
def test_a_scale_of_novels_wants_books(name: str) -> None:
    with pytest.raises(SpecError, match=r"no data/novels/train.jsonl or .parquet"):
        source.load(name, scale="small-novels").study  # noqa: B018
    folder = Path("data/novels")
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        rows = [json.dumps({"text": f"{split} {i} " + "It was a dark night. " * 400}) for i in "ab"]
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    study = source.load(name, scale="small-novels").study
    task = study.trials()[0].variant.spec.task
    assert task.corpus.path == "data/novels/train.jsonl"
    assert task.corpus.fingerprint()
    small = source.load(name, scale="small").study
    assert [t.name for t in study.trials()] == [t.name for t in small.trials()]


def test_the_published_values_stand_beside_ours() -> None:
    """As imported arms: bits a byte always, CORE where its questions are there; and then what the
    document says of CORE is a criterion."""
    folder = REPO / "docs/studies/rope-scaling-published"
    record = planned("rope-scaling", "paper").record
    for name, value in (("rope", 0.8024), ("pi", 0.8019), ("ntk13", 0.8008), ("yarn", 0.7992)):
        ((arm,), left_out) = importing.arms(record, folder / f"{name}.json", None, None)
        assert not left_out
        assert {(r["evaluation"], r.get("length")) for r in arm["rows"]} == {
            ("rows", "8192"),
            ("trained", None),
        }
        assert arm["rows"][0]["value"] == value
        with pytest.raises(SpecError, match="no metric 'core_v1'"):
            importing.arms(record, folder / f"{name}-core.json", None, None)
    bundle.write(Path(shared.BUNDLE))
    plan = planned("rope-scaling", "paper")
    plan.refuse()
    assert {"core_pi", "core_ntk", "core_yarn"} <= plan.study.criteria.keys()
    for name in ("rope", "pi", "ntk13", "yarn"):
        ((arm,), _) = importing.arms(plan.record, folder / f"{name}-core.json", None, None)
        assert len(arm["rows"]) == 6


# ── beforehand, and a run ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("scale", ["paper", "small", "smoke"])
def test_nothing_is_refused_beforehand(name: str, scale: str) -> None:
    """Every claim has its numbers, and the audit refuses nothing."""
    from paribus.comparing import audited

    if name == "rope-scaling-scratch" and scale == "paper":
        with pytest.raises(SpecError, match="paper"):
            planned(name, scale)
        return
    plan = planned(name, scale)
    plan.refuse()
    assert not [f for f in audited(plan) if f.level == "refuse"]
    if scale == "small":
        assert len(plan.study.seeds) >= 3
        assert plan.study.checks


def test_the_smallest_scale_runs_to_its_verdicts() -> None:
    name = "rope-scaling"
    done = paribus("run", name, "--scale", "smoke", "--device", "cpu", "--stack", "8", report=False)
    assert done.returncode == 0, done.stderr
    claims = source.load(name, scale="smoke").study.hypotheses
    assert all(f"\n{claim}: " in done.stdout for claim in claims)
    rows = json.loads(paribus("results", name, "--scale", "smoke", "--format", "json").stdout)
    found = {(r["evaluation"], r["length"], r["metric"]) for r in rows}
    assert {("window", 32, "bpb"), ("rows", 128, "bpb"), ("places", None, "bpb")} <= found
    assert ("passkey", "found") in {(r["evaluation"], r["metric"]) for r in rows}


@pytest.mark.full
@pytest.mark.parametrize("name", STUDIES[1:])
def test_the_controls_run_to_their_verdicts(name: str) -> None:
    done = paribus("run", name, "--scale", "smoke", "--device", "cpu", "--stack", "8", report=False)
    assert done.returncode == 0, done.stderr
    claims = source.load(name, scale="smoke").study.hypotheses
    assert all(f"\n{claim}: " in done.stdout for claim in claims)

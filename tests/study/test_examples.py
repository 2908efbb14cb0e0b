"""The five example studies expand as documented; planted mistakes are refused in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from paribus.errors import SpecError
from paribus.store import Store
from paribus.study import hypotheses, source
from paribus.study.factors import Factor
from paribus.study.plan import Plan, study_record
from paribus.study.study import Study
from paribus.study.trunks import Forest, forest

HERE = Path(__file__).parent / "examples"


def study(name: str) -> Study:
    return source.load(str(HERE / f"{name}.py")).study


def test_branches_216_trials_and_1512_evaluations() -> None:
    e = study("branches").expand()
    assert len(e.trials) == 216
    assert sum(1 for _ in e.evaluations()) == 1512
    assert len({t.spec_id for t in e.trials}) == 216
    names = [t.name for t in e.trials]
    assert names[0] == "256-h4-r00-bfixed1"
    assert {"1024-h16-r05-bfixed4", "1536-h24-r075-b1-15"} <= set(names)
    one = e.variants[names.index("1536-h24-r075-b1-15")].spec
    assert (one.model.width, one.model.heads, one.model.position.ratio) == (1536, 24, 0.75)
    assert one.task.branches == (1, 15)
    assert one.rows == 8  # 64 texts a step over a mean of 8 branches
    # What a row is under a condition has nothing to do with the rows of training.
    trial = e.trials[names.index("1536-h24-r075-b1-15")]
    judged = [s.task.branches for c in e.conditions if (s := c.resolved(trial))]
    assert judged == [1, 2, 4, 8, 16, 24, 32]


def test_tables_60_trials_in_the_documented_order_and_names() -> None:
    names = [t.name for t in study("tables").expand().trials]
    wanted = [
        f"table_connectivity_{model}_V{v}_N{n}_run{run}"
        for v in (5, 20)
        for n in (256, 512, 1024, 2048, 4096)
        for model in ("standard", "lowrank")
        for run in (1, 2, 3)
    ]
    assert names == wanted


def test_tables_with_fewer_examples_than_a_batch_are_skipped_with_the_reason() -> None:
    s = study("tables")
    s.factors[1].levels[0].patch["task.examples"] = 128
    values = {"task.examples": 128}
    s.factors[1].levels[0] = type(s.factors[1].levels[0])("128", 128, values)
    e = s.expand()
    assert len(e.trials) == 48
    assert {x["reason"] for x in e.skipped} == {"fewer examples than one batch"}


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples' corpora are not here, and identities hold their contents."""
    monkeypatch.setattr(type(study("scaling").phased.base.task), "fingerprints", lambda _: {})


@pytest.mark.usefixtures("no_files")
def test_scaling_36_trials_on_3_trunks() -> None:
    e = study("scaling").expand()
    assert len(e.trials) == 36
    found = forest(e.trials, lambda _: [])
    # All arms of a seed share the first phase; the second one's models and tasks all differ.
    assert [(t.seed, t.until) for t in found.trunks] == [(1, 21400), (2, 21400), (3, 21400)]
    assert set(found.parent) == {t.id for t in e.trials}
    assert found.saved_steps == 3 * 11 * 21400
    assert len(e.variants) == 12
    by_name = {t.name: t for t in e.trials}
    assert "d20-rope-2048-t1-s1" in by_name
    assert "d20-yarn-16-ta-s3" in by_name
    assert "d20-pi-ta-s2" in by_name
    short = by_name["d20-rope-2048-t1-s1"].variant.phases
    assert [p.name for p in short] == ["train", "extend"]
    assert [p.optim for p in short] == ["reset", "keep"]
    assert (short[0].spec.rows, short[1].spec.rows) == (256, 256)
    long = by_name["d20-yarn-16-ta-s3"].variant.phases[1].spec
    assert (long.rows, long.steps, long.task.length) == (64, 5000, 8192)
    assert long.model.position.scaling.beta_fast == 16


@pytest.mark.usefixtures("no_files")
def test_a_trunk_ignores_what_the_schedule_would_do_later() -> None:
    """The trunk is the realised learning rates, not the schedule's name or the total steps."""
    from paribus import schedules
    from paribus.spec import patch

    base = study("scaling")
    phased = base.phased
    flat = type(phased)(patch(phased.base, "schedule", schedules.constant()), phased.phases)
    longer = type(phased)(
        patch(phased.base, "schedule", schedules.linear(floor=1.0)), phased.phases
    )
    trunks = [
        {t.id for t in forest(base.with_(base=p).expand().trials, lambda _: []).trunks}
        for p in (flat, longer, phased)
    ]
    assert trunks[0] == trunks[1]  # both stay at the peak
    assert trunks[0] != trunks[2]


def test_keynorm_conditional_and_tuned_factors() -> None:
    e = study("keynorm").expand()
    assert len(e.trials) == (1 + 2 + 2) * 3 * 5
    # A tuned factor brings the evaluation that it is chosen by.
    assert [(c.key, c.evaluation.split) for c in e.conditions][-1] == ("valid", "validation")
    Plan(without_data(study("keynorm")), Store(Path("nowhere"))).refuse()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tuned": "valid"}, "write <evaluation>/<metric>, such as 'valid/loss'"),
        ({"tuned": "vald/loss"}, "did you mean 'valid'"),
        ({"looks": [3, 6]}, "the last of which is the study's"),
        ({"looks": [5, 3]}, "ascending numbers"),
        ({"test": "t"}, "test='t'"),
        ({"on_missing": "worst"}, 'it needs test="signed_rank"'),
        ({"on_missing": "zero"}, "on_missing='zero'"),
    ],
)
def test_how_a_study_tests_is_checked(changes: dict[str, Any], said: str) -> None:
    s = study("keynorm")
    rule = changes.pop("tuned", "valid/loss")
    factors = [f for f in s.factors if not f.tuned]
    factors.append(Factor("lr", [3e-4, 1e-3], "optim.lr", tuned=rule))
    with pytest.raises(SpecError, match=re.escape(said)):
        s.with_(factors=factors, **changes, **({"evaluate": []} if rule != "valid/loss" else {}))


def test_looks_register_all_their_seeds() -> None:
    s = study("keynorm").with_(looks=[3, 5])
    assert s.with_(seeds=3).planned_seeds == s.planned_seeds == [1, 2, 3, 4, 5]
    assert s.with_(seeds=8).planned_seeds == list(range(1, 9))
    with pytest.raises(SpecError, match="list all 5 seeds"):
        s.with_(seeds=[1, 2, 7])
    with pytest.raises(SpecError, match="between two looks nothing is judged"):
        s.with_(seeds=4)


def without_data(s: Study) -> Study:
    """The study on a generated task, so that identities need no files."""
    from paribus import tasks
    from paribus.spec import patch

    base = patch(patch(s.phased.base, "task", tasks.copying(span=8)), "rows", 8)
    return s.with_(base=base, evaluate=[])


def test_freeze_three_groups() -> None:
    e = study("freeze").expand()
    assert [t.name for t in e.trials] == ["exp_gpt_base", "exp_oelm_no_freeze", "exp_oelm_freeze"]
    assert e.variants[2].spec.freeze == ("*.attn.q", "*.attn.k")
    assert e.variants[1].spec.init.qk.name == "orthogonal"


MISTAKES = {
    "a wrong path": (
        "branches",
        '"model.position.ratio",\n',
        '"model.position.ration",\n',
        r"no path 'model\.position\.ration': .* has no 'ration'; did you mean 'ratio'\?",
    ),
    "a wrong level": (
        "tables",
        'baseline=model["standard"]',
        'baseline=model["standart"]',
        r"factor 'model' has no level 'standart'; did you mean 'standard'\?",
    ),
    "two numbers for an arm": (
        "branches",
        "on=loss.at(seen_at[1]).mean(heads)",
        "on=loss.at(seen_at[1])",
        r"H1.*num_heads",
    ),
    "a name collision": (
        "branches",
        "-b{train_branch}",
        "",
        r"names: '256-h4-r00' stands for two trials .*add the factor to names=",
    ),
    "a level without effect": (
        "freeze",
        '"gpt_base": {},',
        '"gpt_base": {}, "same": {"init.qk": init.normal(std=0.02)},',
        r"factor 'group' has no effect: group=gpt_base and group=same resolve to equal specs",
    ),
    "an unknown part": (
        "branches",
        "masks.branch()",
        "masks.brunch()",
        r"no masks\.brunch; did you mean 'branch'\?",
    ),
    "an unknown key": (
        "scaling",
        "beta_fast=32, beta_slow=1",
        "beta_fast=32, beta_slo=1",
        r"scalings\.yarn: unknown key 'beta_slo'; did you mean 'beta_slow'\?",
    ),
    "an unknown phase": (
        "scaling",
        '"extend:model.temperature"',
        '"extent:model.temperature"',
        r"factor 'temperature': no phase 'extent'; did you mean 'extend'\?",
    ),
    "a condition factor on an arm": (
        "keynorm",
        'flat=better(\n            norm["key"]',
        'flat=better(\n            norm["kee"]',
        r"factor 'norm' has no level 'kee'; did you mean 'key'\?",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_planted_mistakes_are_refused_in_one_line(mistake: str, tmp_path: Path) -> None:
    name, old, new, message = MISTAKES[mistake]
    text = (HERE / f"{name}.py").read_text()
    assert old in text
    (tmp_path / "parts").symlink_to(HERE / "parts")
    path = tmp_path / f"{name}.py"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(SpecError) as caught:
        verified(path)
    said = str(caught.value)
    assert "\n" not in said
    assert re.search(message, said), said


def verified(path: Path) -> None:
    s = source.load(str(path)).study
    hypotheses.verify(dict(s.hypotheses), study_record(_Planned(s)))


class _Planned:
    """What study_record reads of a plan, without the data that identities need."""

    def __init__(self, s: Study) -> None:
        self.study, self.expansion, self.items = s, s.expand(), []
        self.forest = Forest([], {}, 0)

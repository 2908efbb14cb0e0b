"""The audit before running: each planted confound is found by name, and fair studies are let be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from paribus import (
    Eval,
    Factor,
    Spec,
    Study,
    at_least,
    best,
    better,
    init,
    masks,
    metric,
    norms,
    optim,
    positions,
    presets,
    schedules,
    stated,
    tasks,
)
from paribus.analysis import findings
from paribus.store import Store
from paribus.study import source
from paribus.study.audit import Finding, declared, refusals
from paribus.study.plan import Plan, study_record
from paribus.study.study import equal
from tests.study.test_examples import HERE, _Planned, study

LOSS = metric("loss")
ROPE = {"model.position": positions.rope()}


def spec(**changes: Any) -> Spec:
    fields: dict[str, Any] = dict(
        model=presets.quickstart(width=64),
        task=tasks.copying(span=8),
        optim=optim.adamw(lr=3e-3),
        schedule=schedules.cosine(),
        rows=8,
        steps=100,
    )
    return Spec(**{**fields, **changes})


def record(*factors: Factor, **changes: Any) -> dict[str, Any]:
    """The record of a study of these factors."""
    fields: dict[str, Any] = dict(base=spec(), evaluate=[Eval("copy")], seeds=3)
    asked = Study("s", "?", factors=factors, **{**fields, **changes})
    made: dict[str, Any] = Plan(asked, Store(Path("nowhere"))).record
    return made


def arms(second: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A study of two arms: the base, and what ``second`` patches."""
    return record(Factor("arm", {"a": {}, "b": dict(second)}), **changes)


def refused(made: Mapping[str, Any]) -> dict[str, str]:
    """About -> rule of the refusals."""
    return {f.about: f.rule for f in declared(dict(made)) if f.level == "refuse"}


def of(made: Mapping[str, Any], rule: str) -> list[Finding]:
    return [f for f in declared(dict(made)) if f.rule == rule]


# ── arms that differ in more than what is asked ─────────────────────────────────────────────

CONFOUNDS: dict[str, tuple[Mapping[str, Any], str]] = {
    "model.width": ({"model.width": 128}, "aliased"),
    "model.mlp.ratio": ({"model.mlp.ratio": 2}, "aliased"),
    "steps": ({"steps": 200}, "steps"),
    "rows": ({"rows": 16}, "rows"),
    "schedule": ({"schedule": schedules.constant()}, "schedule"),
    "schedule.floor": ({"schedule.floor": 0.5}, "schedule"),
    "optim.lr": ({"optim.lr": 1e-3}, "optim"),
    "optim": ({"optim": optim.sgd(lr=0.1)}, "optim"),
    "clip": ({"clip": None}, "optim"),
    "precision": ({"precision": "bf16"}, "precision"),
    "task.data_seed": ({"task.data_seed": 1}, "task"),
    "task.examples": ({"task.examples": 32}, "task"),
}


@pytest.mark.parametrize("path", CONFOUNDS)
def test_a_level_that_moves_a_budget_or_a_size_beside_what_it_is_about_is_refused(
    path: str,
) -> None:
    patch, rule = CONFOUNDS[path]
    about = f"arm moves {path}"
    assert refused(arms({**ROPE, **patch})) == {about: rule}
    assert refused(arms({**ROPE, **patch}, accept={about: "it is meant"})) == {}
    assert refused(arms(patch)) == {}  # a factor about just that
    same = record(Factor("arm", {"a": patch, "b": {**ROPE, **patch}}))
    assert refused(same) == {}  # both arms have it: nothing differs


def test_what_the_budget_then_does_is_said_with_its_cause() -> None:
    (tokens,) = of(arms({**ROPE, "steps": 200}), "tokens")
    assert (tokens.level, tokens.facts["root"]) == ("warn", "arm moves steps")
    assert tokens.facts["values"] == {"a": [12_800], "b": [25_600]}
    meant = arms({**ROPE, "steps": 200}, accept={"arm moves steps": "trained to the same loss"})
    (tokens,) = of(meant, "tokens")
    assert (tokens.level, tokens.accepted) == ("note", "trained to the same loss")


def test_a_token_budget_that_nothing_explains_is_refused() -> None:
    for number in ("tokens", "steps", "rows"):
        made = arms(ROPE)
        made["variants_info"]["b"][number] *= 2
        assert refused(made) == {f"arm changes {number}": number}


def test_another_corpus_beside_the_arm_is_refused() -> None:
    made = arms({"init.qk": init.normal(std=0.02)})
    for v, corpus in zip(made["variants"], ("a", "b"), strict=True):
        made["variants_info"][v["name"]]["spec"][0]["spec"]["task"]["corpus"] = corpus
    made["factors"][0]["moves"].append("task.corpus")
    assert refused(made) == {"arm moves task.corpus": "data"}


def test_several_settings_of_one_kind_are_one_treatment() -> None:
    structure = {**ROPE, "model.mask": masks.causal(), "model.q_norm": norms.rmsnorm()}
    assert refused(arms(structure)) == {}
    assert refused(arms({"model.width": 128, "model.layers": 4})) == {}
    assert refused(arms({"optim.lr": 1e-3, "optim.weight_decay": 0.0})) == {}
    assert refused(arms({"task.data_seed": 1, "task.examples": 32})) == {}
    assert refused(arms({"rows": 16, "optim.lr": 6e-3})) == {"arm moves optim.lr": "optim"}


def test_freeze_group_c_on_4_gpus_with_the_double_batch_is_refused() -> None:
    asked = study("freeze")
    level = asked.factors[0].levels[2]
    asked.factors[0].levels[2] = type(level)(level.tag, level.value, {**level.patch, "rows": 32})
    made = study_record(_Planned(asked))  # type: ignore[arg-type]
    assert refused(made) == {"group moves rows": "rows"}
    (finding,) = refusals(declared(made))
    assert finding.facts["values"] == {
        "gpt_base": [16], "oelm_no_freeze": [16], "oelm_freeze": [32]
    }  # fmt: skip
    assert finding.who == ("H4",)
    assert findings.line(finding) == (
        "refused: group moves rows (16 at gpt_base, oelm_no_freeze; 32 at oelm_freeze), so its "
        "levels differ in more than what is asked; if it is meant: "
        'accept={"group moves rows": "why"}'
    )


def test_the_published_pair_of_table_connectivity_is_flagged_with_every_differing_key() -> None:
    """64 wide, 4 layers and 20 numbers, of which 5 say something, against 256 wide, 12 layers and
    5, of which 4 do, as one factor."""
    small = {"model.width": 64, "model.layers": 4, "task.width": 20, "task.dims": 5}
    large = {"model.width": 256, "model.layers": 12, "task.width": 5, "task.dims": 4}
    asked = study("tables")
    old = asked.factors[2].levels
    pair = {"standard": {**old[0].patch, **large}, "lowrank": {**old[1].patch, **small}}
    asked = asked.with_(factors=[Factor("model", pair)], names="{model}", skip=[])
    made = study_record(_Planned(asked))  # type: ignore[arg-type]
    about = [f"model moves {path}" for path in small]
    assert set(refused(made)) == set(about)
    for finding in refusals(declared(made)):
        said = findings.say(finding)
        assert finding.who == ("efficient",)
        assert str(small[finding.facts["path"]]) in said
        assert str(large[finding.facts["path"]]) in said


# ── aliased factors ─────────────────────────────────────────────────────────────────────────

heads = Factor("num_heads", [4, 8], "model.heads", also=lambda h: {"model.width": 16 * h})


def test_heads_that_move_the_width_as_in_the_founding_study() -> None:
    claim = best(heads[4], on=LOSS)
    made = record(heads, hypotheses=dict(H5=claim, H6=stated("the wider the better")))
    assert refused(made) == {"num_heads moves model.width": "aliased"}
    (aliased,) = of(made, "claim_aliased")
    assert (aliased.level, aliased.who) == ("warn", ("H5",))
    assert findings.say(aliased).startswith("H5: num_heads is aliased with model.width")
    (stated_,) = of(made, "no_measurable")
    assert (stated_.about, stated_.level) == ("H6 names no measurable", "warn")
    assert "H6 names no measurable" in findings.say(stated_)


def test_an_accepted_alias_stays_a_note_with_its_reason_and_so_does_its_claim() -> None:
    why = {"num_heads moves model.width": "head size fixed"}
    made = record(heads, hypotheses=dict(H5=best(heads[4], on=LOSS)), accept=why)
    assert refused(made) == {}
    for rule in ("aliased", "claim_aliased"):
        (finding,) = of(made, rule)
        assert (finding.level, finding.accepted) == ("note", "head size fixed")
        assert findings.say(finding).endswith("; accepted: head size fixed")


def test_a_claim_that_averages_over_the_aliased_factor_is_not_named() -> None:
    position = Factor("position", {"rope": positions.rope(), "none": None}, "model.position")
    fair = better(position["rope"], than=position["none"], on=LOSS.mean(heads))
    slope = better(position["rope"], than=position["none"], on=LOSS.slope(heads))
    made = record(heads, position, hypotheses=dict(fair=fair, slope=slope))
    assert [f.who for f in of(made, "claim_aliased")] == [("slope",)]


def skipped(*keep: tuple[str, str]) -> dict[str, Any]:
    width = Factor("width", [32, 64], "model.width")
    steps = Factor("steps", [100, 200], "steps")

    def other(cell: Any) -> bool:
        return (str(cell.width), str(cell.steps)) not in keep

    return record(width, steps, skip=[("not asked", other)])


def test_factors_that_skip_aliases_are_refused() -> None:
    assert refused(skipped(("32", "100"), ("64", "200"))) == {
        "width is aliased with steps": "aliased_factors"
    }
    assert refused(skipped(("32", "100"), ("64", "200"), ("64", "100"))) == {}


def test_a_claim_about_aliased_factors_is_named() -> None:
    made = skipped(("32", "100"), ("64", "200"))
    width = Factor("width", [32, 64], "model.width")
    claim = better(width[64], than=width[32], on=LOSS)
    made["registration"]["hypotheses"] = {"H5": claim.data()}
    (finding,) = of(made, "claim_aliased")
    assert findings.say(finding).startswith("H5: width is aliased with steps")


def test_levels_that_no_pair_of_variants_compares_are_refused() -> None:
    width = Factor("width", [32, 64], "model.width")
    steps = Factor("steps", [100, 200], "steps")
    rows = Factor("rows", [8, 16], "rows")

    def odd(cell: Any) -> bool:  # each pair of widths differs in steps or rows as well
        return ((cell.width == 32) + (cell.steps == 100) + (cell.rows == 8)) % 2 == 1

    made = record(width, steps, rows, skip=[("not asked", odd)])
    assert set(refused(made)) == {
        f"{name} is nowhere compared all else equal" for name in ("width", "steps", "rows")
    }


def test_a_budget_that_only_one_arm_has_is_refused() -> None:
    position = Factor("position", {"rope": positions.rope(), "none": None}, "model.position")
    own = Factor("lr", [1e-3, 2e-3], "optim.lr", when=position["rope"])
    assert refused(record(position, own)) == {"position moves optim.lr": "optim"}
    shared = Factor("lr", [1e-3, 3e-3], "optim.lr", when=position["rope"])
    assert refused(record(position, shared)) == {}  # the other arm's rate is among them


# ── budgets ─────────────────────────────────────────────────────────────────────────────────


def test_a_budget_factor_is_intended_and_its_consequences_are_notes() -> None:
    for path, levels in (("steps", [100, 200]), ("rows", [8, 16]), ("task.span", [4, 8])):
        made = record(Factor("f", levels, path))
        assert refused(made) == {}
        assert [f.level for f in of(made, "tokens")] == ["note"]


def test_more_flops_at_equal_steps_are_a_note() -> None:
    made = record(
        Factor("width", [32, 64], "model.width"),
        base=spec(steps=None), budget=equal("steps", 100),
    )  # fmt: skip
    assert refused(made) == {}
    (cost,) = of(made, "cost")
    assert (cost.level, set(cost.facts["costs"])) == ("note", {"parameters", "flops"})
    assert "FLOPs" in findings.say(cost)
    assert "budget is equal steps" in findings.say(cost)


def test_a_budget_that_the_variants_do_not_keep_is_said() -> None:
    two = record(
        Factor("rows", [8, 16], "rows"), base=spec(steps=None), budget=equal("tokens", 1e5)
    )
    assert of(two, "budget") == []
    for info in two["variants_info"].values():
        info["tokens"] *= 2  # as two phases of the whole budget would
    (finding,) = of(two, "budget")
    assert finding.level == "warn"
    assert set(finding.who) == {v["name"] for v in two["variants"]}


# ── what is evaluated ───────────────────────────────────────────────────────────────────────


def test_levels_that_are_judged_on_data_or_lengths_of_their_own_are_marked() -> None:
    text = Factor("span", [4, 8], "task.span")
    claim = dict(H=better(text[4], than=text[8], on=LOSS))
    (finding,) = of(record(text, hypotheses=claim), "evaluation_length")
    assert (finding.level, finding.who) == ("warn", ("H",))
    judge = [Eval("copy", tasks.copying(span=8))]
    assert of(record(text, hypotheses=claim, evaluate=judge), "evaluation_length") == []
    made = record(text, hypotheses=claim, evaluate=judge)
    cells = list(made["evaluated"].values())
    assert of(made, "evaluation_data") == []
    made["trials"] = [dict(t, cells={"copy": t["variant"]}) for t in made["trials"]]
    made["evaluated"] = {i: {**cells[0], "data": {"corpus": "ab"[i]}} for i in (0, 1)}
    (finding,) = of(made, "evaluation_data")
    assert finding.about == "span changes the evaluation data"


def test_seeds_of_their_own_are_refused() -> None:
    made = arms(ROPE)
    made["trials"] = [t for t in made["trials"] if (t["variant"], t["seed"]) != (1, 3)]
    assert refused(made) == {"arms have seeds of their own": "seeds"}


# ── claims ──────────────────────────────────────────────────────────────────────────────────

arm = Factor("arm", {"a": {}, "b": ROPE})
CLAIM = better(arm["b"], than=arm["a"], on=LOSS)


def asked(**changes: Any) -> dict[str, Any]:
    return record(arm, **{"hypotheses": dict(H=CLAIM), **changes})


def test_one_seed_is_said_beforehand() -> None:
    (finding,) = of(asked(seeds=1), "one_seed")
    assert (finding.level, finding.who) == ("warn", ("H",))
    assert of(asked(seeds=2), "one_seed") == []


@pytest.mark.parametrize("test", ["signflip", "signed_rank"])
def test_too_few_seeds_for_an_exact_test_are_refused_by_exact_arithmetic(test: str) -> None:
    assert set(refused(asked(seeds=4, test=test))) == {f"{test} with 4 seeds cannot reach alpha"}
    assert refused(asked(seeds=5, test=test)) == {}  # 1/32 < .05
    assert refused(asked(seeds=3)) == {}  # a t-test can
    two = dict(H=CLAIM, G=best(arm["b"], on=LOSS))
    (finding,) = of(asked(seeds=5, test=test, hypotheses=two), "too_few_seeds")  # 1/32 > .05/2
    assert (finding.facts["need"], set(finding.who)) == (6, {"H", "G"})
    assert refused(asked(seeds=6, test=test, hypotheses=two)) == {}


def test_one_of_two_parts_costs_a_seed_more_in_an_exact_test() -> None:
    two = at_least(1, [CLAIM, best(arm["b"], on=LOSS)])  # p = 2 p_(1)
    assert of(asked(seeds=5, test="signflip", hypotheses=dict(H=two)), "too_few_seeds")
    assert not of(asked(seeds=6, test="signflip", hypotheses=dict(H=two)), "too_few_seeds")


def test_with_looks_the_last_ones_share_of_alpha_must_be_reachable() -> None:
    # Lan–DeMets spends .0114 of .05 after 3 of 5 seeds, and .0284 after 4: what is left for the
    # fifth is .0386 > 1/32, or .0216 < 1/32.
    assert not of(asked(seeds=5, test="signflip", looks=[3, 5]), "too_few_seeds")
    assert of(asked(seeds=5, test="signflip", looks=[4, 5]), "too_few_seeds")


def test_a_study_without_checks_or_trivial_baselines_is_told_so() -> None:
    made = asked()
    assert [f.level for f in of(made, "no_checks")] == ["note"]
    assert of(made, "no_trivial") == []
    assert [f.level for f in of({**made, "trivial": []}, "no_trivial")] == ["warn"]


def test_a_setting_that_the_test_split_chooses_is_refused() -> None:
    def tuned(split: str) -> dict[str, Any]:
        lr = Factor("lr", [1e-3, 3e-3], "optim.lr", tuned="pick/loss")
        return record(arm, lr, evaluate=[Eval("copy"), Eval("pick", split=split, examples=64)])

    assert refused(tuned("test")) == {"lr is chosen on the test split": "selection"}
    assert refused(tuned("validation")) == {}


def test_a_grid_that_skip_makes_smaller_for_one_arm_is_refused() -> None:
    lr = Factor("lr", [1e-3, 3e-3, 1e-2], "optim.lr", tuned="valid/loss")
    fair = record(arm, lr)
    assert refused(fair) == {}
    skip: Callable[[Any], bool] = lambda c: c.levels["arm"] == "a" and c.lr > 5e-3  # noqa: E731
    made = record(arm, lr, skip=[("too hot for a", skip)])
    assert refused(made) == {"lr has no equal grid": "grid"}
    only = Factor("lr", [1e-3, 3e-3, 1e-2], "optim.lr", tuned="valid/loss", when=arm["b"])
    assert refused(record(arm, only)) == {"lr has no equal grid": "grid"}


def test_the_test_split_during_training_is_a_note() -> None:
    made = asked(evaluate=[Eval("copy", every=50)], keep=("last", "best:copy/loss"))
    assert [f.level for f in of(made, "intervals")] == ["note"]
    assert [f.level for f in of(made, "best_on_test")] == ["note"]
    valid = [Eval("copy"), Eval("v", every=50, split="validation", examples=64)]
    made = asked(evaluate=valid, keep=("last", "best:v/loss"), hypotheses={})
    assert of(made, "intervals") + of(made, "best_on_test") == []


def test_a_claim_about_time_is_warned_of() -> None:
    made = asked(hypotheses=dict(H=CLAIM, T=better(arm["b"], than=arm["a"], on=metric("seconds"))))
    assert [f.who for f in of(made, "timing")] == [("T",)]


def test_sizes_at_one_learning_rate_are_a_note_unless_it_is_tuned() -> None:
    width = Factor("width", [32, 64], "model.width")
    claim = dict(H=better(width[64], than=width[32], on=LOSS))
    assert [f.level for f in of(record(width, hypotheses=claim), "one_rate")] == ["note"]
    lr = Factor("lr", [1e-3, 3e-3], "optim.lr", tuned="valid/loss")
    assert of(record(width, lr, hypotheses=claim), "one_rate") == []


def test_a_control_factor_is_named() -> None:
    seed = Factor("data_seed", [0, 1], "task.data_seed", control=True)
    assert [f.level for f in of(record(seed), "control")] == ["note"]


# ── accept= ─────────────────────────────────────────────────────────────────────────────────


def test_a_mistyped_key_is_refused_with_the_nearest() -> None:
    made = record(heads, accept={"num_head moves model.width": "head size fixed"})
    assert refused(made) == {
        "num_heads moves model.width": "aliased",
        "num_head moves model.width": "unknown_accept",
    }
    (finding,) = of(made, "unknown_accept")
    assert findings.line(finding) == (
        "refused: accept: 'num_head moves model.width' is nothing that the audit found; "
        "did you mean 'num_heads moves model.width'?"
    )


def test_a_reason_must_be_given() -> None:
    made = record(heads, accept={"num_heads moves model.width": " "})
    assert set(refused(made).values()) == {"no_reason"}


def test_a_key_of_a_scale_with_more_levels_stays_valid() -> None:
    one = Factor("num_heads", [4], "model.heads", also=lambda h: {"model.width": 16 * h})
    assert refused(record(one, accept={"num_heads moves model.width": "head size fixed"})) == {}


# ── no false alarm ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["branches", "tables", "scaling", "keynorm", "freeze"])
def test_the_example_studies_are_not_refused(name: str) -> None:
    made = study_record(_Planned(study(name)))  # type: ignore[arg-type]
    assert refused(made) == {}
    assert [f for f in declared(made) if f.level == "warn"] == [
        f for f in declared(made) if f.rule in ("one_seed", "no_trivial")
    ]


@pytest.mark.parametrize("scale", ["smoke", "small", "paper"])
def test_the_quickstart_has_nothing_to_be_warned_of(scale: str) -> None:
    made = Plan(source.load("quickstart", scale=scale).study, Store(Path("nowhere"))).record
    assert [f for f in declared(made) if f.level != "note"] == []


def test_the_branches_study_needs_its_accept_line() -> None:
    made = study_record(_Planned(study("branches")))  # type: ignore[arg-type]
    assert set(refused({**made, "accept": {}})) == {"num_heads moves model.width"}
    assert (HERE / "branches.py").read_text().count("accept={") == 1


def test_a_large_study_has_few_findings() -> None:
    made = study_record(_Planned(study("branches")))  # type: ignore[arg-type]
    twice = [{**v, "name": v["name"] + "'"} for v in made["variants"]]
    infos = made["variants_info"]
    made["variants_info"] = {**infos, **{n + "'": i for n, i in infos.items()}}
    made["variants"] += twice
    made["trials"] = [
        {"name": v["name"], "variant": i, "seed": 1,
         "cells": {c["key"]: c["key"] for c in made["conditions"]}}
        for i, v in enumerate(made["variants"])
    ]  # fmt: skip
    made["evaluated"] = {c["key"]: {"data": {}, "length": None} for c in made["conditions"]}
    assert (len(made["variants"]), len(made["conditions"])) == (432, 7)
    assert len(declared(made)) < 20


def test_every_finding_has_a_sentence_in_both_languages() -> None:
    made = [
        record(heads, hypotheses=dict(H5=best(heads[4], on=LOSS), H6=stated("x"))),
        skipped(("32", "100"), ("64", "200")),
        asked(seeds=4, test="signflip", evaluate=[Eval("copy", every=50)]),
        arms({**ROPE, "steps": 200, "schedule": schedules.constant()}),
    ]
    for finding in (f for one in made for f in declared(one)):
        english, chinese = findings.say(finding), findings.say(finding, "zh")
        assert english and chinese and english != chinese
        assert "{" not in english.replace("{'", "") and "\n" not in findings.line(finding)
        accepts = f'accept={{"{finding.about}": "why"}}' in findings.line(finding)
        assert accepts == (finding.level == "refuse")

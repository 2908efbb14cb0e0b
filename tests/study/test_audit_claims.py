"""The audit of what is compared at once, of what an exact test can reach, and of reasons given."""

from __future__ import annotations

from typing import Any

import pytest

from paribus import (
    Eval,
    Factor,
    all_of,
    at_least,
    best,
    better,
    init,
    masks,
    mlps,
    norms,
    optim,
    positions,
)
from paribus.analysis import findings
from tests.study.test_audit import CLAIM, LOSS, ROPE, arm, arms, asked, of, record, refused

# ── two factors at once ─────────────────────────────────────────────────────────────────────

position = Factor("position", {"rope": positions.rope(), "none": None}, "model.position")
lr = Factor("lr", [8e-3, 1e-4], "optim.lr")
ROPE_ALONE = better(position["rope"], than=position["none"], on=LOSS.mean(lr))
UNFAIR = better(position["rope"] & lr[8e-3], than=position["none"] & lr[1e-4], on=LOSS)
FAIR = better(position["rope"] & lr[1e-4], than=position["none"] & lr[1e-4], on=LOSS)


def test_a_claim_that_changes_two_factors_at_once_is_warned_of() -> None:
    made = record(position, lr, hypotheses=dict(H=UNFAIR, fair=FAIR, alone=ROPE_ALONE))
    (found,) = of(made, "two_factors")
    assert (found.level, found.who) == ("warn", ("H",))
    assert found.about == "H compares position and lr at once"
    assert findings.say(found) == (
        "H compares position and lr at once: the effect cannot be told apart between them"
    )
    assert "position、lr" in findings.say(found, "zh")
    why = {found.about: "as in the document"}
    (found,) = of(record(position, lr, hypotheses=dict(H=UNFAIR), accept=why), "two_factors")
    assert (found.level, found.accepted) == ("note", "as in the document")


@pytest.mark.parametrize("joint", [lambda parts: all_of(*parts), lambda parts: at_least(1, parts)])
def test_so_is_a_part_of_a_joint_claim(joint: Any) -> None:
    made = record(position, lr, hypotheses=dict(H=joint([FAIR, UNFAIR])))
    assert [f.about for f in of(made, "two_factors")] == ["H compares position and lr at once"]


def test_so_is_a_criterion_with_two_arms() -> None:
    made = record(position, lr)
    made["registration"]["criteria"] = {"C": {**UNFAIR.data(), "claim": "criterion"}}
    assert [f.who for f in of(made, "two_factors")] == [("C",)]


def test_three_factors_are_all_named() -> None:
    rows = Factor("rows", [8, 16], "rows")
    claim = better(position["rope"] & lr[8e-3] & rows[8],
                   than=position["none"] & lr[1e-4] & rows[16], on=LOSS)  # fmt: skip
    (found,) = of(record(position, lr, rows, hypotheses=dict(H=claim)), "two_factors")
    assert found.about == "H compares position, lr and rows at once"


def test_levels_that_overlap_a_tuned_factor_and_one_under_an_arm_are_let_be() -> None:
    any_lr = better(position["rope"] & lr[8e-3, 1e-4], than=position["none"] & lr[1e-4], on=LOSS)
    data = {**any_lr.data(), "claim": "better"}
    made = record(position, lr)
    made["registration"]["hypotheses"] = {"H": data}
    assert of(made, "two_factors") == []
    made["registration"]["hypotheses"] = {"H": UNFAIR.data()}
    assert len(of(made, "two_factors")) == 1
    for change in ({"tuned": "copy/loss"}, {"when": {"position": ["rope"]}}):
        of_lr = {**made["factors"][1], **change}
        there = {**made, "factors": [made["factors"][0], of_lr]}
        assert of(there, "two_factors") == []


def test_factors_that_never_vary_apart_are_refused_and_not_warned_of_again() -> None:
    def other(cell: Any) -> bool:
        return (cell.levels["position"] == "rope") != (cell.lr == 8e-3)

    made = record(position, lr, skip=[("not asked", other)], hypotheses=dict(H=UNFAIR))
    assert set(refused(made)) == {"position is aliased with lr"}
    assert of(made, "two_factors") == []


# ── several parts in one level ──────────────────────────────────────────────────────────────

MLP = {"model.mlp": mlps.relu2(ratio=16)}
INIT = {"init.qk": init.normal(std=0.5)}


@pytest.mark.parametrize(("patch", "parts"), [
    ({**ROPE, **MLP}, "model.position and model.mlp"),
    ({**ROPE, **INIT}, "model.position and init"),
    ({**ROPE, **MLP, **INIT}, "model.position, model.mlp and init"),
])  # fmt: skip
def test_a_level_of_several_parts_is_one_treatment_and_said_to_be(
    patch: dict[str, Any], parts: str
) -> None:
    made = arms(patch, hypotheses={})
    assert refused(made) == {}
    (found,) = of(made, "compound")
    assert (found.level, found.about) == ("note", f"arm changes {parts} together")
    both = "both" if len(patch) == 2 else "all of them"
    assert findings.say(found) == f"arm changes {parts} together: its effect is that of {both}"
    assert findings.say(found, "zh").startswith("因子 arm 同时改变 model.position、")


@pytest.mark.parametrize("patch", [
    ROPE,
    {"optim.lr": 1e-2, "optim.weight_decay": 0.0},
    {"model.width": 128, "model.layers": 4},
    {"model.q_norm": norms.rmsnorm(), "model.k_norm": norms.rmsnorm()},
    {"task.data_seed": 1, "task.examples": 32},
    {"init.qk": init.normal(std=0.5), "init.every": init.normal(std=0.1)},
    {**ROPE, "rows": 16},
    {**ROPE, "model.mlp": mlps.relu2(ratio=4.0)},
])  # fmt: skip
def test_one_setting_settings_of_one_part_and_refusals_are_not_noted(patch: dict[str, Any]) -> None:
    assert of(arms(patch), "compound") == []


def test_levels_that_another_level_isolates_are_not_noted() -> None:
    def noted(levels: dict[str, Any]) -> list[str]:
        return [f.about for f in of(record(Factor("arm", levels)), "compound")]

    assert noted({"base": {}, "rope": ROPE, "mlp": MLP, "both": {**ROPE, **MLP}}) == []
    assert noted({"base": {}, "rope": ROPE, "both": {**ROPE, **MLP}}) == []
    assert noted({"rope": ROPE, "mlp": MLP}) == [
        "arm changes model.position and model.mlp together"
    ]
    mask = {"model.mask": masks.causal(), **INIT}
    assert noted({"base": {}, "rope": ROPE, "both": {**ROPE, **MLP, **mask}}) == [
        "arm changes model.mlp and init together"
    ]


# ── exact tests ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("test", ["signflip", "signed_rank"])
def test_a_smallest_p_that_equals_the_level_supports_nothing(test: str) -> None:
    (found,) = of(asked(seeds=5, test=test, alpha=1 / 32), "too_few_seeds")
    assert (found.level, found.facts["need"]) == ("refuse", 6)
    assert refused(asked(seeds=6, test=test, alpha=1 / 32)) == {}
    two = dict(H=CLAIM, G=best(arm["b"], on=LOSS))
    assert of(asked(seeds=5, test=test, alpha=1 / 16, hypotheses=two), "too_few_seeds")
    assert not of(asked(seeds=6, test=test, alpha=1 / 16, hypotheses=two), "too_few_seeds")


def test_of_a_family_the_claim_with_the_larger_p_is_asked_for_less() -> None:
    # 2 × 1/64 < .05 for H, and then 1 × 2/64 < .05 for G
    two = dict(H=CLAIM, G=at_least(1, [CLAIM, best(arm["b"], on=LOSS)]))
    assert refused(asked(seeds=6, test="signflip", hypotheses=two)) == {}
    (found,) = of(asked(seeds=5, test="signflip", hypotheses=two), "too_few_seeds")
    assert (found.who, found.facts["need"]) == (("H", "G"), 6)


def test_a_last_look_that_can_support_nothing_is_warned_of_and_an_earlier_one_is_not() -> None:
    # of .05, .0361 is spent after 7 of 8 seeds and .0139 is left: over 4 hypotheses 1/128 < .0090,
    # and 1/256 > .0035
    four = dict.fromkeys("ABCD", CLAIM)
    (found,) = of(asked(seeds=8, test="signflip", looks=[7, 8], hypotheses=four),
                  "too_few_seeds_at_the_last_look")  # fmt: skip
    assert (found.level, found.who) == ("warn", tuple("ABCD"))
    for lang in ("en", "zh"):
        assert "0.0035" in findings.say(found, lang)
    made = asked(seeds=8, test="signflip", looks=[3, 8])
    assert not [f for f in refused(made) if "alpha" in f]
    assert of(made, "too_few_seeds_at_the_last_look") == []  # 1/8 at the first look is no matter


def test_the_seeds_that_would_do_are_those_of_the_last_look() -> None:
    (found,) = of(asked(seeds=5, test="signflip", looks=[4, 5]), "too_few_seeds")
    assert (found.level, found.facts["need"]) == ("refuse", 6)


# ── one learning rate ───────────────────────────────────────────────────────────────────────


def test_optimizers_are_at_one_learning_rate_only_where_it_is_one() -> None:
    def noted(*levels: Any) -> int:
        kind = Factor("kind", dict(zip("ab", levels, strict=True)), "optim")
        claim = dict(H=better(kind["a"], than=kind["b"], on=LOSS))
        return len(of(record(kind, hypotheses=claim), "one_rate"))

    assert noted(optim.adamw(lr=1e-3), optim.sgd(lr=1.0)) == 0
    assert noted(optim.adamw(lr=1e-3), optim.adam(lr=1e-3)) == 1
    assert noted(optim.sgd(lr=1.0), optim.sgd(lr=1.0, momentum=0.5)) == 1


# ── reasons ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_a_blank_reason_accepts_nothing(blank: str) -> None:
    heads = Factor("heads", [4, 8], "model.heads", also=lambda h: {"model.width": 16 * h})
    about = "heads moves model.width"
    made = record(heads, hypotheses=dict(H=best(heads[4], on=LOSS)), evaluate=[Eval("copy")])
    made["accept"] = {about: blank}
    for rule, level in (("aliased", "refuse"), ("claim_aliased", "warn"), ("no_reason", "refuse")):
        (found,) = of(made, rule)
        assert (found.level, found.accepted) == (level, "")
        assert "accepted" not in findings.line(found)


# ── an arm without a level ──────────────────────────────────────────────────────────────────


def test_a_level_that_changes_nothing_is_like_none() -> None:
    """Beside an arm that has no level of a factor; a level that changes something is not."""
    more = {"same": {}, "longer": {"steps": 40, "optim.lr": 1e-3}}
    under = Factor("under", more, when=position["rope"])
    plain, longer = (position["rope"] & under[level] for level in more)
    made = record(
        position,
        under,
        hypotheses=dict(
            plain=better(position["none"], than=plain, on=LOSS),
            longer=better(position["none"], than=longer, on=LOSS),
        ),
        accept={f"under moves {p}": "on purpose" for p in ("steps", "optim.lr")},
    )
    assert {who for f in of(made, "claim_aliased") for who in f.who} == {"longer"}

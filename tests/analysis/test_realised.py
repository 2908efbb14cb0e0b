"""The audit over what was realised: each planted difference is found by name, in the rows alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paribus import arrays, best, better, metric
from paribus.analysis import findings, records
from paribus.analysis.realised import realised
from paribus.study.factors import Factor
from paribus.study.finding import Finding
from tests.stubs import Stub, plan_of, study_file

from .synthetic import LENGTH, POSITION, Row, rows, study

LOSS = metric("loss")
CLAIM = better(POSITION["rope"], than=POSITION["learned"], on=LOSS.at(LENGTH[128]))
RAN = {"code": "0.1 abc", "world": 1, "python": "3.12", "deterministic": True, "paired_init": True}


def level(levels: dict[str, Any], _: dict[str, Any]) -> float:
    return {"rope": 2.0, "learned": 2.1, "none": 2.2}.get(str(levels.get("position")), 2.0)


def made(
    *change: tuple[Callable[[Row], bool], dict[str, Any]], **more: Any
) -> tuple[dict[str, Any], list[Row], dict[str, Any]]:
    """A fair study whose rows are changed where a predicate says so, and its ends."""
    factors, lost = more.pop("factors", None), more.pop("lost", None)
    asked = study(factors, claims={"H": CLAIM} if factors is None else {}, **more)
    out = rows(asked, level, lost=lost)
    for row in out:
        row |= RAN
        for which, values in change:
            if which(row):
                row |= values
    ends = {t["name"]: {"lr": [0.0, 1e-3], "engine": {"stack": 1}} for t in asked["trials"]}
    for info in asked["variants_info"].values():
        info["lr"] = [[0.0, 1.0]]
    return asked, out, ends


def of(seen: tuple[Any, ...], rule: str) -> list[Finding]:
    return [f for f in realised(*seen) if f.rule == rule]


def rope(row: Row) -> bool:
    return bool(row["variant"] == "rope")


def test_a_fair_study_has_nothing_to_be_said_of() -> None:
    assert realised(*made()) == []


def test_nothing_is_said_where_nothing_has_run() -> None:
    asked, out, ends = made(lost={t["name"]: "planned" for t in study()["trials"]})
    assert realised(asked, out, ends) == []


COLUMNS = {
    "kernel": "reference",
    "dtype": "bf16",
    "device": "NVIDIA H200",
    "engine": "compiled",
    "code": "0.1 def",
    "world": 2,
    "torch": "2.12.0",
    "paired_init": False,
}
QUIET = {"python": "3.13", "threads": 4, "deterministic": False, "micro_batch": 16}


@pytest.mark.parametrize("column", [*COLUMNS, *QUIET])
def test_a_column_that_differs_between_arms_is_named_with_the_claim(column: str) -> None:
    other = {**COLUMNS, **QUIET}[column]
    (found,) = realised(*made((rope, {column: other})))
    assert (found.rule, found.level) == (column, "warn" if column in COLUMNS else "note")
    assert found.about == f"{column} differs between arms"
    assert found.facts["values"][str(other)] == ["rope"]
    assert found.who == ("H",)
    assert str(other) in findings.say(found)
    assert findings.say(found) != findings.say(found, "zh")


def test_four_devices_against_two() -> None:
    seen = made((rope, {"world": 4}), (lambda r: not rope(r), {"world": 2}))
    (found,) = realised(*seen)
    assert (found.rule, found.level) == ("world", "warn")
    assert found.facts["values"] == {"4": ["rope"], "2": ["learned", "none"]}


def test_what_falls_on_all_arms_of_a_seed_alike_is_a_note() -> None:
    (found,) = realised(*made((lambda r: r["seed"] == 2, {"device": "NVIDIA H200"})))
    assert (found.level, found.who) == ("note", ())
    assert found.about == "device differs between seeds"


def test_an_arm_that_no_claim_compares_names_no_claim() -> None:
    (found,) = realised(*made((lambda r: r["variant"] == "none", {"kernel": "reference"})))
    assert (found.level, found.who) == ("warn", ())


def test_best_is_held_against_every_other_arm() -> None:
    claim = best(POSITION["rope"], on=LOSS.at(LENGTH[128]))
    asked, out, ends = made((lambda r: r["variant"] == "none", {"kernel": "reference"}))
    asked["registration"]["hypotheses"] = {"B": claim.data()}
    (found,) = realised(asked, out, ends)
    assert found.who == ("B",)


def test_a_factor_that_is_about_the_precision_explains_it() -> None:
    precision = Factor("precision", ["fp32", "bf16"], "precision")
    change = (lambda r: r["precision"] == "bf16", {"dtype": "bf16"})
    assert realised(*made(change, factors=[precision])) == []


# ── budgets, schedules, data ────────────────────────────────────────────────────────────────


def test_tokens_and_steps_that_are_not_those_planned() -> None:
    (found,) = realised(*made((rope, {"tokens": 5_500_000})))
    assert (found.rule, found.who) == ("tokens_realised", ("rope",))
    assert found.facts["values"]["rope-s1"] == [5_000_000, 5_500_000]
    assert realised(*made((rope, {"tokens": 5_040_000}))) == []  # within one per cent
    (found,) = realised(*made((lambda r: r["trial"] == "none-s2", {"step": 900})))
    assert (found.rule, found.who) == ("steps_realised", ("none",))
    assert "none-s2 (900 of 1000)" in findings.say(found)


def test_tokens_of_a_task_without_a_length_are_not_held_against_rows() -> None:
    asked, out, ends = made((rope, {"tokens": 5_500_000}))
    for info in asked["variants_info"].values():
        info["tokens"] = info["steps"] * info["rows"]
    assert realised(asked, out, ends) == []


@pytest.mark.parametrize("where", ["lr", "curves"])
def test_a_schedule_that_was_never_stepped(where: str) -> None:
    asked, out, ends = made()
    flat = {"lr": [1e-3, 1e-3]}, {"curves": {"lr": arrays.pack([1e-3] * 50)}}
    ends["rope-s3"] = flat[where == "curves"]
    (found,) = realised(asked, out, ends)
    assert (found.rule, found.who) == ("schedule_realised", ("rope",))
    assert found.facts["values"] == {"rope-s3": 1e-3}
    for info in asked["variants_info"].values():
        info["lr"] = [[1.0, 1.0]]  # it was declared constant
    assert realised(asked, out, ends) == []


def test_one_arm_that_went_on_with_other_data() -> None:
    asked, out, ends = made()
    for info in asked["variants_info"].values():
        info["data"] = {"corpus": "a" * 64}
    for end in ends.values():
        end["data"] = {"corpus": "a" * 64}
    assert realised(asked, out, ends) == []
    ends["learned-s2"]["data"] = {"corpus": "b" * 64}
    (found,) = realised(asked, out, ends)
    assert (found.rule, found.level, found.who) == ("data_realised", "warn", ("learned",))
    assert "learned-s2 (corpus bbbbbbbb… not aaaaaaaa…)" in findings.say(found)


def test_arms_evaluated_on_different_items() -> None:
    (found,) = realised(*made((lambda r: rope(r) and r["length"] == "256", {"n": 30_000})))
    assert (found.rule, found.facts["condition"], found.facts["more"]) == (
        "evaluation_set", "lm 256", 1,
    )  # fmt: skip
    assert found.facts["values"] == {"30000": ["rope"], "40000": ["learned", "none"]}
    (found,) = realised(*made((lambda r: r["length"] == "256", {"n": 30_000}))) or (None,)
    assert found is None  # all arms alike


def test_arms_that_were_trained_on_other_numbers_of_texts() -> None:
    asked, out, ends = made()
    for name, end in ends.items():
        end["realised"] = {"train": {"texts": 1030 if name.startswith("rope") else 1000}}
    (found,) = of((asked, out, ends), "texts_realised")
    assert set(found.facts["values"].values()) == {1000, 1030}
    for end in ends.values():
        end["realised"]["train"]["texts"] += 9000
    assert of((asked, out, ends), "texts_realised") == []  # within 1 %


def test_conditions_that_scored_other_texts() -> None:
    assert of(made((lambda r: True, {"list": "a" * 32})), "list_realised") == []
    seen = made(
        (lambda r: True, {"list": "a" * 32}), (lambda r: r["length"] == "256", {"list": "b"})
    )
    (found,) = of(seen, "list_realised")
    assert found.facts["values"]["b"] == ["lm 256"]
    assert findings.line(found).startswith("warning: the conditions of lm scored different texts")


def test_conditions_that_scored_other_numbers_of_tokens_of_one_list() -> None:
    one = (lambda r: True, {"list": "a" * 32})
    (found,) = of(made(one, (lambda r: r["length"] == "256", {"n": 39_000})), "scored_realised")
    assert found.facts["values"]["lm 256"] == 39_000
    assert of(made(one, (lambda r: r["length"] == "256", {"n": 39_900})), "scored_realised") == []


def test_tokens_that_rows_of_training_cut_off() -> None:
    asked, out, ends = made()
    name = next(n for n in ends if n.startswith("rope"))
    ends[name]["realised"] = {"train": {"texts": 10, "truncated": 7}}
    (found,) = of((asked, out, ends), "truncated_realised")
    assert (found.level, found.facts["values"]) == ("note", {"rope": 7})


# ── seeds and trials without a result ───────────────────────────────────────────────────────


def test_seeds_that_are_not_paired_and_trials_that_came_to_nothing() -> None:
    seen = made(lost={"rope-s2": "diverged"})
    (unpaired,) = of(seen, "unpaired")
    assert unpaired.facts["values"]["rope"] == [1, 3, 4, 5]
    (lost,) = of(seen, "lost")
    assert (lost.facts["values"], lost.who) == ({"diverged": ["rope-s2"]}, ("rope",))


@pytest.mark.parametrize("state", ["planned", "running", "interrupted", "blocked"])
def test_trials_that_may_still_come_do_not_unpair_the_seeds(state: str) -> None:
    seen = made(lost={"rope-s2": state, "none-s5": state, "learned-s1": state})
    assert of(seen, "lost") == of(seen, "unpaired") == []
    (found,) = of(made(lost={"rope-s2": state, "none-s5": "failed"}), "unpaired")
    assert found.facts["values"]["rope"] == [1, 2, 3, 4, 5]
    assert found.facts["values"]["none"] == [1, 2, 3, 4]


@pytest.mark.parametrize("state", ["failed", "diverged", "out of memory", "refused", "removed"])
def test_trials_that_ended_for_good_do(state: str) -> None:
    seen = made(lost={"rope-s2": state})
    assert len(of(seen, "lost")) == len(of(seen, "unpaired")) == 1


def test_so_do_trials_that_were_never_declared() -> None:
    asked, out, ends = made()
    asked["trials"] = [t for t in asked["trials"] if t["name"] != "rope-s2"]
    seen = asked, [r for r in out if r["trial"] != "rope-s2"], ends
    assert len(of(seen, "unpaired")) == 1


# ── what came out ───────────────────────────────────────────────────────────────────────────


def baselines(loss: float) -> dict[str, Any]:
    return {f"c{i}": {"unigram": {"loss": loss}, "uniform": {"loss": 5.5}} for i in range(3)}


def test_models_that_learned_nothing() -> None:
    assert of(made(), "learned_nothing") == []
    asked, out, ends = made()
    asked["baselines"] = baselines(2.0)
    (found,) = of((asked, out, ends), "learned_nothing")
    assert (found.about, set(found.who)) == ("no better than unigram in loss", {"learned", "none"})
    asked["baselines"]["c0"]["unigram"]["loss"] = 3.0  # at one length all are better
    assert of((asked, out, ends), "learned_nothing") == []


def test_of_a_tuned_arm_the_best_of_its_grid_counts() -> None:
    lr = Factor("lr", [1e-4, 3e-4, 1e-3], "optim.lr", tuned="lm/loss")
    asked, out, ends = made(factors=[POSITION, lr])
    asked["baselines"] = baselines(2.0)
    for r in out:
        r["value"] = 1.5 if (r["lr"], r["position"]) == ("0.0003", "rope") else 2.5
    (found,) = of((asked, out, ends), "learned_nothing")
    assert found.who == ("position=learned", "position=none")


def test_accuracy_is_better_when_it_is_higher() -> None:
    asked, out, ends = made()
    for r in out:
        r |= {"metric": "accuracy", "value": 0.73}
    for value, count in ((0.74, 3), (0.72, 0)):
        asked["baselines"] = {f"c{i}": {"membership": {"accuracy": value}} for i in range(3)}
        assert sum(len(f.who) for f in of((asked, out, ends), "learned_nothing")) == count


def test_a_model_that_collapsed_to_the_majority() -> None:
    asked, out, ends = made()
    for r in out:
        r |= {"metric": "accuracy", "value": 0.3182 if r["trial"] == "rope-s1" else 0.7, "n": 9815}
    asked["baselines"] = {f"c{i}": {"majority": {"accuracy": 3123 / 9815}} for i in range(3)}
    (found,) = of((asked, out, ends), "collapsed")
    assert found.facts["trials"] == ["rope-s1"]
    assert "equal the majority baseline" in findings.say(found)


def test_a_tuned_setting_that_is_best_at_the_edge_of_its_grid() -> None:
    lr = Factor("lr", [1e-4, 3e-4, 1e-3], "optim.lr", tuned="lm/loss")

    def tune(optimum: str) -> list[Finding]:
        asked, out, ends = made(factors=[POSITION, lr])
        for r in out:
            r["value"] = 2.0 + (r["lr"] != optimum)
        return of((asked, out, ends), "edge")

    assert tune("0.0003") == []
    (found,) = tune("0.001")
    assert found.facts["values"] == dict.fromkeys(
        ("position=rope", "position=learned", "position=none"), "0.001"
    )


@pytest.mark.parametrize(("device", "off", "found"), [
    ("cpu", 1e-7, 0), ("cpu", 1e-4, 1), ("NVIDIA H200", 1e-4, 0), ("NVIDIA H200", 0.5, 1),
])  # fmt: skip
def test_a_control_that_changes_results(device: str, off: float, found: int) -> None:
    levels = {"sdpa": 1, "reference": 2}
    kernel = Factor("which", levels, "model.kernel", control=True)
    asked, out, ends = made(factors=[kernel])
    values = {(r["seed"], r["length"], r["metric"]): r["value"] for r in out}
    for r in out:
        r |= {"device": device, "kernel": r["which"]}
        r["value"] = values[r["seed"], r["length"], r["metric"]] * (
            1 + off * (r["variant"] == "reference")
        )
    assert len(of((asked, out, ends), "control_realised")) == found
    assert of((asked, out, ends), "kernel") == []  # the factor is about it


def test_times_of_trials_that_ran_in_stacks() -> None:
    asked, out, ends = made()
    timed = better(POSITION["rope"], than=POSITION["learned"], on=metric("seconds"))
    asked["registration"]["hypotheses"] = {"H": CLAIM.data(), "T": timed.data()}
    assert of((asked, out, ends), "timing_stacks") == []
    ends["rope-s1"]["engine"]["stack"] = 3
    (found,) = of((asked, out, ends), "timing_stacks")
    assert found.who == ("T",)


# ── in a home ───────────────────────────────────────────────────────────────────────────────


def test_code_and_devices_are_columns_of_the_records(tmp_path: Path) -> None:
    plan = plan_of(study_file(tmp_path))
    stub = Stub(plan)
    for name in stub.items:
        stub.train(name, engine={"device": "cpu", "code": "0.1 abc", "world": 2})
    stub.close()
    found = records.rows(plan.store, plan.record)
    assert {(r["code"], r["world"]) for r in found} == {("0.1 abc", 2)}
    assert {"code", "world"} <= set(records.COLUMNS)

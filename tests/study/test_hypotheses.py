"""Claims as data: written, read back, refused with a reason; measures on cells."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from typing import Any

import pytest

from paribus.errors import SpecError
from paribus.study.factors import Factor
from paribus.study.hypotheses import (
    Criterion,
    Hypothesis,
    all_of,
    at_least,
    baseline,
    best,
    better,
    criterion,
    decreasing,
    every,
    from_data,
    increasing,
    metric,
    no_worse,
    same,
    verify,
)
from paribus.study.measures import Cell, Missing, margin, reduce

FIXED, DYNAMIC = {f"fixed{k}": k for k in (1, 2, 4)}, {f"1-{n}": (1, n) for n in (3, 7)}
heads = Factor("num_heads", [4, 8], "model.heads")
ratio = Factor("rope_ratio", [0, 0.5, 1.0], "model.position.ratio")
branch = Factor("train_branch", FIXED | DYNAMIC, "task.branches")
seen = Factor("eval_branch", [1, 2, 4, 8], "task.branches")
norm = Factor("norm", {"none": {}, "key": {"model.k": 1}, "qk": {"model.q": 1}})
scale = Factor("scale", {"fixed": 1, "log_n": 2}, "model.scale", when=norm["key", "qk"])
loss, acc = metric("loss"), metric("accuracy")


def record(variant: list[Factor], condition: list[Factor], **more: Any) -> dict[str, Any]:
    variants = []
    for levels in product(*(f.levels for f in variant)):
        tags: dict[str, str | None] = {}
        for f, level in zip(variant, levels, strict=True):
            tags[f.name] = level.tag if f.when is None or f.when.holds(tags) else None
        if tags not in [v["levels"] for v in variants]:
            variants.append({"name": "-".join(map(str, tags.values())), "levels": tags})
    conditions = [
        {"evaluation": "lm", "split": "test", "levels": {f.name: v.tag for f, v in pairs}}
        for pairs in product(*([(f, v) for v in f.levels] for f in condition))
    ]
    metrics = {
        "loss": {"unit": "nats/token", "better": "lower"},
        "accuracy": {"unit": "share", "better": "higher"},
    }
    factors = [f.data("variant") for f in variant] + [f.data("condition") for f in condition]
    study = {"factors": factors, "variants": variants, "conditions": conditions, "metrics": metrics}
    return json.loads(json.dumps({**study, "baselines": {}, **more}))


A = record([heads, ratio, branch], [seen])
GOOD = {
    "H1": best(ratio[0], on=loss.at(seen[1]).mean(heads), where=branch["fixed1"]),
    "H2": best(ratio[1.0], on=loss.slope(seen.log2).mean(heads, branch)),
    "H3": every(
        best(branch[f"fixed{k}"], on=loss.at(seen[k]).mean(heads, ratio)) for k in FIXED.values()
    ),
    "H4": better(
        branch[*DYNAMIC], than=branch[*FIXED], on=loss.mean(seen, heads, ratio, branch), by=0.01
    ),
    "less": no_worse(ratio[0], than=ratio[1.0], on=loss.mean(seen, heads, branch), within="2% ppl"),
    "equal": same(
        ratio[0] & heads[4], ratio[0.5] & heads[4], on=loss.mean(seen, branch), within=".01 nats"
    ),
    "acc": no_worse(
        ratio[0], than=ratio[1.0], on=acc.mean(seen, heads, branch), within=".01 share"
    ),
    "gap": increasing(ratio[0], on=loss.gap(seen[4, 8], seen[1, 2]).mean(heads, branch)),
    "fall": decreasing(on=loss.area(seen).mean(heads, branch, ratio), by=0.1),
    "some": at_least(1, [better(ratio[0], than=ratio[1.0], on=loss.max(seen, heads, branch))]),
    "mixed": better(
        ratio[0], than=ratio[1.0], on=(loss - acc).mean(seen, heads, branch).prefer("lower")
    ),
    "inter": better(
        ratio[0], than=ratio[1.0], on=(loss.at(heads[4]) - loss.at(heads[8])).mean(seen, branch)
    ),
    "both": all_of(
        better(ratio[0], than=ratio[0.5], on=1 - 2 * acc.span(seen).mean(heads, branch) / 3),
        better(ratio[0], than=ratio[1.0], on=loss.min(seen).mean(heads, branch)),
    ),
    "beats": criterion(
        ratio[0], on=loss.at(seen[1]).mean(heads, branch), below=baseline("unigram"), by=0.5
    ),
    "threshold": criterion(
        ratio[0], on=loss.mean(seen, heads, branch), than=ratio[1.0], below="10%", above=-3
    ),
}


def test_everything_of_a_study_file_is_accepted():
    verify(GOOD, A)
    verify({name: claim.data() for name, claim in GOOD.items()}, A)


@pytest.mark.parametrize("name", GOOD)
def test_round_trip(name):
    claim = GOOD[name]
    back = from_data(json.loads(json.dumps(claim.data())))
    assert back == claim
    assert hash(back) == hash(claim)
    assert type(back) is type(claim)
    assert isinstance(back, Hypothesis | Criterion)


def test_canonical():
    a = best(ratio[0] & heads[4], on=loss.mean(seen, branch))
    b = best(heads[4] & ratio[0], on=loss.mean(branch, seen))
    assert a == b
    assert len({a, b, best(ratio[0], on=loss.mean(branch, seen))}) == 2


BAD = {
    "no metric 'los'; did you mean 'loss'": best(ratio[0], on=metric("los").mean(seen)),
    r"4 numbers .* fix eval_branch .* \.mean\(eval_branch\)": best(
        ratio[0], on=loss.mean(heads, branch)
    ),
    "fix num_heads and train_branch": best(ratio[0], on=loss.at(seen[1])),
    "no factor 'num_head'; did you mean 'num_heads'": best(ratio[0], on=loss.mean("num_head")),
    "no factor 'norm'": best(norm["key"], on=loss.mean(seen, heads, branch)),
    "eval_branch is fixed or averaged already": better(
        ratio[0], than=ratio[1.0], on=loss.at(seen[1]).mean(seen, heads, branch)
    ),
    "'2%': give a number with its unit, such as '.01 nats' or '2% ppl'": no_worse(
        ratio[0], than=ratio[1.0], on=loss.mean(seen, heads, branch), within="2%"
    ),
    "'2% ppl': give a number with its unit, such as '.01 share'": no_worse(
        ratio[0], than=ratio[1.0], on=acc.mean(seen, heads, branch), within="2% ppl"
    ),
    "needs its unit": same(
        ratio[0], ratio[1.0], on=loss.mean(seen, heads, branch), within=0.02  # type: ignore[arg-type]
    ),
    "must not be negative": best(ratio[0], on=loss.mean(seen, heads, branch), by=-1),
    "level '1-3' of train_branch is": increasing(
        on=loss.slope(branch).mean(seen, heads, ratio)
    ),
    "selects no variant": best(
        ratio[0], on=loss.mean(seen, heads, branch), where=ratio[1.0]
    ),
    "share cells": better(
        ratio[0, 0.5], than=ratio[0.5], on=loss.mean(seen, heads, branch, ratio)
    ),
    "opposite directions": better(
        ratio[0], than=ratio[1.0], on=(loss - acc).mean(seen, heads, branch)
    ),
    "only one of the arms has the cell": better(
        ratio[0] & branch["1-3"], than=ratio[1.0], on=loss.mean(seen, heads, branch)
    ),
    "no data can show that two arms differ by nothing": same(
        ratio[0], ratio[1.0], on=loss.mean(seen, heads, branch), within="0 nats"
    ),
    "no other arm": best(ratio[0, 0.5, 1.0], on=loss.mean(seen, heads, branch, ratio)),
    "claims nothing": loss,
}  # fmt: skip


@pytest.mark.parametrize("said", BAD)
def test_refusals(said):
    with pytest.raises(
        SpecError, match=said.replace("(", r"\(") if ".*" not in said else said
    ) as e:
        verify({"H9": BAD[said]}, A)
    assert str(e.value).startswith("H9: ")


def test_every_refusal_has_its_line():
    with pytest.raises(SpecError) as error:
        verify({str(i): claim for i, claim in enumerate(BAD.values())}, A)
    assert len(str(error.value).splitlines()) == len(BAD)


def test_a_tuned_factor_is_not_named():
    factors = [f | {"tuned": "valid/loss"} if f["name"] == "num_heads" else f for f in A["factors"]]
    claim = best(ratio[0], on=loss.mean(seen, branch), where=heads[4])
    with pytest.raises(SpecError, match="num_heads is tuned: its level is chosen by 'valid/loss'"):
        verify({"H": claim}, {**A, "factors": factors})


def test_nothing_is_claimed_by_no_number():
    for bad in (float("nan"), float("inf")):
        with pytest.raises(SpecError, match="better: nan and infinity are no numbers"):
            better(ratio[0], than=ratio[1.0], on=loss, by=bad)


SECTIONS = {
    "H: a criterion in hypotheses=": {"hypotheses": "beats"},
    r"H: a hypothesis \(best\) in criteria=": {"criteria": "H1"},
    r"H: a hypothesis \(at_least\) in checks=": {"checks": "some"},
}


@pytest.mark.parametrize("said", SECTIONS)
def test_a_claim_in_the_wrong_section_is_refused(said):
    ((section, name),) = SECTIONS[said].items()
    study = {**A, "registration": {section: {"H": GOOD[name].data()}}}
    with pytest.raises(SpecError, match=said) as error:
        verify({"H": GOOD[name]}, study)
    assert len(str(error.value).splitlines()) == 1


def test_claims_in_their_sections_are_accepted():
    points = {n: GOOD[n].data() for n in ("beats", "threshold")}
    tested = {n: c.data() for n, c in GOOD.items() if n not in points}
    sections = {"hypotheses": tested, "criteria": points, "checks": {}}
    verify(GOOD, {**A, "registration": sections})


def test_margins_without_a_unit():
    study = {**A, "metrics": {**A["metrics"], "accuracy": {"unit": "", "better": "higher"}}}
    on = acc.mean(seen, heads, branch)
    for within in (".05", "0.05", "5 pp", 0.05):
        verify({"H": no_worse(ratio[0], than=ratio[1.0], on=on, within=within)}, study)
        verify({"H": same(ratio[0], ratio[1.0], on=on, within=within)}, study)
    for within in ("5%", "5% ppl", ".05 nats", "five", True, None):
        claim = {"H": no_worse(ratio[0], than=ratio[1.0], on=on, within=within)}
        with pytest.raises(SpecError, match=r"'\.05' or '5 pp' \(percentage points\)"):
            verify(claim, study)
    with pytest.raises(SpecError, match="must not be negative"):
        verify({"H": no_worse(ratio[0], than=ratio[1.0], on=on, within=-0.1)}, study)
    with pytest.raises(SpecError, match=r"such as '\.01 nats'"):
        margin("5 pp", ["nats/token"])


def test_baseline_by_name():
    claim = {"c": criterion(ratio[0], on=loss.mean(seen, heads, branch), below=baseline("unigrm"))}
    with pytest.raises(SpecError, match="did you mean 'unigram'"):
        verify(claim, {**A, "baselines": {"x": {"unigram": {"loss": 3.0}}}})


def test_unequal_averages_are_refused():
    study = record([heads, ratio], [])
    study["variants"] = [
        v for v in study["variants"] if v["levels"] != {"num_heads": "8", "rope_ratio": "0"}
    ]
    claim = better(ratio[0], than=ratio[1.0], on=loss.mean(heads))
    with pytest.raises(SpecError, match=r"only one of the arms has the cell .*'num_heads', '8'"):
        verify({"H": claim}, study)
    verify({"H": better(ratio[0], than=ratio[1.0], on=loss, where=heads[4])}, study)


def test_conditional_factors():
    study = record([norm, scale], [seen])
    at = loss.at(seen[8])
    verify(
        {
            "flat": better(norm["key"] & scale["log_n"], than=norm["none"], on=at),
            "which": best(norm["key"] & scale["log_n"], on=at),
            "where": best(norm["key"], on=at, where=scale["fixed"]),
            "mean": better(norm["key"], than=norm["none"], on=at.mean(scale)),
        },
        study,
    )
    with pytest.raises(SpecError, match="fix scale"):
        verify({"H": better(norm["key"], than=norm["none"], on=at)}, study)


def test_several_evaluations():
    study = record([ratio], [seen])
    study["conditions"].append({"evaluation": "core", "levels": {}, "split": "test"})
    study["metrics"]["loss"]["evaluations"] = ["lm", "core"]
    with pytest.raises(SpecError, match="evaluation"):
        verify({"H": best(ratio[0], on=loss.mean(seen))}, study)
    verify({"H": best(ratio[0], on=metric("loss", evaluation="lm").mean(seen))}, study)
    study["metrics"]["loss"]["evaluations"] = ["lm"]
    verify({"H": best(ratio[0], on=loss.mean(seen))}, study)


def test_numbers_of_variants_are_metrics():
    study = record([ratio], [seen], variants_info={"0": {"parameters": 3, "spec": []}})
    verify({"fewer": criterion(ratio[0], on=metric("parameters"), below=10)}, study)


# ── measures ──


def test_measures_know_nothing_of_who_reads_them():
    code = (
        "import sys, paribus.study.measures\n"
        "above = {'paribus.study.hypotheses', 'paribus.analysis'} & sys.modules.keys()\n"
        "assert not above, above"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def cells(value: Any) -> list[Cell]:
    return [
        Cell(
            "loss", {"num_heads": h, "eval_branch": s, "evaluation": "lm", "slice": ""}, value(h, s)
        )
        for h in ("4", "8")
        for s in ("1", "2", "4", "8")
    ]


def test_reductions():
    table = cells(lambda h, s: int(h) + {"1": 0, "2": 1, "4": 2, "8": 3}[s] * 0.5)

    def of(measure: Any) -> Any:
        return reduce(measure.data(), table, A)

    assert of(loss.slope(seen.log2).mean(heads)) == pytest.approx(0.5)
    assert of(loss.at(seen[1] & heads[8])) == 8
    assert of(loss.mean(heads, seen)) == pytest.approx(6.75)
    assert of(loss.max(seen).at(heads[4])) == 5.5
    assert of(loss.span(heads).at(seen[2])) == 4
    assert of(loss.area(seen.log2).at(heads[4])) == pytest.approx(4.75)
    assert of(loss.gap(seen[4, 8], seen[1]).mean(heads)) == pytest.approx(1.25)
    assert of((loss.at(seen[8]) - 2 * loss.at(seen[1])).at(heads[4]) / 2) == pytest.approx(-1.25)
    assert of(1 - loss.at(seen[1]).at(heads[4])) == -3
    with pytest.raises(SpecError, match="2 numbers"):
        of(loss.at(seen[1]))
    with pytest.raises(SpecError, match="selects no cell"):
        of((loss.at(seen[1]) - loss.at(heads[4] & seen[1])).mean(heads))


def test_one_missing_cell_makes_the_number_missing():
    gone = Missing(frozenset(["s1: diverged"]))
    table = cells(lambda h, s: gone if (h, s) == ("4", "2") else 1.0)
    assert reduce(loss.mean(heads, seen).data(), table, A) == gone
    assert reduce(loss.slope(seen).at(heads[8]).data(), table, A) == 0
    assert reduce((loss.at(seen[2]) - 1).at(heads[4]).data(), table, A) == gone


def test_margins():
    assert margin("2% ppl", ["nats/token"]) == pytest.approx((0.020202707, 0.019802627))
    assert margin(".005 nats", ["nats/token"]) == (0.005, 0.005)
    assert margin("1e-3 nat", ["nats/token"]) == (0.001, 0.001)
    assert margin(0.25, ["share"]) == (0.25, 0.25)
    assert margin("5 pp", ["share"]) == margin(".05", [""]) == margin(0.05, [""]) == (0.05, 0.05)
    with pytest.raises(SpecError):
        margin("100% ppl", ["nats"])


def test_written_wrongly():
    for wrong in (
        lambda: loss.mean(),
        lambda: loss.mean(heads, heads),
        lambda: loss.slope(heads, seen),
        lambda: loss + "1",
        lambda: loss.at("1"),
        lambda: loss.prefer("smaller"),
        lambda: best("x", on=loss),
        lambda: best(ratio[0], on="loss"),
        lambda: every([]),
        lambda: at_least(3, [GOOD["H1"]]),
        lambda: criterion(on=loss),
        lambda: criterion(on=loss, below="5%"),
        lambda: from_data({"claim": "bests"}),
    ):
        with pytest.raises(SpecError):
            wrong()

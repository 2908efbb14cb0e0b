"""Verdicts on synthetic studies with known effects."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from scipy import stats as oracle

from paribus.analysis.verdicts import Verdict, verdicts
from paribus.analysis.words import claim, effect, how, line, lines, reason
from paribus.errors import SpecError
from paribus.study.factors import Factor
from paribus.study.hypotheses import (
    all_of,
    at_least,
    baseline,
    best,
    better,
    criterion,
    decreasing,
    increasing,
    metric,
    no_worse,
    same,
    verify,
)

from .synthetic import HEADS, LENGTH, POSITION, rows, study

loss, accuracy = metric("loss"), metric("accuracy")
ROPE, LEARNED, NONE = POSITION["rope"], POSITION["learned"], POSITION["none"]
SHORT, LONG = loss.at(LENGTH[128]), loss.at(LENGTH[512])


def known(variant: dict[str, Any], condition: dict[str, Any]) -> float:
    """rope falls, learned rises with length and begins level with rope, none is .1 above."""
    doublings = math.log2(int(condition.get("length") or 128) / 128)
    level = {"rope": 2.0, "learned": 2.0, "none": 2.1}[variant["position"]]
    return level + {"rope": -0.05, "learned": 0.06, "none": 0.02}[variant["position"]] * doublings


def judge(
    claims: dict[str, Any], seeds: int = 5, lost: Any = None, **more: Any
) -> dict[str, Verdict]:
    record = study(claims=claims, seeds=seeds, **more)
    verify({**claims, **more.get("checks", {}), **more.get("criteria", {})}, record)
    record = json.loads(json.dumps(record))
    out = verdicts(record, rows(record, known, lost=lost))
    for v in out:
        json.dumps(v.data(), allow_nan=False)
        assert line(v)
        assert line(v, "zh")
    return {v.name: v for v in out}


CLAIMS = {
    "supported": {
        "best": best(ROPE, on=loss.slope(LENGTH.log2)),
        "better": better(ROPE, than=NONE, on=loss.mean(LENGTH), by=0.05),
        "by ppl": better(ROPE, than=NONE, on=LONG, by="5% ppl"),
        "not worse": no_worse(ROPE, than=LEARNED, on=SHORT, within="5% ppl"),
        "same": same(ROPE, LEARNED, on=SHORT, within=".05 nats"),
        "grows": increasing(NONE, on=loss.slope(LENGTH.log2)),
        "falls": decreasing(ROPE, on=LONG - SHORT, by=0.05),
        "both": all_of(
            better(ROPE, than=NONE, on=SHORT), no_worse(ROPE, than=NONE, on=LONG, within="1% ppl")
        ),
        "some": at_least(1, [better(NONE, than=ROPE, on=LONG), better(ROPE, than=NONE, on=LONG)]),
        "higher": better(ROPE, than=NONE, on=(2 * SHORT - LONG).prefer("higher")),
    },
    "refuted": {
        "best": best(NONE, on=loss.mean(LENGTH)),
        "better": better(NONE, than=ROPE, on=SHORT),
        "by": better(ROPE, than=NONE, on=SHORT, by=0.5),
        "not worse": no_worse(NONE, than=ROPE, on=SHORT, within="2% ppl"),
        "same": same(NONE, ROPE, on=SHORT, within=".01 nats"),
        "grows": increasing(ROPE, on=loss.slope(LENGTH.log2)),
        "both": all_of(better(ROPE, than=NONE, on=SHORT), better(NONE, than=ROPE, on=LONG)),
        "some": at_least(
            2, [better(ROPE, than=NONE, on=SHORT), *[better(NONE, than=ROPE, on=LONG)] * 2]
        ),
    },
    "inconclusive": {
        "better": better(ROPE, than=LEARNED, on=SHORT),
        "best": best(ROPE, on=SHORT),
        "same": same(ROPE, LEARNED, on=SHORT, within=".0001 nats"),
    },
}


@pytest.mark.parametrize(("verdict", "name"), [(v, n) for v, c in CLAIMS.items() for n in c])
def test_known_effects(verdict, name):
    v = judge({name: CLAIMS[verdict][name]})[name]
    assert v.verdict == verdict, line(v)
    assert v.n == 5
    assert v.low < v.effect < v.high
    if verdict == "inconclusive":
        assert v.smallest_effect > 0
        assert v.seeds_needed is None or v.seeds_needed > 5


@pytest.mark.parametrize("name", CLAIMS["supported"])
def test_one_seed_is_descriptive(name):
    v = judge({name: CLAIMS["supported"][name]}, seeds=1)[name]
    assert v.verdict == "descriptive"
    assert v.effect is not None
    assert v.p is None


def test_figures_of_a_contrast():
    v = judge({"H": better(ROPE, than=NONE, on=LONG, by=0.1)})["H"]
    d = list(v.per_seed.values())
    assert list(v.per_seed) == ["1", "2", "3", "4", "5"]
    assert v.effect == pytest.approx(sum(d) / 5)
    assert v.p == pytest.approx(oracle.ttest_1samp(d, -0.1, alternative="less").pvalue)
    expected = oracle.ttest_1samp(d, 0).confidence_interval(0.9)
    assert (v.low, v.high) == pytest.approx((expected.low, expected.high))
    assert v.signs == "5/5"
    assert v.p_flips == 1 / 32
    assert v.unit == "nats/token"
    assert v.ppl_percent[0] == pytest.approx(100 * math.expm1(v.effect))


def test_the_decision_is_that_of_the_bounds():
    for by in (0.2, 0.22, 0.235, 0.24, 0.245, 0.26, 0.3):
        v = judge({"H": better(ROPE, than=NONE, on=LONG, by=by)})["H"]
        expected = "supported" if v.high < -by else "refuted" if v.low > -by else "inconclusive"
        assert v.verdict == expected


def test_family():
    alone = judge({"a": better(ROPE, than=NONE, on=LONG)})["a"]
    claims = {c: better(ROPE, than=NONE, on=LONG) for c in "a"}
    claims |= {c: better(ROPE, than=LEARNED, on=SHORT, by=0.1) for c in "bcd"}
    assert judge(claims)["a"].p_adjusted == pytest.approx(4 * alone.p)


def test_missing_is_missing():
    claims = {
        "touched": better(ROPE, than=LEARNED, on=LONG),
        "whole": better(ROPE, than=NONE, on=LONG),
        "best": best(ROPE, on=LONG),
    }
    out = judge(claims, lost={"learned-s2": "diverged"})
    assert out["touched"].verdict == out["best"].verdict == "missing"
    assert out["touched"].missing == (
        "learned-s2 at length=512: diverged (loss was nan at step 120)",
    )
    assert out["touched"].n == 4
    assert out["whole"].verdict == "supported"
    assert "diverged" in line(out["touched"])


def test_nothing_is_there_yet():
    record = study(
        claims={"H": best(ROPE, on=LONG)}, criteria={"C": criterion(ROPE, on=LONG, below=9)}
    )
    out = verdicts(record, [])
    assert [v.verdict for v in out] == ["missing", "missing"]
    assert "rope-s1 at length=512: planned" in out[0].missing


def test_dropping_blocks_must_be_declared():
    record = study(claims={"H": better(ROPE, than=NONE, on=LONG)})
    record["registration"]["on_missing"] = "drop_seed_block"
    (v,) = verdicts(record, rows(record, known, lost={"none-s2": "diverged"}))
    assert (v.verdict, v.n) == ("supported", 4)


def test_checks_come_first():
    claims = {"H": better(ROPE, than=NONE, on=LONG)}
    ok = criterion(ROPE, on=SHORT, below=baseline("unigram"), by=0.5)
    out = judge(claims, checks={"learns": ok})
    assert (out["learns"].verdict, out["H"].verdict) == ("met", "supported")
    out = judge(
        claims, checks={"learns": criterion(NONE, on=SHORT, below=baseline("unigram"), by=1)}
    )
    assert (out["learns"].verdict, out["H"].verdict) == ("not met", "not testable")
    assert "learns" in line(out["H"])
    out = judge(claims, checks={"learns": ok}, lost={"rope-s1": "diverged"})
    assert (out["learns"].verdict, out["H"].verdict) == ("missing", "missing")


def test_criteria():
    criteria = {
        "met": criterion(ROPE, on=LONG, below=2.0),
        "not": criterion(ROPE, on=LONG, below=1.8),
        "both": criterion(ROPE, on=LONG, below=2.0, above=1.5),
        "percent": criterion(ROPE, than=NONE, on=LONG, below="-5%"),
        "parameters": criterion(on=metric("parameters").mean(POSITION), above=1e5),
    }
    for seeds in (1, 4):
        out = judge({}, seeds=seeds, criteria=criteria)
        verdict = {n: v.verdict for n, v in out.items()}
        assert verdict == {n: "not met" if n == "not" else "met" for n in criteria}
    assert out["percent"].effect == pytest.approx(-11, abs=1)


def test_published_thresholds_at_the_margin():
    """A relative threshold is strict: exactly 5 % is not below 5 %."""
    record = study(
        [Factor("arm", ["a", "b"], "x")],
        [],
        seeds=1,
        criteria={
            "C": criterion(
                Factor("arm", ["a", "b"], "x")["a"],
                than=Factor("arm", ["a", "b"], "x")["b"],
                on=loss,
                below="5%",
            )
        },
    )
    for value, expected in ((4.64, "met"), (4.42 * 1.05 + 1e-9, "not met"), (4.94, "not met")):
        levels = {"a": value, "b": 4.42}
        data = rows(record, lambda v, c, x=levels: x[v["arm"]], noise=0, shared=0)
        assert verdicts(record, data)[0].verdict == expected


def test_higher_is_better():
    record = study(
        claims={"H": better(ROPE, than=NONE, on=accuracy.mean(LENGTH), by=0.01)}, condition=[LENGTH]
    )
    data = rows(record, known)
    for row in data:
        if row["metric"] == "ppl":
            row |= {"metric": "accuracy", "value": 1 / row["value"]}
    (v,) = verdicts(record, data)
    assert (v.verdict, v.better) == ("supported", "higher")
    assert v.effect > 0
    assert "higher" in claim(v.claim, v.better, v.unit)


def test_amendments():
    first, later = better(ROPE, than=NONE, on=LONG), better(ROPE, than=LEARNED, on=LONG)
    record = study(claims={"H": first})
    new = {"hypotheses": {"H": later.data(), "J": later.data()}, "seeds": record["seeds"]}
    record["amendments"] = [{"at": "2026-01-02", "registration": new, "results_seen": 5}]
    out = verdicts(record, rows(record, known))
    names = [("H", False), ("H (amended)", True), ("J", True)]
    assert [(v.name, v.post_hoc) for v in out] == names
    assert out[1].registered == "2026-01-02"
    assert out[1].p_adjusted == pytest.approx(3 * out[1].p)


def test_seeds_added_after_looking_are_judged_alone():
    record = study(claims={"H": better(ROPE, than=NONE, on=LONG)}, seeds=7)
    registration = record["registration"]
    amended = {**registration, "seeds": list(range(1, 8))}
    record["registration"] = {**registration, "seeds": [1, 2, 3]}
    record["amendments"] = [{"at": "x", "registration": amended, "results_seen": 3}]
    (v,) = verdicts(record, rows(record, known))
    assert list(v.per_seed) == ["4", "5", "6", "7"]
    assert "rests on the 4 seeds added after results were seen, alone" in line(v)
    assert list(v.before.per_seed) == ["1", "2", "3"]
    assert v.data()["before"]["verdict"] == v.before.verdict == "supported"


def seeded(registered: list[int], *later: tuple[list[int], int]) -> dict[str, Any]:
    """A record whose seeds were changed, each time with so many results seen."""
    now = later[-1][0]
    record = study(claims={"H": better(ROPE, than=NONE, on=LONG, by=0.9)}, seeds=max(now))
    record["trials"] = [t for t in record["trials"] if t["seed"] in now]
    registration = record["registration"]
    record["registration"] = {**registration, "seeds": registered}
    record["amendments"] = [
        {"at": "x", "registration": {**registration, "seeds": s}, "results_seen": seen}
        for s, seen in later
    ]
    return {**record, "seeds": now}


def test_one_seed_added_after_looking_does_not_hide_the_verdict():
    record = seeded([1, 2, 3], ([1, 2, 3, 4], 9))
    (v,) = verdicts(record, rows(record, known))
    assert (v.verdict, v.n, v.before.verdict, v.before.n) == ("descriptive", 1, "refuted", 3)
    said = line(v)
    assert "rests on the 1 seed added after results were seen, alone (registered seeds: " in said
    assert f"refuted, {effect(v.before).split()[0]}" in said
    assert "被否定" in line(v, "zh")


def test_fewer_seeds_than_registered():
    for now in ([1], [1, 3]):
        record = seeded([1, 2, 3], (now, 9))
        (v,) = verdicts(record, rows(record, known))
        assert list(v.per_seed) == list(map(str, now))
        assert (v.post_hoc, v.added_seeds, v.before) == (False, 0, None)
        assert f"{len(now)} of the 3 registered seeds" in line(v)
    record = seeded([1, 2], ([1, 2, 3], 4), ([2], 6))  # and back behind those added
    (v,) = verdicts(record, rows(record, known))
    assert (list(v.per_seed), v.added_seeds) == (["2"], 0)


def test_seeds_added_before_any_result_are_as_good_as_registered():
    record = seeded([1, 2], ([1, 2, 3, 4], 0))
    (v,) = verdicts(record, rows(record, known))
    assert (v.n, v.added_seeds, v.registered_seeds) == (4, 0, 0)


def test_no_amendments_may_be_none():
    record = study(claims={"H": better(ROPE, than=NONE, on=LONG)})
    assert verdicts({**record, "amendments": None}, rows(record, known))[0].verdict == "supported"


def test_a_criterion_among_the_hypotheses_is_never_tested():
    record = study(claims={"H": criterion(ROPE, than=NONE, on=LONG, below=0)})
    (v,) = verdicts(record, rows(record, known))
    assert v.verdict == "missing"
    assert "put it into criteria=" in line(v)


def test_a_relative_threshold_of_two_sides():
    arms = Factor("arm", ["a", "b"], "x")
    both = {"C": criterion(arms["a"], than=arms["b"], on=loss, above="-5%", below="5%")}
    for a, verdict in (
        (4.42 * 1.04, "met"),
        (4.42 * 0.96, "met"),
        (4.7, "not met"),
        (4, "not met"),
    ):
        record = study([arms], [], seeds=2, criteria=both)
        data = rows(record, lambda v, c, a=a: {"a": a, "b": 4.42}[v["arm"]], noise=0, shared=0)
        (v,) = verdicts(record, data)
        assert (v.verdict, v.unit) == (verdict, "%")
        assert v.effect == pytest.approx(100 * (a / 4.42 - 1))
        assert effect(v).endswith("% < 5 % and > −5 %")
    mixed = {"C": criterion(arms["a"], than=arms["b"], on=loss, above=-1, below="5%")}
    record = study([arms], [], seeds=2, criteria=mixed)
    data = rows(record, lambda v, c: {"a": 4.2, "b": 4.0}[v["arm"]], noise=0, shared=0)
    (v,) = verdicts(record, data)
    assert (v.unit, v.verdict) == ("nats/token", "not met")
    assert effect(v) == "0.200 nats/token < 5 % (5 %) and > −1"


def bare(record: dict[str, Any]) -> list[Any]:
    """Rows in which perplexity stands for an accuracy without a unit."""
    record["metrics"]["accuracy"]["unit"] = ""
    data = rows(record, known)
    for row in data:
        if row["metric"] == "ppl":
            row |= {"metric": "accuracy", "value": 1 / row["value"]}
    return data


def test_margins_of_a_metric_without_a_unit():
    claims = {
        str(within): no_worse(NONE, than=ROPE, on=accuracy.at(LENGTH[128]), within=within)
        for within in (".05", "5 pp", 0.05)
    }
    record = study(claims=claims)
    found = verdicts(record, bare(record))
    assert [v.verdict for v in found] == ["supported"] * 3
    assert len({v.p for v in found}) == 1


def test_no_unit_leaves_no_gap():
    on = accuracy.slope(LENGTH.log2)
    record = study(
        claims={
            "level": better(ROPE, than=POSITION["learned"], on=accuracy.at(LENGTH[128])),
            "slope": better(ROPE, than=NONE, on=on, by=0.0093),
        },
        criteria={"C": criterion(ROPE, on=accuracy.at(LENGTH[128]), above=0.1)},
    )
    for v in verdicts(record, bare(record)):
        for said in (line(v), line(v, "zh"), reason(v), effect(v), claim(v.claim, unit=v.unit)):
            assert "  " not in said, said
            assert " ," not in said
    assert effect(v) == "0.135 > 0.1"


STEPS = metric("steps")
UNITS = {
    "level": (loss.at(LENGTH[128]), "nats/token", True),
    "mean": (loss.mean(LENGTH), "nats/token", True),
    "shifted": (SHORT - 0.5, "nats/token", True),
    "difference": (LONG - SHORT, "nats/token", True),
    "product": (loss.at(LENGTH[128]) * STEPS, "nats/token × steps", False),
    "quotient": (SHORT / STEPS, "(nats/token) / steps", False),
    "inverse": (1 / SHORT, "1 / (nats/token)", False),
    "ratio": (LONG / SHORT, "ratio", False),
    "scaled": (2 * SHORT, "nats/token", False),
    "turned": (1 - SHORT, "nats/token", False),
    "sum": (SHORT + LONG, "nats/token", False),
    "slope": (loss.slope(LENGTH.log2), "nats/token per doubling of length", False),
}


@pytest.mark.parametrize("name", UNITS)
def test_units_and_perplexity(name):
    on, unit, ppl = UNITS[name]
    v = judge({"H": better(ROPE, than=NONE, on=on)})["H"]
    assert (v.unit, v.ppl_percent is not None) == (unit, ppl)
    assert ("% PPL" in line(v)) == ppl


def test_a_level_alone_neither_rises_nor_falls():
    with pytest.raises(SpecError, match="H: increasing: the measure is a level, not a change"):
        judge({"H": increasing(ROPE, on=SHORT)})
    assert judge({"D": increasing(NONE, on=LONG - SHORT)})["D"].ppl_percent is not None


def test_how_to_read_an_effect_is_said_once():
    record = study(
        claims={"H": better(ROPE, than=NONE, on=LONG), "J": better(ROPE, than=NONE, on=SHORT)},
        criteria={"C": criterion(ROPE, on=LONG, below=9)},
    )
    found = verdicts(record, rows(record, known))
    text = lines(found)
    assert text.splitlines()[-1] == how(found)
    assert (
        text.count("first arm minus second; interval: two-sided 90% (one-sided tests at .05)") == 1
    )
    assert len(text.splitlines()) == 4
    assert how(verdicts(record, [])) == ""
    assert lines([]) == ""


def test_tuned_factors_are_chosen_on_their_split():
    lr = Factor("lr", [1, 2], "optim.lr", tuned="validation/loss")
    claims = {"H": better(ROPE, than=NONE, on=LONG)}
    record = study([POSITION, lr], claims=claims)
    chosen = [{**c, "evaluation": "valid", "split": "validation", "key": "v" + c["key"]}
              for c in record["conditions"]]  # fmt: skip
    record["conditions"] += chosen
    for trial in record["trials"]:
        trial["cells"] = {c["key"]: c["key"] for c in record["conditions"]}
    verify(claims, record)

    def value(variant: dict[str, Any], condition: dict[str, Any]) -> float:
        # rope is best at lr 2, the others at lr 1
        return known(variant, condition) + 0.3 * (
            (variant["position"] == "rope") == (variant["lr"] == "1")
        )

    (v,) = verdicts(record, rows(record, value))
    assert v.verdict == "supported"
    rope, none = (known({"position": p}, {"length": "512"}) for p in ("rope", "none"))
    assert v.effect == pytest.approx(rope - none, abs=0.02)
    data = [
        r
        for r in rows(record, value)
        if not (r["trial"] == "rope-1-s1" and r["evaluation"] == "valid")
    ]
    (v,) = verdicts(record, data)
    assert v.verdict == "missing"


def test_two_factors_and_interaction():
    claims = {
        "main": best(ROPE, on=loss.mean(HEADS, LENGTH)),
        "interaction": increasing(
            ROPE, on=(loss.at(HEADS[4]) - loss.at(HEADS[8])).mean(LENGTH), by=0.01
        ),
    }
    record = study([POSITION, HEADS], claims=claims)
    verify(claims, record)
    out = verdicts(record, rows(record, lambda v, c: known(v, c) + 0.03 * (v["heads"] == "4")))
    assert [v.verdict for v in out] == ["supported", "supported"]


def test_the_last_step_is_the_result():
    record = study(claims={"H": better(ROPE, than=NONE, on=LONG)})
    data = rows(record, known)
    early = [{**r, "step": 10, "value": 9.0 if r["variant"] == "rope" else 1.0} for r in data]
    for mixed in (data + early, early + data):
        assert verdicts(record, mixed)[0].verdict == "supported"


def test_not_a_number_is_missing():
    record = study(claims={"H": better(ROPE, than=NONE, on=LONG)})
    data = rows(record, known)
    data[0]["value"] = data[4]["value"] = math.nan
    (v,) = verdicts(record, data)
    assert v.verdict == "missing"
    assert "not a number" in v.missing[0]

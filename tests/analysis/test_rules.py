"""How a family is tested: planned looks, exact tests, missing cells, what was changed later."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from paribus.analysis.stats import increments
from paribus.analysis.verdicts import Verdict, verdicts
from paribus.analysis.words import claim, line
from paribus.errors import SpecError
from paribus.study.factors import Factor
from paribus.study.hypotheses import (
    all_of,
    better,
    criterion,
    decreasing,
    increasing,
    metric,
    no_worse,
    stated,
    verify,
)

from .synthetic import LENGTH, POSITION, rows, study

loss = metric("loss")
ROPE, NONE = POSITION["rope"], POSITION["none"]
SHORT, LONG = loss.at(LENGTH[128]), loss.at(LENGTH[512])
BETTER = better(ROPE, than=NONE, on=LONG)


def record_of(claims: Any, seeds: int = 10, **registered: Any) -> Any:
    out = study(claims=claims, seeds=seeds)
    verify(claims, out)
    out["registration"] |= registered
    return out


def gap(by: float, noise: float = 0.0) -> Any:
    def value(variant: dict[str, Any], condition: dict[str, Any]) -> float:
        return 3.0 - by * (variant["position"] == "rope")

    return value


def judged(record: Any, data: Any, **more: Any) -> Verdict:
    (found,) = verdicts(record, data, **more)
    assert line(found)
    assert line(found, "zh")
    return found


# ── looks ───────────────────────────────────────────────────────────────────────────────────

LOOKS = {"looks": [3, 5, 10]}


def test_a_strong_effect_is_decided_at_the_look_that_shows_it() -> None:
    record = record_of({"H": BETTER}, **LOOKS)
    v = judged(record, rows(record, gap(0.5)))
    assert (v.verdict, v.look, v.n) == ("supported", 1, 3)
    shares = increments(0.05, [0.3, 0.5, 1.0])
    assert v.alpha == pytest.approx(shares[0])
    assert v.level == pytest.approx(1 - 2 * shares[0])
    assert v.p_adjusted is not None
    assert v.p_adjusted < shares[0]


def test_a_weaker_one_waits_for_more_seeds() -> None:
    record = record_of({"H": BETTER}, **LOOKS)
    data = rows(record, gap(0.03), noise=0.004)
    v = judged(record, data)
    assert (v.verdict, v.look) == ("supported", 2)
    # Until all seeds of a look are there, the look before it stands.
    record["seeds"] = [1, 2, 3, 4]
    record["trials"] = [t for t in record["trials"] if t["seed"] <= 4]
    v = judged(record, [r for r in data if r["seed"] <= 4])
    assert (v.verdict, v.look, v.n) == ("inconclusive", 1, 3)
    assert "planned look 1 of 3" in line(v)
    assert "registered seeds" not in line(v)


def test_a_look_whose_cells_are_missing_says_nothing() -> None:
    record = record_of({"H": BETTER}, **LOOKS)
    data = rows(record, gap(0.0), lost={"rope-s4": "running"})
    v = judged(record, data)
    assert (v.verdict, v.look) == ("inconclusive", 1)
    data = rows(record, gap(0.0), lost={"rope-s2": "running"})
    v = judged(record, data)
    assert v.verdict == "missing"
    assert "rope-s2" in line(v)


# ── exact tests ─────────────────────────────────────────────────────────────────────────────


def test_sign_flips_decide_where_the_study_says_so() -> None:
    for seeds, verdict in ((4, "inconclusive"), (5, "supported")):
        record = record_of({"H": BETTER}, seeds=seeds, test="signflip")
        v = judged(record, rows(record, gap(0.5)))
        assert v.verdict == verdict
        assert v.p == 2.0**-seeds
        assert "tested by exact sign flips" in line(v)


def worst(status: str, **lost: str) -> Verdict:
    record = record_of({"H": BETTER}, seeds=8, test="signed_rank", on_missing="worst")
    return judged(record, rows(record, gap(0.5), lost=dict.fromkeys(lost.values(), status)))


def test_a_run_that_diverged_counts_as_worst() -> None:
    assert worst("done").p == 2**-8
    mine = worst("diverged", a="rope-s3")
    assert mine.p == 25 / 2**8  # subsets of 1 … 8 whose sum is at most 8
    assert mine.n == 8
    assert math.isfinite(mine.effect or math.nan)
    assert worst("diverged", a="none-s3").p == 2**-8
    assert worst("diverged", a="none-s3", b="rope-s3").p == mine.p
    assert worst("out of memory", a="rope-s3").verdict == "missing"


def test_seeds_with_a_missing_cell_may_be_left_out() -> None:
    record = record_of({"H": BETTER}, on_missing="drop_seed_block")
    v = judged(record, rows(record, gap(0.5), lost={"rope-s3": "diverged"}))
    assert (v.verdict, v.n) == ("supported", 9)
    assert v.missing


# ── claims ──────────────────────────────────────────────────────────────────────────────────


def test_a_hypothesis_in_words_is_descriptive_and_takes_no_share_of_alpha() -> None:
    record = record_of({"H": BETTER, "W": stated("It is finer.")})
    a, b = verdicts(record, rows(record, gap(0.5)))
    assert a.facts["family"] == 1
    assert b.verdict == "descriptive"
    assert "names nothing that is measured" in line(b)
    assert claim(b.claim) == "It is finer."
    with pytest.raises(SpecError, match="say the hypothesis in words"):
        stated("  ")
    both = record_of({"H": all_of(BETTER, stated("It is finer."))})
    assert judged(both, rows(both, gap(0.5))).verdict == "descriptive"


def test_a_share_of_the_seconds() -> None:
    on = metric("seconds")
    claims = {
        "faster": better(ROPE, than=NONE, on=on, by="10%"),
        "much": better(ROPE, than=NONE, on=on, by="30%"),
        "level": no_worse(ROPE, than=NONE, on=on, within="5%"),
    }
    record = record_of(claims)
    data = [
        r | {"seconds": (80 if r["variant"] == "rope" else 100) + 0.1 * r["seed"]}
        for r in rows(record, gap(0))
    ]
    found = {v.name: v for v in verdicts(record, data)}
    said = {n: v.verdict for n, v in found.items()}
    assert said == {"faster": "supported", "much": "refuted", "level": "supported"}
    v = found["faster"]
    assert v.effect == pytest.approx(math.log(0.8), abs=0.01)
    assert "(−19.9 %)" in line(v)
    assert "PPL" not in line(v)
    for bad in ({"by": "10%", "on": LONG - SHORT}, {"by": "10%", "on": LONG}):
        with pytest.raises(SpecError, match="give a number with its unit"):
            verify({"H": better(ROPE, than=NONE, **bad)}, record)
    with pytest.raises(SpecError, match="relative to a second arm"):
        verify({"H": increasing(ROPE, on=on.slope(LENGTH), by="10%")}, record)


def test_a_share_of_perplexity_is_none_of_a_slope() -> None:
    record = study()
    bad = no_worse(ROPE, than=NONE, on=loss.slope(LENGTH.log2), within="2% ppl")
    with pytest.raises(SpecError, match="no ratio of perplexities"):
        verify({"H": bad}, record)


def test_a_trend_stands_beside_a_slope() -> None:
    sizes = Factor("length", [64, 128, 256, 512, 1024], "task.length")
    claims = {"H": decreasing(ROPE, on=loss.slope(sizes.log2))}
    record = study(condition=[sizes], claims=claims)
    data = rows(record, lambda v, c: 1.5 + 4 * int(c["length"]) ** -0.4, noise=1e-4, shared=1e-4)
    v = judged(record, data)
    assert v.verdict == "supported"
    assert v.trend is not None
    assert v.trend["page_p"] < 0.01
    assert v.trend["falls"]
    assert v.trend["power_law"]["alpha"] == pytest.approx(0.4, abs=0.02)
    assert "power law with exponent" in line(v)
    small = replace(v, trend={**v.trend, "page_p": 1e-6})
    assert "over seeds p < .0001" in line(small)
    assert judged(record, data, extras=False).trend is None


# ── what was changed later ──────────────────────────────────────────────────────────────────


def amended(section: str, first: Any, later: Any) -> list[Verdict]:
    record = study(claims={"H": BETTER}, **{section: {"C": first}})
    new = {**record["registration"], section: {"C": later.data()} if later else {}}
    record["amendments"] = [{"at": "2026-01-02", "registration": new, "results_seen": 9}]
    return verdicts(record, rows(record, gap(0.5)))


def test_a_criterion_that_was_loosened_is_post_hoc() -> None:
    strict, loose = criterion(ROPE, on=LONG, below=1), criterion(ROPE, on=LONG, below=9)
    hypothesis, found = amended("criteria", strict, loose)
    assert (found.verdict, found.post_hoc, found.registered) == ("met", True, "2026-01-02")
    assert not hypothesis.post_hoc
    assert not amended("criteria", loose, loose)[1].post_hoc


def test_a_check_that_was_loosened_or_dropped_makes_the_verdict_post_hoc() -> None:
    strict, loose = criterion(ROPE, on=LONG, below=1), criterion(ROPE, on=LONG, below=9)
    assert amended("checks", strict, strict)[-1].verdict == "not testable"
    for later in (loose, None):
        v = amended("checks", strict, later)[-1]
        assert (v.verdict, v.post_hoc) == ("supported", True)
        assert "a check that it failed was changed" in line(v)
    assert not amended("checks", loose, loose)[-1].post_hoc


def test_what_is_registered_when_its_answer_could_be_seen_is_post_hoc() -> None:
    record = record_of({"H": BETTER}, seeds=5)
    data = rows(record, gap(0.5))
    for seen, late in (
        (["rope", "none", "learned"], True),
        (["rope", "none"], True),
        (["rope", "learned"], False),  # of the contrast one side alone
        ([], False),
    ):
        record["seen_trials"] = [
            t["id"] for t in record["trials"]
            if t["seed"] == 2 and record["variants"][t["variant"]]["name"] in seen
        ]  # fmt: skip
        v = judged(record, data)
        assert v.post_hoc == late
        assert ("were there already" in line(v)) == late


def test_an_arm_that_was_redefined_after_results_makes_every_claim_post_hoc() -> None:
    record = record_of(
        {"H": BETTER},
        seeds=5,
    )
    record["redefined"] = ["position=rope"]
    v = judged(record, rows(record, gap(0.5)))
    assert v.post_hoc
    assert "was changed after results were seen" in line(v)


def test_each_further_batch_of_seeds_has_half_the_alpha_and_none_is_forgotten() -> None:
    record = record_of({"H": BETTER}, seeds=9)
    record["registration"] |= {"seeds": [1, 2, 3]}
    record["amendments"] = [
        {"at": "x", "results_seen": 9, "registration": {**record["registration"], "seeds": s}}
        for s in ([1, 2, 3, 4, 5, 6], list(range(1, 10)))
    ]
    v = judged(record, rows(record, gap(0.5)))
    assert v.before is not None
    assert v.before.before is not None
    assert [v.alpha, v.before.alpha, v.before.before.alpha] == [0.025, 0.05, 0.05]
    assert (v.added_seeds, v.before.added_seeds, v.before.before.added_seeds) == (3, 3, 0)
    assert "those before them" in line(v)
    assert "registered seeds" in line(v)


def test_seeds_that_are_still_to_come_are_waited_for() -> None:
    record = record_of({"H": BETTER}, on_missing="drop_seed_block")
    v = judged(record, rows(record, gap(0.5), lost={"rope-s3": "planned"}))
    assert v.verdict == "missing"
    v = judged(record, rows(record, gap(0.5), lost={"rope-s3": "failed", "none-s4": "refused"}))
    assert (v.verdict, v.dropped) == ("supported", 2)
    assert "2 seeds left out" in line(v)


def test_the_error_of_the_items_is_a_caution_where_it_could_decide() -> None:
    import numpy as np

    record = record_of({"H": better(ROPE, than=NONE, on=LONG, by=0.1)}, seeds=3)
    spread = np.linspace(-1, 1, 50)

    def items(size: float) -> Any:
        def read(trial: str, condition: str, metric: str) -> Any:
            arm = next(t for t in record["trials"] if t["id"] == trial)["variant"]
            return 3.0 + size * spread * (arm == 0), np.ones(50), None  # rope's items vary

        return read

    data = rows(record, gap(0.15), noise=0.001)
    calm, near = (judged(record, data, items=items(s)) for s in (0.05, 0.5))
    assert calm.verdict == near.verdict == "supported"
    assert calm.items_se == pytest.approx(0.05 * spread.std(ddof=1) / math.sqrt(50), rel=0.05)
    assert (calm.items_matter, near.items_matter) == (False, True)
    assert "another evaluation set could decide otherwise" in line(near)
    assert "could decide" not in line(calm)


def test_seeds_agree_with_the_size_that_is_claimed() -> None:
    record = record_of({"H": better(ROPE, than=NONE, on=LONG, by=0.1)}, seeds=4)
    v = judged(record, rows(record, gap(0.05), noise=0.001))
    assert (v.verdict, v.signs) == ("refuted", "0/4")  # all are better, and none by so much
    worse = record_of({"H": no_worse(NONE, than=ROPE, on=LONG, within=".1 nats")}, seeds=4)
    v = judged(worse, rows(worse, gap(0.05), noise=0.001))
    assert (v.verdict, v.signs) == ("supported", "4/4")


def test_a_trend_without_a_direction_of_its_own_is_two_sided() -> None:
    sizes = Factor("length", [64, 128, 256, 512], "task.length")
    on = loss.slope(sizes.log2)
    found = []
    for claim_ in (decreasing(ROPE, on=on), better(ROPE, than=NONE, on=on)):
        record = study(condition=[sizes], claims={"H": claim_})
        data = rows(record, lambda v, c: 4 - math.log2(int(c["length"])) / 9, noise=0.2)
        trend = judged(record, data).trend
        assert trend is not None
        found.append(trend["page_p"])
    assert found[1] == pytest.approx(2 * found[0])

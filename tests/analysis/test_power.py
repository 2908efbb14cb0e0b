"""What a plan promises of its seeds."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats as oracle

from paribus.analysis.power import lines, outlook
from paribus.study.hypotheses import best, better, decreasing, metric, stated
from paribus.study.measures import Node

from .synthetic import LENGTH, POSITION, Row, rows, study

loss = metric("loss")
ROPE, NONE = POSITION["rope"], POSITION["none"]
CLAIMS = {
    "H1": better(ROPE, than=NONE, on=loss.at(LENGTH[512])),
    "H2": best(ROPE, on=loss.mean(LENGTH)),
    "W": stated("It is finer."),
}


def pilot(noise: float = 0.01, seeds: int = 4, claims: Any = CLAIMS) -> tuple[Node, list[Row]]:
    record = study(claims=claims, seeds=seeds)
    return record, rows(record, lambda v, c: 3.0, noise=noise)


def exact(n: int, sd: float, alpha: float) -> float:
    """The power at an effect, by scipy's non-central t, solved by bisection."""
    low, high = 0.0, 100 * sd
    for _ in range(200):
        middle = (low + high) / 2
        t = oracle.t.ppf(1 - alpha, n - 1)
        seen = oracle.nct.sf(t, n - 1, middle * math.sqrt(n) / sd)
        low, high = (middle, high) if seen < 0.8 else (low, middle)
    return high


def test_the_smallest_effect_is_that_of_the_noncentral_t() -> None:
    planned = study(claims=CLAIMS, seeds=5)
    first, second = outlook(planned, [pilot()])
    assert (first.claim, second.claim, first.n) == ("H1", "H2", 5)
    assert first.sd is not None
    # Two hypotheses are tested: each has half of alpha in the worst case.
    assert first.effect == pytest.approx(exact(5, first.sd, 0.025), rel=1e-6)
    assert first.half is not None
    assert exact(first.half, 1, 0.025) <= exact(5, 1, 0.025) / 2 < exact(first.half - 1, 1, 0.025)
    assert first.basis == "demo@small, 4 seeds"
    (text, _) = lines([first, second], 3, 10.0)
    assert "nats/token beyond the boundary (80 % power; sd" in text
    assert f"half of it takes {first.half} seeds, {3 * (first.half - 5)} more trials" in text


def test_without_a_pilot_it_is_told_in_standard_deviations() -> None:
    planned = study(claims=CLAIMS, seeds=3)
    for pilots in ([], [pilot(seeds=1)], [(study([LENGTH], []), [])]):
        first, second = outlook(planned, pilots)
        assert first.sd is second.sd is None
        one, both = lines([first, second], 3, 0.0)
        assert one.startswith("H1: 3 seeds see 3.3 standard deviations")
        assert both.startswith("H2: 3 seeds see 3.9 ")  # two rivals, and both must be seen
        assert lines([first, replace(first, claim="H3")], 3, 0.0)[0].startswith("H1, H3: 3 seeds")


def test_a_pilot_that_lacks_what_a_claim_reads_is_passed_over() -> None:
    claims = {"H": decreasing(POSITION["learned"], on=loss.slope(LENGTH.log2))}
    planned = study(claims=claims, seeds=3)
    other = study(condition=[], seeds=4)
    (o,) = outlook(planned, [(other, rows(other, lambda v, c: 3.0)), pilot(claims=claims)])
    assert o.sd is not None
    assert o.unit == "nats/token per doubling of length"


def test_one_seed_sees_nothing() -> None:
    (text,) = lines(outlook(study(claims=CLAIMS, seeds=1), []), 3, 0.0)
    assert "every hypothesis will be descriptive" in text
    assert lines([], 3, 0.0) == []


def test_looks_and_exact_tests_see_less() -> None:
    claims = {"H": CLAIMS["H1"]}
    planned = study(claims=claims, seeds=10)
    (plain,) = outlook(planned, [pilot(claims=claims)])
    planned["registration"] |= {"looks": [3, 5, 10]}
    (looked,) = outlook(planned, [pilot(claims=claims)])
    assert looked.n == 10
    assert plain.effect < looked.effect < 1.2 * plain.effect
    few = study(claims=claims, seeds=4)
    few["registration"] |= {"test": "signflip"}
    found = outlook(few, [])
    assert found[0].effect == math.inf
    assert lines(found, 3, 0.0) == ["H: 4 seeds can show nothing by signflip"]
    few["registration"] |= {"alpha": 0.0625}  # reached, and not passed
    assert outlook(few, [])[0].effect == math.inf


def test_seeds_that_are_added_are_counted_alone() -> None:
    claims = {"H": CLAIMS["H1"]}
    planned = study(claims=claims, seeds=6)
    planned["registration"] |= {"seeds": [1, 2, 3, 4]}
    more = {**planned["registration"], "seeds": [1, 2, 3, 4, 5, 6]}
    planned["amendments"] = [{"at": "x", "results_seen": 12, "registration": more}]
    assert outlook(planned, [pilot(claims=claims)])[0].n == 2

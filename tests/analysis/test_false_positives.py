"""A quick form of bench/false_positives.py: error rates of verdicts over a few hundred studies."""

from __future__ import annotations

import pytest
from scipy import stats as oracle

from bench.false_positives import coverage, power, scenarios, seeded, simulate

STUDIES = 200
AT_ITS_LEVEL = (
    "better n=3", "better by 2% ppl", "best", "no_worse", "same, upper", "increasing by", "every",
    "at_least 2 of 3", "Holm of 4", "signflip n=8", "looks 3, 5, 10", "added seeds",
)  # fmt: skip
BELOW_IT = (
    "best, all equal", "every, none", "same, narrow", "same, a hair", "missing",
    "tuned, one clear, 95%",
)  # fmt: skip


def wrong(name: str) -> tuple[int, int, int]:
    s = scenarios()[name]
    c = simulate(s, seeded(name, 1), STUDIES)
    return c.supported, c.refuted if s.refuted else 0, c.studies


@pytest.mark.parametrize("name", AT_ITS_LEVEL)
def test_false_positives_at_the_least_favourable_null(name):
    """As many as a rate of 3 to 7 % gives, in all but one of a thousand simulations."""
    supported, refuted, n = wrong(name)
    assert oracle.binom.ppf(0.001, n, 0.03) <= supported <= oracle.binom.ppf(0.999, n, 0.07)
    assert refuted <= oracle.binom.ppf(0.999, n, 0.07)


@pytest.mark.parametrize("name", BELOW_IT)
def test_false_positives_elsewhere(name):
    supported, refuted, n = wrong(name)
    assert max(supported, refuted) <= oracle.binom.ppf(0.999, n, 0.07)


def test_intervals_and_power_are_what_they_say():
    """With fixed seeds; the limits are those of the bench, widened for 400 studies."""
    for job in (
        lambda: coverage(3, 0.025, "normal", 400, 3),
        lambda: coverage(10, 0.05, "normal", 400, 3),
        lambda: power(1.68, 5, 1, 400, 3),
        lambda: power(1.5, 5, 4, 400, 3),
    ):
        _, said = job()
        found = float(said.split(": ")[1].split("(")[0])
        meant = {"coverage": "stated", "power": "promised"}[said.split()[0]]
        expected = float(said.split(meant)[1].split()[0])
        assert abs(found - expected) < 6, said

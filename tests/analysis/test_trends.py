"""Page's test against scipy; the power law on laws that are known and on published losses."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from scipy import stats as oracle

from paribus.analysis.trends import page_trend, power_law
from paribus.errors import ParibusError

SHAPES = [(2, 3), (2, 5), (3, 3), (3, 4), (5, 7), (10, 5), (2, 8), (20, 3)]


@pytest.mark.parametrize(("seeds", "sizes"), SHAPES)
@pytest.mark.parametrize("drift", [0.0, 0.5, -1.0])
def test_page_is_scipys(seeds, sizes, drift):
    draw = random.Random(f"{seeds} {sizes} {drift}")
    table = [[drift * j + draw.gauss(0, 1) for j in range(sizes)] for _ in range(seeds)]
    expected = oracle.page_trend_test(table, method="exact")
    found = page_trend(table)
    assert found.exact
    assert found.statistic == expected.statistic
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    falling = oracle.page_trend_test([row[::-1] for row in table], method="exact")
    assert page_trend(table, falling=True).p == pytest.approx(falling.pvalue, rel=1e-9)


def test_page_beyond_counting_and_with_ties():
    draw = random.Random(3)
    wide = [[0.1 * j + draw.gauss(0, 1) for j in range(12)] for _ in range(4)]
    tied = [[1, 2, 2, 3], [1, 1, 2, 4], [2, 1, 3, 3]]
    for table in (wide, tied):
        expected = oracle.page_trend_test(table, method="asymptotic")
        found = page_trend(table)
        assert not found.exact
        assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue))


def test_page_counts_every_order():
    """One row of k: the share of all orders that are at least as extreme, by listing them."""
    row = (2, 1, 4, 3, 5)
    score = [sum(j * r for j, r in enumerate(p, 1)) for p in itertools.permutations(row)]
    seen = sum(j * r for j, r in enumerate(row, 1))
    assert page_trend([row]).p == pytest.approx(sum(s >= seen for s in score) / len(score))


def test_page_ranks_a_diverged_run_last_and_refuses_what_it_cannot_rank():
    rising = [[1.0, 2.0, math.inf], [1.0, 3.0, 9.0]]
    assert page_trend(rising).p == page_trend([[1, 2, 3], [1, 2, 3]]).p == pytest.approx(1 / 36)
    for bad in ([], [[1, 2]], [[1, 2, 3], [1, 2]], [[1, math.nan, 3]]):
        with pytest.raises(ParibusError, match="Page's test"):
            page_trend(bad)


SIZES = [1e6, 4e6, 1.6e7, 6.4e7, 2.56e8]


@pytest.mark.parametrize(("E", "A", "alpha"), [(1.7, 400, 0.34), (0.5, 20, 0.2), (2.0, 3000, 0.6)])
def test_power_law_is_found_again(E, A, alpha):
    ys = [E + A * n**-alpha for n in SIZES]
    law, why = power_law(SIZES, ys)
    assert why == ""
    assert (law.E, law.A, law.alpha) == pytest.approx((E, A, alpha), rel=1e-3)
    assert abs(law.error) < 1e-4
    assert law.seen == ys[-1]
    assert law.largest == SIZES[-1]
    assert law.at(1e9) == pytest.approx(E + A * 1e9**-alpha, rel=1e-3)


def test_a_power_law_is_judged_by_its_prediction():
    """A curve that turns up at the largest size: R² of a fit to all is high, the prediction bad."""
    ys = [1.7 + 400 * n**-0.34 for n in SIZES]
    law, _ = power_law(SIZES, [*ys[:-1], ys[-1] * 1.1])
    assert law.predicted == pytest.approx(ys[-1], rel=1e-3)
    assert law.error == pytest.approx(1 / 1.1 - 1, abs=1e-3)


def test_one_bad_run_moves_a_power_law_little():
    draw = random.Random(5)
    xs = [n for n in SIZES for _ in range(3)]
    ys = [(1.7 + 400 * n**-0.34) * math.exp(draw.gauss(0, 1e-3)) for n in xs]
    ys[4] *= 1.3
    law, _ = power_law(xs, ys)
    assert law.alpha == pytest.approx(0.34, abs=0.03)
    assert law.seen == pytest.approx(sum(ys[-3:]) / 3)


@pytest.mark.parametrize(
    ("xs", "ys", "why"),
    [
        (SIZES[:3] * 2, [3.0] * 6, "needs 4 sizes; there are 3"),
        (SIZES, [3.0, 2.0, -1.0, 1.0, 1.0], "above zero"),
        ([0, *SIZES], [3.0] * 6, "above zero"),
        (SIZES, [3.0, 2.0, math.nan, 1.0, 1.0], "finite"),
    ],
)
def test_no_power_law(xs, ys, why):
    law, said = power_law(xs, ys)
    assert law is None
    assert why in said


def test_a_flat_or_rising_curve_does_not_fail():
    for ys in ([2.0] * 5, [1.0, 1.2, 1.5, 1.9, 2.5]):
        law, _ = power_law(SIZES, ys)
        assert law.predicted > 0
        assert math.isfinite(law.error)

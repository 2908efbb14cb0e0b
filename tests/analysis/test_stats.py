"""Every statistic against scipy, or against its definition."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from scipy import stats as oracle

from paribus.analysis import stats
from paribus.analysis.exact import ranks_below
from paribus.analysis.stats import Sample
from paribus.errors import ParibusError

DRAW = random.Random(1)
SAMPLES = [tuple(DRAW.gauss(m, 0.3) for _ in range(n)) for n in (2, 3, 5, 12) for m in (-1, 0, 0.1)]


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 11, 30, 200])
def test_student_t(df):
    for t in (-60, -8, -2.5, -0.3, 0, 0.2, 1, 6, 40):
        assert stats.t_cdf(t, df) == pytest.approx(oracle.t.cdf(t, df), rel=1e-10)
    for p in (1e-6, 0.01, 0.05, 0.5, 0.9, 0.975, 0.999):
        assert stats.t_quantile(p, df) == pytest.approx(oracle.t.ppf(p, df), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("df", [1, 2, 4, 9, 40])
def test_noncentral_t(df):
    for t, shift in itertools.product((1.0, 2.1, 6.3), (0, 0.5, 2.0, 5.0, 12.0)):
        expected = oracle.nct.sf(t, df, shift)
        assert stats.noncentral_t_sf(t, df, shift) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("values", SAMPLES)
def test_one_sample(values):
    s = Sample(values)
    for delta in (-0.2, 0.0, 0.4):
        below = oracle.ttest_1samp(values, delta, alternative="less")
        above = oracle.ttest_1samp(values, delta, alternative="greater")
        assert s.p_below(delta) == pytest.approx(below.pvalue, rel=1e-9)
        assert s.p_above(delta) == pytest.approx(above.pvalue, rel=1e-9)
        assert max(s.p_above(delta - 1), s.p_below(delta + 1)) == pytest.approx(
            max(
                oracle.ttest_1samp(values, delta - 1, alternative="greater").pvalue,
                oracle.ttest_1samp(values, delta + 1, alternative="less").pvalue,
            ),
            rel=1e-9,
        )
    expected = oracle.ttest_1samp(values, 0).confidence_interval(0.90)
    assert s.interval(0.05) == pytest.approx((expected.low, expected.high))
    # the bound and the test decide alike
    assert (s.interval(0.05)[1] < 0) == (s.p_below(0) < 0.05)


def test_signed_ranks_of_ties_and_of_runs_that_diverged():
    """Against every pattern of signs, one by one."""
    for d in ((-1.0, 2.0, -2.0, -3.0, -1.0), (-1.0, -0.5, math.inf, -math.inf, 0.25, -0.75)):
        ranks = oracle.rankdata([abs(x) for x in d])
        seen = sum(r for r, x in zip(ranks, d, strict=True) if x >= 0)
        sums = [sum(r for r, up in zip(ranks, signs, strict=True) if up)
                for signs in itertools.product((0, 1), repeat=len(d))]  # fmt: skip
        expected = sum(s <= seen for s in sums) / len(sums)
        assert ranks_below(d) == pytest.approx(expected)


def test_no_spread():
    assert Sample((0.0, 0.0, 0.0)).p_below() == 1.0
    assert max(Sample((0.0, 0.0)).p_above(-0.1), Sample((0.0, 0.0)).p_below(0.1)) == 0.0
    assert Sample((-2.0, -2.0)).p_below() == 0.0
    assert Sample((3.0,)).p_below(5) == 1.0


def test_families():
    ps = [0.01, 0.04, 0.03, 0.005]
    assert stats.holm(ps) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.01], size=4) == pytest.approx([0.04])
    assert stats.benjamini_hochberg(ps) == pytest.approx(oracle.false_discovery_control(ps))
    assert stats.conjunction(ps) == 0.04
    assert stats.partial_conjunction(4, ps) == 0.04
    assert stats.partial_conjunction(1, ps) == pytest.approx(0.02)


def test_power_and_its_inverses():
    for n, effect in ((3, 3.26), (5, 1.68), (10, 1.00), (20, 0.66)):
        # the published two-sided figures are the one-sided ones at half alpha
        assert stats.power(effect, 1.0, n, 0.025) == pytest.approx(0.8, abs=0.01)
        assert stats.smallest_effect(1.0, n, 0.025) == pytest.approx(effect, abs=0.01)
    for effect in (0.3, 1.0, 2.5):
        n = stats.seeds_needed(effect, 1.0, 0.05)
        assert stats.power(effect, 1.0, n, 0.05) >= 0.8 > stats.power(effect, 1.0, n - 1, 0.05)
    for n in range(7, 1001):  # far from the critical value power is 1, not lost
        assert stats.power(2.3, 1.0, n, 0.01) > 0.95, n
    assert stats.seeds_needed(2.3, 1.0, 0.01, 0.956) == 7
    assert stats.power(25.0, 1.0, 1000, 0.05) == 1.0 and stats.seeds_needed(25.0, 1.0, 0.05) == 2
    assert stats.seeds_needed(0.0, 1.0, 0.05) is None
    assert stats.seeds_needed(1e-6, 1.0, 0.05) is None


# ── the figures that the method set was chosen by ───────────────────────────────────────────

# Smallest effect with 80 % power at 5 % two-sided, in standard deviations of a paired difference.
VISIBLE = {3: 3.26, 4: 2.13, 5: 1.68, 6: 1.43, 8: 1.16, 10: 1.00, 20: 0.66}


@pytest.mark.parametrize("n", VISIBLE)
def test_published_smallest_effects(n):
    from statsmodels.stats.power import TTestPower

    assert stats.smallest_effect(1.0, n, 0.025) == pytest.approx(VISIBLE[n], abs=0.006)
    theirs = TTestPower().solve_power(nobs=n, alpha=0.025, power=0.8, alternative="larger")
    assert stats.smallest_effect(1.0, n, 0.025) == pytest.approx(theirs, rel=1e-4)
    assert stats.power(1.2, 1.0, n, 0.05) == pytest.approx(
        TTestPower().power(1.2, n, 0.05, alternative="larger"), abs=1e-6
    )


def test_published_family_errors():
    """Seven correlated true nulls (ρ = .5): without correction .27, by Holm .051."""
    import numpy as np

    draw = np.random.default_rng(0)
    shared = draw.normal(size=(20_000, 1, 5)) * 0.5**0.5
    d = shared + draw.normal(size=(20_000, 7, 5)) * 0.5**0.5
    t = d.mean(-1) * 5**0.5 / d.std(-1, ddof=1)
    ps = 2 * oracle.t.sf(np.abs(t), 4)
    assert (ps.min(1) < 0.05).mean() == pytest.approx(0.27, abs=0.035)
    wrong = sum(min(stats.holm(list(row))) < 0.05 for row in ps[:4000]) / 4000
    assert wrong == pytest.approx(0.051, abs=0.01)


def test_families_against_statsmodels():
    from statsmodels.stats.multitest import multipletests

    draw = random.Random(7)
    for m in (1, 2, 5, 20):
        ps = [draw.random() ** 3 for _ in range(m)]
        assert stats.holm(ps) == pytest.approx(multipletests(ps, method="holm")[1])
        theirs = multipletests(ps, method="fdr_bh")[1]
        assert stats.benjamini_hochberg(ps) == pytest.approx(theirs)


# ── looks ───────────────────────────────────────────────────────────────────────────────────


def test_spending_as_published():
    """The tabled levels of a two-sided 5 % O'Brien–Fleming design with five even looks, each side
    of which spends half."""
    spent = stats.spending(0.025, [0.2, 0.4, 0.6, 0.8, 1.0])
    assert [2 * a for a in spent] == pytest.approx([0, 0.00079, 0.00762, 0.02442, 0.05], abs=5e-6)
    spent = stats.spending(0.05, [0.2, 0.4, 0.6, 0.8, 1.0])
    for t, a in zip((0.2, 0.4, 0.6, 0.8), spent, strict=False):
        assert a == pytest.approx(2 - 2 * oracle.norm.cdf(oracle.norm.ppf(0.975) / t**0.5))
    at = stats.increments(0.05, [0.3, 0.5, 1.0])
    assert sum(at) == pytest.approx(0.05)
    assert at == pytest.approx([3.457e-4, 5.229e-3, 4.443e-2], rel=1e-3)
    assert stats.increments(0.05, [1.0]) == [0.05]


@pytest.mark.parametrize("bad", [[], [0.5, 0.5], [0.5, 0.3], [0.0, 1.0], [0.5, 1.2]])
def test_looks_that_are_none(bad):
    with pytest.raises(ParibusError, match="give shares that rise"):
        stats.spending(0.05, bad)


def test_welch():
    draw = random.Random(11)
    a, b = ([draw.gauss(m, s) for _ in range(n)] for m, s, n in ((0, 1, 4), (0.5, 3, 7)))
    found = stats.welch(a, b, 0.05)
    expected = oracle.ttest_ind(a, b, equal_var=False)
    ends = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    assert (found.p, found.df) == pytest.approx((expected.pvalue, expected.df))
    assert found.effect == pytest.approx(sum(a) / 4 - sum(b) / 7)
    assert stats.welch([1.0], b) is None
    assert stats.welch([1.0, 1.0], [2.0, 2.0]) is None


def test_slope_and_wilson():
    xs, ys = [0.0, 1.0, 2.0, 5.0], [1.0, 2.5, 2.0, 7.0]
    assert stats.slope(xs, ys) == pytest.approx(oracle.linregress(xs, ys).slope)
    for k, n in ((0, 5), (4, 5), (17, 40)):
        expected = oracle.binomtest(k, n).proportion_ci(0.95, method="wilson")
        assert stats.wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert stats.normal_quantile(0.975) == pytest.approx(1.959963984540054)
    assert math.isinf(stats.normal_quantile(1.0))

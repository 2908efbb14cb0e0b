"""Every statistic against scipy, or against its definition."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from scipy import stats as oracle

from paribus.analysis import stats
from paribus.analysis.stats import Sample

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
        assert s.p_inside(delta - 1, delta + 1) == pytest.approx(
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


@pytest.mark.parametrize("values", [v for v in SAMPLES if len(v) <= 5])
def test_sign_flips(values):
    expected = oracle.permutation_test(
        (values,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        n_resamples=10**6,
        vectorized=True,
        alternative="less",
    )
    assert Sample(values).p_flips_below() == pytest.approx(expected.pvalue)


def test_sign_flips_at_their_smallest():
    assert Sample((-1.0,) * 5).p_flips_below() == 1 / 32
    assert Sample((-1.0,) * 13).p_flips_below() is None


def test_no_spread():
    assert Sample((0.0, 0.0, 0.0)).p_below() == 1.0
    assert Sample((0.0, 0.0)).p_inside(-0.1, 0.1) == 0.0
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
    assert stats.seeds_needed(0.0, 1.0, 0.05) is None
    assert stats.seeds_needed(1e-6, 1.0, 0.05) is None


def test_slope_and_wilson():
    xs, ys = [0.0, 1.0, 2.0, 5.0], [1.0, 2.5, 2.0, 7.0]
    assert stats.slope(xs, ys) == pytest.approx(oracle.linregress(xs, ys).slope)
    for k, n in ((0, 5), (4, 5), (17, 40)):
        expected = oracle.binomtest(k, n).proportion_ci(0.95, method="wilson")
        assert stats.wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert stats.normal_quantile(0.975) == pytest.approx(1.959963984540054)
    assert math.isinf(stats.normal_quantile(1.0))

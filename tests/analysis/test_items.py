"""Errors over evaluation items, against statsmodels, scipy and repeated sampling."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats as oracle
from statsmodels.stats.contingency_tables import mcnemar as theirs

from paribus.analysis.items import (
    Scored,
    bca,
    bootstrap,
    difference_error,
    discordant,
    effect_error,
    mcnemar,
    ratio_error,
)
from paribus.errors import ParibusError


def evaluation(seed=0, documents=60, each=5, arms=2):
    """(sums [arms, items], counts [items], documents of the items): documents are hard or easy for
    all arms alike, items have other lengths."""
    draw = np.random.default_rng(seed)
    groups = np.repeat(np.arange(documents), each)
    counts = draw.integers(20, 200, len(groups)).astype(float)
    hard = draw.normal(0, 0.5, documents)[groups] + draw.normal(0, 0.2, len(groups))
    rate = 2 + hard + draw.normal(0, 0.05, (arms, len(groups)))
    return rate * counts, counts, groups


def clustered(values, groups):
    """statsmodels' cluster-robust error of a mean, whose factor is G/(G−1) · (N−1)/(N−1)."""
    x = np.ones((len(values), 1))
    fit = sm.OLS(values, x).fit(cov_type="cluster", cov_kwds={"groups": groups})
    return float(fit.bse[0])


def test_the_error_of_a_mean_is_the_textbooks():
    draw = np.random.default_rng(1)
    values = draw.normal(0, 1, 300)
    ones = np.ones(300)
    assert ratio_error(values, ones) == pytest.approx(oracle.sem(values))
    groups = np.repeat(np.arange(60), 5)
    assert ratio_error(values, ones, groups) == pytest.approx(clustered(values, groups))


def test_the_error_of_a_ratio_is_that_of_weighted_least_squares():
    """A ratio of sums is the mean of s/c weighted by c."""
    (sums, _), counts, groups = evaluation()
    fit = sm.WLS(sums / counts, np.ones(len(counts)), weights=counts).fit(
        cov_type="cluster", cov_kwds={"groups": groups}
    )
    assert ratio_error(sums, counts, groups) == pytest.approx(float(fit.bse[0]))


def test_a_paired_difference():
    (a, b), counts, groups = evaluation()
    whole = difference_error((a, counts), (b, counts), groups)
    assert whole == pytest.approx(ratio_error(a - b, counts, groups))
    # what the arms share of an item's difficulty cancels
    apart = np.hypot(ratio_error(a, counts, groups), ratio_error(b, counts, groups))
    assert whole < apart / 5
    with pytest.raises(ParibusError, match="paired difference of 300 and 299 items"):
        difference_error((a, counts), (b[1:], counts[1:]), groups)


def test_labels_may_be_anything():
    (sums, _), counts, groups = evaluation()
    names = np.array([f"document {60 - g}" for g in groups])
    order = np.random.default_rng(2).permutation(len(groups))
    expected = ratio_error(sums, counts, groups)
    assert ratio_error(sums, counts, names) == pytest.approx(expected)
    assert ratio_error(sums[order], counts[order], groups[order]) == pytest.approx(expected)
    assert ratio_error(list(sums), list(counts), list(groups)) == pytest.approx(expected)


def test_errors_are_what_other_evaluation_sets_would_show():
    """Against the spread over 400 sets of documents drawn anew."""
    ratios, differences, one, paired = [], [], [], []
    for seed in range(400):
        (a, b), counts, groups = evaluation(seed)
        ratios.append(a.sum() / counts.sum())
        differences.append((a - b).sum() / counts.sum())
        one.append(ratio_error(a, counts, groups))
        paired.append(difference_error((a, counts), (b, counts), groups))
    assert np.mean(one) == pytest.approx(np.std(ratios), rel=0.1)
    assert np.mean(paired) == pytest.approx(np.std(differences), rel=0.1)
    inside = np.abs(np.array(ratios) - 2) < 1.96 * np.array(one)
    assert 0.91 < inside.mean() < 0.98


def test_the_error_of_an_effect():
    (a, b), counts, groups = evaluation()
    (c, d), other, _ = evaluation(seed=9, documents=30)
    labels = np.repeat(np.arange(30), 5)
    cells = [(0.5, a, counts, groups), (-0.5, b, counts, groups)]
    half = difference_error((a, counts), (b, counts), groups) / 2
    assert effect_error(cells) == pytest.approx(half)
    # another evaluation is independent, whether it is told apart by name or not
    apart = difference_error((c, other), (d, other), labels)
    for source, off in (("other", 1e-9), ("", 0.2)):
        more = [(1.0, c, other, labels, source), (-1.0, d, other, labels, source)]
        assert effect_error(cells + more) == pytest.approx(np.hypot(half, apart), rel=off)
    # the mean over three seeds of one arm against another: items are shared by all of them
    three = [Scored(w / 3, s, counts, groups) for s in (a, 1.1 * a, 0.9 * a) for w in (1, -1)]
    assert effect_error(three) == pytest.approx(0)


def test_documents_cut_to_other_lengths_share_clusters():
    (a, _), counts, groups = evaluation()
    whole = [v.reshape(-1, 5).sum(1) for v in (a, counts)]  # the same texts, one item a document
    cells = [Scored(1.0, a, counts, groups), Scored(-1.0, *whole, np.arange(60))]
    assert effect_error(cells) == pytest.approx(0, abs=1e-9)
    bare = [Scored(c.weight, c.sums, c.counts) for c in cells]  # nothing to match items by
    apart = np.hypot(ratio_error(a, counts), ratio_error(*whole))
    assert effect_error(bare) == pytest.approx(apart)


def test_too_little_for_an_error():
    assert ratio_error([1.0, 2.0], [1.0, 1.0], [7, 7]) is None
    assert ratio_error([3.0], [2.0]) is None
    with pytest.raises(ParibusError, match="one of each per item"):
        ratio_error([1.0, 2.0], [1.0])
    with pytest.raises(ParibusError, match="counts nothing"):
        ratio_error([0.0, 0.0], [0.0, 0.0])


# ── bootstrap ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_agrees_with_scipys(method):
    (a, b), counts, groups = evaluation(documents=40)
    s, c = (np.bincount(groups, v) for v in (a - b, counts))
    expected = oracle.bootstrap(
        (s, c), lambda s, c, axis: s.sum(axis) / c.sum(axis), paired=True, vectorized=True,
        method={"bca": "BCa"}.get(method, method), n_resamples=20_000, rng=4,
    )  # fmt: skip
    cells = [Scored(1.0, a, counts, groups), Scored(-1.0, b, counts, groups)]
    found = bootstrap(cells, method=method, draws=20_000)
    width = expected.confidence_interval.high - expected.confidence_interval.low
    ends = expected.confidence_interval.low, expected.confidence_interval.high
    assert (found.low, found.high) == pytest.approx(ends, abs=0.03 * width)
    assert found.se == pytest.approx(expected.standard_error, rel=0.03)
    assert found.se == pytest.approx(effect_error(cells), rel=0.05)
    assert found.effect == pytest.approx(s.sum() / c.sum())
    assert found.clusters == 40


def test_bca_is_scipys_for_the_same_draws():
    values = np.random.default_rng(3).exponential(1, 30)
    expected = oracle.bootstrap((values,), np.mean, method="BCa", n_resamples=2000, rng=1)
    draws = expected.bootstrap_distribution
    without = (values.sum() - values) / 29
    ends = expected.confidence_interval.low, expected.confidence_interval.high
    assert bca(draws, values.mean(), without, 0.05) == pytest.approx(ends)


def test_bootstrap_is_the_same_twice_and_another_with_another_seed():
    (a, _), counts, groups = evaluation()
    cell = [Scored(1.0, a, counts, groups)]
    assert bootstrap(cell) == bootstrap(cell)
    assert bootstrap(cell) != bootstrap(cell, seed=1)


def test_bootstrap_draws_are_even():
    """Each cluster is drawn equally often."""
    from paribus.analysis.items import _taken

    taken = _taken(25, 0, 0, 2000)
    assert (taken.sum(0) == 25).all()
    assert oracle.chisquare(taken.sum(1)).pvalue > 0.001


def test_never_a_bootstrap_over_a_handful_of_seeds():
    with pytest.raises(ParibusError, match=r"over 5 clusters is too narrow.*never a handful"):
        bootstrap([(1.0, [1.0, 2, 3, 4, 5], [1.0] * 5, None)])
    with pytest.raises(ParibusError, match="19 clusters"):
        bootstrap([(1.0, [1.0] * 190, [1.0] * 190, np.repeat(np.arange(19), 10))])
    with pytest.raises(ParibusError, match="over 2 evaluation sets"):
        bootstrap([(1.0, [1.0] * n, [1.0] * n, None) for n in (30, 40)])
    with pytest.raises(ParibusError, match="method 'basic'"):
        bootstrap([(1.0, [1.0] * 30, [1.0] * 30, None)], method="basic")


# ── right and wrong ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("b", "c"), [(0, 0), (0, 1), (1, 0), (0, 6), (3, 3), (5, 12), (40, 61), (400, 330)]
)
def test_mcnemar(b, c):
    found = mcnemar(b, c)
    assert found.exact == pytest.approx(theirs([[10, b], [c, 20]], exact=True).pvalue)
    # mid-p by its definition: half of the probability of what was seen is left out
    mid = min(1.0, 2 * oracle.binom.cdf(min(b, c), b + c, 0.5) - oracle.binom.pmf(b, b + c, 0.5))
    assert found.mid == pytest.approx(mid)
    assert found.mid <= found.exact
    assert mcnemar(c, b).exact == found.exact


def test_mcnemar_from_items():
    a, b = [1, 1, 0, 0, 1], [1, 0, 0, 1, 0]
    assert discordant(a, b) == (2, 1)
    with pytest.raises(ParibusError, match="give counts"):
        mcnemar(-1, 3)

"""Exact tests and gradients, against scipy and finite differences."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats as oracle

from paribus.analysis.cells import Results
from paribus.analysis.exact import flips_below, ranks_below
from paribus.analysis.linear import gradient
from paribus.study.hypotheses import metric
from paribus.study.measures import read, select

from .synthetic import HEADS, LENGTH, POSITION, rows, study

loss = metric("loss")


def sample(n: int, seed: int) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(-0.3, 1) for _ in range(n)]


@pytest.mark.parametrize("n", [2, 3, 5, 8, 13])
def test_sign_flips_are_those_of_scipy(n: int) -> None:
    d = sample(n, n)
    expected = oracle.permutation_test(
        (np.array(d),),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
        alternative="less",
    ).pvalue
    assert flips_below(d) == pytest.approx(expected, rel=1e-12)
    assert flips_below([x + 2 for x in d], 2) == pytest.approx(expected, rel=1e-12)


def test_the_smallest_p_of_sign_flips() -> None:
    for n, p in ((3, 0.125), (4, 0.0625), (5, 0.03125), (6, 0.015625)):
        assert flips_below([-1.0] * n) == p
    assert flips_below([-1.0] * 41) is None
    assert flips_below(sample(40, 1)) is not None


@pytest.mark.parametrize("n", [3, 5, 9, 20])
def test_signed_ranks_are_those_of_scipy(n: int) -> None:
    d = sample(n, n)
    expected = oracle.wilcoxon(d, alternative="less", method="exact").pvalue
    assert ranks_below(d) == pytest.approx(expected, rel=1e-12)


def test_a_run_that_diverged_has_the_largest_rank() -> None:
    d = [-0.1, -0.2, -0.3, -0.4]
    assert ranks_below([*d, math.inf]) == ranks_below([*d, 9.0])
    assert ranks_below([*d, -math.inf]) == ranks_below([*d, -9.0]) == 1 / 32
    assert ranks_below([0.0, -1.0, -2.0]) > ranks_below([-0.5, -1.0, -2.0])  # a tie is no evidence


MEASURES = {
    "at": loss.at(LENGTH[128]).mean(HEADS),
    "gap": loss.gap(LENGTH[512], LENGTH[128, 256]).mean(HEADS),
    "slope": loss.slope(LENGTH.log2).mean(HEADS),
    "area": loss.area(LENGTH).mean(HEADS),
    "span": loss.span(LENGTH).mean(HEADS),
    "max": loss.max(LENGTH).mean(HEADS),
    "min": loss.min(LENGTH).mean(HEADS),
    "ratio": (loss.at(LENGTH[512]) / loss.at(LENGTH[128])).mean(HEADS),
    "product": (2 * loss.at(LENGTH[512]) * loss.at(LENGTH[128]) - 1).mean(HEADS).prefer("lower"),
}


@pytest.mark.parametrize("name", MEASURES)
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    record: Any = study([POSITION, HEADS])
    results = Results(record, rows(record, lambda v, c: 3 + int(c["length"]) / 300, noise=0.3))
    cells = results.cells(MEASURES[name].data(), 1)
    node = {"on": MEASURES[name].data(), "where": {}}
    arm = {"position": ["rope"]}
    before = read(node, arm, cells, record)
    found = gradient(node["on"], select(cells, arm), record)
    assert found
    for i, cell in enumerate(cells):
        assert isinstance(cell.value, float)
        moved = [*cells[:i], replace(cell, value=cell.value + 1e-6), *cells[i + 1 :]]
        after = read(node, arm, moved, record)
        assert isinstance(after, float)
        assert isinstance(before, float)
        assert (after - before) / 1e-6 == pytest.approx(found.get(id(cell), 0.0), abs=1e-6)

"""Trends over sizes: a rank test of order, and a power law with its prediction.

- Page 1963: within each row (a seed) the k values are ranked; L = Σ_j j R_j over columns, R_j the
  sum of ranks of column j, is large where values rise from column to column.  Under H0 every
  order within a row is equally likely.  The distribution of one row's Σ j π(j) over all orders π
  is counted exactly, that of n rows is its n-fold convolution; beyond 10 columns, and where values
  are tied, the normal approximation with E L = n k (k+1)² / 4 and
  Var L = n k² (k+1) (k² − 1) / 144.
- y = E + A N^−alpha, fitted as in Hoffmann et al. 2022 (arXiv 2203.15556): Huber loss on residuals
  of log y, started at the best of a grid of exponents.  Three numbers fit any three points, and
  R² is close to 1 for any smooth curve: it is judged by how well a fit without the largest size
  predicts that size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paribus.errors import ParibusError

COUNTED = 10  # columns up to which orders are counted: 2^k sets of them
DISTINCT = 4  # sizes that a power law needs, so that one is left to be predicted
HUBER = 1e-3  # of log y: beyond it a residual counts linearly


# ── order ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class PageTrend:
    statistic: float
    p: float  # one-sided
    exact: bool


def page_trend(table: Sequence[Sequence[float]], falling: bool = False) -> PageTrend:
    """Page's test of a ``table`` [seeds, sizes] that values rise (or fall) along the sizes, which
    stand in order.  Infinite values rank last or first."""
    k = len(table[0]) if table else 0
    if k < 3 or any(len(row) != k for row in table):
        raise ParibusError("Page's test takes rows of equal length, with three sizes or more")
    if any(math.isnan(v) for row in table for v in row):
        raise ParibusError("Page's test: a value is not a number; give an infinite one its rank")
    turn = -1 if falling else 1
    ranked = [_ranks([turn * v for v in row]) for row in table]
    seen = math.fsum(j * r for row in ranked for j, r in enumerate(row, 1))
    n, tied = len(table), any(len(set(row)) < k for row in ranked)
    if k > COUNTED or tied:
        from scipy import special

        sd = math.sqrt(n * k * k * (k + 1) * (k * k - 1) / 144)
        return PageTrend(seen, float(special.ndtr((n * k * (k + 1) ** 2 / 4 - seen) / sd)), False)
    return PageTrend(seen, _tail(k, n, round(seen)), True)


def _ranks(row: Sequence[float]) -> list[float]:
    """1 for the smallest; the mean rank of equals."""
    below = [sum(v < x for v in row) for x in row]
    equal = [sum(v == x for v in row) for x in row]
    return [b + (e + 1) / 2 for b, e in zip(below, equal, strict=True)]


def _tail(k: int, n: int, seen: int) -> float:
    """P(L >= seen) for n rows of k columns."""
    import numpy as np

    most = k * (k + 1) * (2 * k + 1) // 6
    # ways[used]: how many orders of the first columns use these ranks, by their sum so far.
    ways = {0: np.eye(1, most + 1)[0]}
    for column in range(1, k + 1):
        longer: dict[int, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
        for used, count in ways.items():
            for rank in range(1, k + 1):
                if not used >> rank & 1:
                    moved = np.zeros(most + 1)
                    moved[column * rank :] = count[: most + 1 - column * rank]
                    now = used | 1 << rank
                    longer[now] = longer[now] + moved if now in longer else moved
        ways = longer
    (one,) = ways.values()
    one = one / one.sum()
    total = one
    for _ in range(n - 1):
        total = np.convolve(total, one)
    return min(1.0, math.fsum(total[seen:]))


# ── a power law ─────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class PowerLaw:
    """y = E + A N^−alpha over all sizes, and what a fit without the largest says of it."""

    E: float
    A: float
    alpha: float
    predicted: float  # y at the largest size, by a fit to the others
    seen: float  # the mean of y there
    largest: float

    @property
    def error(self) -> float:
        """Of the prediction, relative to what was seen."""
        return (self.predicted - self.seen) / self.seen

    def at(self, size: float) -> float:
        return self.E + self.A * math.exp(-self.alpha * math.log(size))


def power_law(xs: Sequence[float], ys: Sequence[float]) -> tuple[PowerLaw | None, str]:
    """The law of sizes ``xs`` > 0 and values ``ys`` > 0 (a size may come several times), or the
    reason why there is none."""
    sizes = sorted(set(xs))
    if len(sizes) < DISTINCT:
        return None, f"a power law needs {DISTINCT} sizes; there are {len(sizes)}"
    if not all(0 < v < math.inf for v in (*xs, *ys)):
        return None, "a power law needs sizes and values that are finite and above zero"
    pairs, largest = list(zip(xs, ys, strict=True)), sizes[-1]
    others = [(x, y) for x, y in pairs if x < largest]
    last = [y for x, y in pairs if x == largest]
    whole, part = _fit(pairs), _fit(others)
    predicted = part[0] + part[1] * largest ** -part[2]
    return PowerLaw(*whole, predicted, math.fsum(last) / len(last), largest), ""


def _fit(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """(E, A, alpha); E and A are exponentials of what is fitted, and so positive."""
    import numpy as np
    from scipy.optimize import least_squares

    x = np.log([x for x, _ in pairs])
    y = np.log([y for _, y in pairs])
    middle, low = float(x.mean()), float(y.min())

    def residuals(p: Sequence[float]) -> Any:
        return np.logaddexp(p[0], p[1] - p[2] * (x - middle)) - y

    def slopes(p: Sequence[float]) -> Any:
        falling = p[1] - p[2] * (x - middle)
        share = np.exp(falling - np.logaddexp(p[0], falling))
        return np.stack([1 - share, share, -(x - middle) * share], 1)

    # For a given exponent E and A are linear: the best of each, as a share of y.
    starts = []
    for alpha in np.linspace(-2, 3, 101):
        both = np.stack([np.ones_like(x), np.exp(-alpha * (x - middle))], 1)
        ea, *_ = np.linalg.lstsq(both / np.exp(y)[:, None], np.ones_like(x))
        ea = np.maximum(ea, 1e-3 * math.exp(low))
        p = [*np.log(ea), alpha]
        starts.append((float(np.abs(residuals(p)).sum()), p))
    found = least_squares(
        residuals, min(starts)[1], jac=slopes, loss="huber", f_scale=HUBER,
        bounds=([low - 30, low - 30, -4.0], [low + 10, low + 10, 4.0]),
        xtol=1e-12, ftol=1e-12, gtol=1e-12, max_nfev=300,
    )  # fmt: skip
    e, a, alpha = map(float, found.x)
    return math.exp(e), math.exp(a + alpha * middle), alpha

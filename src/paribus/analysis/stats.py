"""The few statistics that verdicts rest on.

Distributions are scipy's; ``scipy.special`` is enough, and imports four times as fast as
``scipy.stats``, which the tests hold every function against.

Let d_1 … d_n be one number per seed (a paired difference, a slope), m its mean, s its standard
deviation with n − 1, and t(p) the p-quantile of Student's t with n − 1 degrees of freedom.

- t-test of H0: E d >= delta against E d < delta: T = (m − delta) √n / s, p = P(t < T)
  (Student 1908).  Bounds: m ± t(1 − alpha) s / √n, each one-sided at 1 − alpha; both together are
  the 1 − 2 alpha interval.
- equivalence: two one-sided tests (Schuirmann 1987), p = max of both.
- conjunction: intersection–union, p = max p (Berger 1982).  At least u of m: partial conjunction,
  p = (m − u + 1) p_(u) (Benjamini and Heller 2008).
- families: Holm 1979 (any dependence); Benjamini and Hochberg 1995 for exploration.
- power of the one-sided t-test: P(T' > t(1 − alpha)), T' non-central t with n − 1 degrees of
  freedom and non-centrality δ √n / s.
- planned looks: the level is spent by a function of the share t of the seeds that are there,
  alpha(t) = 2 − 2 Φ(z(1 − alpha/2) / √t) (Lan and DeMets 1983, after O'Brien and Fleming 1979).
- a share k / n: Wilson's score interval (1927).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from paribus.errors import ParibusError
from paribus.study.measures import slope as slope  # per-seed trend: slope(xs, ys)

# ── distributions ───────────────────────────────────────────────────────────────────────────


def normal_quantile(p: float) -> float:
    from scipy import special

    return float(special.ndtri(p))


def _normal_cdf(z: float) -> float:
    from scipy import special

    return float(special.ndtr(z))


def t_cdf(t: float, df: float) -> float:
    """P(T <= t), accurate in relative terms in the lower tail."""
    from scipy import special

    return float(special.stdtr(df, t))


def t_quantile(p: float, df: float) -> float:
    from scipy import special

    if not 0 < p < 1:
        return -math.inf if p <= 0 else math.inf
    return float(special.stdtrit(df, p))


def noncentral_t_sf(t: float, df: float, shift: float) -> float:
    """P(T' > t) for non-centrality ``shift``."""
    from scipy import special

    below = float(special.nctdtr(df, shift, t))
    if math.isnan(below):  # scipy 1.17, where t is so far below the shift that nothing is left
        below = float(t > shift)
    return min(1.0, max(0.0, 1.0 - below))


# ── one number per seed ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Sample:
    """Numbers by seed, with their mean and standard deviation (0 for a single one)."""

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / self.n

    @property
    def sd(self) -> float:
        if self.n < 2:
            return 0.0
        m = self.mean
        return math.sqrt(math.fsum((v - m) ** 2 for v in self.values) / (self.n - 1))

    def p_below(self, delta: float = 0.0) -> float:
        """The p-value of the claim that the expectation is below ``delta``."""
        if self.n < 2:
            return 1.0
        distance = self.mean - delta
        # No spread at all: the estimate is taken at its word; at the boundary it claims nothing.
        if self.sd <= 1e-15 * max(abs(self.mean), abs(delta)):
            return 0.0 if distance < 0 else 1.0
        return t_cdf(distance * math.sqrt(self.n) / self.sd, self.n - 1)

    def p_above(self, delta: float = 0.0) -> float:
        return Sample(tuple(-v for v in self.values)).p_below(-delta)

    def interval(self, alpha: float) -> tuple[float, float]:
        """The 1 − 2 alpha interval; each end is a one-sided bound at 1 − alpha."""
        if self.n < 2:
            return -math.inf, math.inf
        half = t_quantile(1 - alpha, self.n - 1) * self.sd / math.sqrt(self.n)
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class Welch:
    """A difference of two independent means, with the two-sided 1 − alpha interval."""

    effect: float
    low: float
    high: float
    df: float
    p: float  # two-sided


def welch(a: Sequence[float], b: Sequence[float], alpha: float = 0.05) -> Welch | None:
    """Mean of ``a`` minus mean of ``b`` where nothing pairs them (Welch 1947): for description;
    verdicts rest on pairs.  None for fewer than two numbers on a side, or none that differ."""
    x, y = Sample(tuple(a)), Sample(tuple(b))
    if min(x.n, y.n) < 2 or x.sd == y.sd == 0:
        return None
    u, v = x.sd**2 / x.n, y.sd**2 / y.n
    df = (u + v) ** 2 / (u**2 / (x.n - 1) + v**2 / (y.n - 1))
    effect, error = x.mean - y.mean, math.sqrt(u + v)
    half = t_quantile(1 - alpha / 2, df) * error
    return Welch(effect, effect - half, effect + half, df, 2 * t_cdf(-abs(effect) / error, df))


# ── several claims ──────────────────────────────────────────────────────────────────────────


def conjunction(ps: Sequence[float]) -> float:
    """All hold: intersection–union."""
    return max(ps)


def partial_conjunction(u: int, ps: Sequence[float]) -> float:
    """At least u hold."""
    return min(1.0, (len(ps) - u + 1) * sorted(ps)[u - 1])


def holm(ps: Sequence[float], size: int | None = None) -> list[float]:
    """Adjusted p-values, in order; ``size`` where the family is larger than what is there."""
    m, out, running = size or len(ps), [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        running = max(running, min(1.0, (m - rank) * ps[i]))
        out[i] = running
    return out


def benjamini_hochberg(ps: Sequence[float]) -> list[float]:
    """p-values adjusted for the false discovery rate, in order."""
    m, out, running = len(ps), [0.0] * len(ps), 1.0
    for rank, i in enumerate(sorted(range(m), key=lambda i: -ps[i])):
        running = min(running, ps[i] * m / (m - rank))
        out[i] = running
    return out


def spending(alpha: float, fractions: Sequence[float]) -> list[float]:
    """The level spent up to each look, at these shares of the seeds, rising to 1; the last is
    ``alpha``."""
    _shares(fractions)
    edge = normal_quantile(alpha / 2)
    return [2 * _normal_cdf(edge / math.sqrt(t)) if t < 1 else alpha for t in fractions]


def increments(alpha: float, fractions: Sequence[float]) -> list[float]:
    """What each look may spend: the level of its own test.  They add up to ``alpha``, so that the
    looks together hold it whatever their dependence."""
    spent = spending(alpha, fractions)
    return [b - a for a, b in zip([0.0, *spent], spent, strict=False)]


def _shares(fractions: Sequence[float]) -> None:
    rising = all(a < b for a, b in pairwise([0.0, *fractions]))
    if not fractions or not rising or fractions[-1] > 1:
        raise ParibusError(
            f"looks at {list(fractions)} of the seeds: give shares that rise from above 0 to 1"
        )


# ── planning ────────────────────────────────────────────────────────────────────────────────


def power(effect: float, sd: float, n: int, alpha: float) -> float:
    """Power of the one-sided t-test for a distance ``effect`` > 0 from the boundary."""
    if n < 2 or sd <= 0:
        return float(n >= 2 and effect > 0)
    return noncentral_t_sf(t_quantile(1 - alpha, n - 1), n - 1, effect * math.sqrt(n) / sd)


def smallest_effect(sd: float, n: int, alpha: float, wanted: float = 0.8) -> float:
    """The distance from the boundary that would have been seen with the wanted power."""
    if n < 2 or sd <= 0:
        return math.inf if n < 2 else 0.0
    from scipy import special

    # The non-centrality at which the critical value is exceeded with the wanted power.
    shift = special.nctdtrinc(n - 1, 1 - wanted, t_quantile(1 - alpha, n - 1))
    return sd / math.sqrt(n) * float(shift)


def seeds_needed(
    effect: float, sd: float, alpha: float, wanted: float = 0.8, most: int = 1000
) -> int | None:
    """The smallest n with the wanted power at this distance; None if more than ``most``."""
    if effect <= 0 or power(effect, sd, most, alpha) < wanted:
        return None
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, sd, middle, alpha) >= wanted else (middle, high)
    return high


def wilson(k: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """The two-sided 1 − alpha interval of a share."""
    if n == 0:
        return 0.0, 1.0
    z, p = normal_quantile(1 - alpha / 2), k / n
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)

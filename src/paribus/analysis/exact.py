"""Exact tests of one number per seed, for n seeds and claims of the form "below delta".

Under H0 every d_i − delta is symmetric about 0, so all 2^n patterns of signs are equally likely.

- sign flips (Fisher 1935): the statistic is the sum of the signed distances.
- signed ranks (Wilcoxon 1945): the sum of the ranks of the positive distances; an infinite
  distance, a run that diverged, has the largest rank.  A distance of zero counts as positive,
  against the claim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST = 40  # seeds: two halves of 2^20 sums each


def flips_below(values: Sequence[float], delta: float = 0.0) -> float | None:
    """p of the claim that the values lie below ``delta``; None for more than 40 of them."""
    import numpy as np

    d = [v - delta for v in values]
    if not 1 <= len(d) <= MOST:
        return None
    seen, slack = math.fsum(d), 1e-12 * math.fsum(map(abs, d))
    halves = []
    for part in (d[: len(d) // 2], d[len(d) // 2 :]):
        sums = np.zeros(1)
        for x in part:
            sums = np.concatenate([sums + x, sums - x])
        halves.append(np.sort(sums))
    left, right = halves
    count = np.searchsorted(right, seen + slack - left, side="right").sum()
    return float(count) / 2.0 ** len(d)


def ranks_below(values: Sequence[float], delta: float = 0.0) -> float:
    """p of the claim that the values lie below ``delta``, by signed ranks; ties share their mean
    rank, and the null distribution is that of the ranks as they are tied."""
    d = [v - delta for v in values]
    sizes = [abs(x) for x in d]
    # Twice the mean rank is a whole number: 2 #smaller + #equal + 1.
    ranks = [2 * sum(s < x for s in sizes) + sum(s == x for s in sizes) + 1 for x in sizes]
    seen = sum(r for r, x in zip(ranks, d, strict=True) if x >= 0)
    ways = {0: 1}
    for r in ranks:
        more = dict(ways)
        for total, k in ways.items():
            more[total + r] = more.get(total + r, 0) + k
        ways = more
    return float(sum(k for total, k in ways.items() if total <= seen) / 2 ** len(d))

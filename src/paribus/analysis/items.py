"""Noise of a finite evaluation set: clustered errors, bootstrap and McNemar's test over its items.

A metric is a ratio of sums over items, R = Σ s_i / Σ c_i (nats over tokens, hits over questions).
Items that belong together (the texts of a document) are a cluster; each item is its own where no
labels are given.

- Linearised, item i moves R by (s_i − R c_i) / Σ c.  Let u_g be the sum over cluster g (over all
  cells of an effect, with their weights); then the variance is G/(G−1) Σ_g u_g² (Cochran 1977,
  ch. 6 and 9A; for evaluations of language models Miller 2024, arXiv 2411.00640).  What two arms
  share of an item's difficulty cancels in u_g: the error of a paired difference.
- Bootstrap: whole clusters are drawn with replacement; percentile interval, or BCa with the
  jackknife's acceleration (Efron 1987).  Over fewer than 20 clusters its intervals are too short,
  so that it is refused: seeds are never resampled.
- McNemar 1947: of the items that exactly one arm gets right, half should be either's.  Exact
  binomial, and mid-p, which is less conservative (Fagerland, Lydersen and Laake 2013).

These errors say how much the same trained models would differ on another evaluation set; how much
other seeds would differ is the business of the t-test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paribus.errors import ParibusError
from paribus.lazy import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

FEWEST = 20  # clusters of a bootstrap


@dataclass(frozen=True)
class Scored:
    """A cell of an effect: its weight there, and per item the sums and counts of a ratio metric.
    Cells share the clusters of equal label, or without labels the items of equal number where
    they have equally many.  That evaluations share them by name alone costs no more than noise:
    between independent ones the products of u_g are zero on average.  ``source`` keeps such
    evaluations apart: cells share clusters only within one."""

    weight: float
    sums: Any  # [items]
    counts: Any  # [items]
    groups: Any = None  # [items], labels of clusters; None: each item is one
    source: str = ""

    def checked(self) -> tuple[Any, Any, Any]:
        """(sums, counts, labels) as arrays of one length."""
        s, c = np.asarray(self.sums, float), np.asarray(self.counts, float)
        g = np.arange(len(s)) if self.groups is None else np.asarray(self.groups)
        if not s.shape == c.shape == g.shape or s.ndim != 1:
            raise ParibusError(
                f"sums, counts and groups of an evaluation have {s.shape}, {c.shape} and {g.shape} "
                "entries; give one of each per item"
            )
        if not c.sum() > 0:
            raise ParibusError("an evaluation counts nothing: there is no ratio to speak of")
        return s, c, g


Given = Scored | Sequence[Any]  # or (weight, sums, counts, groups or None)


def _scored(cells: Sequence[Given]) -> list[Scored]:
    return [c if isinstance(c, Scored) else Scored(*c) for c in cells]


def _sources(cells: Sequence[Given]) -> list[tuple[Any, Any, Any]]:
    """Per source: (weights [cells], sums [cells, clusters], counts [cells, clusters])."""
    found: dict[tuple[str, int | None], list[tuple[float, Any, Any, Any]]] = {}
    for cell in _scored(cells):
        s, c, g = cell.checked()
        own = (cell.source, None if cell.groups is not None else len(s))
        found.setdefault(own, []).append((cell.weight, s, c, g))
    out = []
    for same in found.values():
        labels, place = np.unique(np.concatenate([g for *_, g in same]), return_inverse=True)
        ends = np.cumsum([len(g) for *_, g in same])
        places = np.split(place, ends[:-1])
        sums, counts = (
            np.stack([np.bincount(p, v[i], len(labels)) for v, p in zip(same, places, strict=True)])
            for i in (1, 2)
        )
        out.append((np.array([w for w, *_ in same]), sums, counts))
    return out


# ── errors ──────────────────────────────────────────────────────────────────────────────────


def effect_error(cells: Sequence[Given]) -> float | None:
    """The standard error of Σ weight · R over cells; evaluations that share no clusters are
    independent.  None where one has fewer than two."""
    variance = 0.0
    for weights, sums, counts in _sources(cells):
        g = sums.shape[1]
        if g < 2:
            return None
        total = counts.sum(1, keepdims=True)
        moves = (sums - sums.sum(1, keepdims=True) / total * counts) / total
        variance += g / (g - 1) * float(np.square(weights @ moves).sum())
    return math.sqrt(variance)


def ratio_error(sums: Any, counts: Any, groups: Any = None) -> float | None:
    """The standard error of one ratio metric."""
    return effect_error([Scored(1.0, sums, counts, groups)])


def difference_error(a: tuple[Any, Any], b: tuple[Any, Any], groups: Any = None) -> float | None:
    """The standard error of the difference of two ratio metrics, each (sums, counts), over the
    same items."""
    if len(a[0]) != len(b[0]):
        raise ParibusError(f"a paired difference of {len(a[0])} and {len(b[0])} items: give equals")
    return effect_error([Scored(1.0, *a, groups), Scored(-1.0, *b, groups)])


# ── bootstrap ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Bootstrap:
    effect: float
    low: float
    high: float  # of the two-sided 1 − alpha interval
    se: float  # the standard deviation of the draws
    clusters: int


def bootstrap(
    cells: Sequence[Given],
    alpha: float = 0.05,
    method: str = "bca",
    draws: int = 2000,
    seed: int = 0,
) -> Bootstrap:
    """Σ weight · R over cells of one evaluation's items, by drawing its clusters ``draws`` times;
    ``method``: "bca" or "percentile"."""
    if method not in ("bca", "percentile"):
        raise ParibusError(f"bootstrap method {method!r}: give 'bca' or 'percentile'")
    sources = _sources(cells)
    if len(sources) != 1:
        raise ParibusError(f"a bootstrap over {len(sources)} evaluation sets: give cells of one")
    ((weights, sums, counts),) = sources
    n = sums.shape[1]
    if n < FEWEST:
        raise ParibusError(
            f"a bootstrap over {n} clusters is too narrow: it takes {FEWEST} or more items or "
            "documents, and never a handful of seeds (use the t interval)"
        )

    def effect(s: Array, c: Array) -> Array:
        """Of totals [cells, draws]."""
        found: Array = weights @ (s / c)
        return found

    taken = [_taken(n, seed, i, min(i + 100, draws)) for i in range(0, draws, 100)]
    out = np.concatenate([effect(sums @ t, counts @ t) for t in taken])
    whole = sums.sum(1, keepdims=True), counts.sum(1, keepdims=True)
    seen = float(effect(*whole)[0])
    low, high = np.quantile(out, [alpha / 2, 1 - alpha / 2])
    if method == "bca":
        without = effect(whole[0] - sums, whole[1] - counts)
        low, high = bca(out, seen, without, alpha)
    return Bootstrap(seen, float(low), float(high), float(out.std(ddof=1)), n)


def _taken(n: int, seed: int, start: int, stop: int) -> Array:
    """How often each of n clusters is in the draws start … stop, [n, draws]; a draw depends on its
    own number alone, and numpy promises these words on every version."""
    out = np.empty((n, stop - start))
    for i in range(start, stop):
        words = np.random.Philox(key=[seed, i]).random_raw(n)
        place = (words >> np.uint64(32)) * np.uint64(n) >> np.uint64(32)
        out[:, i - start] = np.bincount(place.astype(np.int64), minlength=n)
    return out


def bca(draws: Array, seen: float, without: Array, alpha: float) -> tuple[float, float]:
    """The bias-corrected and accelerated interval; ``without``: the estimate without each
    cluster."""
    from scipy import special

    below = ((draws < seen).sum() + (draws <= seen).sum()) / (2 * len(draws))
    if not 0 < below < 1:
        return float(draws.min()), float(draws.max())
    z0 = special.ndtri(below)
    d = without.mean() - without
    spread = float((d**2).sum()) ** 1.5
    a = float((d**3).sum()) / (6 * spread) if spread else 0.0
    z = z0 + special.ndtri(np.array([alpha / 2, 1 - alpha / 2]))
    low, high = np.quantile(draws, special.ndtr(z0 + z / (1 - a * z)))
    return float(low), float(high)


# ── right and wrong ─────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class McNemar:
    only_a: int
    only_b: int
    exact: float
    mid: float  # both two-sided


def mcnemar(only_a: int, only_b: int) -> McNemar:
    """Of the items that one arm alone gets right, so many are the first's and the second's."""
    from scipy import special

    n, k = only_a + only_b, min(only_a, only_b)
    if k < 0:
        raise ParibusError(f"McNemar's test of {only_a} and {only_b} items: give counts")
    tail = float(special.bdtr(k, n, 0.5)) if n else 1.0
    point = tail - (float(special.bdtr(k - 1, n, 0.5)) if k and n else 0.0)
    return McNemar(only_a, only_b, min(1.0, 2 * tail), min(1.0, 2 * tail - point))


def discordant(a: Sequence[float], b: Sequence[float]) -> tuple[int, int]:
    """(right by the first alone, by the second alone) of 0 and 1 per item."""
    pairs = list(zip(a, b, strict=True))
    return sum(x > y for x, y in pairs), sum(x < y for x, y in pairs)

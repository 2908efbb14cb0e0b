"""How long a model's working memory is, from accuracies along a length.

A curve has a place L (tokens) at each point, item-level successes k of n, and the accuracy γ of
guessing, or of a model without the memory.

- Psychometric: ψ(L) = γ + (1 − γ − λ) / (1 + (L / α)^β), α and β above 0, 0 ≤ λ ≤ 0.2, of the
  largest binomial likelihood over several starts.  An item counts once, by the share of its tokens
  that is right: tokens of one item are not independent, and counted one by one their errors are
  several times too small.  Span at level q, corrected for guessing: L_q =
  α · ((1 − γ − λ) / ((1 − γ) q) − 1)^(1/β), which is not defined where q ≥ (1 − γ − λ) / (1 − γ).
- Isotonic: the non-increasing fit of least squares (pool adjacent violators), and where it crosses
  γ + (1 − γ) q on a logarithmic axis: no form is assumed.
- Beyond the lengths that were asked a span is "> longest" or "< shortest", never a number.
- Effective window: the largest length whose gain is above 0, by the lower end of its interval over
  items, with all shorter ones; its ratios to the direct window and to the theoretical field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paribus.errors import ParibusError
from paribus.lazy import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

LEVELS = (0.5, 0.9)
LAPSES = 0.2  # the largest λ
STEEP = 200.0  # the largest β: a step, as of a window that ends


@dataclass(frozen=True)
class Span:
    """A number of tokens, or on which side of the lengths asked it lies.

    Attributes:
        value: None: censored, or not defined.
        censored: "> 512", "< 4"; "": the value stands.
        low, high: of the 95 % interval over items, where it was taken; ends may be infinite or 0.
    """

    value: float | None
    censored: str = ""
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return self.censored or "not defined"
        if self.low is None:
            return f"{self.censored or f'{self.value:.4g}'}"
        low = "<" if self.low == 0 else f"{self.low:.4g}"
        high = ">" if self.high in (None, math.inf) else f"{self.high:.4g}"
        return f"{self.value:.4g} [{low}, {high}]"

    def data(self) -> dict[str, Any]:
        """Plain data; an end beyond the lengths is null, or 0."""
        high = None if self.high == math.inf else self.high
        return {"value": self.value, "censored": self.censored, "low": self.low, "high": high}


# ── the psychometric form ───────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Fit:
    """Attributes:
    deviance: twice the log-likelihood that the fit lacks to one of a number for each length.
    free: lengths less parameters; the deviance of a right form is about so large.
    """

    alpha: float
    beta: float
    lapse: float
    deviance: float
    free: int

    def at(self, length: float, guess: float) -> float:
        x = (length / self.alpha) ** self.beta if length > 0 else 0.0
        return guess + (1 - guess - self.lapse) / (1 + x)

    def span(self, q: float, guess: float = 0.0) -> float | None:
        """L_q; None where no length reaches that level."""
        top = (1 - guess - self.lapse) / (1 - guess)
        if q >= top:
            return None
        return float(self.alpha * (top / q - 1) ** (1 / self.beta))


def fit(
    lengths: Sequence[float], k: Any, n: Any, guess: Any = 0.0, start: Fit | None = None
) -> Fit:
    """The form of the largest likelihood.

    Args:
        k, n: successes and items at each length; successes may be shares of items.
        guess: γ, one for all or at each length.
        start: where to begin, for a fit to three digits; None: at the best places of a grid, for
            one to seven.
    """
    x = np.asarray(lengths, float)
    k, n = np.asarray(k, float), np.broadcast_to(np.asarray(n, float), x.shape)
    g = np.clip(np.broadcast_to(np.asarray(guess, float), x.shape), 0.0, 1 - 1e-9)
    if len(x) < 3 or (n <= 0).any() or (k < 0).any() or (k > n).any():
        raise ParibusError("a psychometric fit takes three lengths or more, with 0 ≤ k ≤ n items")
    from scipy import optimize

    log = np.log(x)
    low, high = np.array([[log[0] - 3, -3.0, 0.0], [log[-1] + 3, math.log(STEEP), LAPSES]])

    def lost(p: Array) -> Any:
        """−log-likelihood of [ln α, ln β, λ], or of many, [·,3]."""
        p = np.clip(p, low, high)
        rise = np.clip(np.exp(p[..., 1:2]) * (log - p[..., :1]), -700, 700)
        made = np.clip(g + (1 - g - p[..., 2:]) / (1 + np.exp(rise)), 1e-12, 1 - 1e-12)
        return -(k * np.log(made) + (n - k) * np.log1p(-made)).sum(-1)

    fine = {"xatol": 1e-9, "fatol": 1e-13} if start is None else {"xatol": 1e-3, "fatol": 1e-4}

    def down(p: Array) -> tuple[float, Array]:
        found = optimize.minimize(lost, p, method="Nelder-Mead", options={"maxiter": 2000, **fine})
        return float(found.fun), np.clip(found.x, low, high)

    if start is not None:
        starts = np.array([[math.log(start.alpha), math.log(start.beta), start.lapse]])
    else:
        axes = [np.linspace(a, b, m) for a, b, m in zip(low, high, (33, 17, 5), strict=True)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        order = grid[np.argsort(lost(grid), kind="stable")]
        apart = np.abs(order[:, :2] - order[0, :2]).max(1) > 1.0
        starts = np.concatenate([order[:1], order[apart][:1]])
    best, p = min((down(q) for q in starts), key=lambda found: found[0])
    if start is None:  # a simplex begun anew does not stop where the first one collapsed
        best, p = down(p)
    share, rest = np.clip(k / n, 1e-300, 1.0), np.clip(1 - k / n, 1e-300, 1.0)
    whole = float((k * np.log(share) + (n - k) * np.log(rest)).sum())
    return Fit(float(np.exp(p[0])), float(np.exp(p[1])), float(p[2]), max(0.0, 2 * (best + whole)),
               len(x) - 3)  # fmt: skip


def fitted(
    lengths: Sequence[float], k: Any, n: Any, guess: Any, q: float, form: Fit | None = None
) -> Span:
    """The span at level q by the form (None: it is fitted); γ is that of the place of the span."""
    x = np.asarray(lengths, float)
    g = np.broadcast_to(np.asarray(guess, float), x.shape)
    side = censored(x, np.asarray(k, float) / np.asarray(n, float), g, q)
    if side:
        return Span(None, side)
    form = form or fit(lengths, k, n, guess)
    found = form.span(q, float(g.mean()))
    for _ in range(20 if np.ptp(g) else 0):
        if found is None:
            break
        found = form.span(q, float(np.interp(math.log(max(found, 1e-9)), np.log(x), g)))
    return _inside(found, x)


def _inside(found: float | None, x: Array) -> Span:
    """A span as a number only where it lies within the lengths that were asked."""
    if found is None or found < x[0]:
        return Span(None, f"< {x[0]:g}")
    return Span(None, f"> {x[-1]:g}") if found > x[-1] else Span(float(found))


# ── without a form ──────────────────────────────────────────────────────────────────────────


def isotonic(y: Any, weight: Any = None) -> Array:
    """The non-increasing sequence nearest to y."""
    blocks: list[list[float]] = []  # mean, weight, number
    w = np.ones(len(y)) if weight is None else np.asarray(weight, float)
    for value, own in zip(np.asarray(y, float), w, strict=True):
        blocks.append([float(value), float(own), 1])
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            b, a = blocks.pop(), blocks.pop()
            total = a[1] + b[1]
            blocks.append([(a[0] * a[1] + b[0] * b[1]) / total, total, a[2] + b[2]])
    return np.concatenate([np.full(int(c), m) for m, _, c in blocks])


def corrected(accuracy: Any, guess: Any) -> Array:
    """(acc − γ) / (1 − γ), not clipped."""
    a, g = np.asarray(accuracy, float), np.asarray(guess, float)
    made: Array = (a - g) / np.maximum(1 - g, 1e-12)
    return made


def censored(x: Array, accuracy: Array, guess: Array, q: float) -> str:
    """Which side of the lengths the span at level q is on; "": it is among them."""
    smooth = isotonic(corrected(accuracy, guess))
    if smooth[-1] >= q:
        return f"> {x[-1]:g}"
    return f"< {x[0]:g}" if smooth[0] < q else ""


def crossing(lengths: Sequence[float], accuracy: Any, guess: Any, q: float) -> Span:
    """Where the isotonic fit of the corrected accuracy falls below q, by log L in between."""
    x = np.asarray(lengths, float)
    a = np.asarray(accuracy, float)
    g = np.broadcast_to(np.asarray(guess, float), x.shape)
    side = censored(x, a, g, q)
    if side:
        return Span(None, side)
    y = isotonic(corrected(a, g))
    i = int(np.flatnonzero(y >= q)[-1])
    part = (y[i] - q) / (y[i] - y[i + 1])
    return Span(float(math.exp(math.log(x[i]) + part * math.log(x[i + 1] / x[i]))))


# ── over items ──────────────────────────────────────────────────────────────────────────────


def interval(
    items: Sequence[tuple[Any, Any]],
    told: Callable[[Array], Sequence[float]],
    draws: int,
    seed: int = 0,
) -> list[tuple[float, float]]:
    """95 % percentile intervals of numbers that are told of accuracies, drawing the items of each
    length with replacement.

    Args:
        items: of each length (sums, counts), each [metrics, items]: an item is drawn with all of
            its metrics.
        told: accuracies [metrics, lengths] → numbers, 0 or infinite beyond the lengths.
    """
    y = []
    for i, (s, c) in enumerate(items):
        n = s.shape[1]
        words = np.random.Philox(key=[seed, i]).random_raw(draws * n)
        at = (words % np.uint64(n)).astype(np.int64).reshape(draws, n)
        y.append(s[:, at].sum(2) / np.maximum(c[:, at].sum(2), 1e-12))
    out = [told(own) for own in np.array(y).transpose(2, 1, 0)]
    low, high = np.quantile(np.array(out), [0.025, 0.975], axis=0, method="nearest")
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def end(span: Span) -> float:
    """A span as a number that can be ordered: beyond the lengths 0 or infinite."""
    if span.value is not None:
        return span.value
    return math.inf if span.censored.startswith(">") else 0.0


def effective(lengths: Sequence[float], gain: Sequence[float], low: Sequence[float]) -> Span:
    """The largest length up to which, from that of the largest gain on, every gain has a lower end
    above 0.  (Of twenty lengths without any gain one may seem to have some; it is not reached.)"""
    i = max(range(len(gain)), key=lambda j: gain[j])
    if not low[i] > 0:
        return Span(None, f"< {lengths[0]:g}")
    while i + 1 < len(low) and low[i + 1] > 0:
        i += 1
    return Span(float(lengths[i]), f"≥ {lengths[i]:g}" if i + 1 == len(low) else "")

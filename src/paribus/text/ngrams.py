"""Trivial baselines of text: what counts alone predict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paribus.lazy import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def baselines(
    train: NDArray[Any], before: NDArray[Any], targets: NDArray[Any], vocab: int
) -> dict[str, float]:
    """Nats a token of ``targets``, each after the token ``before`` it, under add-one unigram and
    bigram counts of ``train``."""
    seen, before, targets = (x.astype(np.int64) for x in (train, before, targets))
    one = np.bincount(seen, minlength=vocab) + 1.0
    out = {"unigram": float(-np.log(one / one.sum())[targets].mean())}
    if vocab <= 4096:
        flat = np.bincount(seen[:-1] * vocab + seen[1:], minlength=vocab * vocab) + 1.0
        two = flat.reshape(vocab, vocab)
        out["bigram"] = float(-np.log(two / two.sum(1, keepdims=True))[before, targets].mean())
    return out

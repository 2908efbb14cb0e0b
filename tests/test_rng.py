"""Random streams: pinned words, own transforms, rows by number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special, stats

from paribus import rng
from paribus.rng import Stream


def test_golden_words_uniforms_and_normals() -> None:
    s = Stream(1, "init", "embed.tokens")
    assert [hex(w) for w in s.words(4).tolist()] == GOLDEN_WORDS
    assert s.uniform(3).tolist() == GOLDEN_UNIFORMS
    assert s.normal(3).tolist() == GOLDEN_NORMALS


GOLDEN_WORDS = [
    "0x1ae4767276c9ee59",
    "0xaf0ff46684e53c5f",
    "0xb58a612c80deac92",
    "0xa128993e33460487",
]
GOLDEN_UNIFORMS = [0.10504856390506462, 0.6838371992388561, 0.709142754902923]
GOLDEN_NORMALS = [-1.253298407436125, 0.4784561158731178, 0.5508821126216459]


def test_rows_do_not_depend_on_the_range_that_is_drawn() -> None:
    s = Stream(7, "order", 3)
    whole = s.rows(range(0, 50), 7)
    for i, j in ((0, 1), (13, 29), (49, 50), (20, 20)):
        assert np.array_equal(s.rows(range(i, j), 7), whole[i:j])
    assert np.array_equal(s.words(40)[11:23], s.words(12, start=11))


@pytest.mark.parametrize("per_row", [1, 4, 28, 253])
@pytest.mark.parametrize("rows", [range(5), range(7, 40), range(2**40, 2**40 + 3)], ids=str)
def test_rows_of_several_streams_side_by_side(rows: range, per_row: int) -> None:
    """As numpy draws them, and as a device draws them."""
    streams = [Stream(seed, "order", seed) for seed in (3, 1, 2)]
    found = rng.side_by_side(streams, rows, per_row, "cpu")
    want = np.concatenate([s.rows(rows, per_row) for s in streams]).T
    assert np.array_equal(found.numpy().view(np.uint64), want)
    there = rng.philox([s.key for s in streams], rows, per_row, "cpu")
    assert torch.equal(there, found)


def test_keys_are_apart() -> None:
    keys = {
        rng.key(*k)
        for k in ((1, "a"), (2, "a"), (1, "b"), (1, "a", 0), (1, "a", "0"), (1, "a0"), (11, "a"))
    }
    assert len(keys) == 7


def test_normals_are_the_quantiles_of_scipy() -> None:
    u = np.concatenate([np.linspace(1e-12, 1 - 1e-12, 100_001), [2.0**-54, 1e-300, 1 - 2.0**-53]])
    want = special.ndtri(u)
    np.testing.assert_allclose(rng.normal(u), want, rtol=4e-15, atol=4e-15)


def test_distributions() -> None:
    s = Stream(3, "test")
    assert stats.kstest(s.uniform(100_000), "uniform").pvalue > 1e-3
    assert stats.kstest(s.normal(100_000), "norm").pvalue > 1e-3
    counts = np.bincount(s.integers(100_000, 7), minlength=7)
    assert stats.chisquare(counts).pvalue > 1e-3
    assert sorted(s.permutation(1000).tolist()) == list(range(1000))


@pytest.mark.parametrize("high", [1, 2, 3, 1000])
def test_integers_stay_inside(high: int) -> None:
    drawn = rng.integers(np.array([0, 2**64 - 1, 2**63], np.uint64), high)
    assert drawn.min() >= 0
    assert drawn.max() < high


@pytest.mark.parametrize("n", [1, 1000, 70_003])
def test_a_device_draws_the_numbers_of_a_processor(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rng, "AT_ONCE", 1 << 14)
    # Torch's root on a CPU is not always the nearest number; that of a GPU is.
    root = lambda t: torch.from_numpy(np.sqrt(t.numpy()))  # noqa: E731
    monkeypatch.setattr(rng.torch, "sqrt", root)
    streams = [Stream(seed, "init", "head") for seed in (5, 6, 7)]
    for there, name in ((rng.uniforms, "uniform"), (rng.normals, "normal")):
        want = np.stack([getattr(s, name)(n) for s in streams])
        assert np.array_equal(there(streams, n, "cpu").numpy(), want)
    rng.exact.cache_clear()
    assert rng.exact("cpu")
    monkeypatch.setattr(rng.torch, "sqrt", lambda t: root(t) * (1 + 2**-52))
    assert rng.exact("cpu"), "it is looked at once"
    rng.exact.cache_clear()
    assert not rng.exact("cpu")
    rng.exact.cache_clear()

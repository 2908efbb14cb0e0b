"""Texts, how many a sample holds, and where their tokens stand, against loops.  (A6) and (A16) are
acceptance checks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from paribus.text.columns import Counts, columns, texts
from tests.nn import oracle

quick = settings(max_examples=60, deadline=None, derandomize=True)


# ── A6: the layout ──────────────────────────────────────────────────────────────────────────


def placed(lengths: list[int], main: int = 0, **how: object) -> list[tuple[int, ...]]:
    """(text, order, time) in the order of the row."""
    every = [[*([main] if main else []), *lengths]]
    at = columns(np.array(every), main=bool(main), **how)
    assert at["row"].tolist() == [0] * len(at["row"])
    assert at["index"].tolist() == list(range(len(at["row"])))
    return list(zip(*(at[k].tolist() for k in ("text", "order", "time")), strict=True))


def test_the_published_example():
    """A6: lengths (3, 5, 2), as (time, branch)."""
    found = placed([3, 5, 2])
    assert [(time, text) for text, _, time in found] == [
        (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 1), (4, 1),
    ]  # fmt: skip
    assert [order for _, order, _ in found] == [0, 0, 0, 1, 1, 1, 2, 2, 3, 4]
    tokens = oracle.layout([3, 5, 2])
    assert found == [(t.text, t.order, t.time) for t in tokens]
    reads = oracle.allowed(tokens)
    assert reads[4].nonzero()[0].tolist() == [0, 1, 2, 4], "(1, 1) reads 00, 01, 02 and itself"


def test_the_published_example_aligned_right_and_behind_a_prefix():
    """A6: shorter branches begin later and end together; a prefix is text 0, and they follow it."""
    assert [(time, text) for text, _, time in placed([3, 5, 2], right=True)] == [
        (0, 1), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (4, 0), (4, 1), (4, 2),
    ]  # fmt: skip
    assert [(time, text) for text, _, time in placed([1, 2], main=2)] == [
        (0, 0), (1, 0), (2, 1), (2, 2), (3, 2),
    ]  # fmt: skip
    assert [(time, text) for text, _, time in placed([1, 2], main=2, right=True)] == [
        (0, 0), (1, 0), (2, 2), (3, 1), (3, 2),
    ]  # fmt: skip
    moved = placed([2, 2], main=1, offsets_Bn=np.array([[9, 0, 2]]))
    assert [(time, text) for text, _, time in moved] == [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2)]


lengths = st.lists(st.integers(1, 9), min_size=1, max_size=7)


@quick
@given(
    samples=st.lists(lengths, min_size=1, max_size=4),
    main=st.integers(0, 4),
    right=st.booleans(),
    late=st.booleans(),
    seed=st.integers(0, 99),
)
def test_layouts_are_those_of_a_loop(samples, main, right, late, seed):
    """A6: samples of different numbers of texts together, with prefix, alignment and offsets."""
    rng = np.random.default_rng(seed)
    n = max(map(len, samples)) + bool(main)
    given_Bn, late_Bn = np.zeros((len(samples), n), np.int64), np.zeros((len(samples), n), np.int64)
    want = []
    for i, own in enumerate(samples):
        offsets = [int(rng.integers(0, k + 1)) * late for k in own]
        given_Bn[i, : len(own) + bool(main)] = [*([main] if main else []), *own]
        late_Bn[i, : len(own) + bool(main)] = [*([5] if main else []), *offsets]
        tokens = oracle.layout(own, main, right, offsets)
        want += [(i, j, t.text, t.order, t.time) for j, t in enumerate(tokens)]
    at = columns(given_Bn, main=bool(main), right=right, offsets_Bn=late_Bn if late else 0)
    names = ("row", "index", "text", "order", "time")
    assert list(zip(*(at[k].tolist() for k in names), strict=True)) == want


# ── texts of a stream ───────────────────────────────────────────────────────────────────────

documents = st.lists(st.integers(1, 23), min_size=1, max_size=12)


@quick
@given(sizes=documents, length=st.integers(2, 8), cut=st.sampled_from(["split", "truncate"]))
def test_texts_are_pieces_of_their_documents(sizes, length, cut):
    """Pieces in order, none across documents, none of one token; nothing is lost unsaid."""
    starts = np.cumsum([0, *sizes[:-1]])
    found = texts(starts, sum(sizes), length, cut)
    want = []
    for start, size in zip(starts.tolist(), sizes, strict=True):
        for at in range(0, size if cut == "split" else min(size, length), length):
            if min(length, size - at) >= 2:
                want.append((start + at, min(length, size - at)))
    assert list(zip(found.starts.tolist(), found.lengths.tolist(), strict=True)) == want
    assert len(found) == len(want)
    assert found.cut_off == sum(sizes) - sum(n for _, n in want)


@quick
@given(sizes=documents, length=st.integers(2, 8))
def test_packed_texts_are_all_full(sizes, length):
    starts, total = np.cumsum([0, *sizes[:-1]]), sum(sizes)
    found = texts(starts, total, length, "packed")
    assert found.starts.tolist() == list(range(0, total - length + 1, length))
    assert set(found.lengths.tolist()) <= {length}
    assert found.cut_off == total % length


# ── A16: how many texts a sample holds ──────────────────────────────────────────────────────


def counts_of(dealt: Counts, epoch: int = 0) -> list[int]:
    return np.diff(np.append(0, dealt.epoch(epoch))).tolist()


@pytest.mark.parametrize(("low", "high"), [(1, 3), (1, 7), (1, 15), (1, 31), (3, 9)])
def test_counts_are_uniform(low, high):
    """A16: chi-square over 10,000 draws and more; the last sample of an epoch takes what is left
    and is not a draw."""
    dealt = Counts(7, 12_000 * (low + high) // 2, low, high)
    drawn = counts_of(dealt)[:-1]
    assert len(drawn) > 10_000
    observed = np.bincount(drawn, minlength=high + 1)
    assert observed[:low].sum() == 0
    assert len(observed) == high + 1
    assert chisquare(observed[low:]).pvalue > 0.01
    pairs = Counter(zip(drawn[0::2], drawn[1::2], strict=False))
    table = [pairs[a, b] for a in range(low, high + 1) for b in range(low, high + 1)]
    if min(table) >= 5:
        assert chisquare(table).pvalue > 0.01, "neighbours are independent"


def test_counts_have_no_bias_at_the_start():
    """A16: the first five samples of many runs, of which a buffer that fills up would make small
    ones."""
    first = np.array([counts_of(Counts(seed, 200, 1, 15))[:5] for seed in range(3000)])
    for i in range(5):
        assert chisquare(np.bincount(first[:, i], minlength=16)[1:]).pvalue > 0.01, f"sample {i}"
    assert first.mean() == pytest.approx(8, abs=4 * (224 / 12 / first.size) ** 0.5)
    later = np.array([counts_of(Counts(seed, 200, 1, 15), 1)[0] for seed in range(2000)])
    assert chisquare(np.bincount(later, minlength=16)[1:]).pvalue > 0.01, "of a second epoch"


@quick
@given(
    size=st.integers(1, 200),
    low=st.integers(1, 9),
    more=st.integers(0, 9),
    main=st.integers(0, 1),
    seed=st.integers(0, 50),
)
def test_an_epoch_deals_out_every_text_once(size, low, more, main, seed):
    """A16: with ``low`` 1 none is left; else fewer than the smallest sample are, every count is
    from low … high, and what is dealt out follows on itself."""
    dealt = Counts(seed, size, low, low + more, main)
    for epoch in (0, 1):
        ends = dealt.epoch(epoch).tolist()
        each = counts_of(dealt, epoch)
        assert sum(each) == (ends[-1] if ends else 0) <= size
        assert all(low + main <= n <= low + more + main for n in each)
        left = size - sum(each)
        assert left < low + main
        if low == 1 and not main:
            assert left == 0
        if not more:
            assert left == size % (low + main)


@quick
@given(
    size=st.integers(9, 120),
    low=st.integers(1, 4),
    more=st.integers(0, 4),
    start=st.integers(0, 60),
    cuts=st.lists(st.integers(0, 40), min_size=1, max_size=4),
)
def test_a_range_of_samples_is_where_it_stands(size, low, more, start, cuts):
    """A16: ``place`` and ``spread`` agree, whatever ranges are asked for in whatever order."""
    dealt = Counts(3, size, low, low + more)
    stop = start + sum(cuts)
    whole = [row for part in dealt.spread(range(start, stop)) for row in _rows(part)]
    fresh = Counts(3, size, low, low + more)
    assert whole == [fresh.place(i) for i in range(start, stop)]
    at, pieces = start, []
    for n in cuts:
        pieces += [row for part in fresh.spread(range(at, at + n)) for row in _rows(part)]
        at += n
    assert pieces == whole
    by_epoch: dict[int, list[int]] = {}
    for epoch, first, n in fresh_epochs(size, low, more):
        by_epoch.setdefault(epoch, []).extend(range(first, first + n))
    assert all(sorted(own) == list(range(len(own))) for own in by_epoch.values()), "no overlap"


def _rows(part):
    epoch, first, count = part
    return [(epoch, int(f), int(n)) for f, n in zip(first, count, strict=True)]


def fresh_epochs(size, low, more):
    dealt = Counts(3, size, low, low + more)
    number = len(dealt.epoch(0)) + len(dealt.epoch(1))
    return [dealt.place(i) for i in range(number)]

"""What parallel branches read of each other: the predicate, and what changing one token changes.
(A7) … (A9) are acceptance checks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paribus import parts
from tests.nn import oracle
from tests.nn.columnar import (
    CLOSE,
    VOCAB,
    apart,
    core_of,
    drawn,
    ids_of,
    run,
    texts_of,
    view_of,
)

positions, masks = parts.Namespace("positions"), parts.Namespace("masks")
READS = ("columnar", "isolated", "prefix")
every_read = pytest.mark.parametrize("reads", READS)


def matrix(tokens, reads):
    """The predicate as a matrix, from the coordinates that a task gives."""
    view = core_of(None).view(len(tokens), given=view_of(tokens).coordinates)
    q = view.map(lambda c: c[:, :, None, :, None])
    k = view.map(lambda c: c[:, :, None, None, :])
    return masks.branch(reads=reads).allowed(0, q, k)[0, 0, 0].numpy()


# ── A7 ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("branches", [1, 2, 4, 7])
@pytest.mark.parametrize("length", [1, 5, 12])
def test_equal_branches_read_b_tokens_of_each_earlier_time(branches, length):
    """A7: a token at time t reads B · t + 1; isolated, t + 1."""
    tokens = oracle.layout([length] * branches)
    times = np.array([t.time for t in tokens])
    assert np.array_equal(matrix(tokens, "columnar").sum(1), branches * times + 1)
    assert np.array_equal(matrix(tokens, "isolated").sum(1), times + 1)
    assert np.array_equal(matrix(tokens, "prefix").sum(1), times + 1)
    behind = oracle.layout([length] * branches, main=3)
    own = [t.time + 1 for t in behind]  # its own branch from time 3 on, and the prefix before it
    assert matrix(behind, "prefix").sum(1).tolist() == own


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    main=st.integers(0, 3),
    right=st.booleans(),
    seed=st.integers(0, 99),
    reads=st.sampled_from(READS),
)
def test_a_token_reads_itself_and_earlier_times(lengths, main, right, seed, reads):
    """A7: exactly; for any lengths, prefix, alignment and offsets."""
    rng = np.random.default_rng(seed)
    offsets = [int(rng.integers(0, n + 1)) for n in lengths]
    tokens = oracle.layout(lengths, main, right, offsets)
    found = matrix(tokens, reads)
    assert np.array_equal(found, oracle.allowed(tokens, reads))
    assert not np.triu(found, 1).any(), "the flat order is causal"
    assert found.diagonal().all()


def test_what_a_prefix_is_to_its_branches():
    """A7: branches read the prefix and themselves, the prefix reads itself alone."""
    tokens = oracle.layout([2, 3], main=2)
    found = matrix(tokens, "prefix")
    for i, q in enumerate(tokens):
        for j, k in enumerate(tokens):
            if q.main:
                assert found[i, j] == (k.main and k.order <= q.order)
            else:
                assert found[i, j] == (k.main or (k.branch == q.branch and k.order <= q.order))
    isolated = matrix(tokens, "isolated")
    assert not any(
        isolated[i, j]
        for i, q in enumerate(tokens)
        for j, k in enumerate(tokens)
        if q.main != k.main
    )


# ── A8 ──────────────────────────────────────────────────────────────────────────────────────


@every_read
@pytest.mark.parametrize(
    ("how", "kernel"),
    [({}, "sdpa"), ({}, "reference"), ({"main": 3}, "sdpa"), ({"right": True}, "sdpa")],
    ids=str,
)
def test_changing_a_token_changes_later_times_alone(reads, how, kernel):
    """A8: no other row up to its time by a single bit; its own, and those that read it a step
    later."""
    lengths = [5, 4, 5]
    tokens = oracle.layout(lengths, **how)
    texts = texts_of([*([how["main"]] if "main" in how else []), *lengths])
    core = core_of(positions.rope2d(ratio=0.75), reads)
    p, ids = drawn(core), ids_of(tokens, texts)
    before = run(core, p, tokens, ids, kernel=kernel)
    seen = oracle.allowed(tokens, reads)
    reach = np.linalg.matrix_power(seen.astype(int), 2) > 0  # two layers
    for changed, at in enumerate(tokens):
        other = list(ids)
        other[changed] = (ids[changed] + 1) % VOCAB
        moved = (run(core, p, tokens, other, kernel=kernel) - before).abs().amax(1)
        for row, t in enumerate(tokens):
            if row != changed and t.time <= at.time:
                assert moved[row] == 0, "not by one bit"
            if not reach[row, changed]:
                assert moved[row] == 0
            elif row == changed or t.time == at.time + 1:
                assert moved[row] > 1e-6
    if reads == "columnar" and not how:
        at = next(i for i, t in enumerate(tokens) if (t.branch, t.time) == (1, 3))
        later = {i for i, t in enumerate(tokens) if t.time >= 4}
        assert set(np.flatnonzero(reach[:, at])) == {at, *later}


# ── A9 ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("lengths", [[7], [7, 7], [3, 9, 6, 9]], ids=str)
@pytest.mark.parametrize("right", [False, True])
def test_isolated_branches_are_texts_alone(ratio, lengths, right):
    """A9: with the time for the flat index each branch has the logits of its text alone, whatever
    else is there, and the loss over all is that of one branch a sample."""
    core = core_of(positions.rope2d(ratio=ratio, residual="time"), "isolated")
    p, texts = drawn(core), texts_of(lengths)
    tokens = oracle.layout(lengths, right=right)
    together = run(core, p, tokens, ids_of(tokens, texts))
    nats, alone_nats = oracle.losses(together.numpy(), oracle.labels(tokens, texts)), []
    for b, text in enumerate(texts):
        single = oracle.layout([len(text)])
        alone = run(core, p, single, text)
        own = [i for i, t in enumerate(tokens) if t.branch == b]
        assert apart(together[own], alone) < CLOSE
        alone_nats.append(oracle.losses(alone.numpy(), oracle.labels(single, [text])))
    assert nats.sum() == pytest.approx(np.concatenate(alone_nats).sum(), abs=1e-9)
    assert len(nats) == sum(lengths) - len(lengths)


def test_at_ratio_0_isolated_branches_are_an_ordinary_batch():
    """A9: of RoPE with a causal mask, padded."""
    lengths = [3, 9, 6]
    core = core_of(positions.rope2d(ratio=0.0, residual="time"), "isolated")
    plain = core_of(positions.rope(base=1e6), mask=masks.causal())
    p, texts = drawn(core), texts_of(lengths)
    tokens = oracle.layout(lengths)
    together = run(core, p, tokens, ids_of(tokens, texts))
    batch = torch.tensor([t + [0] * (9 - len(t)) for t in texts])[None]
    with torch.no_grad():
        rows = plain(p, batch)[0]
    for i, t in enumerate(tokens):
        assert apart(together[i], rows[t.branch, t.order]) < CLOSE


def test_a_prefix_mask_is_each_branch_behind_the_prefix():
    """A9: with "prefix" each branch has the logits of the prefix and itself as one text."""
    lengths, main = [4, 6, 2], 5
    core = core_of(positions.rope2d(ratio=0.0, residual="time"), "prefix")
    p, (head, *texts) = drawn(core), texts_of([main, *lengths])
    tokens = oracle.layout(lengths, main=main)
    together = run(core, p, tokens, ids_of(tokens, [head, *texts]))
    for b, text in enumerate(texts, 1):
        whole = [*head, *text]
        alone = run(core, p, oracle.layout([len(whole)]), whole)
        own = [i for i, t in enumerate(tokens) if t.main or t.branch == b]
        assert apart(together[own], alone) < CLOSE

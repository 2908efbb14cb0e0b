"""Samples of parallel texts: what a batch holds, against loops over the texts themselves.  (A12),
(A13) … are acceptance checks."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from paribus.contracts import View
from paribus.engine.members import Stopped
from paribus.engine.net import make_net
from paribus.engine.train import Hooks, Trainer
from paribus.errors import SpecError
from paribus.nn.transformer import Transformer
from paribus.text.samples import Samples
from tests.engine import tiny
from tests.nn import oracle
from tests.tasks.parallel import LENGTH, branches, held, params_of, spec, stacked

pytestmark = pytest.mark.usefixtures("texts")

# ── a batch against loops ───────────────────────────────────────────────────────────────────


def assert_rows(task: Any, batch: dict[str, torch.Tensor], rows: list[Any], late: bool) -> int:
    """Every entry of a batch is what loops make of its texts; returns the targets that count."""
    length = batch["inputs"].shape[1]
    assert length == task.io().length
    total = 0
    for r, texts in enumerate(rows):
        at = {k: t[r].tolist() for k, t in batch.items()}
        main, sizes = bool(task.main), [len(t) for t in texts]
        own = sizes[1:] if main else sizes
        n = min(sum(sizes), length)
        offsets = [0] * len(own)
        if late:  # read off the row: when each branch begins
            still = oracle.layout(own, sizes[0] if main else 0, task.align == "right")
            begins = {t.branch: t.time for t in still if t.order == 0}
            for b in range(len(own)):
                times = [t for t, c in zip(at["pos.time"][:n], at["pos.branch"], strict=False)
                         if c == b + main]  # fmt: skip
                offsets[b] = min(times) - begins[b + main]
                assert 0 <= offsets[b] <= own[b]
        tokens = oracle.layout(own, sizes[0] if main else 0, task.align == "right", offsets)[:n]
        pad = length - n
        assert at["inputs"] == [texts[t.text][t.order] for t in tokens] + [0] * pad
        assert at["pos.branch"] == [t.branch for t in tokens] + [0] * pad
        assert at["pos.time"] == [t.time for t in tokens] + [0] * pad
        assert at["pos.main"] == [int(t.main) for t in tokens] + [0] * pad
        targets = oracle.labels(tokens, texts, task.answer_offset)
        assert at["targets"] == targets + [-100] * pad
        if pad or "valid" in at:
            assert at["valid"] == [True] * n + [False] * pad
        total += sum(t != -100 for t in targets)
    return total


CASES = [
    {},
    {"branches": 1},
    {"branches": (1, 5)},
    {"align": "right"},
    {"main": 10},
    {"main": 10, "align": "right", "branches": (2, 4)},
    {"cut": "truncate", "answer_offset": 6},
    {"cut": "packed"},
    {"cut": "packed", "main": 24, "branches": 2},
    {"cut": "packed", "branches": 5},
    {"answer_offset": 1},
    {"length": 50, "branches": 4},
    {"pad_to": 40},
]


@pytest.mark.parametrize("late", [False, True], ids=["", "offsets"])
@pytest.mark.parametrize("how", CASES, ids=str)
def test_batches_are_their_texts_side_by_side(how, late, data):
    """A6, A12: tokens, places, validity and targets of training and evaluation rows."""
    task = branches(offsets=late, eval_offsets=late, **how)
    source = task.open(data, "cpu")
    chosen = source.chosen(5, range(3, 15))
    total = assert_rows(task, source.batch(5, 0, range(3, 15)), held(source, chosen), late)
    assert total > 0
    source = task.open(data.bind("test"), "cpu")
    every = source.chosen(None, range(source.size))
    rows = held(source, every)
    total = assert_rows(task, source.examples(0, source.size), rows, late)
    if not task.main and not task.pad_to:
        a = max(1, task.answer_offset)
        assert total == sum(max(0, len(t) - a) for texts in rows for t in texts)


def test_targets_begin_at_the_answer(data):
    """A12: order a itself is kept, the one before it is not."""
    for a in (0, 1, 2, 7):
        task = branches(branches=1, answer_offset=a)
        source = task.open(data, "cpu")
        batch = source.batch(1, 0, range(8))
        for r, texts in enumerate(held(source, source.chosen(1, range(8)))):
            counted = (batch["targets"][r] != -100).nonzero().flatten().tolist()
            # The token at place i predicts order i + 1.
            assert counted == list(range(max(a, 1) - 1, len(texts[0]) - 1))


# ── A13 ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kernel", ["sdpa", "reference"])
@pytest.mark.parametrize("how", [{"branches": (1, 5)}, {"main": 10}, {"branches": 1}], ids=str)
def test_padding_changes_nothing(how, kernel, data):
    """A13: a sample has the logits that it has without padding and without the other rows."""
    s = spec(branches(**how))
    core, p = Transformer(s.model), params_of(s)[1]
    batch = s.task.open(data, "cpu").batch(1, 0, range(6))
    with torch.no_grad():
        net = make_net([s], "cpu", kernel)
        together = net(p, stacked(batch), ready=net.prepare(stacked(batch)))[0]
    assert together.isfinite().all()
    assert not batch["valid"].all(), "or the test shows nothing"
    for r in range(6):
        n = int(batch["valid"][r].sum())
        view = View({k[4:]: t[r, :n] for k, t in batch.items() if k.startswith("pos.")})
        with torch.no_grad():
            alone = core(p, batch["inputs"][None, r : r + 1, :n], view, kernel=kernel)[0, 0]
        # A fused kernel adds in another order where a row is longer.
        torch.testing.assert_close(together[r, :n], alone, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_padding_leaves_outputs_and_gradients_finite(precision, data):
    """A13: in every row, padding included; with a row that is nothing but padding."""
    s = spec(branches(branches=(1, 5)), precision=precision)
    net, p = params_of(s)
    p = {k: t.requires_grad_() for k, t in p.items()}
    batch = s.task.open(data, "cpu").batch(1, 0, range(6))
    batch["valid"][3], batch["targets"][3] = False, -100
    outputs = net(p, stacked(batch), ready=net.prepare(stacked(batch)))
    assert outputs.isfinite().all()
    total, count = s.task.loss(outputs, stacked(batch))
    (total / count).sum().backward()
    for path, t in p.items():
        assert t.grad.isfinite().all(), path
    assert p["embed.tokens"].grad.abs().max() > 0


# ── A14 ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", [{}, {"main": 12}, {"branches": (1, 6)}, {"align": "right"}])
def test_what_is_cut_off_is_the_latest_and_is_counted(how, data):
    """A14."""
    task, whole = branches(pad_to=30, **how), branches(**how)
    source, open_ = task.open(data, "cpu"), whole.open(data, "cpu")
    rows = range(7, 40)
    a, b = source.batch(2, 0, rows), open_.batch(2, 0, rows)
    assert a["inputs"].shape[1] == 30
    for name in a:
        if name != "targets":  # the first tokens in the order of the row, which is that of time
            assert torch.equal(a[name], b[name][:, :30]), name
    assert torch.equal(a["targets"], b["targets"][:, :30])
    lost = (b["valid"].sum() - a["valid"].sum()).item()
    assert lost > 0
    found, kept = source.realised(2, range(40)), open_.realised(2, range(40))
    first = source.batch(2, 0, range(40))["valid"].sum().item()
    all_ = open_.batch(2, 0, range(40))["valid"].sum().item()
    assert (found["truncated"], found["tokens"]) == (all_ - first, first)
    assert (kept["truncated"], kept["tokens"]) == (0, all_)
    assert found["texts"] == kept["texts"]
    judged = task.open(data.bind("test"), "cpu")
    told = judged.realised(None, range(judged.size))
    valid = judged.examples(0, judged.size)["valid"].sum().item()
    ids = sum(len(t) for row in held(judged, judged.chosen(None, range(judged.size))) for t in row)
    assert (told["tokens"], told["truncated"]) == (valid, ids - valid)


def test_tokens_outside_of_texts_are_counted(data):
    """A14: what "truncate" leaves of long documents, and ends of one token."""
    for cut in ("split", "truncate", "packed"):
        source = branches(cut=cut).open(data, "cpu")
        inside = int(source.texts.lengths.sum())
        told = source.realised(1, range(4))["outside_texts"]
        assert told == len(source.tokens.ids) - inside
        assert (told > 100) == (cut == "truncate")


# ── A15 ─────────────────────────────────────────────────────────────────────────────────────


def starts_of(source: Samples, seed: int, rows: range) -> list[tuple[int, int]]:
    """(offset, length) of every branch, from the times of its tokens."""
    batch, out = source.batch(seed, 0, rows), []
    main = source.task.main
    for r, texts in enumerate(held(source, source.chosen(seed, rows))):
        begin = len(texts[0]) if main else 0
        for b, text in enumerate(texts):
            at = (batch["pos.branch"][r] == b) & batch["valid"][r]
            times = batch["pos.time"][r][at].tolist()
            assert times == list(range(times[0], times[0] + len(text))), "order is kept"
            if main and b == 0:
                assert times[0] == 0, "the prefix never moves"
            else:
                out.append((times[0] - begin, len(text)))
    return out


@pytest.mark.parametrize("main", [0, 9])
def test_offsets_are_drawn_from_0_to_the_length(main, data):
    """A15: both ends occur, and all between evenly."""
    source = branches(offsets=True, main=main).open(data, "cpu")
    found = [x for seed in range(30) for x in starts_of(source, seed, range(20))]
    assert all(0 <= offset <= length for offset, length in found)
    own = Counter(offset for offset, length in found if length == LENGTH)
    assert set(own) == set(range(LENGTH + 1))
    mean = np.mean([offset / length for offset, length in found])
    assert mean == pytest.approx(0.5, abs=4 / (12 * len(found)) ** 0.5)
    plain = branches(main=main).open(data, "cpu")
    assert {offset for offset, _ in starts_of(plain, 1, range(20))} == {0}
    times = [
        branches(offsets=late, main=main).open(data.bind("test"), "cpu").examples(0, 4)["pos.time"]
        for late in (False, True)
    ]
    assert torch.equal(*times), "evaluation has its own setting"


def test_batches_are_a_function_of_seed_and_row(data):
    """A15: another source, another order of asking, another cut into pieces: the same rows."""
    task = branches(branches=(1, 5), offsets=True, main=5)
    source = task.open(data, "cpu")
    far = source.batch(3, 9, range(300, 316))
    fresh = task.open(data, "cpu")
    fresh.batch(4, 0, range(8))
    pieces = [fresh.batch(3, step, range(i, i + 4)) for step, i in enumerate(range(300, 316, 4))]
    for name in far:
        assert torch.equal(far[name], torch.cat([p[name] for p in pieces])), name
    assert not torch.equal(far["pos.time"], source.batch(4, 9, range(300, 316))["pos.time"])


def test_the_corpus_is_read_once(data):
    """Not once a batch: it can be larger than all else."""
    source, read = branches().open(data, "cpu"), []

    class Counted:
        def __init__(self, ids: Any) -> None:
            self.ids = ids

        def __array__(self, *how: Any, **more: Any) -> Any:
            read.append(1)
            return self.ids

    source.tokens = dataclasses.replace(source.tokens, ids=Counted(np.asarray(source.tokens.ids)))
    for step in range(4):
        source.batch(1, step, range(4))
    assert len(read) == 1


def test_a_resumed_run_has_the_offsets_and_counts_of_a_calm_one(data):
    """A15: bit-equal weights and losses."""
    s = spec(branches(branches=(1, 5), offsets=True), steps=6)
    calm, torn = tiny.member(1, s), tiny.member(1, s)
    Trainer([calm], tiny.Settings(), data).run()
    halted = Trainer([torn], tiny.Settings(), data, Hooks(stop=lambda: halted.step == 3))
    with pytest.raises(Stopped):
        halted.run()
    torn.state = halted.snapshot(0)
    Trainer([torn], tiny.Settings(), data).run()
    assert tiny.equal(calm, torn)


# ── A16 ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [(1, 5), (1, 15), 1])
@pytest.mark.parametrize("ranks", [1, 3])
def test_an_epoch_uses_every_text_once_over_all_ranks(number, ranks, data):
    """A16: no overlap between ranks, nothing kept back; then another order."""
    task = branches(branches=number)
    source = task.open(data, "cpu")
    epochs = [len(source.counts(1).epoch(e)) for e in (0, 1)]
    orders = []
    for begin, size in ((0, epochs[0]), (epochs[0], epochs[1])):
        seen: list[int] = []
        for rank in range(ranks):  # each takes its share of the rows
            rows = range(begin + size * rank // ranks, begin + size * (rank + 1) // ranks)
            chosen = task.open(data, "cpu").chosen(1, rows)
            seen += chosen[chosen >= 0].tolist()
        assert sorted(seen) == list(range(len(source.texts)))
        orders.append(seen)
    assert orders[0] != orders[1]
    assert source.realised(1, range(sum(epochs)))["left_over"] == 0


def test_what_whole_epochs_leave_over_is_recorded(data):
    """A16: a fixed number of branches leaves a remainder."""
    left = []
    for number, main in ((4, 0), (5, 0), (7, 0), (3, 5), (6, 5)):
        source = branches(branches=number, main=main).open(data, "cpu")
        per_row = number + bool(main)
        rows, rest = divmod(len(source.texts), per_row)
        left.append(rest)
        assert source.epoch == rows
        assert source.realised(1, range(rows - 1))["left_over"] == 0
        assert source.realised(1, range(rows))["left_over"] == rest
        assert source.realised(1, range(3 * rows))["left_over"] == 3 * rest
        assert source.realised(1, range(rows))["branches"] == {str(number): rows}
    assert max(left) > 1, "or the test shows nothing"


def test_realised_numbers_of_branches_are_those_of_the_rows(data):
    source = branches(branches=(2, 6), main=4).open(data, "cpu")
    rows = range(5, 70)
    chosen = source.chosen(2, rows)
    want = Counter(str(n) for n in ((chosen >= 0).sum(1) - 1).tolist())
    found = source.realised(2, rows)
    assert found["branches"] == dict(want)
    assert found["texts"] == sum(int(n) * times for n, times in want.items())
    assert found["tokens"] == int(source.batch(2, 0, rows)["valid"].sum())


def test_texts_a_step_make_rows():
    """A step has as many texts whatever the number of branches, where it divides them."""
    for number, rows in ((1, 64), (4, 16), ((1, 3), 32), ((1, 7), 16), ((1, 15), 8), ((1, 31), 4)):
        task = branches(branches=number, texts_per_step=64, eval_texts=1920)
        assert task.rows() == rows
    assert branches(branches=16, texts_per_step=4).rows() == 1


# ── what is refused ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"branches": 0}, "must be a number from 1 on"),
        ({"branches": (3, 2)}, "must be a number from 1 on"),
        ({"length": 1}, "length"),
        ({"pad_to": 1}, "pad_to"),
        ({"answer_offset": 24}, "leaves no target in a text of 24"),
        ({"main": 25}, "no text has more than 24"),
        ({"main": 20, "pad_to": 20}, "pad_to"),
        ({"answer_offset": 12, "pad_to": 11}, "pad_to"),
        ({"branches": 25}, "eval_texts"),
        ({"branches": 24, "main": 3}, "eval_texts"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(how, says):
    with pytest.raises(SpecError, match=says):
        branches(**how)


def test_more_branches_than_texts_are_refused(data):
    with pytest.raises(SpecError, match=r"train split has \d+ texts, fewer than one sample of 900"):
        branches(branches=900, eval_texts=900).open(data, "cpu")
    with pytest.raises(SpecError, match="fewer than one sample of 300"):  # also at most so many
        branches(branches=(1, 300), eval_texts=900).open(data, "cpu")

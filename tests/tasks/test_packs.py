"""Rows of documents from parquet shards: the plain stream, best-fit packing, masks of documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from paribus import corpora, masks, tasks, tokenizers
from paribus.errors import SpecError
from paribus.rng import Stream
from paribus.text import paths
from paribus.text.data import Data
from paribus.text.fitted import best_fit
from tests.engine import tiny

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
BOS, T = 256, 63


@pytest.fixture(autouse=True)
def _shards(tmp_path: Path) -> Iterator[None]:
    """Five shards of 40 documents of 4 … 200 bytes, in row groups of 16; the last is held out."""
    for shard in range(5):
        sizes = 4 + Stream(shard, "shard").integers(40, 197)
        texts = [
            "".join(chr(97 + (shard * 7 + i * 3 + j) % 26) for j in range(n))
            for i, n in enumerate(sizes.tolist())
        ]
        table = pa.table({"text": texts})
        pq.write_table(table, tmp_path / f"shard_{shard:05}.parquet", row_group_size=16)
    paths.use_base(tmp_path)
    yield
    paths.use_base(None)


def lm(**changes: object) -> tasks.lm:
    shards = corpora.files(
        path="shard_0000[0-3].parquet", validation="shard_00004.parquet", overlap="drop"
    )
    fields = {
        "corpus": shards,
        "tokenizer": tokenizers.bytes(),
        "length": T,
        "eval_tokens": 630,
    }
    return tasks.lm(**{**fields, **changes})


def loop(lengths: list[int], order: list[int], capacity: int, waiting: int) -> list[list[tuple]]:
    """The published loop: a list that is looked through, one document at a time."""
    coming, here, rows = list(order), [], []
    while True:
        row, at = [], 0
        while at < capacity:
            while len(here) < waiting and coming:
                here.append(coming.pop(0))
            if not here:
                return rows
            left, best, size = capacity - at, -1, 0
            for i, d in enumerate(here):
                if size < lengths[d] <= left:
                    best, size = i, lengths[d]
            if best < 0:
                best, size = min(range(len(here)), key=lambda i: lengths[here[i]]), left
            row.append((here.pop(best), size))
            at += size
        rows.append(row)


@pytest.mark.parametrize("waiting", [1, 5, 1000])
@pytest.mark.parametrize("longest", [10, 70, 300])
def test_rows_are_those_of_the_published_loop(waiting: int, longest: int) -> None:
    lengths = 1 + Stream(3, "lengths").integers(400, longest)
    order = Stream(3, "order").permutation(400)
    made = best_fit(lengths, order, 64, waiting)
    found = []
    for i in range(len(made)):
        mine = slice(made.begin[i], made.begin[i + 1])
        found.append(list(zip(made.document[mine].tolist(), made.size[mine].tolist(), strict=True)))
    assert found == loop(lengths.tolist(), order.tolist(), 64, waiting)
    assert made.unused == lengths.sum() - 64 * len(made)


def test_every_row_begins_with_a_document_and_none_is_read_twice(tmp_path: Path) -> None:
    data = Data(tmp_path / "cache")
    source = lm(pack="best_fit").open(data, "cpu")
    n = source.epoch
    assert n
    rows = source.batch(0, 0, range(n))
    assert rows["inputs"].shape == (n, T)
    assert (rows["inputs"][:, 0] == BOS).all()
    stream = lm().open(data, "cpu").batch(0, 0, range(n))
    assert not (stream["inputs"][:, 0] == BOS).all()
    assert torch.equal(rows["inputs"][:, 1:], rows["targets"][:, :-1])
    whole = torch.cat([rows["inputs"], rows["targets"][:, -1:]], 1)
    text = data.tokens(source.task.corpus, source.task.tokenizer)
    places = np.concatenate([source._documents(0, r) for r in range(n)])
    assert len(set(places.tolist())) == len(places), "no token twice in an epoch"
    assert torch.equal(whole.flatten(), torch.from_numpy(np.asarray(text.ids)[places]).long())
    unused = source.realised(0, range(n))["unused"]
    assert unused == len(text.ids) - len(places)
    # Rows are a function of (seed, row) alone, across epochs too.
    other = lm(pack="best_fit").open(data, "cpu")
    across = other.batch(0, 9, range(n - 2, n + 3))
    again = source.batch(0, 1, range(n, n + 3))
    assert torch.equal(across["inputs"][:2], rows["inputs"][-2:])
    assert torch.equal(across["inputs"][2:], again["inputs"])
    assert not torch.equal(again["inputs"], rows["inputs"][:3])
    assert not torch.equal(source.batch(2, 0, range(n))["inputs"][:3], rows["inputs"][:3])


def test_packing_changes_no_evaluation(tmp_path: Path) -> None:
    """The held-out shard is judged as a stream, whatever training packs."""
    data = Data(tmp_path / "cache", "validation")
    a, b = (lm(pack=pack).open(data, "cpu") for pack in ("stream", "best_fit"))
    assert a.size == b.size > 0
    x, y = a.examples(0, a.size), b.examples(0, b.size)
    assert all(torch.equal(x[k], y[k]) for k in x)


def test_segments_are_documents(tmp_path: Path) -> None:
    data = Data(tmp_path / "cache")
    for pack in ("stream", "best_fit"):
        source = lm(pack=pack, segments=True).open(data, "cpu")
        batch = source.batch(0, 0, range(6))
        segment, inputs = batch["pos.segment"], batch["inputs"]
        begins = torch.zeros_like(inputs, dtype=torch.bool)
        begins[:, 1:] = segment[:, 1:] != segment[:, :-1]
        assert torch.equal(begins[:, 1:], inputs[:, 1:] == BOS), "a document begins with its mark"
        assert source.examples(0, 2)["pos.segment"].shape == (2, T)


def test_no_token_reads_another_document(tmp_path: Path) -> None:
    """By gradients; and a model with the mask gives a document what it gives it alone (RoPE)."""
    spec = tiny.spec(
        task=lm(segments=True, pack="best_fit"), rows=4, **{"model.mask": masks.document()}
    )
    trainer = tiny.Trainer([tiny.Member("t", "t", 1, [tiny.Phase("p", spec, "reset")])],
                           tiny.Settings(), Data(tmp_path / "cache"))  # fmt: skip
    trainer.run()
    core, p = trainer.net.core, {k: t.detach() for k, t in trainer.params.items()}
    batch = trainer._batch(0, range(4))
    view = core.view(T, given={"segment": batch["pos.segment"]})
    logits = core(p, batch["inputs"], view)
    segment, checked = batch["pos.segment"][0, 0], 0
    for s in segment.unique().tolist():
        own = segment == s
        alone = batch["inputs"][:, :1, own]
        same = core.view(alone.shape[2], given={"segment": torch.zeros(1, 1, alone.shape[2])})
        torch.testing.assert_close(core(p, alone, same)[0, 0], logits[0, 0, own], atol=2e-5, rtol=0)
        checked += 1
    assert checked > 1
    with pytest.raises(SpecError, match="no coordinate 'segment'"):
        tiny.train([tiny.member(1, task=lm(), rows=4, **{"model.mask": masks.document()})],
                   tmp_path / "cache")  # fmt: skip

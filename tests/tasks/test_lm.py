"""Language modelling: exact metrics, the same text at every length, pure batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from paribus import corpora, tasks, tokenizers
from paribus.engine.evaluate import values
from paribus.text import paths
from paribus.text.data import Data

TEXT = "".join(f"{i} times {i} is {i * i}.\n" for i in range(4000))


@pytest.fixture(autouse=True)
def _text(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "text.txt").write_text(TEXT)
    paths.use_base(tmp_path)
    yield
    paths.use_base(None)


def lm(**changes: object) -> tasks.lm:
    fields = {
        "corpus": corpora.files(path="text.txt"),
        "tokenizer": tokenizers.bytes(),
        "length": 32,
        "eval_tokens": 1024,
    }
    return tasks.lm(**{**fields, **changes})


def test_bits_per_byte_by_hand() -> None:
    """Nats 1, 2, 3 on targets of 4, 0 and 2 bytes: (1 + 3) / (ln 2 · 6); the token of no bytes
    counts in neither sum."""
    nats = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    logits = torch.zeros(1, 1, 3, 2, dtype=torch.float64)
    logits[0, 0, :, 1] = torch.log(torch.expm1(nats))  # -log softmax of class 0 is nats
    batch = {
        "targets": torch.zeros(1, 1, 3, dtype=torch.long),
        "bytes": torch.tensor([[[4, 0, 2]]]),
    }
    scored = lm().score(logits, batch)
    totals = {k: {"sum": float(s.sum()), "count": float(c.sum())} for k, (s, c) in scored.items()}
    found = values(totals, type(lm()).metrics)
    assert found["bpb"]["value"] == pytest.approx(0.961797, abs=1e-6)
    assert found["loss"]["value"] == pytest.approx(2.0)
    assert found["ppl"]["value"] == pytest.approx(math.exp(2.0))


def test_text_of_no_bytes_has_no_bits_per_byte() -> None:
    """Missing, not infinite and not 0."""
    assert "bpb" not in values({"bpb": {"sum": 1.0, "count": 0.0}}, type(lm()).metrics)


def test_perplexity_is_of_totals_not_a_mean_of_means() -> None:
    totals = {"loss": {"sum": 10.0, "count": 4.0}}
    assert values(totals, type(lm()).metrics)["ppl"]["value"] == pytest.approx(math.exp(2.5))


def test_every_length_scores_the_same_targets(tmp_path: Path) -> None:
    data = Data(tmp_path / "cache", "test")
    seen = []
    for length in (32, 64, 256):
        source = lm(length=length).open(data, "cpu")
        batch = source.examples(0, source.size)
        assert batch["targets"].numel() == 1024
        seen.append(batch["targets"].flatten())
        assert torch.equal(batch["inputs"].flatten()[1:][:31], batch["targets"].flatten()[:31])
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_an_epoch_sees_every_row_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    source = lm().open(Data(tmp_path / "cache"), "cpu")
    n = source.epoch
    first = source.batch(1, 0, range(n))["inputs"]
    second = source.batch(1, 1, range(n, 2 * n))["inputs"]
    other = source.batch(2, 0, range(n))["inputs"]
    rows = [sorted(map(tuple, x.tolist())) for x in (first, second, other)]
    assert rows[0] == rows[1] == rows[2]
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    across = source.batch(1, 0, range(n - 3, n + 3))["inputs"]
    assert torch.equal(across, torch.cat([first[-3:], second[:3]]))


def test_baselines_are_what_counts_predict(tmp_path: Path) -> None:
    data = Data(tmp_path / "cache", "test")
    task = lm()
    found = task.baselines(data)
    train = np.asarray(data.bind("train").tokens(task.corpus, task.tokenizer).ids).astype(int)
    test = np.asarray(data.tokens(task.corpus, task.tokenizer).ids).astype(int)[:1025]
    p = (np.bincount(train, minlength=257) + 1) / (len(train) + 257)
    assert found["unigram"]["loss"] == pytest.approx(-np.log(p[test[1:]]).mean())
    assert found["bigram"]["loss"] < found["unigram"]["loss"]


def test_documents_of_the_splits_are_apart(tmp_path: Path) -> None:
    task = lm()
    streams = [
        np.asarray(Data(tmp_path / "cache", s).tokens(task.corpus, task.tokenizer).ids)
        for s in ("train", "validation", "test")
    ]
    assert sum(len(s) - 1 for s in streams) == len(TEXT)
    assert all(s[0] == 256 for s in streams)  # each document starts with BOS

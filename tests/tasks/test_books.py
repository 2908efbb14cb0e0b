"""Whole books: the layout of PG-19, rows that never cross a book, perplexity by words and bytes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from paribus import corpora, tasks, tokenizers
from paribus.engine.evaluate import values
from paribus.errors import SpecError
from paribus.rng import Stream
from paribus.text import paths
from paribus.text.data import Data

WORDS = "the whale of a ship said naïve Ishmael\u2019s sea".split()


def jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def book(number: int) -> dict[str, Any]:
    draw = Stream(0, "book", number).integers(400 + 37 * number, len(WORDS))
    spaces = Stream(0, "space", number).integers(len(draw), 6)
    text = f"B{number}." + "".join((" ", " ", "\n", " ", "  ", "\t")[s] + WORDS[w]
                                   for w, s in zip(draw, spaces, strict=True))  # fmt: skip
    return {"short_book_title": f"Book {number}", "publication_date": 1850 + number,
            "url": f"http://example.org/{number}", "text": text}  # fmt: skip


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> Iterator[None]:
    place = tmp_path / "books"
    place.mkdir()
    for split, numbers in {"train": range(6), "validation": (6, 7), "test": (8, 9)}.items():
        rows = [book(n) for n in numbers]
        if split == "test":
            jsonl(place / "test.jsonl", rows)
        else:
            pq.write_table(pa.Table.from_pylist(rows), place / f"{split}-00000-of-00001.parquet")
    paths.use_base(tmp_path)
    yield
    paths.use_base(None)


def lm(**changes: Any) -> Any:
    own = {"corpus": corpora.pg19(path="books"), "tokenizer": tokenizers.bytes(), "length": 64}
    return tasks.lm(**{**own, **changes})


def test_the_layout_of_pg19() -> None:
    corpus = corpora.pg19(path="books")
    assert [d.decode() for d in corpus.documents("train")] == [book(n)["text"] for n in range(6)]
    assert corpus.titles("test") == ["Book 8", "Book 9"]
    told = corpus.describe()
    assert (told["books of train"], told["years of validation"]) == (6, "1856–1857")
    before = corpus.fingerprint()
    folder = paths.resolve("books")
    (folder / "data").mkdir()
    for file in list(folder.glob("*.*")):
        file.rename(folder / "data" / file.name)
    assert corpus.fingerprint() == before, "where files lie changes nothing"
    jsonl(folder / "data" / "test.jsonl", [book(8), book(3)])
    assert corpus.fingerprint() != before


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no folder"):
        corpora.pg19(path="nowhere").fingerprint()
    (tmp_path / "few").mkdir()
    jsonl(tmp_path / "few" / "train.jsonl", [book(0)])
    with pytest.raises(SpecError, match="no validation"):
        corpora.pg19(path="few").fingerprint()
    jsonl(tmp_path / "few" / "validation.jsonl", [{"text": "no title"}])
    jsonl(tmp_path / "few" / "test.jsonl", [book(0)])
    bare = corpora.pg19(path="few")
    assert list(bare.documents("validation")) == [b"no title"]
    assert (bare.titles("validation"), bare.describe()["books of validation"]) == ([""], 1)
    jsonl(tmp_path / "few" / "validation.jsonl", [{"short_book_title": "no text"}])
    with pytest.raises(SpecError, match="no column 'text'"):
        list(corpora.pg19(path="few").documents("validation"))
    jsonl(tmp_path / "few" / "validation.jsonl", [book(1)])
    with pytest.raises(SpecError, match="overlap"):
        lm(corpus=corpora.pg19(path="few")).open(Data(tmp_path / "cache"), "cpu")


def test_no_row_crosses_a_book(tmp_path: Path) -> None:
    task = lm(pack="document", within="document", eval_tokens=10**6)
    source = task.open(Data(tmp_path / "cache"), "cpu")
    mark = 256
    n = source.epoch
    lengths = [len(book(i)["text"].encode()) + 1 for i in range(6)]
    assert n == sum((length - 1) // 64 for length in lengths)
    for epoch in range(2):
        batch = source.batch(1, 0, range(epoch * n, (epoch + 1) * n))
        ids = torch.cat([batch["inputs"], batch["targets"][:, -1:]], 1)
        assert not (ids[:, 1:] == mark).any(), "a book begins in no row but at its start"
        texts = {bytes(row[row < 256].to(torch.uint8).tolist()) for row in ids}
        assert len(texts) == n, "each row once an epoch"
    assert source.realised(1, range(n)) == {"unused": sum(lengths) - 64 * n}
    held = task.open(Data(tmp_path / "cache").bind("test"), "cpu")
    windows = held.examples(0, held.size)
    counted = windows["targets"] >= 0
    assert not (windows["targets"][counted] == mark).any()
    assert int(counted.sum()) == sum(len(book(i)["text"].encode()) for i in (8, 9))
    with pytest.raises(SpecError, match="no document has"):
        _ = lm(length=8000, pack="document").open(Data(tmp_path / "cache"), "cpu").epoch


@pytest.mark.parametrize("tokenizer", [tokenizers.bytes(), tokenizers.bpe(vocab=320)])
def test_words_of_all_tokens_are_those_of_the_text(tmp_path: Path, tokenizer: Any) -> None:
    task = lm(tokenizer=tokenizer, words=True, within="document", eval_tokens=10**6)
    source = task.open(Data(tmp_path / "cache").bind("test"), "cpu")
    batch = source.examples(0, source.size)
    whole = [book(i)["text"] for i in (8, 9)]
    assert int(batch["words"].sum()) == sum(len(t.split()) for t in whole)
    assert int(batch["words"].sum()) == sum(len(re.findall(r"[^ \t\n]+", t)) for t in whole)
    assert int((batch["bytes"] * (batch["targets"] >= 0)).sum()) == sum(
        len(t.encode()) for t in whole
    )
    half = task.open(Data(tmp_path / "cache").bind("test"), "cpu").examples(0, source.size // 2)
    rest = source.examples(source.size // 2, source.size)
    assert int(half["words"].sum() + rest["words"].sum()) == int(batch["words"].sum())


def test_perplexities_are_of_one_sum_of_nats(tmp_path: Path) -> None:
    task = lm(words=True, within="document", eval_tokens=10**6, tokenizer=tokenizers.bpe(vocab=320))
    source = task.open(Data(tmp_path / "cache").bind("test"), "cpu")
    held = source.examples(0, source.size).items()
    batch = {k: t.expand(2, *t.shape) for k, t in held}
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, *batch["inputs"].shape[1:], 320, generator=g)
    scored = task.score(logits, batch)
    e = 1
    totals = {
        k: {"sum": float(s[e].sum()), "count": float(c[e].sum())} for k, (s, c) in scored.items()
    }
    found = {k: v["value"] for k, v in values(totals, type(task).metrics).items()}
    nats = totals["loss"]["sum"]
    words = sum(len(book(i)["text"].split()) for i in (8, 9))
    size = sum(len(book(i)["text"].encode()) for i in (8, 9))
    assert found["word_ppl"] == pytest.approx(math.exp(nats / words), rel=1e-9)
    assert found["byte_ppl"] == pytest.approx(math.exp(nats / size), rel=1e-9)
    assert found["byte_ppl"] == pytest.approx(2 ** found["bpb"], rel=1e-9)
    assert found["ppl"] == pytest.approx(math.exp(nats / totals["loss"]["count"]), rel=1e-9)
    assert np.log(found["word_ppl"]) * words == pytest.approx(
        np.log(found["ppl"]) * totals["loss"]["count"]
    )


def test_words_need_the_spelling_and_are_not_given_by_place() -> None:
    with pytest.raises(SpecError, match="by place"):
        lm(words=True, bins=16)
    from paribus.tasks._words import Words

    with pytest.raises(SpecError, match="changes its text"):
        Words(None, "cpu")

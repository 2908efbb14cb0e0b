"""Packed streams: their marks, their cache, and the splits' disjointness."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paribus.errors import ParibusError, SpecError
from paribus.text import data as module
from paribus.text import paths
from paribus.text.cache import publish
from paribus.text.data import Data, Encoder
from paribus.text.splits import SPLITS
from tests.text.helpers import HARD, corpora, english, jsonl, tokenizers


@pytest.fixture
def corpus(base):
    jsonl(base / "x.jsonl", english(400) + HARD)
    return corpora.files(path="x.jsonl")


@pytest.mark.parametrize("batch", [1, 1000, 1 << 22])
def test_the_stream_is_the_documents_after_their_mark(corpus, tmp_path, batch, monkeypatch):
    monkeypatch.setattr(module, "BATCH", batch)
    for split in SPLITS:
        tokens = Data(tmp_path, split).tokens(corpus, tokenizers.bytes())
        documents = list(corpus.documents(split))
        expected = [i for d in documents for i in (256, *d)]
        assert tokens.ids.tolist() == expected
        assert isinstance(tokens.ids, np.memmap)
        assert tokens.ids.dtype == np.uint16
        assert tokens.starts.dtype == np.int64
        assert (tokens.ids[tokens.starts] == 256).all()
        assert len(tokens.starts) == len(documents)
        index = np.arange(len(expected))
        assert (tokens.doc_of(index) == np.cumsum(tokens.ids == 256) - 1).all()
        assert tokens.doc_of(0) == 0


def test_wide_vocabularies_take_four_bytes(corpus, tmp_path):
    tokens = Data(tmp_path).tokens(corpus, tokenizers.bpe(vocab=70_000))
    assert tokens.ids.dtype == np.uint32
    assert int(tokens.token_bytes[tokens.ids].sum()) == tokens.n_bytes


def test_ids_pass_through_and_end_after_eos(base, tmp_path):
    ids = np.tile(np.array([5, 6, 7, 9], "<u2"), 500)
    ids.tofile(base / "train.bin")
    (ids[:6] + 1).tofile(base / "val.bin")
    corpus = corpora.files(path="train.bin", validation="val.bin")
    tokens = Data(tmp_path).tokens(corpus, tokenizers.ids(vocab=10, eos=9))
    assert (tokens.ids == ids).all()
    assert tokens.starts.tolist() == list(range(0, 2000, 4))
    assert tokens.token_bytes is None
    assert tokens.n_bytes is None
    whole = Data(tmp_path).tokens(corpus, tokenizers.ids(vocab=10))
    assert whole.starts.tolist() == [0]
    with pytest.raises(
        SpecError, match=r"tokenizer/vocabulary mismatch: corpora\.files has id 9 .* of 9"
    ):
        Data(tmp_path).tokens(corpus, tokenizers.ids(vocab=9))


def test_a_second_opening_encodes_nothing(corpus, tmp_path, monkeypatch):
    part = tokenizers.bpe(vocab=400)
    first = Data(tmp_path)
    tokens = first.tokens(corpus, part)
    assert first.bind("train").tokens(corpus, part) is tokens

    def refuse(*_):
        raise AssertionError("opened again")

    monkeypatch.setattr(type(part), "open", refuse)
    monkeypatch.setattr(type(corpus), "documents", refuse)
    again = Data(tmp_path).tokens(corpus, part)
    assert (again.ids == tokens.ids).all()
    assert (again.token_bytes == tokens.token_bytes).all()
    assert again.fingerprint == tokens.fingerprint
    assert (again.bos, again.eos, again.vocab) == (tokens.bos, tokens.eos, tokens.vocab)


def test_fingerprints_follow_split_text_and_tokenizer(corpus, base, tmp_path):
    def key(split="train", part=None):
        return Data(tmp_path, split).tokens(corpus, part or tokenizers.bytes()).fingerprint

    keys = [key(), key("test"), key(part=tokenizers.bpe(vocab=300))]
    jsonl(base / "x.jsonl", english(401) + HARD)
    keys.append(key())
    assert len(set(keys)) == 4


def test_the_encoder_is_opened_once(corpus, tmp_path):
    data = Data(tmp_path)
    encoder = data.encoder(corpus, tokenizers.bytes())
    assert isinstance(encoder, Encoder)
    assert data.bind("test").encoder(corpus, tokenizers.bytes()) is encoder


def test_an_empty_split_says_what_to_do(base, tmp_path):
    jsonl(base / "x.jsonl", english(3))
    jsonl(base / "v.jsonl", ["other"])
    corpus = corpora.files(path="x.jsonl", validation="v.jsonl")
    with pytest.raises(SpecError, match=r"files has no test documents: name its source too"):
        Data(tmp_path, "test").tokens(corpus, tokenizers.bytes())
    corpus = corpora.files(path="x.jsonl", fractions=(1, 0, 0))
    with pytest.raises(SpecError, match=r"files has no validation documents: no document's hash"):
        Data(tmp_path, "validation").tokens(corpus, tokenizers.bytes())
    (base / "nothing.txt").write_bytes(b"")
    with pytest.raises(SpecError, match=r"nothing\.txt is empty"):
        Data(tmp_path).tokens(corpora.files(path="nothing.txt"), tokenizers.bytes())
    assert not list((tmp_path / "tokens").iterdir())
    with pytest.raises(SpecError, match=r"no split 'valid'; did you mean 'validation'"):
        Data(tmp_path).bind("valid")


def test_overlapping_splits_are_refused_and_the_document_named(base, tmp_path):
    texts = english(20)
    jsonl(base / "t.jsonl", texts)
    jsonl(base / "v.jsonl", [*english(3, start=50), texts[6]])
    names = {"path": "t.jsonl", "validation": "v.jsonl"}
    with pytest.raises(SpecError) as caught:
        Data(tmp_path).tokens(corpora.files(**names), tokenizers.bytes())
    said = str(caught.value)
    assert "t.jsonl:7 (train) is also v.jsonl:4 (validation): b'Document 6:" in said
    assert 'overlap="drop"' in said
    dropped = Data(tmp_path).tokens(corpora.files(**names, overlap="drop"), tokenizers.bytes())
    assert len(dropped.starts) == 19


def test_disjointness_is_checked_once_for_each_content(base, tmp_path, monkeypatch):
    jsonl(base / "t.jsonl", english(20))
    jsonl(base / "v.jsonl", english(5, start=50))
    calls = []
    real = module._disjoint
    monkeypatch.setattr(module, "_disjoint", lambda *a: calls.append(1) or real(*a))
    corpus = corpora.files(path="t.jsonl", validation="v.jsonl")
    for split in ("train", "validation"):
        Data(tmp_path, split).tokens(corpus, tokenizers.bytes())
    assert len(calls) == 1
    [found] = (tmp_path / "corpora").glob("*/documents.json")
    assert json.loads(found.read_text()) == {"test": 0, "validation": 5, "train": 20}


def test_a_user_s_own_corpus_needs_the_contract_alone(base, tmp_path):
    from paribus import parts

    folder = base / "parts" / "corpora"
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text(
        "from paribus.contracts import Corpus\n"
        "class Mine(Corpus, frozen=True, kw_only=True):\n"
        "    leak: bool = False\n"
        "    def documents(self, split):\n"
        "        yield b'same' if self.leak else split.encode()\n"
        "    def fingerprint(self):\n"
        "        return f'mine {self.leak}'\n"
    )
    parts.use_local(base)
    try:
        tokens = Data(tmp_path).tokens(corpora.mine(), tokenizers.bytes())
        assert bytes(tokens.ids[1:].astype(np.uint8)) == b"train"
        with pytest.raises(SpecError, match=r"mine: the splits overlap: document 1 \(validation\)"):
            Data(tmp_path).tokens(corpora.mine(leak=True), tokenizers.bytes())
    finally:
        parts.use_local(None)


def test_a_damaged_cache_is_no_data(corpus, tmp_path):
    key = Data(tmp_path).tokens(corpus, tokenizers.bytes()).fingerprint
    with (tmp_path / "tokens" / key / "ids.bin").open("r+b") as file:
        file.truncate(10)
    with pytest.raises(ParibusError, match=r"is damaged; delete it"):
        Data(tmp_path).tokens(corpus, tokenizers.bytes())


def _make(base, cache, gate, out):
    paths.use_base(base)
    gate.wait()
    tokens = Data(cache).tokens(corpora.files(path="x.jsonl"), tokenizers.bpe(vocab=500))
    out.put((len(tokens.ids), int(tokens.ids.astype(np.int64).sum())))


def test_two_processes_may_make_it_at_once(corpus, base, tmp_path):
    context = multiprocessing.get_context("spawn")
    cache, gate, out = tmp_path / "cache", context.Barrier(2), context.Queue()
    both = [context.Process(target=_make, args=(base, cache, gate, out)) for _ in range(2)]
    for p in both:
        p.start()
    found = [out.get(timeout=60) for _ in both]
    for p in both:
        p.join(60)
        assert p.exitcode == 0
    assert found[0] == found[1]
    for kind in ("tokens", "tokenizers"):  # one folder, and nothing left beside it
        [only] = (cache / kind).iterdir()
        assert not only.name.startswith(".")


def test_what_fails_half_way_leaves_nothing(tmp_path):
    def half(folder: Path) -> None:
        (folder / "a").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish(tmp_path / "x", half)
    assert not list(tmp_path.iterdir())


def test_nothing_here_loads_torch():
    code = (
        "import sys; from pathlib import Path; from paribus.parts import Namespace\n"
        "from paribus.text.data import Data\n"
        "c = Namespace('corpora').stdlib(megabytes=0.3)\n"
        "Data(Path(sys.argv[1])).tokens(c, Namespace('tokenizers').bpe(vocab=300))\n"
        "assert 'torch' not in sys.modules"
    )
    folder = paths.resolve("cache")
    subprocess.run([sys.executable, "-c", code, folder], check=True)

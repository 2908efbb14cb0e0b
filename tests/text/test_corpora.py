"""Corpora: what they read, how they are split, and what they say when they cannot."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paribus.errors import ParibusError, SpecError
from paribus.text import paths
from paribus.text.splits import SPLITS
from tests.text.helpers import corpora, english, jsonl


def held(corpus):
    return {s: list(corpus.documents(s)) for s in SPLITS}


def by_split(corpus):
    return {document: s for s, documents in held(corpus).items() for document in documents}


# ── stdlib ──────────────────────────────────────────────────────────────────────────────────


def test_stdlib_has_three_disjoint_splits_of_useful_size():
    corpus = corpora.stdlib()
    splits = held(corpus)
    sizes = {s: sum(map(len, d)) for s, d in splits.items()}
    assert sizes == corpus.describe()["bytes"]
    assert sizes["train"] > 5_000_000
    assert min(sizes["validation"], sizes["test"]) > 150_000
    every = [d for documents in splits.values() for d in documents]
    assert len(set(every)) == len(every)


def test_stdlib_caps_training_alone_and_nests():
    small, larger = held(corpora.stdlib(megabytes=1)), held(corpora.stdlib(megabytes=2))
    assert 0.5e6 < sum(map(len, small["train"])) <= 1e6
    assert larger["train"][: len(small["train"])] == small["train"]
    assert small["validation"] == larger["validation"]
    assert len({corpora.stdlib(megabytes=m).fingerprint() for m in (None, 1, 2)}) == 3
    with pytest.raises(SpecError, match=r"megabytes: 5000 is more than"):
        corpora.stdlib(megabytes=5000).fingerprint()


def test_stdlib_fingerprint_is_quick_and_the_same_in_another_process():
    code = (
        "import time; from paribus.parts import Namespace\n"
        "c = Namespace('corpora').stdlib(); t = time.process_time(); f = c.fingerprint()\n"
        "print(f, time.process_time() - t)"
    )
    runs = [subprocess.check_output([sys.executable, "-c", code], text=True) for _ in range(2)]
    assert {r.split()[0] for r in runs} == {corpora.stdlib().fingerprint()}
    assert min(float(r.split()[1]) for r in runs) < 0.15
    start = time.process_time()
    corpora.stdlib().fingerprint()
    assert time.process_time() - start < 0.02


def test_stdlib_says_when_the_sources_are_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules[type(corpora.stdlib()).__module__], "folder", lambda: tmp_path)
    with pytest.raises(ParibusError, match=r"0\.0 MB of the sources"):
        corpora.stdlib().fingerprint()


# ── files: what is read ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
def test_parquet_gives_its_rows(base, kind):
    texts = [*english(40), "naïve 汉字 🦊"]
    array = pa.array([*texts, None, ""])
    array = {
        "string": array,
        "large_string": array.cast(pa.large_string()),
        "dictionary": array.dictionary_encode(),
    }[kind]
    pq.write_table(pa.table({"n": range(len(array)), "body": array}), base / "x.parquet")
    corpus = corpora.files(path="x.parquet", column="body")
    assert sorted(by_split(corpus)) == sorted(t.encode() for t in texts)


def test_jsonl_and_txt_and_globs_and_folders(base):
    (base / "d" / "deep").mkdir(parents=True)
    (base / "d" / ".hidden").mkdir()
    texts = english(30)
    jsonl(base / "d" / "a.jsonl", texts[:20])
    for i, t in enumerate(texts[20:]):
        (base / "d" / "deep" / f"{i}.txt").write_bytes(t.encode())
    (base / "d" / "README.md").write_text("not a document")
    (base / "d" / ".hidden" / "no.txt").write_text("not a document")
    every = sorted(t.encode() for t in texts)
    assert sorted(by_split(corpora.files(path="d"))) == every
    assert sorted(by_split(corpora.files(path=str(base / "d")))) == every
    assert sorted(by_split(corpora.files(path="d/deep/*.txt"))) == sorted(
        t.encode() for t in texts[20:]
    )
    with_mark = b"\xef\xbb\xbf" + (base / "d" / "a.jsonl").read_bytes() + b"\n\n"
    (base / "d" / "a.jsonl").write_bytes(with_mark)
    assert sorted(by_split(corpora.files(path="d"))) == every


def test_numpy_ids_come_back(base):
    ids = np.arange(1000, dtype="<u2") % 300
    ids.tofile(base / "x.bin")
    corpus = corpora.files(path="x.bin")
    assert corpus.form == "ids"
    parts = [np.frombuffer(b"".join(corpus.documents(s)), "<u2") for s in SPLITS]
    assert [len(p) for p in parts] == [900, 50, 50]
    assert (np.concatenate(parts) == ids).all()


# ── files: splits ───────────────────────────────────────────────────────────────────────────


def test_fractions_hold_and_each_document_goes_by_its_own_content(base):
    texts = english(2000)
    jsonl(base / "x.jsonl", texts)
    before = by_split(corpora.files(path="x.jsonl"))
    counts = {s: list(before.values()).count(s) for s in SPLITS}
    assert counts["train"] > 1700
    assert 60 < counts["validation"] < 140  # 100 expected, 4 standard deviations
    assert 60 < counts["test"] < 140
    jsonl(base / "x.jsonl", english(500, start=5000) + texts[::-1])
    after = by_split(corpora.files(path="x.jsonl"))
    assert {d: after[d] for d in before} == before


def test_names_and_order_of_files_do_not_matter(base):
    texts = english(300)
    one, two = base / "one", base / "two"
    for folder, names in ((one, "abc"), (two, "zxy")):
        folder.mkdir()
        for i, name in enumerate(names):
            jsonl(folder / f"{name}.jsonl", texts[100 * i : 100 * i + 100])
    a, b = corpora.files(path="one"), corpora.files(path="two")
    assert held(a) == held(b)
    assert a.fingerprint() == b.fingerprint()


def test_fingerprint_follows_contents_and_rules(base):
    jsonl(base / "x.jsonl", english(50))
    first = corpora.files(path="x.jsonl").fingerprint()
    assert corpora.files(path="x.jsonl", fractions=(0.8, 0.1, 0.1)).fingerprint() != first
    jsonl(base / "x.jsonl", english(51))
    assert corpora.files(path="x.jsonl").fingerprint() != first


def test_a_single_document_is_cut_at_line_ends(base):
    whole = "".join(f"line {i} – 汉字\n" for i in range(3000)).encode()
    (base / "x.txt").write_bytes(whole)
    corpus = corpora.files(path="x.txt")
    pieces = {s: b"".join(corpus.documents(s)) for s in SPLITS}
    assert b"".join(pieces.values()) == whole
    assert all(p.endswith(b"\n") for p in pieces.values())
    assert len(pieces["train"]) == pytest.approx(0.9 * len(whole), rel=0.01)
    assert len(pieces["test"]) == pytest.approx(0.05 * len(whole), rel=0.05)
    assert "a single document is cut" in corpus.describe()["splits"]
    (base / "y.txt").write_bytes(("汉字" * 5000).encode())  # no line ends: between characters
    for s in SPLITS:
        b"".join(corpora.files(path="y.txt").documents(s)).decode()


def test_given_splits_are_taken_whole(base):
    texts = english(60)
    for name, part in (("t", texts[:40]), ("v", texts[40:50]), ("e", texts[50:])):
        jsonl(base / f"{name}.jsonl", part)
    corpus = corpora.files(path="t.jsonl", validation="v.jsonl", test="e.jsonl")
    assert {s: len(d) for s, d in held(corpus).items()} == {
        "train": 40,
        "validation": 10,
        "test": 10,
    }


def test_drop_leaves_repeated_documents_to_the_held_out_splits(base):
    texts = english(30)
    jsonl(base / "t.jsonl", texts)
    jsonl(base / "v.jsonl", texts[:10])
    jsonl(base / "e.jsonl", texts[5:8])
    names = {"path": "t.jsonl", "validation": "v.jsonl", "test": "e.jsonl"}
    splits = held(corpora.files(**names, overlap="drop"))
    assert [len(d) for d in splits.values()] == [20, 7, 3]
    assert not set(splits["train"]) & set(splits["validation"])


# ── files: errors ───────────────────────────────────────────────────────────────────────────


def reading(**fields):
    corpus = corpora.files(**fields)
    for s in SPLITS:
        list(corpus.documents(s))


def test_errors_say_where(base):
    jsonl(base / "novels.jsonl", english(5), column="body")
    (base / "bad.jsonl").write_text('{"text": "fine"}\n{"text": oops}\n')
    (base / "number.jsonl").write_text('{"text": "fine"}\n{"text": 7}\n')
    (base / "odd.bin").write_bytes(b"123")
    (base / "x.csv").write_text("a,b")
    (base / "fake.parquet").write_text("no")
    (base / "empty").mkdir()
    pq.write_table(pa.table({"texts": ["a"], "id": [1]}), base / "x.parquet")
    pq.write_table(pa.table({"text": [1, 2]}), base / "n.parquet")
    for fields, said in [
        ({"path": "novel.jsonl"}, r"files\.path: no file .*novel\.jsonl; .*'novels\.jsonl'"),
        ({"path": "empty"}, r"empty holds no \.bin or \.jsonl or"),
        ({"path": "x.csv"}, r"x\.csv: a \.csv file cannot be read; readable"),
        ({"path": "bad.jsonl"}, r"bad\.jsonl:2: not JSON"),
        ({"path": "number.jsonl"}, r"number\.jsonl:2: 'text' holds 7"),
        ({"path": "novels.jsonl"}, r"novels\.jsonl:1: no column 'text'.*there: body"),
        ({"path": "x.parquet"}, r"no column 'text'; did you mean 'texts'\? \(there: texts, id\)"),
        ({"path": "n.parquet"}, r"'text' holds int64, which is no text"),
        ({"path": "fake.parquet"}, r"fake\.parquet: not a parquet file"),
        ({"path": "odd.bin"}, r"odd\.bin: 3 bytes is odd"),
        ({"path": "n.parquet", "test": "n.parquet"}, r"n\.parquet is in path= and in test="),
        ({"path": "x.parquet", "fractions": (0.9, 0.2, 0.1)}, r"add up to 1"),
        ({"path": "x.parquet", "colum": "b"}, r"unknown key 'colum'; did you mean 'column'"),
    ]:
        with pytest.raises(SpecError, match=said) as caught:
            reading(**fields)
        assert "\n" not in str(caught.value)


def test_ids_and_text_do_not_mix(base):
    (base / "a.bin").write_bytes(b"1234")
    (base / "a.txt").write_bytes(b"1234")
    with pytest.raises(SpecError, match=r"\.bin files hold ids, the others text"):
        reading(path="a.*")


def test_relative_paths_start_at_the_base(base, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(elsewhere)
    assert paths.resolve("a/b.txt") == base / "a" / "b.txt"
    assert paths.resolve(str(elsewhere / "c")) == elsewhere / "c"
    paths.use_base(None)
    assert paths.resolve("a") == elsewhere / "a"


# ── hugging face ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def quiet(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    return datasets


def test_huggingface_reads_folders_and_saved_datasets(quiet, base):
    texts = english(200)
    expected = sorted(t.encode() for t in texts)
    (base / "plain").mkdir()
    jsonl(base / "plain" / "train.jsonl", texts[:150])
    jsonl(base / "plain" / "validation.jsonl", texts[150:])
    quiet.Dataset.from_dict({"text": texts}).save_to_disk(base / "one")
    whole = quiet.DatasetDict(
        train=quiet.Dataset.from_dict({"text": texts[:150]}),
        held=quiet.Dataset.from_dict({"text": texts[150:]}),
    )
    whole.save_to_disk(base / "two")
    one = corpora.huggingface(dataset="one")
    assert sorted(by_split(one)) == expected
    two = corpora.huggingface(dataset="two", validation_split="held")
    assert [len(d) for d in held(two).values()] == [150, 50, 0]
    plain = corpora.huggingface(dataset="plain", validation_split="validation")
    assert held(plain) == held(two)
    sliced = corpora.huggingface(
        dataset="plain", split="train[:100]", validation_split="validation"
    )
    assert held(sliced)["train"] == [t.encode() for t in texts[:100]]
    with pytest.raises(ParibusError, match=r"plain: Unknown split .tran.*train"):
        corpora.huggingface(dataset="plain", split="tran").fingerprint()
    assert len({one.fingerprint(), two.fingerprint()}) == 2
    for fields, said in [
        ({"dataset": "two", "split": "tran"}, r"no split 'tran'; did you mean 'train'\?"),
        ({"dataset": "one", "column": "txt"}, r"no column 'txt'; did you mean 'text'\?"),
    ]:
        with pytest.raises(SpecError, match=said):
            corpora.huggingface(**fields).fingerprint()
    with pytest.raises(ParibusError, match=r"^corpora\.huggingface: nobody/nothing: .+$"):
        corpora.huggingface(dataset="nobody/nothing").fingerprint()


def test_a_pinned_commit_is_an_identity_that_reads_nothing():
    a, b = ("0" * 40, "1" * 40)
    one = corpora.huggingface(dataset="nobody/nothing", commit=a).fingerprint()
    assert one == corpora.huggingface(dataset="nobody/nothing", commit=a).fingerprint()
    assert one != corpora.huggingface(dataset="nobody/nothing", commit=b).fingerprint()


def test_missing_libraries_say_what_to_install(base, monkeypatch):
    pq.write_table(pa.table({"text": ["a"]}), base / "x.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ParibusError, match=r"needs pyarrow .*pip install 'paribus\[text\]'"):
        reading(path="x.parquet")

"""Evaluation on windows of text: each target once, with the context that it should have; slices by
place; bits per byte whatever the tokenizer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paribus import corpora, optim, positions, presets, schedules, tasks, tokenizers
from paribus.engine.evaluate import Setting, evaluate
from paribus.engine.settings import Settings
from paribus.errors import SpecError
from paribus.nn.initialise import initialise
from paribus.nn.transformer import Transformer
from paribus.rng import Stream
from paribus.spec import Spec, resolve
from paribus.text import paths
from paribus.text.data import Data

FILES, WORDS = 12, 90


@pytest.fixture(autouse=True)
def _text(tmp_path: Path) -> Iterator[None]:
    """Documents of 50 to 500 bytes; some characters take two bytes and more."""
    folder = tmp_path / "text"
    folder.mkdir()
    words = [*"aé日本", "the ", "of ", "ñandú ", "– ", "naïve ", "𝛼"]
    for i in range(FILES):
        u = Stream(0, "test", i).integers(20 + i * WORDS // FILES, len(words))
        (folder / f"{i:02}.txt").write_text("".join(words[j] for j in u))
    paths.use_base(tmp_path)
    yield
    paths.use_base(None)


def lm(**changes: Any) -> Any:
    fields = {
        "corpus": corpora.files(path="text", fractions=(0.4, 0.1, 0.5)),
        "tokenizer": tokenizers.bytes(),
        "length": 32,
        "eval_tokens": 100_000,
    }
    return tasks.lm(**{**fields, **changes})


def spec_of(task: Any) -> Spec:
    model = presets.quickstart(width=32, heads=2, position=positions.rope())
    return resolve(
        Spec(
            model=model, task=task, optim=optim.adamw(lr=1e-3), schedule=schedules.constant(),
            rows=2, steps=1, precision="fp64",
        )
    )  # fmt: skip


@pytest.fixture
def judged(tmp_path: Path) -> Any:
    """(evaluation of one fixed model under a task, that model's parameters and core)."""
    data = Data(tmp_path / "cache")
    first = spec_of(lm())
    p = initialise(first.model, first.init, [3], torch.float64)  # type: ignore[arg-type]
    p = {k: t * 8 if t.ndim > 2 else t for k, t in p.items()}  # far from uniform

    def run(by: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
        spec = spec_of(lm(**changes))
        setting = Setting("id", "key", spec, "test", None, by)
        return evaluate(p, [spec], [1], setting, data, Settings())[0]

    return run, p, Transformer(first.model), data.bind("test").tokens(lm().corpus, lm().tokenizer)  # type: ignore[arg-type]


def nats_of(core: Any, p: Any, ids: np.ndarray) -> np.ndarray:
    """Of each token but the first, given all before it."""
    x = torch.from_numpy(ids.astype(np.int64))[None, None]
    with torch.no_grad():
        logp = core(p, x[..., :-1]).log_softmax(-1)[0, 0]
    return -logp.gather(-1, x[0, 0, 1:, None])[:, 0].numpy()


def test_a_sliding_window_gives_each_target_its_context(judged: Any) -> None:
    """Against one pass for each block of the stream, written in a loop."""
    run, p, core, tokens = judged
    ids = np.asarray(tokens.ids)
    for length, stride, start in ((32, 8, 0), (32, 5, 40), (16, 1, 0), (32, 32, 64)):
        found = run(length=length, stride=stride, start=start)
        total = count = 0.0
        at = max(start, 1)
        while at + stride <= len(ids):
            begin = max(at + stride - 1 - length, 0)
            total += nats_of(core, p, ids[begin : at + stride])[-stride:].sum()
            count += stride
            at += stride
        assert found["metrics"]["loss"]["count"] == count
        assert found["metrics"]["loss"]["value"] == pytest.approx(total / count, rel=1e-12)
        assert found["metrics"]["ppl"]["value"] == pytest.approx(math.exp(total / count))


def test_windows_stay_in_their_documents(judged: Any) -> None:
    run, p, core, tokens = judged
    ids = np.asarray(tokens.ids)
    bounds = [*tokens.starts.tolist(), len(ids)]
    for length, stride, start in ((32, 8, 0), (64, 64, 0), (32, 16, 48)):
        found = run(length=length, stride=stride, start=start, within="document")
        total, count = 0.0, 0
        for a, b in pairwise(bounds):
            document = ids[a:b]
            at = max(start, 1)
            while at < len(document):
                end = min(at + stride, len(document))
                nats = nats_of(core, p, document[max(end - 1 - length, 0) : end])
                total += nats[-(end - at) :].sum()
                count += end - at
                at = end
        assert found["metrics"]["loss"]["count"] == count
        assert found["metrics"]["loss"]["value"] == pytest.approx(total / count, rel=1e-12)
        if start == 0:
            assert count == len(ids) - len(tokens.starts), "every token but a document's first"


def test_so_many_targets_of_each_document(judged: Any) -> None:
    """Whole documents' beginnings, so that the evaluated tokens are of more than the first one."""
    run, _, _, tokens = judged
    lengths = np.diff([*tokens.starts.tolist(), len(tokens.ids)])
    for each, start in ((8, 0), (20, 5), (10**6, 0)):
        found = run(length=32, stride=8, start=start, within="document", each=each)
        room = np.maximum(lengths - max(start, 1), 0)
        assert found["metrics"]["loss"]["count"] == np.minimum(room, each).sum()
    with pytest.raises(SpecError, match='give within="document"'):
        run(length=32, each=8)


def test_what_longer_context_gives_is_measured_on_the_same_targets(judged: Any) -> None:
    run = judged[0]
    same = {"stride": 8, "start": 128, "eval_tokens": 640}
    found = {length: run(length=length, **same) for length in (16, 32, 128)}
    assert {r["metrics"]["loss"]["count"] for r in found.values()} == {640.0}
    assert len({r["metrics"]["bpb"]["count"] for r in found.values()}) == 1, "bytes are the same"
    assert len({r["metrics"]["loss"]["value"] for r in found.values()}) == 3


def test_bins_add_up_and_are_where_tokens_stand(judged: Any) -> None:
    run, p, core, tokens = judged
    ids = np.asarray(tokens.ids)
    for changes in ({}, {"stride": 8}, {"within": "document", "stride": 16}):
        plain = run(length=64, **changes)
        found = run(("position", "place"), length=64, bins=8, **changes)
        for metric in ("loss", "bpb"):
            total = plain["metrics"][metric]
            assert found["metrics"][metric]["value"] == pytest.approx(total["value"], rel=1e-12)
            for by in ("position=", "place="):
                parts = [v[metric] for k, v in found["slices"].items() if k.startswith(by)]
                count = sum(x["count"] for x in parts)
                mean = sum(x["value"] * x["count"] for x in parts) / count
                assert count == total["count"]
                assert mean == pytest.approx(total["value"], rel=1e-12)
    # By hand: the plain rows.
    found = run(("position", "place"), length=64, bins=8)
    sums: dict[str, list[float]] = {}
    for row in range((len(ids) - 1) // 64):
        nats = nats_of(core, p, ids[row * 64 : row * 64 + 65])
        for i, x in enumerate(nats):
            document = max(s for s in tokens.starts if s <= row * 64 + i)
            for name, at in (("position", i), ("place", row * 64 + i - document)):
                edge = 0 if at < 8 else 2 ** int(math.log2(at))
                sums.setdefault(f"{name}={edge}", []).append(float(x))
    assert sums.keys() == found["slices"].keys()
    for k, each in sums.items():
        told = found["slices"][k]["loss"]
        assert told["count"] == len(each)
        assert told["value"] == pytest.approx(sum(each) / len(each), rel=1e-12)


def test_bits_per_byte_do_not_depend_on_the_tokenizer(tmp_path: Path) -> None:
    """A model whose tokens' probabilities are products of its bytes' has one BPB, also where
    tokens are no valid UTF-8; bytes counted by decoding would give others."""
    p_byte = Stream(1, "bytes").uniform(256) + 0.1
    logp = np.log(p_byte / p_byte.sum())
    bpb, by_decoding = [], []
    for tokenizer in (tokenizers.bytes(), tokenizers.bpe(vocab=262), tokenizers.bpe(vocab=300)):
        task = lm(tokenizer=tokenizer)
        data = Data(tmp_path / "cache", "test")
        n = len(data.tokens(task.corpus, tokenizer).ids) - 1
        task = lm(tokenizer=tokenizer, length=n)
        spelt = spellings(task, data)
        batch = task.open(data, "cpu").examples(0, 1)
        targets = batch["targets"][0].tolist()
        nats = torch.tensor(
            [-sum(logp[b] for b in spelt[t]) or 2.0 for t in targets], dtype=torch.float64
        )
        logits = torch.zeros(1, 1, n, 2, dtype=torch.float64)
        logits[0, 0, :, 1] = nats.expm1().log()
        stacked = {k: v[None] for k, v in batch.items()} | {"targets": torch.zeros(1, 1, n).long()}
        s, c = task.score(logits, stacked)["bpb"]
        bpb.append(float(s.sum() / c.sum()))
        wrong = sum(len(spelt[t].decode(errors="replace").encode()) for t in targets)
        by_decoding.append(float(s.sum()) / wrong)
    assert max(bpb) - min(bpb) < 1e-9 * max(bpb)
    assert max(by_decoding) - min(by_decoding) > 1e-3 * max(by_decoding)


def spellings(task: Any, data: Data) -> list[bytes]:
    """The bytes of each token; b"" of marks."""
    if task.tokenizer.name == "bytes":
        return [*(bytes([i]) for i in range(256)), b""]
    encoder = data.encoder(task.corpus, task.tokenizer)
    made = data.cache / "tokenizers" / task.tokenizer.fingerprint(task.corpus)[:32]
    vocabulary = json.loads((made / "tokenizer.json").read_text())["model"]["vocab"]
    alphabet = {c: b for b, c in bytes_to_unicode().items()}
    out = [b""] * encoder.vocab
    for token, i in vocabulary.items():
        if i != encoder.bos:
            out[i] = bytes(alphabet[c] for c in token)
    return out


def bytes_to_unicode() -> dict[int, str]:
    """GPT-2's alphabet of bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def test_a_stride_beyond_the_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"task\.stride: 64 targets do not fit"):
        lm(stride=64).open(Data(tmp_path / "cache", "test"), "cpu")

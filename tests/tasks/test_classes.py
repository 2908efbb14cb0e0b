"""Labelled texts: rows and padding, splits, scores against plain definitions, what is learned."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paribus import (
    init,
    masks,
    optim,
    parts,
    positions,
    presets,
    reads,
    schedules,
    spec,
    tasks,
    tokenizers,
)
from paribus.engine import packing
from paribus.engine.contract_train import trained
from paribus.engine.evaluate import Setting, evaluate
from paribus.engine.net import make_net
from paribus.engine.settings import Settings
from paribus.errors import SpecError
from paribus.parts import dump
from paribus.tasks import _labelled
from paribus.text import paths
from paribus.text.data import Data

MOODS = {"glad": "joy", "sad": "woe", "flat": "ink"}


def rows(n: int, start: int = 0, moods: Any = MOODS) -> list[dict[str, Any]]:
    """Short texts of different lengths, in order of class as files often are; one word tells it."""
    out = []
    for i in range(start, start + n):
        name = list(moods)[i % len(moods)]
        out.append({"text": f"no {i} {moods[name]}" + " so" * (i % 5), "label": name})
    return sorted(out, key=lambda row: row["label"])


def jsonl(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def base(tmp_path: Path) -> Iterator[Path]:
    jsonl(tmp_path / "mood" / "train.jsonl", rows(90))
    jsonl(tmp_path / "mood" / "test.jsonl", rows(30, 90))
    paths.use_base(tmp_path)
    yield tmp_path
    paths.use_base(None)


def task(**changes: Any) -> Any:
    fields = {"path": "mood/{split}.jsonl", "tokenizer": tokenizers.bytes(), "length": 20}
    return tasks.classes(**{**fields, "held": 0.2, **changes})


def source(base: Path, split: str = "train", **changes: Any) -> Any:
    return task(**changes).open(Data(base / "cache", split), "cpu")


def texts_of(batch: Any) -> list[bytes]:
    """The bytes of each row, without bos and padding."""
    ids, valid = batch["inputs"].numpy(), batch["valid"].numpy()
    return [bytes(r[v][1:].astype(np.uint8)) for r, v in zip(ids, valid, strict=True)]


# ── rows ────────────────────────────────────────────────────────────────────────────────────


def test_rows_are_the_texts_from_their_beginning(base):
    found = source(base, "test")
    batch = found.examples(0, found.size)
    assert found.size == 30
    assert batch["inputs"].shape == batch["valid"].shape == (30, 20)
    assert (batch["inputs"][:, 0] == 256).all(), "each begins with bos"
    assert not batch["inputs"][~batch["valid"]].any()
    lengths = batch["valid"].sum(1)
    assert (batch["valid"] == (torch.arange(20) < lengths[:, None])).all(), "padding is at the end"
    assert 20 in lengths
    assert lengths.min() < 20
    want = {row["text"].encode()[:19]: row["label"] for row in rows(30, 90)}
    names = sorted(MOODS)
    got = {t: names[k] for t, k in zip(texts_of(batch), batch["targets"].tolist(), strict=True)}
    assert got == want
    assert task().names() == names


def test_examples_do_not_stand_in_order_of_class(base):
    """Of a file that is sorted by class the first few examples would be of one."""
    found = source(base, "test")
    assert len(set(found.examples(0, 8)["targets"].tolist())) == 3
    jsonl(base / "mood" / "test.jsonl", rows(30, 90)[::-1])
    again = source(base, "test")
    assert torch.equal(found.examples(0, 30)["inputs"], again.examples(0, 30)["inputs"])


def test_an_epoch_visits_every_text_once(base):
    found = source(base)
    n = found.epoch
    first, second = (found.batch(1, 0, range(k * n, (k + 1) * n)) for k in (0, 1))
    every = sorted(texts_of(found.examples(0, n)))
    assert sorted(texts_of(first)) == sorted(texts_of(second)) == every
    assert texts_of(first) != texts_of(second)
    assert texts_of(first) != texts_of(found.batch(2, 0, range(n)))
    across = found.batch(1, 3, range(n - 2, n + 2))
    assert texts_of(across) == texts_of(first)[-2:] + texts_of(second)[:2]


def test_without_a_validation_split_some_training_texts_are_it(base):
    split = {s: source(base, s, length=64) for s in ("train", "validation", "test")}
    told = {s: texts_of(f.examples(0, f.size)) for s, f in split.items()}
    assert sorted(told["train"] + told["validation"]) == sorted(
        r["text"].encode() for r in rows(90)
    )
    assert 8 <= len(told["validation"]) <= 30
    jsonl(base / "mood" / "train.jsonl", [*rows(90), {"text": "one more", "label": "sad"}])
    more = source(base, "validation", length=64)
    assert set(told["validation"]) <= set(texts_of(more.examples(0, more.size))), "none moves"
    jsonl(base / "mood" / "validation.jsonl", rows(12, 200))
    assert source(base, "validation").size == 12
    assert source(base).size == 91


def test_pairs_are_joined(base):
    pairs = [{"premise": f"a{i}", "claim": f"b{i}", "gold": i % 2} for i in range(40)]
    for split in ("train", "test"):
        jsonl(base / "nli" / f"{split}.jsonl", pairs)
    columns = {"text": "premise", "pair": "claim", "label": "gold", "path": "nli/{split}.jsonl"}
    found = source(base, "test", **columns)
    assert set(texts_of(found.examples(0, 40))) == {f"a{i} [SEP] b{i}".encode() for i in range(40)}
    other = source(base, "test", **columns, separator="|")
    assert b"a7|b7" in texts_of(other.examples(0, 40))
    assert task(**columns).names() == ["0", "1"]


def test_numbers_as_labels_stand_in_order_of_size(base):
    for split in ("train", "test"):
        jsonl(
            base / "n" / f"{split}.jsonl", [{"text": f"t{i}", "label": i % 11} for i in range(55)]
        )
    path = {s: f"n/{s}.jsonl" for s in ("train", "test")}
    assert task(path=path).names() == [str(i) for i in range(11)]
    assert task(path=path, labels=[str(i) for i in range(12)]).io().classes == 12


def test_parquet_gives_what_json_lines_give(base):
    pa = pytest.importorskip("pyarrow", reason="parquet is read with pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="parquet is read with pyarrow")
    (base / "p").mkdir()
    for split, lines in {"train": rows(90), "test": rows(30, 90)}.items():
        parquet.write_table(pa.Table.from_pylist(lines), base / "p" / f"{split}.parquet")
    for split in ("train", "validation", "test"):
        one, two = source(base, split), source(base, split, path="p/{split}.parquet")
        assert one.size == two.size
        a, b = one.examples(0, one.size), two.examples(0, two.size)
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_datasets_name_their_classes(base):
    datasets = pytest.importorskip("datasets", reason="labelled sets are read with datasets")
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["sad", "glad", "flat"]),
        }
    )

    def made(lines):
        columns = {k: [row[k] for row in lines] for k in ("text", "label")}
        return datasets.Dataset.from_dict(columns, features=features)

    every = datasets.DatasetDict(train=made(rows(90)), matched=made(rows(30, 90)))
    every.save_to_disk(base / "set")
    fields = {"path": "set", "splits": {"train": "train", "test": "matched"}}
    one, two = source(base, "test"), source(base, "test", **fields)
    a, b = one.examples(0, 30), two.examples(0, 30)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert task(**fields).fingerprints() != task().fingerprints()
    with pytest.raises(SpecError, match=r"classes.splits: no test split"):
        task(path="set").io()
    with pytest.raises(SpecError, match=r"has no 'tset' \(there: train, matched\)"):
        source(base, "test", path="set", splits={"train": "train", "test": "tset"})


def test_what_was_cut_and_what_is_known_is_recorded(base):
    jsonl(base / "mood" / "validation.jsonl", rows(12, 200))
    jsonl(base / "mood" / "test.jsonl", rows(30, 90) + rows(90)[:10])
    found = source(base, "test")
    whole = [len(r["text"]) + 1 for r in rows(30, 90) + rows(90)[:10]]
    told = found.realised(None, range(40))
    assert told["texts"] == 40
    assert told["cut"] == sum(n > 20 for n in whole) > 0
    assert told["truncated"] == sum(max(0, n - 20) for n in whole)
    assert told["tokens"] == sum(min(20, n) for n in whole)
    assert told["duplicates"] == pytest.approx(10 / 40)
    assert Counter(found.slices()["cut"].tolist())["yes"] == told["cut"]
    assert told["list"] != found.realised(None, range(39))["list"]
    train = source(base)
    for n in (7, 90, 100, 200):
        parts_ = [train.batch(3, 0, range(i, min(i + 50, n))) for i in range(0, n, 50)]
        assert train.realised(3, range(n))["tokens"] == sum(int(b["valid"].sum()) for b in parts_)
        assert train.realised(3, range(n))["texts"] == n


def test_a_trained_tokenizer_does(base):
    pytest.importorskip("tokenizers", reason="byte-pair encoding is trained with tokenizers")
    found = source(base, "test", tokenizer=tokenizers.bpe(vocab=300))
    batch = found.examples(0, found.size)
    assert batch["inputs"].max() < 300
    assert batch["valid"].sum() < source(base, "test").examples(0, 30)["valid"].sum()


def test_a_row_begins_with_bos_and_has_no_eos(base):
    """What is read last is the text, as in the original."""
    pytest.importorskip("tokenizers", reason="byte-pair encoding is trained with tokenizers")
    trained_one = source(base, "test", tokenizer=tokenizers.bpe(vocab=300))
    (file,) = (base / "cache" / "tokenizers").glob("*/tokenizer.json")
    mark = json.loads(file.read_text())["added_tokens"][0]["content"]
    want = trained_one.examples(0, 30)
    for marks, begins in [({"bos": mark}, 1), ({"eos": mark}, 0), ({}, 0)]:
        found = source(base, "test", tokenizer=tokenizers.file(path=str(file), **marks), length=40)
        batch = found.examples(0, 30)
        for own, other in zip(range(30), want["inputs"], strict=True):
            ids = batch["inputs"][own][batch["valid"][own]].tolist()
            n = min(len(ids) - begins, 19)
            assert ids[begins : begins + n] == other[1 : 1 + n].tolist()
            assert (ids[0] == other[0]) == bool(begins)
            assert int(other[0]) not in ids[begins:]


def test_rows_stay_rows(base):
    """What has one target a row is never laid end to end."""
    found = source(base, "test", length=200)
    batch = {k: t[None] for k, t in found.examples(0, 8).items()}
    assert batch["valid"].double().mean() < packing.WORTH
    assert not packing.worth(batch, task(length=200).io())


# ── scores ──────────────────────────────────────────────────────────────────────────────────


def plain_f1(truth: list[int], said: list[int], k: int) -> float:
    """Of class k, by counting pairs."""
    tp = sum(t == s == k for t, s in zip(truth, said, strict=True))
    fp = sum(s == k != t for t, s in zip(truth, said, strict=True))
    fn = sum(t == k != s for t, s in zip(truth, said, strict=True))
    precision = tp / (tp + fp) if tp + fp else 0.0
    recall = tp / (tp + fn) if tp + fn else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(20))
def test_macro_f1_is_the_mean_of_f1_over_classes(seed):
    """As sums over items: their ratio in the whole, and in a slice by class that class's F1."""
    random = np.random.default_rng(seed)
    C, N = int(random.integers(2, 6)), int(random.integers(1, 60))
    truth = random.integers(0, C, N).tolist()
    said = [random.integers(0, C, N).tolist(), [int(random.integers(C))] * N]  # one has collapsed
    found = _labelled.whole(torch.tensor(said), torch.tensor([truth] * 2))
    s, c = found["macro_f1"]
    for e in range(2):
        each = {k: plain_f1(truth, said[e], k) for k in set(truth)}
        assert float(s[e].sum() / c[e].sum()) == pytest.approx(
            sum(each.values()) / len(each), 1e-12
        )
        assert float(c[e].sum()) == pytest.approx(N, 1e-12)
        for k, f1 in each.items():
            at = torch.tensor(truth) == k
            assert float(s[e][at].sum() / c[e][at].sum()) == pytest.approx(f1, 1e-12)
    same, _ = found["commonest"]
    assert float(same[0].mean()) == pytest.approx(max(Counter(said[0]).values()) / N)
    assert float(same[1].mean()) == 1, "always the same answer: to be seen"


@pytest.mark.parametrize("read", ["last", "mean"])
def test_the_answer_is_read_at_the_last_token_or_over_all(base, read):
    found = task(read=read)
    batch = {k: t[None] for k, t in source(base, "test").examples(0, 6).items()}
    outputs = torch.randn(1, 6, 20, 3, generator=torch.Generator().manual_seed(0))
    outputs[~batch["valid"]] = math.nan  # what stands at padding is not looked at
    scored = found.score(outputs, batch)
    for b in range(6):
        n = int(batch["valid"][0, b].sum())
        own = outputs[0, b, :n].double()
        logits = own[-1] if read == "last" else own.mean(0)
        target = int(batch["targets"][0, b])
        assert float(scored["loss"][0][0, b]) == pytest.approx(
            float(-logits.log_softmax(0)[target])
        )
        assert int(scored["_said"][0][0, b]) == int(logits.argmax())
    total, count = found.loss(outputs, batch)
    assert float(total) == pytest.approx(float(scored["loss"][0].sum()))
    assert count.tolist() == [6]


def test_trivial_baselines_by_hand(base):
    jsonl(base / "mood" / "validation.jsonl", rows(12, 200))
    jsonl(
        base / "mood" / "train.jsonl", [r for r in rows(90) if r["label"] != "flat"] + rows(6, 300)
    )
    jsonl(base / "mood" / "test.jsonl", [r for r in rows(30, 90) if "1" in r["text"]])
    data = Data(base / "cache", "test")
    train, test = (Counter(r.label for r in task().labelled().rows(s)) for s in ("train", "test"))
    often = max(sorted(train), key=lambda k: train[k])
    total, N = sum(train.values()) + 3, sum(test.values())
    found = task().baselines(data)
    f1 = 2 * test[often] / (test[often] + N) / 3
    loss = -sum(n * math.log((train[k] + 1) / total) for k, n in test.items()) / N
    want = {"accuracy": test[often] / N, "macro_f1": f1, "commonest": 1.0, "loss": loss}
    assert found["majority"] == pytest.approx(want)
    assert found["uniform"] == pytest.approx({"accuracy": 1 / 3, "loss": math.log(3)})
    slices = task().baseline_slices(data, ["class"])["majority"]
    assert {k: v["accuracy"] for k, v in slices.items()} == {
        f"class={k}": float(k == often) for k in MOODS
    }


# ── trained ─────────────────────────────────────────────────────────────────────────────────


def specified(mask: Any = None, **changes: Any) -> Any:
    model = presets.gpt2(
        width=32, layers=2, heads=4, mask=mask or masks.full(), read_out="classes",
        position=positions.learned(length=None),
    )  # fmt: skip
    return spec.resolve(
        spec.Spec(
            model=model, task=task(**{"length": 32, **changes}), optim=optim.adamw(lr=1e-2),
            schedule=schedules.constant(), steps=60, rows=24, init={"every": init.normal(std=0.1)},
        )
    )  # fmt: skip


def judged(resolved: Any, params: Any, base: Path, shown: int = 0, most: int | None = None) -> Any:
    setting = Setting("id", "key", resolved, "test", most, ("class", "cut"), shown=shown)
    return evaluate(params, [resolved], [1], setting, Data(base / "cache"), Settings())[0]


@pytest.mark.parametrize("mask", ["full", "causal"])
def test_padding_never_changes_what_a_text_gives(base, mask):
    """Longer rows of the same texts: the same answers."""
    net = make_net([specified(getattr(masks, mask)(), length=64)], "cpu", "sdpa")
    p = net.initial([1])
    out = {}
    for length in (40, 64):
        batch = source(base, "test", length=length).examples(0, 30)
        assert batch["valid"].sum(1).max() < 40, "no text is cut"
        stacked = {k: t[None] for k, t in batch.items()}
        outputs = net(p, stacked)
        out[length] = task().score(outputs, stacked)
        stacked["inputs"] = torch.where(stacked["valid"], stacked["inputs"], 77)
        assert torch.equal(net(p, stacked)[stacked["valid"]], outputs[stacked["valid"]])
    torch.testing.assert_close(out[40]["loss"][0], out[64]["loss"][0])


@pytest.mark.parametrize(("mask", "read"), [("full", "last"), ("causal", "last"), ("full", "mean")])
def test_what_one_word_tells_is_learned(base, mask, read):
    resolved = specified(getattr(masks, mask)(), read=read)
    trainer = trained([resolved], [1], Data(base / "cache"))
    record = judged(resolved, trainer.params, base, shown=30)
    found = {name: v["value"] for name, v in record["metrics"].items()}
    assert found["accuracy"] == found["macro_f1"] == 1
    assert found["loss"] < 0.1
    assert found["commonest"] == pytest.approx(1 / 3)
    assert record["slices"]["class=sad"]["macro_f1"]["value"] == 1
    assert set(record["slices"]) >= {"class=sad", "class=glad", "class=flat", "cut=no"}
    assert record["baselines"]["majority"]["accuracy"] == pytest.approx(1 / 3)
    assert record["baseline_slices"]["uniform"]["class=sad"]["accuracy"] == pytest.approx(1 / 3)
    assert all(row["said"] == row["truth"] for row in record["shown"])
    assert record["shown"][0]["text"].startswith("no ")
    few = judged(resolved, trainer.params, base, most=5)
    assert few["realised"]["texts"] == 5
    assert few["metrics"]["macro_f1"]["count"] == pytest.approx(5, 1e-12)
    assert few["metrics"]["macro_f1"]["value"] == 1


def test_the_model_s_classes_are_the_task_s(base):
    resolved = specified()
    assert resolved.model.classes == 3
    assert dump(spec.load(dump(resolved))) == dump(resolved)
    with pytest.raises(SpecError, match=r'model.read_out: "lm", but the task asks for 3 classes'):
        spec.resolve(spec.patch(resolved, "model.read_out", "lm"))
    with pytest.raises(SpecError, match="the model tells 4 classes apart, the task has 3"):
        spec.resolve(spec.patch(resolved, "model.classes", 4))
    with pytest.raises(SpecError, match='"classes", but the task asks for no classes'):
        spec.resolve(spec.patch(resolved, "task", tasks.copying(span=4)))


# ── errors ──────────────────────────────────────────────────────────────────────────────────

GOOD = rows(20)


@pytest.mark.parametrize(
    ("test", "fields", "said"),
    [
        ([{"text": "a", "label": "odd"}], {}, r"test.jsonl:1 \(test\) is 'odd', which is no class"),
        ([*GOOD, {"text": "a"}], {}, r"test.jsonl:21: no column 'label'"),
        ([*GOOD, {"label": "sad"}], {}, r"test.jsonl:21: no column 'text'"),
        ([{"text": " ", "label": "sad"}], {}, r"test.jsonl:1: 'text' is an empty text"),
        ([{"text": None, "label": "sad"}], {}, r"jsonl:1: 'text' holds None, which is no text"),
        ([{"text": "a", "label": None}], {}, r"'label' holds None, which is no label"),
        ([{"text": "a", "label": 0.5}], {}, r"'label' holds 0.5, which is no label"),
        ([], {}, r"the test split has no rows"),
        (GOOD, {"pair": "txet"}, r"no column 'txet'; did you mean 'text'\?"),
        (GOOD, {"path": "none/{split}.jsonl"}, r"classes.path: no file .*none/train.jsonl"),
        (GOOD, {"path": "mood/train.jsonl"}, r"is one file; give one for each split"),
        (GOOD, {"path": {"train": "mood/train.jsonl", "dev": "x"}}, r"no split 'dev'"),
        (GOOD, {"path": {"train": "mood/train.jsonl"}}, r"classes.path: no test split"),
        (GOOD, {"path": {"train": "a.jsonl", "test": "b.jsonl"}}, r"path \(train\): no file"),
        (GOOD, {"labels": ["sad", "sad"]}, r"classes.labels: two different ones at least"),
        (GOOD, {"labels": ["sad", "glad"]}, r"is 'flat', which is no class .*: sad, glad"),
        (GOOD, {"tokenizer": tokenizers.ids(vocab=9)}, r"do not fit"),
    ],
)  # fmt: skip
def test_errors_are_one_line(base, test, fields, said):
    jsonl(base / "mood" / "test.jsonl", test)

    def planned_and_opened() -> None:
        task(**fields).io()
        source(base, "test", **fields)

    with pytest.raises(SpecError, match=said) as error:
        planned_and_opened()
    assert "\n" not in str(error.value)


def test_named_classes_need_no_text_to_plan_or_to_read_results(base):
    named = {"path": "gone/{split}.jsonl", "labels": ["sad", "glad"]}
    assert specified(**named).model.classes == 2
    with pytest.raises(SpecError, match=r"classes.path: no file .*gone/train.jsonl"):
        task(**named).fingerprints()


def test_settings_that_nothing_reads_are_noticed(base):
    """Those of pairs, of datasets, and the share for validation where such a split is given."""
    jsonl(base / "mood" / "validation.jsonl", rows(12, 200))
    one = specified(held=0.3, config="x", separator="|")
    with reads.Reads(one) as seen:
        one.task.io()
        one.task.fingerprints()
    assert all(seen.unread(f"task.{f}") for f in ("held", "config", "separator"))
    assert not any(seen.unread(f"task.{f}") for f in ("path", "text", "label"))


def test_a_stack_is_as_its_trials_alone(base):
    one = specified()
    stack = trained([one, one], [1, 2], Data(base / "cache"))
    for e, seed in enumerate((1, 2)):
        alone = trained([one], [seed], Data(base / "cache"))
        assert alone.curve(0)["loss"] == stack.curve(e)["loss"]
        assert all(torch.equal(t[0], stack.params[k][e]) for k, t in alone.params.items())


def test_too_small_a_share_for_validation_is_an_error(base):
    with pytest.raises(SpecError, match=r"classes.held: of 90 training texts .* for validation"):
        source(base, "validation", held=1e-6)


def test_it_is_a_part_like_others():
    assert parts.get("tasks", "classes").__part__ == "classes"

"""Samples of parallel texts: what is trained, evaluated and recorded.  (A9), (A17) … are
acceptance checks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from paribus import corpora, masks, parts, positions
from paribus.engine import evaluate as judging
from paribus.engine import packing
from paribus.engine.evaluate import Setting, evaluate
from paribus.engine.members import Member
from paribus.engine.net import make_net
from paribus.engine.ranks import ALONE, Ranks
from paribus.engine.train import Trainer
from paribus.engine.training import realised
from paribus.errors import Refused, SpecError
from paribus.spec import Spec
from paribus.text.data import Data
from tests.engine import several, tiny
from tests.nn import oracle
from tests.tasks.parallel import branches, documents, held, params_of, spec, stacked
from tests.text.helpers import jsonl

pytestmark = pytest.mark.usefixtures("texts")

# ── A9, A19 ─────────────────────────────────────────────────────────────────────────────────


def judge(
    s: Spec, data: Data, p: Any = None, ranks: Ranks = ALONE, **changes: Any
) -> dict[str, Any]:
    fields = {"id": "c", "key": "lm", "spec": s, "split": "test", "examples": None, "by": ()}
    setting = Setting(**{**fields, **changes})
    params = params_of(s)[1] if p is None else p
    found = evaluate(params, [s], [0], setting, data, tiny.Settings(), ranks=ranks)
    return found[0] if found else {}  # a follower has none


def test_evaluation_is_weighted_by_tokens(data):
    """A19: the sum of losses over the number of targets, by the oracle's model; not a mean of
    means."""
    s = spec()
    p = params_of(s)[1]
    own = {k: t[0].numpy() for k, t in p.items()}
    source = s.task.open(data.bind("test"), "cpu")
    every, means = [], []
    for texts in held(source, source.chosen(None, range(source.size))):
        tokens = oracle.layout([len(t) for t in texts])
        ids = [texts[t.text][t.order] for t in tokens]
        logits = oracle.forward(
            own, ids, oracle.allowed(tokens), oracle.angles(tokens, 16, ratio=0.5),
            heads=2, kv_heads=1,
        )  # fmt: skip
        nats = oracle.losses(logits, oracle.labels(tokens, texts))
        every.append(nats)
        means.append(nats.mean())
    found = judge(s, data, p)["metrics"]
    want = np.concatenate(every)
    assert found["loss"]["count"] == len(want)
    assert found["loss"]["value"] == pytest.approx(want.mean(), abs=1e-10)
    assert abs(np.mean(means) - want.mean()) > 1e-4, "or the test shows nothing"
    assert found["ppl"]["value"] == pytest.approx(np.exp(want.mean()), rel=1e-9)


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_evaluation_does_not_depend_on_its_batch_and_ranks(precision, data, monkeypatch):
    """A19: 1, 2 or 4 rows a pass; totals and every item to 1e-6.  Two ranks: the same bits."""
    s = spec(branches(branches=5), precision=precision)
    length = s.task.io().length

    def each(ranks: Ranks) -> dict[int, dict[str, Any]]:
        out = {}
        for rows in (1, 2, 4):
            monkeypatch.setattr(judging, "TOKENS", rows * length)
            out[rows] = judge(s, data, ranks=ranks)
        return out

    found = each(ALONE)
    codes, (divided, _) = several.together(each)
    assert codes == [0, 0]
    for rows in (1, 2, 4):
        assert found[rows]["engine"]["micro_batch"] == rows
        assert divided[rows]["metrics"] == found[rows]["metrics"]
        assert divided[rows]["items"] == found[rows]["items"]
        assert divided[rows]["realised"]["list"] == found[rows]["realised"]["list"]
    for rows in (2, 4):
        for metric in ("loss", "bpb", "ppl"):
            a, b = (found[r]["metrics"][metric]["value"] for r in (1, rows))
            assert a == pytest.approx(b, rel=1e-6)
        assert found[rows]["realised"] == found[1]["realised"]


@pytest.mark.parametrize("cut", ["split", "truncate", "packed"])
def test_every_number_of_branches_scores_the_same_texts(cut, data):
    """A19: one list, by its hash; as many branches as were asked for, by the histogram; as many
    targets."""
    told, counted = {}, {}
    for number in (1, 2, 3, 4, 6, 8, 12, 24, 5, 16):
        s = spec(branches(branches=number, cut=cut))
        source = s.task.open(data.bind("test"), "cpu")
        told[number] = source.realised(None, range(source.size))
        counted[number] = int((source.examples(0, source.size)["targets"] != -100).sum())
        chosen = source.chosen(None, range(source.size))
        assert sorted(chosen[chosen >= 0].tolist()) == list(range(24))
        whole, rest = divmod(24, number)
        want = {str(number): whole} | ({str(rest): 1} if rest else {})
        assert told[number]["branches"] == want
        assert told[number]["texts"] == 24
    assert len({t["list"] for t in told.values()}) == 1
    assert len(set(counted.values())) == 1
    assert len({t["tokens"] for t in told.values()}) == 1
    assert judge(spec(branches(branches=4, cut=cut)), data)["realised"] == told[4]


def test_the_list_is_named_by_what_was_scored(data):
    """A19: another list, fewer examples or another split has another hash."""

    def name(split: str = "test", rows: int | None = None, **how: Any) -> str:
        source = branches(branches=2, **how).open(data.bind(split), "cpu")
        return source.realised(None, range(rows or source.size))["list"]

    names = [name(), name(eval_texts=22), name(cut="truncate"), name("validation"), name(rows=5)]
    assert len(set(names)) == len(names)
    one = branches(branches=1).open(data.bind("test"), "cpu")
    assert one.realised(None, range(10))["list"] == name(rows=5), "the same ten texts"


@pytest.mark.parametrize("number", [5, 7, 16])
def test_a_smaller_last_sample_is_padded(number, data):
    """A19: also where all texts are full: nothing reads what is no text."""
    s = spec(branches(branches=number, cut="packed", length=16))
    isolated = spec(
        s.task, **{"model.position": positions.rope2d(residual="time"),
                   "model.mask": masks.branch(reads="isolated")},
    )  # fmt: skip
    source = s.task.open(data.bind("test"), "cpu")
    assert 24 % number
    batch = source.examples(source.size - 1, source.size)
    used = 16 * (24 % number)
    assert batch["valid"].sum() == used < batch["inputs"].numel()
    alone = spec(branches(branches=1, cut="packed", length=16), **{
        "model.position": positions.rope2d(residual="time"),
        "model.mask": masks.branch(reads="isolated"),
    })  # fmt: skip
    p = params_of(s)[1]
    a, b = (judge(x, data, p)["metrics"]["loss"] for x in (isolated, alone))
    assert a["count"] == b["count"]
    assert a["value"] == pytest.approx(b["value"], abs=1e-10)


def test_isolated_branches_lose_what_one_branch_loses(data):
    """A9: the trivial control: evaluated at any number of branches the loss stays; read columnar
    it does not."""
    found: dict[str, list[float]] = {}
    for reads in ("isolated", "columnar"):
        for number in (1, 2, 4, 8):
            changes = {
                "model.position": positions.rope2d(ratio=0.5, residual="time"),
                "model.mask": masks.branch(reads=reads),
            }
            s = spec(branches(branches=number), **changes)
            found.setdefault(reads, []).append(judge(s, data)["metrics"]["loss"]["value"])
    assert found["isolated"] == pytest.approx([found["isolated"][0]] * 4, abs=1e-10)
    assert found["columnar"][0] == pytest.approx(found["isolated"][0], abs=1e-10)
    assert min(abs(x - found["columnar"][0]) for x in found["columnar"][1:]) > 1e-3


def test_neighbours_of_a_sample_come_from_anywhere(data):
    """Pieces of one document are no neighbours by rule: a columnar mask would read the one from
    the other, as in training, where texts are shuffled, it does not."""
    source = branches(length=8, branches=4, eval_texts=60).open(data.bind("test"), "cpu")
    document = source.tokens.doc_of(source.texts.starts)
    rows = source.chosen(None, range(source.size))
    near = sum(len(set(document[r].tolist())) < len(r) for r in rows)
    held_ = Counter(document[:60].tolist())
    assert max(held_.values()) >= 4, "or the test shows nothing"
    assert near < len(rows) / 2


def test_trivial_baselines_are_of_the_targets_that_are_scored(data):
    """Unigram and bigram counts of the training split, on just the targets of the examples."""
    for how in ({}, {"main": 10}, {"answer_offset": 5}, {"pad_to": 40}, {"cut": "packed"}):
        task = branches(**how)
        source = task.open(data.bind("test"), "cpu")
        batch = source.examples(0, source.size)
        at = batch["targets"] != -100
        before, target = batch["inputs"][at].numpy(), batch["targets"][at].numpy()
        train = np.asarray(data.tokens(task.corpus, task.tokenizer).ids).astype(int)
        one = np.bincount(train, minlength=257) + 1.0
        two = np.ones((257, 257))
        np.add.at(two, (train[:-1], train[1:]), 1)
        found = task.baselines(data.bind("test"))
        want = -np.log(one[target] / one.sum()).mean()
        assert found["unigram"]["loss"] == pytest.approx(want, rel=1e-12)
        want = -np.log(two[before, target] / two.sum(1)[before]).mean()
        assert found["bigram"]["loss"] == pytest.approx(want, rel=1e-12)


# ── packed rows ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("reads", ["columnar", "isolated", "prefix"])
@pytest.mark.parametrize("e", [1, 2])
def test_packed_rows_lose_what_padded_ones_do(reads, e, data):
    """The tokens of a batch end to end through the flex kernel, against padded rows and a dense
    mask: equal losses, equal targets, equal tokens (float64)."""
    s = spec(branches(branches=(1, 5), main=6), **{"model.mask": masks.branch(reads=reads)})
    dense, flex = (make_net([s] * e, "cpu", kernel) for kernel in ("sdpa", "flex"))
    p = dense.initial(list(range(e)))
    source = s.task.open(data, "cpu")
    each = [source.batch(seed, 0, range(5)) for seed in range(e)]
    batch = {k: torch.stack([b[k] for b in each]) for k in each[0]}
    assert packing.worth(batch, s.task.io())
    packed = packing.pack(batch)
    n = packed["inputs"].shape[2]
    longest = int(batch["valid"].sum((1, 2)).max())
    assert packed["inputs"].shape == (e, 1, n)
    assert longest <= n < longest + 128
    assert torch.equal(packed["valid"].sum((1, 2)), batch["valid"].sum((1, 2)))
    for i in range(e):
        for name in ("inputs", "targets", "pos.branch", "pos.time", "pos.main"):
            own = packed[name][i][packed["valid"][i]]
            assert torch.equal(own, batch[name][i][batch["valid"][i]]), name
        each = batch["valid"][i].sum(1).tolist()
        for name in ("pos.index", "pos.token"):  # of the row: what is absolute stays so
            own = packed[name][i][packed["valid"][i]].tolist()
            assert own == [place for n in each for place in range(n)]
    with torch.no_grad():
        outs = [net(p, b, ready=net.prepare(b)) for net, b in ((dense, batch), (flex, packed))]
    (a, m), (b, n_) = (s.task.loss(o, x) for o, x in zip(outs, (batch, packed), strict=True))
    assert torch.equal(m, n_)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-9)
    for i in range(e):
        own = outs[1][i][packed["valid"][i]]
        torch.testing.assert_close(own, outs[0][i][batch["valid"][i]], rtol=1e-9, atol=1e-11)
    assert outs[1].isfinite().all()


def test_packing_is_for_rows_of_tokens_with_padding(data):
    task = branches(branches=(1, 5))
    batch, io = stacked(task.open(data, "cpu").batch(1, 0, range(5))), task.io()
    assert packing.worth(batch, io)
    assert not packing.worth({k: t for k, t in batch.items() if k != "valid"}, io)
    assert not packing.worth({**batch, "valid": torch.ones_like(batch["valid"])}, io)
    assert not packing.worth({**batch, "label": torch.zeros(1, 5)}, io), "goes by row"
    # Where the task knows the share, one batch does not decide.
    known = io._replace(tokens=0.9 * io.length, ragged=False)
    assert not packing.worth(batch, known)
    assert packing.worth(batch, known._replace(ragged=True)), "at most so many, it says"


# ── A17: accumulation ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("micro", [1, 2, 3])
def test_accumulation_is_the_whole_batch(micro, data):
    """A17: rows of unequal numbers of targets in pieces give the whole batch's losses, rates and
    weights (1e-5 was asked for; float64 keeps 1e-9)."""

    def train(micro: int | None) -> tuple[dict[str, list[float]], Member]:
        m = tiny.member(1, spec(branches(branches=(1, 5)), rows=6, steps=5))
        trainer = Trainer([m], tiny.Settings(micro=micro), data)
        trainer.run()
        return trainer.curve(0), m

    (whole, a), (cut, b) = train(None), train(micro)
    counts = [
        int((branches(branches=(1, 5)).open(data, "cpu").batch(1, 0, range(r, r + 1))["targets"]
             != -100).sum()) for r in range(6)
    ]  # fmt: skip
    assert len(set(counts)) > 3, "or the test shows nothing"
    assert cut["loss"] == pytest.approx(whole["loss"], rel=1e-9)
    assert cut["lr"] == whole["lr"]
    for path, t in tiny.result(a)[0].items():
        torch.testing.assert_close(tiny.result(b)[0][path], t, rtol=1e-7, atol=1e-9, msg=path)


@pytest.mark.parametrize("reads", ["columnar", "isolated"])
def test_a_stack_of_arms_gives_the_bits_of_each_alone(reads, data):
    """Arms of one seed share their rows and places, those of another have their own; ratios
    differ inside the stack."""

    def each() -> list[Member]:
        return [
            tiny.member(
                seed,
                spec(branches(branches=(1, 5), offsets=True), rows=3, steps=4,
                     **{"model.position": positions.rope2d(ratio=ratio),
                        "model.mask": masks.branch(reads=reads)}),
            )
            for seed, ratio in ((1, 0.5), (2, 0.5), (1, 1.0), (2, 0.0))
        ]  # fmt: skip

    together = each()
    Trainer(together, tiny.Settings(), data).run()
    for m, alone in zip(together, each(), strict=True):
        Trainer([alone], tiny.Settings(), data).run()
        assert tiny.equal(m, alone)


def test_realised_tokens_are_in_the_record(data):
    """Tokens that training read, padding not among them, and what its rows held."""
    s = spec(branches(branches=(1, 5), pad_to=60), rows=6, steps=3)
    m = tiny.member(1, s)
    trainer = Trainer([m], tiny.Settings(), data)
    trainer.run()
    batch = s.task.open(data, "cpu").batch(1, 0, range(18))
    end = trainer.summary(0)
    assert end["tokens"] == int(batch["valid"].sum())
    assert end["targets"] == int((batch["targets"] != -100).sum())
    (told,) = realised(trainer, 0).values()
    assert told["tokens"] == end["tokens"]
    assert sum(told["branches"].values()) == 18


# ── A25 ─────────────────────────────────────────────────────────────────────────────────────


def test_no_document_is_in_two_splits(data, tmp_path):
    """A25: by content; a document that is in two is refused where samples are opened."""
    task = branches()
    streams = {}
    for split in ("train", "validation", "test"):
        tokens = data.bind(split).tokens(task.corpus, task.tokenizer)
        ends = [*tokens.starts[1:].tolist(), len(tokens.ids)]
        ids = np.asarray(tokens.ids)
        each = zip(tokens.starts.tolist(), ends, strict=True)
        streams[split] = {tuple(ids[a:b].tolist()) for a, b in each}
    assert sum(map(len, streams.values())) == len(documents())
    assert not streams["train"] & streams["test"]
    assert not streams["train"] & streams["validation"]
    assert not streams["validation"] & streams["test"]
    jsonl(tmp_path / "held.jsonl", ["something else entirely", documents()[7]])
    held_out = corpora.files(path="texts.jsonl", test=str(tmp_path / "held.jsonl"))
    for split in ("train", "test"):
        with pytest.raises(SpecError, match="the splits overlap"):
            branches(corpus=held_out).open(data.bind(split), "cpu")


# ── what is said where nothing is left to be learned, or counted ────────────────────────────


def test_a_step_without_a_target_is_refused_and_says_so(data):
    """Not a result: every target is left out."""
    m = tiny.member(1, spec(branches(branches=1, answer_offset=90, length=100)))
    with pytest.raises(Refused, match="hold no target"):
        Trainer([m], tiny.Settings(), data).run()


def test_an_evaluation_without_a_target_is_refused(data):
    task = branches(answer_offset=90, length=100)
    with pytest.raises(SpecError, match="no target is scored"):
        task.baselines(data.bind("test"))


def test_a_budget_of_tokens_needs_rows_that_hold_a_known_number():
    from paribus.study.expand import _budgeted
    from paribus.study.study import equal

    class Asked:
        budget = equal("tokens", 1000)

    asked = parts.changed(spec(branches(branches=4)), {"steps": None})
    with pytest.raises(SpecError, match="known number of tokens"):
        _budgeted(Asked, asked)

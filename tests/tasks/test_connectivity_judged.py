"""Questions about schemas: how answers are scored, what names the columns have, questions written
by hand, and what is refused."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from paribus import init, positions, presets, schedules
from paribus.engine.evaluate import Setting, evaluate
from paribus.engine.net import make_net
from paribus.errors import SpecError
from paribus.spec import InitScheme, Spec
from tests.engine import tiny
from tests.tasks import joins
from tests.tasks.joins import source, task

WIDE = InitScheme(every=init.gpt2(std=0.3))


def spec(**of_task: Any) -> Spec:
    return tiny.spec(
        model=presets.gpt2(
            width=32, layers=2, heads=2, position=positions.learned(length=None),
            read_in="vectors", read_out="scalar",
        ),
        task=task(**of_task),
        init=WIDE,
        schedule=schedules.constant(),
    )  # fmt: skip


def judged(s: Spec, seeds: list[int], **changes: Any) -> tuple[list[dict[str, Any]], np.ndarray]:
    """(a record for each seed, the logits of a pass of its own)."""
    net = make_net([s] * len(seeds), "cpu", "sdpa")
    p = net.initial(seeds)
    fields = {"id": "c", "key": "test", "spec": s, "split": "test", "examples": None, "by": ()}
    setting = Setting(**{**fields, **changes})
    data = joins.DATA
    records = evaluate(p, [s] * len(seeds), seeds, setting, data, tiny.Settings(), {})
    opened, logits = s.task.open(data.bind(setting.split), "cpu"), []
    for e, seed in enumerate(seeds):
        batch = opened.for_trial(opened.examples(0, records[e]["size"]), seed)
        own = {k: t[None] for k, t in batch.items()}
        with torch.no_grad():
            out = make_net([s], "cpu", "reference")({k: t[e : e + 1] for k, t in p.items()}, own)
        logits.append(out[0, :, -1].double().numpy())
    return records, np.stack(logits)


# ── scores ──────────────────────────────────────────────────────────────────────────────────


def by_definition(
    logits: np.ndarray, yes: np.ndarray, there: np.ndarray, among: np.ndarray
) -> dict[str, float]:
    """Scores of the items ``among``."""
    said = logits > 0
    out = {
        "loss": np.mean(np.logaddexp(0, np.where(yes, -logits, logits))[among]),
        "accuracy": np.mean((said == yes)[among]),
        "agreement": np.mean((said == there)[among]),
    }
    if (among & yes).any():
        out["recall"] = np.mean(said[among & yes])
    if (among & ~yes).any():
        out["specificity"] = np.mean(~said[among & ~yes])
    if "recall" in out and "specificity" in out:
        out["balanced_accuracy"] = (out["recall"] + out["specificity"]) / 2
        out["auc"] = joins.auc(logits[among & yes], logits[among & ~yes])
    return out


@pytest.mark.parametrize("examples", [None, 130])
def test_scores_are_what_their_names_say(examples):
    """Of all questions, of the first of them, and of slices, for each trial of a stack."""
    s = spec(eval_examples=400)
    by = ("hops", "present")
    records, logits = judged(s, [1, 2], examples=examples, by=by)
    n = examples or 400
    every = joins.questions(source(eval_examples=n).examples(0, n)["ids"], 5, 3)
    yes, there = (np.array([f(q) for q in every]) for f in (joins.connected, joins.present))
    label = {"hops": np.array([joins.hops(q) for q in every]),
             "present": np.where(there, "both", "no")}  # fmt: skip
    assert len(logits) == len(records) == 2
    for record, own in zip(records, logits, strict=True):
        assert 0 < (own > 0).mean() < 1, "or the test shows little"
        asked = {"": np.ones(n, bool)}
        asked |= {f"{b}={v}": label[b] == v for b in by for v in sorted(set(label[b]))}
        found = {"": record["metrics"], **record["slices"]}
        assert found.keys() == asked.keys()
        for name, among in asked.items():
            want = by_definition(own, yes, there, among)
            told = {k: v["value"] for k, v in found[name].items()}
            assert told == pytest.approx(want, abs=1e-6), name
        assert record["baselines"]["majority"]["accuracy"] == task(
            eval_examples=400
        ).baselines(joins.DATA.bind("test"))["majority"]["accuracy"]  # fmt: skip
    whole = [r["metrics"]["auc"]["value"] for r in records]
    for value, own in zip(whole, logits, strict=True):
        pairs = stats.mannwhitneyu(own[yes], own[~yes]).statistic
        assert value == pytest.approx(pairs / yes.sum() / (~yes).sum(), abs=1e-6)
    assert whole[0] != whole[1]


def test_the_balanced_accuracy_of_all_is_the_mean_of_the_two_rates():
    (record,), _ = judged(spec(eval_examples=400), [3])
    found = {k: v["value"] for k, v in record["metrics"].items()}
    assert found["balanced_accuracy"] == pytest.approx(
        (found["recall"] + found["specificity"]) / 2, abs=1e-12
    )


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_equal_logits_count_as_half(levels):
    rng = np.random.default_rng(levels)
    yes, there = rng.random(300) < 0.3, rng.random(300) < 0.5
    logits = rng.integers(0, levels, (2, 300)) / levels - 0.4
    batch = {"targets": torch.from_numpy(yes).float().expand(2, -1),
             "present": torch.from_numpy(there).expand(2, -1)}  # fmt: skip
    part = task()
    outputs = torch.from_numpy(logits)[..., None].expand(2, 300, 23)
    items = part.score(outputs, batch)
    items |= part.whole(items)
    for e in range(2):
        want = by_definition(logits[e], yes, there, np.ones(300, bool))
        for name, value in want.items():
            total, count = (t[e].sum() for t in items[name])
            assert float(total / count) == pytest.approx(value, abs=1e-12), name


def test_one_answer_alone_has_no_balanced_scores():
    part = task()
    for targets in (torch.zeros(1, 9), torch.ones(1, 9)):
        batch = {"targets": targets, "present": torch.ones(1, 9, dtype=torch.bool)}
        items = part.score(torch.randn(1, 9, 23), batch)
        assert part.whole(items) == {}
        assert part.metrics.keys() - items.keys() == {"balanced_accuracy", "auc"}


def test_a_rule_beside_its_baseline():
    """What answers yes where both columns are there has the scores that stand as "membership"."""
    for mode in ("published", "both", "balanced"):
        part = task(mode=mode, eval_examples=600)
        batch = source(mode=mode, eval_examples=600).examples(0, 600)
        own = {k: t[None] for k, t in batch.items()}
        logits = torch.where(own["present"], 1.0, -1.0)[..., None].expand(1, 600, 23)
        items = part.score(logits, own)
        items |= part.whole(items)
        told = part.baselines(joins.DATA.bind("test"))["membership"]
        for name, value in told.items():
            total, count = (t.sum() for t in items[name])
            assert float(total / count) == pytest.approx(value, abs=1e-12), (mode, name)
        assert items["agreement"][0].mean() == 1


def test_the_loss_is_of_the_last_token():
    part = task()
    batch = {k: t[None] for k, t in source("train", examples=64).batch(1, 0, range(8)).items()}
    outputs = torch.randn(1, 8, 23, generator=torch.Generator().manual_seed(1))
    total, count = part.loss(outputs, batch)
    own, yes = outputs[0, :, -1].double().numpy(), batch["targets"][0].numpy() > 0
    assert float(total) == pytest.approx(np.logaddexp(0, np.where(yes, -own, own)).sum(), rel=1e-6)
    assert float(count) == 8


# ── names ───────────────────────────────────────────────────────────────────────────────────


def vectors(batch: dict[str, torch.Tensor]) -> list[dict[int, tuple[float, ...]]]:
    """Each row's vector of each id; one id has one vector in a row."""
    out = []
    for ids, inputs in zip(batch["ids"].tolist(), batch["inputs"].tolist(), strict=True):
        own: dict[int, tuple[float, ...]] = {}
        for i, x in zip(ids, inputs, strict=True):
            assert own.setdefault(i, tuple(x)) == tuple(x)
        assert set(own.pop(20)) == {0.0}, "the separator"
        out.append(own)
    return out


def merged(rows: list[dict[int, tuple[float, ...]]]) -> dict[int, tuple[float, ...]]:
    """The vectors of all rows, which agree."""
    out: dict[int, tuple[float, ...]] = {}
    for own in rows:
        for i, x in own.items():
            assert out.setdefault(i, x) == x
    return out


def agree(a: dict[int, Any], b: dict[int, Any]) -> bool:
    both = a.keys() & b.keys()
    assert both
    same = [a[i] == b[i] for i in both]
    assert all(same) or not any(same)
    return all(same)


@pytest.mark.parametrize("examples", [64, None])
@pytest.mark.parametrize("names", ["run", "fixed"])
def test_names_of_a_run_and_fixed_names(names, examples):
    """One vector for each id in all rows of all steps and in what the trial is tested on; those of
    another seed are others, unless they are fixed."""
    train, test = (source(split, names=names, examples=examples) for split in ("train", "test"))
    own = {seed: merged(vectors(train.batch(seed, 0, range(40)))) for seed in (1, 2)}
    later = merged(vectors(train.batch(1, 9, range(360, 400))))
    assert agree(own[1], later)
    assert agree(own[1], own[2]) == (names == "fixed")
    for seed in (1, 2):
        tested = test.for_trial(test.examples(0, 60), seed)
        assert agree(own[seed], merged(vectors(tested)))
        assert torch.equal(tested["ids"], test.examples(0, 60)["ids"])
    moved = source("train", names=names, examples=examples, data_seed=7).batch(1, 0, range(40))
    assert agree(own[1], merged(vectors(moved))) == (names == "run")


def test_names_of_prompts():
    """Each row has vectors of its own, in training and in tests, and no seed changes a test."""
    train, test = source("train", names="prompt", examples=8), source(names="prompt")
    for batch in (train.batch(1, 0, range(30)), test.examples(0, 30)):
        rows = vectors(batch)
        assert not any(agree(a, b) for a, b in pairwise(rows)
                       if a.keys() & b.keys())  # fmt: skip
    assert not torch.equal(
        train.batch(1, 0, range(9))["inputs"], train.batch(2, 0, range(9))["inputs"]
    )
    batch = test.examples(5, 9)
    assert torch.equal(test.for_trial(batch, 3)["inputs"], batch["inputs"])
    assert torch.equal(test.examples(0, 30)["inputs"][5:9], batch["inputs"])
    assert torch.equal(source(names="prompt").examples(5, 9)["inputs"], batch["inputs"])
    held = source("train", names="prompt", examples=8).examples(0, 8)["inputs"]
    assert not torch.equal(held[:4], test.examples(0, 4)["inputs"])


def test_a_trial_is_tested_with_its_own_names():
    """In a stack as alone; and the logits are those of its own vectors (judged compares them)."""
    s = spec(eval_examples=300)
    together, _ = judged(s, [1, 2])
    for seed, record in zip((1, 2), together, strict=True):
        net, p = make_net([s], "cpu", "sdpa"), None
        p = net.initial([seed])
        setting = Setting("c", "test", s, "test", None, ())
        (alone,) = evaluate(p, [s], [seed], setting, joins.DATA, tiny.Settings())
        assert alone["metrics"] == record["metrics"]
        (other,) = evaluate(p, [s], [seed + 5], setting, joins.DATA, tiny.Settings())
        assert other["metrics"]["loss"] != alone["metrics"]["loss"]
        assert other["realised"] == alone["realised"], "the questions are the same"


# ── by hand ─────────────────────────────────────────────────────────────────────────────────

HAND = [
    {"tables": {"pets": ["id", "name", "owner"], "people": ["owner", "city", "age"],
                "places": ["city", "x", "y"]}, "asked": ["name", "x"]},
    {"tables": {"a": ["i", "j", "i"], "b": ["k", "l", "m"], "c": ["m", "n", "o"]},
     "asked": ["i", "l"]},
    {"tables": [[1, 2, 3], [4, 5, 6], [3, 4, 9]], "asked": [7, 1]},
    {"tables": [[1, 2, 3], [4, 5, 6], [3, 4, 9]], "asked": [2, 2]},
]  # fmt: skip


def written(folder, told, **more):
    (folder / "asked.json").write_text(told if isinstance(told, str) else json.dumps(told))
    return source(V=3, schemas=str(folder / "asked.json"), **more)


def test_questions_written_by_hand(tmp_path):
    found = written(tmp_path, HAND, examples=64)
    assert found.size == 4
    batch = found.examples(0, 4)
    told = joins.questions(batch["ids"], 3, 3)
    for q, hand in zip(told, HAND, strict=True):
        tables = hand["tables"]
        each = list(tables.values()) if isinstance(tables, dict) else tables
        names = [c for t in each for c in t] + hand["asked"]
        ids = [c for t in q.tables for c in t] + list(q.asked)
        pairs = set(zip(names, ids, strict=True))
        assert len(pairs) == len(set(names)) == len(set(ids)), "one number for each name"
    assert [joins.hops(q) for q in told] == ["2", "unconnected", "absent", "0"]
    assert batch["targets"].tolist() == [1, 0, 0, 1]
    assert found.slices()["hops"].tolist() == ["2", "unconnected", "absent", "0"]
    train = written(tmp_path, HAND).task.open(joins.DATA.bind("train"), "cpu")
    assert torch.equal(train.batch(1, 0, range(5))["ids"],
                       source("train", V=3).batch(1, 0, range(5))["ids"])  # fmt: skip
    named = found.for_trial(batch, 4)["inputs"]
    other = source(V=3, examples=64).for_trial(source(V=3).examples(0, 4), 4)
    table = {i: x for row, v in zip(other["ids"].tolist(), other["inputs"].tolist(), strict=True)
             for i, x in zip(row, v, strict=True)}  # fmt: skip
    for row, v in zip(batch["ids"].tolist(), named.tolist(), strict=True):
        assert all(table.get(i, x) == x for i, x in zip(row, v, strict=True))


def test_a_file_of_questions_is_part_of_what_was_evaluated(tmp_path):
    """Its contents have a fingerprint, and evaluated alone there may be one answer only."""
    a = written(tmp_path, HAND[:1])
    before = a.task.fingerprints()
    told = a.task.baselines(joins.DATA.bind("test"))
    assert told["majority"]["accuracy"] == 1
    assert told["membership"] == {"accuracy": 1.0}
    assert written(tmp_path, HAND[:2]).task.fingerprints() != before
    assert task().fingerprints() == {}
    s = spec(V=3, schemas=str(tmp_path / "asked.json"))
    (record,), _ = judged(s, [1], by=("hops",))
    assert record["size"] == 2
    assert set(record["slices"]) == {"hops=2", "hops=unconnected"}


WRONG = {
    "no JSON": "{",
    "write a list": "{}",
    "question 2: it has": [HAND[0], {"tables": {}}],
    "question 1: it has": ["name"],
    "3 tables of 3 columns": [{"tables": {"a": ["x", "y", "z"]}, "asked": ["x", "y"]}],
    "3 tables of 3 columns; ": [{"tables": [["x"], ["y"], ["z"]], "asked": ["x", "y"]}],
    "tables of 3 columns": [{"tables": [1, 2, 3], "asked": ["x", "y"]}],
    "of 3 columns": [{"tables": ["xyz", "abc", "def"], "asked": ["x", "y"]}],
    "two columns are asked for": [{**HAND[0], "asked": ["x"]}],
    "two columns are": [{**HAND[0], "asked": "xy"}],
    "11 different columns": [{"tables": ["abc", "def", "ghi"], "asked": ["x", "y"]}],
    "question 1: ": [{**HAND[0], "asked": [["x"], "y"]}],
}


@pytest.mark.parametrize("said", WRONG)
def test_what_is_wrong_with_a_file_is_said(said, tmp_path):
    told = WRONG[said]
    if said == "11 different columns":
        told = [{"tables": [list(t) for t in told[0]["tables"]], "asked": told[0]["asked"]}]
    with pytest.raises(SpecError, match=said):
        written(tmp_path, told).examples(0, 1)


def test_a_file_that_is_not_there():
    with pytest.raises(SpecError, match="schemas"):
        source(V=3, schemas="nowhere.json").examples(0, 1)


# ── refusals ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"dims": 5, "width": 4}, "width"),
        ({"hops": (1.0,)}, "hops"),
        ({"mode": "both", "hops": (1.0,)}, "hops"),
        ({"mode": "balanced", "V": 1}, "V"),
        ({"mode": "balanced", "hops": (0.0, 0.0)}, "hops"),
        ({"mode": "balanced", "V": 3, "hops": (1, 1, 1)}, "one more must be apart"),
        ({"V": 9000}, "too many"),
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(how, said):
    with pytest.raises(SpecError, match=said):
        task(**how)


def test_fewer_examples_than_a_step_has_rows_are_refused():
    """§6.5: the document's last grid died of it, run by run."""
    with pytest.raises(SpecError, match="32 examples are fewer than the 64 rows"):
        spec_of_rows(task(examples=32, batch=64))
    with pytest.raises(SpecError, match="32 examples are fewer than the 64 rows"):
        spec_of_rows(task(examples=32), rows=64)
    assert spec_of_rows(task(examples=64, batch=64)).rows == 64
    assert spec_of_rows(task(examples=None, batch=64)).rows == 64


def spec_of_rows(part: Any, rows: int | None = None) -> Spec:
    return tiny.spec(model=spec().model, task=part, rows=rows)

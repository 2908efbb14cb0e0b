"""What is recorded of the inside of attention: lengths, logits and entropy against the formula, and
their course as a model trains."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from paribus import parts
from paribus.analysis import records
from paribus.engine.settings import Settings
from paribus.engine.worker import Worker
from paribus.nn.inside import NAMES, Tap
from paribus.nn.transformer import Transformer
from paribus.store import Store
from paribus.study import source
from paribus.study.plan import Plan, study_record, work
from paribus.text import paths
from tests.nn.models import model_with, parameters, tokens

norms, masks = parts.Namespace("norms"), parts.Namespace("masks")


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    parts.use_local(None)
    paths.use_base(None)


def looked(model, p, ids):
    tap = Tap()
    out = Transformer(model)(p, ids, tap=tap)
    return tap.values(), out


def test_the_first_layer_is_that_of_the_formula():
    model = model_with(position=None, kv_heads=4)
    p = {k: t.detach() for k, t in parameters(model, [0, 1]).items()}
    ids = tokens([0, 1])
    found, out = looked(model, p, ids)
    assert torch.equal(out, Transformer(model)(p, ids)), "looking changes nothing"
    T = ids.shape[2]
    for e in range(2):
        x = p["embed.tokens"][e][ids[e]].double()
        x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p["blocks.0.norm1.gain"][e]
        q, k = (
            (x @ p[f"blocks.0.attn.{n}"][e].double().T).unflatten(-1, (4, 16)).transpose(1, 2)
            for n in "qk"
        )
        s = q @ k.mT / 4
        s = s.masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), -math.inf)
        w = s.softmax(-1)
        wanted = {
            "query_norm": q.norm(dim=-1).mean(),
            "key_norm": k.norm(dim=-1).mean(),
            "max_logit": s.max(),
            "entropy": torch.special.entr(w).sum(-1).mean(),
        }
        for name in NAMES:
            assert float(found[name][e, 0]) == pytest.approx(float(wanted[name]), rel=1e-5), name


def test_entropy_without_logits_is_that_of_the_keys():
    model = model_with()
    p, ids = parameters(model, [0]), tokens([0], length=9)
    for i in range(2):
        p[f"blocks.{i}.attn.q"] = torch.zeros_like(p[f"blocks.{i}.attn.q"])
    found, _ = looked(model, p, ids)
    wanted = sum(math.log(n) for n in range(1, 10)) / 9
    assert found["entropy"][0].tolist() == pytest.approx([wanted] * 2, rel=1e-6)
    assert found["max_logit"].abs().max() == 0


def test_lengths_are_those_before_a_norm():
    ids, model = tokens([0]), model_with()
    p = parameters(model, [0])
    plain, _ = looked(model, p, ids)
    normed, _ = looked(model_with(k_norm=norms.l2()), p, ids)
    assert float(normed["key_norm"][0, 0]) == float(plain["key_norm"][0, 0])
    assert (normed["max_logit"] < plain["max_logit"])[0, 0]


def test_queries_that_read_nothing_count_for_nothing():
    model = model_with(mask=masks.sliding_window(size=3))
    p, ids = parameters(model, [0]), tokens([0])
    valid = torch.ones(1, *ids.shape[1:], dtype=torch.bool)
    valid[..., :5] = False
    tap = Tap()
    Transformer(model)(p, ids, valid_EBT=valid, tap=tap)
    alone = Tap()
    Transformer(model)(p, ids[..., 5:], tap=alone)
    a, b = tap.values(), alone.values()
    for name in ("max_logit", "entropy"):
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6)


STUDY = """
from paribus import *
norm = Factor("norm", {"none": {}, "key": {"model.k_norm": norms.l2()}})
study = Study("w", "?",
    base=Spec(model=presets.quickstart(width=32), task=tasks.copying(span=8, examples=8),
              optim=optim.adamw(lr=1e-2), schedule=schedules.constant(), rows=4, steps=6),
    factors=[norm], names="{norm}",
    evaluate=[Eval("copy"), Eval("inside", probes.inside(rows=2), every=3, by=("layer",))])
"""


def test_a_study_follows_it(tmp_path: Path) -> None:
    (tmp_path / "w.py").write_text(STUDY)
    plan = Plan(source.load(str(tmp_path / "w.py")).study, Store(tmp_path / "runs"))
    for trial_id, item in plan.unique.items():
        plan.store.declare(trial_id, item.trial.data)
    worker = Worker(work(plan, plan.items, 2, base=tmp_path), Settings())
    worker.say = lambda **_: None  # type: ignore[method-assign]
    assert worker.run() == 0
    record = study_record(Plan(plan.study, plan.store))
    rows = records.rows(plan.store, record)
    at = {(r["variant"], r["slice"]): r["value"] for r in rows if r["metric"] == "key_norm"}
    assert at.keys() == {(v, s) for v in ("none", "key") for s in ("", "layer=0", "layer=1")}
    assert at["none", ""] == pytest.approx((at["none", "layer=0"] + at["none", "layer=1"]) / 2)
    seen = {
        i.trial.variant.name: plan.store.result(t).end["checks"] for t, i in plan.unique.items()
    }
    for checks in seen.values():
        assert [c["step"] for c in checks] == [3, 6]
        assert {f"inside {n}{s}" for n in NAMES for s in ("", " layer=0")} <= checks[0].keys()
    last = seen["none"][-1]
    assert last["inside key_norm layer=1"] == pytest.approx(at["none", "layer=1"], rel=1e-6)

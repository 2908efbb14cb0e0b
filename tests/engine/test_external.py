"""A user's own module: trained whole, unstacked, with everything else ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from paribus import external, parts
from paribus.engine.net import load_external
from paribus.errors import SpecError
from paribus.spec import External
from tests.engine import tiny
from tests.engine.test_train import interrupted

LM = """
import torch
from torch import nn

class LM(nn.Module):
    def __init__(self, width=16, vocab=17):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.mix = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocab)

    def forward(self, ids_BT):
        return self.head(self.mix(self.embed(ids_BT))[0])

class Wrong(LM):
    def forward(self, ids_BT):
        return self.embed(ids_BT)[:, -1]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "mymodel.py").write_text(LM)
    parts.use_local(tmp_path)
    yield
    parts.use_local(None)


def member(target: str = "mymodel:LM") -> tiny.Member:
    return tiny.member(1, model=external(target, width=24))


def test_it_trains_resumes_bit_equal_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    calm, torn = member(), member()
    trainer = tiny.train([calm])
    interrupted([torn], 5)
    tiny.train([torn])
    assert tiny.equal(calm, torn)
    assert torch.equal(torch.get_rng_state(), before)
    assert not trainer.summary(0)["engine"]["paired_init"]
    assert calm.state[0]["param/embed.weight"].shape == (17, 24)


def test_what_runs_is_what_the_file_holds_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after an edit in the same second that keeps the size."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for width in (16, 24, 32):
        (tmp_path / "mymodel.py").write_text(LM.replace("width=16", f"width={width}"))
        assert load_external(External(target="mymodel:LM"))().embed.embedding_dim == width


def test_its_identity_is_its_source() -> None:
    from paribus.spec import used_parts

    found = used_parts(external("mymodel:LM"))
    assert len(found["external.mymodel:LM"]) == 32


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("mymodel:LN", "defines no 'LN'; did you mean 'LM'"),
        ("mymodle:LM", "no module 'mymodle'"),
        ("mymodel", "must read 'package.module:Class'"),
    ],
)
def test_a_wrong_target_is_refused_at_once(target: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        External(target=target)


def test_wrong_outputs_are_named() -> None:
    with pytest.raises(SpecError, match=r"gave \(8, 24\); wanted \(B, T, V\)"):
        tiny.train([member("mymodel:Wrong")])


STUDY = """
from paribus import *
own, ours = external("mymodel:LM", width=24), presets.quickstart(width=32)
model = Factor("model", {"own": own, "ours": ours}, "model")
study = Study("ext", "Does ours beat mine?",
    base=Spec(model=presets.quickstart(width=32), task=tasks.copying(span=8, examples=16),
              optim=optim.adamw(lr=3e-3), schedule=schedules.cosine(), rows=4, steps=4),
    factors=[model], seeds=2, evaluate=[Eval("copy")], names="{model}")
"""


def test_a_study_with_a_users_own_model(tmp_path: Path) -> None:
    from paribus.engine import preflight
    from paribus.store import Store
    from paribus.study import source
    from paribus.study.plan import Plan

    (tmp_path / "ext.py").write_text(STUDY)
    plan = Plan(source.load(str(tmp_path / "ext.py")).study, Store(tmp_path / "runs"))
    found = preflight.run(plan.graphs(), tiny.Settings(), tmp_path)
    assert [f.failed for f in found] == [False, False], found
    assert sorted(map(len, plan.packs(8))) == [1, 1, 2]

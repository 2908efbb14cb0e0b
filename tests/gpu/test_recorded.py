"""Recorded steps on a CUDA device against the steps one by one: the same bits, but for what adds in
any order (the gradient of embedded tokens), whose last bits differ from run to run as it is."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest
import torch

from paribus import corpora, masks, optim, presets, schedules, tasks, tokenizers
from paribus.engine import recorded
from paribus.engine.members import Member, Phase
from paribus.engine.settings import Settings, apply
from paribus.engine.train import Trainer
from paribus.spec import Spec, resolve
from paribus.text.data import Data

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE: not tested")

TEXT = tasks.lm(corpus=corpora.stdlib(), tokenizer=tokenizers.bytes(), length=256)
CASES: dict[str, dict[str, typing.Any]] = {
    "short rows": {"task": tasks.connectivity(V=3, batch=32)},
    "a mask by predicate": {
        "task": TEXT,
        "rows": 4,
        "model": presets.llama(
            width=128, layers=2, heads=4, mask=masks.sliding_window(size=64), vocab=300
        ),
    },
    "a window in short rows": {
        "task": tasks.copying(span=24, symbols=40, examples=64),
        "rows": 8,
        "model": presets.llama(width=64, layers=2, heads=4, mask=masks.sliding_window(size=9)),
    },
    "frozen": {"task": tasks.connectivity(V=3, batch=32), "freeze": ("*.attn.q",), "clip": None},
}


def trained(folder: Path, changes: dict[str, typing.Any], **how: typing.Any) -> Trainer:
    small: dict[str, typing.Any] = {"width": 64, "layers": 2, "heads": 4}
    vectors = presets.gpt2(read_in="vectors", read_out="scalar", **small)
    made: dict[str, typing.Any] = {
        "model": vectors,
        "optim": optim.adamw(lr=1e-3),
        "schedule": schedules.cosine(warmup=2),
        "clip": 0.5,
        "precision": "bf16",
        "steps": 12,
    }
    spec = resolve(Spec(**(made | changes)))
    members = [Member(f"t{i}", f"t{i}", i, [Phase("train", spec, "reset")]) for i in (1, 2)]
    settings = Settings(device="cuda:0", **how)
    apply(settings)
    trainer = Trainer(members, settings, Data(folder))
    trainer.run()
    return trainer


@pytest.mark.parametrize("case", CASES)
def test_the_same_steps(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    with monkeypatch.context() as m:
        m.setattr(recorded, "WARM", 100)
        a = trained(tmp_path, CASES[case])
    b = trained(tmp_path, CASES[case])
    print(a.engine, "|", b.engine)
    assert b.recorded is not None
    assert b.recorded.on
    assert a.recorded is not None
    assert not a.recorded.on
    near = 1e-3 if case.startswith("a ") else 0.0
    for e in (0, 1):
        assert a.curve(e)["loss"] == pytest.approx(b.curve(e)["loss"], rel=near, abs=0)
    if not near:
        assert all(torch.equal(t, b.params[k]) for k, t in a.params.items())


def test_copies_in_the_compute_dtype_change_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same values are cast, sooner: what differs is what the compiler makes of it."""
    from paribus.engine.net import Net

    torch.compiler.reset()
    b = trained(tmp_path, CASES["short rows"])
    torch.compiler.reset()
    with monkeypatch.context() as m:
        m.setattr(Net, "lowered", lambda self: [])
        a = trained(tmp_path, CASES["short rows"])
    for e in (0, 1):
        x, y = (torch.tensor(t.curve(e)["loss"]) for t in (a, b))
        assert (x - y).abs().max() < 5e-3

"""Small trials for the tests of the engine: one thread, a generated task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from paribus import masks, mlps, norms, optim, positions, scales, schedules, tasks
from paribus.engine.members import Member, Phase, Stopped
from paribus.engine.settings import Settings, apply
from paribus.engine.train import Hooks, Trainer
from paribus.spec import Model, Spec, patch, resolve
from paribus.text.data import Data

torch.set_num_threads(1)
__all__ = ["Data", "Hooks", "Member", "Path", "Settings", "Stopped", "apply"]


def model(**changes: Any) -> Model:
    fields: dict[str, Any] = dict(
        width=32,
        layers=2,
        heads=2,
        position=positions.rope(),
        mask=masks.causal(),
        norm=norms.rmsnorm(),
        mlp=mlps.swiglu(hidden=64),
        logit_scale=scales.sqrt_d(),
    )
    return Model(**{**fields, **changes})


def spec(**changes: Any) -> Spec:
    fields: dict[str, Any] = dict(
        model=model(),
        task=tasks.copying(span=8),
        optim=optim.adamw(lr=3e-3),
        schedule=schedules.cosine(warmup=2),
        rows=8,
        steps=12,
    )
    out = Spec(**{**fields, **{k: v for k, v in changes.items() if "." not in k}})
    for path, value in changes.items():
        if "." in path:
            out = patch(out, path, value)
    return resolve(out)


def member(seed: int = 1, *phases: Spec, optims: tuple[str, ...] = (), **changes: Any) -> Member:
    specs = phases or (spec(**changes),)
    kinds = optims or ("reset",) + ("keep",) * (len(specs) - 1)
    named = [Phase(f"p{i}", s, k) for i, (s, k) in enumerate(zip(specs, kinds, strict=True))]
    return Member(f"t{seed}", f"t{seed}", seed, named)


def train(
    members: list[Member], cache: Path = Path("unused"), hooks: Hooks | None = None, **settings: Any
) -> Trainer:
    trainer = Trainer(members, Settings(**settings), Data(cache), hooks or Hooks())
    trainer.run()
    return trainer


def result(m: Member) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and curves of a trained member."""
    assert m.state is not None
    tensors, notes = m.state
    return tensors, notes["curves"]


def equal(a: Member, b: Member) -> bool:
    """Bit-equal weights, optimizer state and curves."""
    (ta, ca), (tb, cb) = result(a), result(b)
    return ca == cb and ta.keys() == tb.keys() and all(torch.equal(ta[k], tb[k]) for k in ta)

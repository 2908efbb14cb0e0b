"""One variant in the foreground: eager, with a debugger where asked; it writes no result."""

from __future__ import annotations

import json
import pdb
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from paribus import spec as specs
from paribus.engine.budget import OutOfMemory
from paribus.engine.hooks import Hooks
from paribus.engine.members import Member, Phase
from paribus.engine.settings import Settings, apply, pick_device
from paribus.engine.train import Trainer
from paribus.errors import ParibusError, SpecError, nearest
from paribus.parts import dump, same
from paribus.text.data import Data


def foreground(trial: Any, options: Namespace, home: Path) -> int:
    """Train a trial with patches and print its loss; nothing is recorded."""
    settings = Settings(device=options.device or pick_device(), compile="off")
    apply(settings)
    if options.steps is not None and options.steps < 1:
        raise SpecError(f"--steps {options.steps}: give at least one")
    changed = {p.name: p.spec for p in trial.variant.phases}
    first = trial.variant.phases[0].spec
    for text in options.patches:
        place, equals, value = text.partition("=")
        if not equals:
            raise SpecError(f"--set {text!r}: write --set path=value")
        phase, _, path = place.rpartition(":")
        if phase and phase not in changed:
            raise SpecError(f"--set {text!r}: no phase {phase!r}; {nearest(phase, changed)}")
        before = specs.at(first, path)
        for name, spec in changed.items():
            # Without a phase: the first, and the later ones that have it from there.
            if name == phase or (not phase and same(dump(specs.at(spec, path)), dump(before))):
                changed[name] = specs.patch(spec, path, _value(value), f"--set {path}")
    phases = []
    for p in trial.variant.phases:
        spec = changed[p.name]
        if options.steps:
            spec = specs.patch(spec, "steps", options.steps)
        phases.append(Phase(p.name, specs.resolve(_unresolved(p.spec, spec)), p.optim))
    member = Member("try", trial.name, trial.seed, phases)
    trainer = Trainer([member], settings, Data(home / "cache"), Hooks(progress=_show))
    try:
        trainer.run()
    except KeyboardInterrupt:
        print(f"stopped at step {trainer.step}")
        return 130
    except OutOfMemory as error:
        raise ParibusError(f"{error}; take fewer or shorter rows (rows, length, pad_to)") from None
    except Exception:
        if options.pdb:
            pdb.post_mortem(sys.exc_info()[2])
        raise
    if member.reason:
        print(f"diverged: {member.reason}")
    ms = 1e3 * trainer.seconds / max(1, trainer.step)
    print(f"{trainer.step} steps, {ms:.1f} ms each; not recorded (paribus run records)")
    return 0


def _unresolved(before: specs.Spec, spec: specs.Spec) -> specs.Spec:
    """A patched width, head count or tokens per step is resolved anew: what followed from it is a
    rule again."""
    if spec.task.rows() is not None:
        spec = specs.patch(spec, "rows", None)
    model = spec.model
    if isinstance(model, specs.Model) and model.head_dim and model.heads:
        was = before.model
        followed = isinstance(was, specs.Model) and was.head_dim == model.head_dim
        followed = followed and was.head_dim * was.heads == was.width  # type: ignore[union-attr, operator]
        if followed and model.head_dim * model.heads != model.width:
            spec = specs.patch(spec, "model.head_dim", None)
        if model.kv_heads and model.heads % model.kv_heads:
            spec = specs.patch(spec, "model.kv_heads", None)
    return spec


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _show(trainer: Trainer) -> None:
    step = trainer.step
    if step in (1, 2, 5, 10) or step % 20 == 0 or step == trainer.total:
        loss = trainer.curves.last("loss")[0]
        lr = trainer.curves.last("lr")[0]
        norm = trainer.curves.last("norm")[0]
        print(f"step {step:6}/{trainer.total} loss {loss:8.4f}  lr {lr:.2e}  norm {norm:7.3f}")

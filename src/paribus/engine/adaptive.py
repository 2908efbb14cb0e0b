"""Schedules that look at losses as a stack trains: what they see, and the factors that follow.

What was seen is part of a checkpoint; everything else follows from it, so a resumed trial decides
as an uninterrupted one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from paribus.engine.evaluate import Setting, evaluate
from paribus.errors import Refused
from paribus.spec import Spec

if TYPE_CHECKING:
    from paribus.engine.train import Trainer


class Adaptive:
    """The schedules of a phase."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.opened: dict[str, Any] = {}
        self.due = [e for e, s in enumerate(trainer.specs) if type(s.schedule).adapts]
        self.more = {e: self._decided(e) for e in self.due}

    def factors(self, local: int) -> list[float]:
        """The factor of each member's rate at step ``local`` of the phase."""
        specs = self.trainer.specs
        factors = [s.schedule.factor(local, s.steps or 1) for s in specs]
        return [f * self.more[e] if e in self.more else f for e, f in enumerate(factors)]

    def look(self) -> None:
        """After a step: whoever's turn it is sees a value, and decides."""
        t = self.trainer
        local = t.step - t.first
        for e in self.due:
            part: Any = t.specs[e].schedule
            warm = part.warm(t.specs[e].steps or 1)
            if not t.alive[e] or local <= warm or (local - warm) % part.every:
                continue
            if part.on == "train":
                value = part.mean(t.curve(e)["loss"][t.first + warm :])
            else:
                value = self._judged(e, part)
            t.watched[e].setdefault(self._phase(e), []).append(value)
            self.more[e] = self._decided(e)

    def _phase(self, e: int) -> str:
        t = self.trainer
        return t.members[e].at(t.first + 1).name

    def _decided(self, e: int) -> float:
        t = self.trainer
        part: Any = t.specs[e].schedule
        found = part.decisions(t.watched[e].get(self._phase(e), []))
        return float(found[-1].factor) if found else 1.0

    def _judged(self, e: int, part: Any) -> float:
        """The loss of held-out rows; every rank finds it by itself."""
        t = self.trainer
        spec: Spec = t.specs[e]
        if "loss" not in spec.task.metrics:
            raise Refused(f'schedules.plateau.on: task {spec.task.name} has no metric "loss"')
        asked = Setting("watched", "watched", spec, "validation", part.examples, ())
        own = {k: p[e : e + 1].detach() for k, p in t.weights().items()}
        with torch.no_grad():
            (record,) = evaluate(
                own, [spec], [t.members[e].seed], asked, t.data, t.settings, self.opened
            )
        value = record["metrics"]["loss"]["value"]
        return float("nan") if value is None else float(value)


def decisions(trainer: Trainer, e: int) -> list[dict[str, Any]]:
    """Every decision of member ``e`` so far, for the record: {"phase", "step" of training, "value",
    "best", "improved", "factor" from then on}."""
    out = []
    first = 0
    for phase in trainer.members[e].phases:
        part: Any = phase.spec.schedule
        found = part.decisions(trainer.watched[e].get(phase.name, [])) if part.adapts else []
        for i, d in enumerate(found):
            step = first + part.warm(phase.steps) + (i + 1) * part.every
            out.append({"phase": phase.name, "step": step, **d._asdict()})
        first += phase.steps
    return out

"""Whether a study's factors have an effect at all: a setting may be read and change nothing, as
what the other pairs turn with where none are left."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import torch

from paribus.engine.members import Member, Phase
from paribus.engine.preflight import shorter
from paribus.engine.settings import Settings
from paribus.engine.train import Trainer
from paribus.parts import dump
from paribus.study.cells import Variant
from paribus.study.expand import Expansion
from paribus.text.data import Data

LOOKS = 64  # at a loss that stays the same, of a schedule that looks at losses


def idle(e: Expansion, settings: Settings, data: Data) -> list[str]:
    """Factors of which no two levels differ in the data, the course of the learning rate, the
    graph of a step, the optimizer's numbers, or the weights after two steps; a control is meant to
    change nothing.  Two steps are taken only where all before them are alike."""
    trained = Trained(e, settings, data)
    out = []
    for f in e.study.factors:
        pairs = [] if f.control else list(apart(e, f.name))
        if not pairs or any(_differ(a, b) for a, b in pairs):
            continue
        if all(trained.equal(a, b) for a, b in pairs):
            out.append(f.name)
    return out


def apart(e: Expansion, factor: str) -> Iterator[tuple[Variant, Variant]]:
    """Pairs of variants that differ in one factor alone; what exists only under one of its levels
    counts as part of that level."""
    below = {factor, *(f.name for f in e.study.factors if f.when and factor in f.when.levels)}
    for a, b in combinations(e.variants, 2):
        moved = {f for f in a.tags if a.tags[f] != b.tags[f]}
        if factor in moved and moved <= below:
            yield a, b


def _differ(a: Variant, b: Variant) -> bool:
    """By what is known without training."""
    if a.pack_key != b.pack_key or a.data != b.data:
        return True
    return course(a) != course(b) or _numbers(a) != _numbers(b)


def course(v: Variant) -> list[Any]:
    """The learning rate at each step of each phase, as far as the schedule decides it; of one that
    looks at losses also what it makes of a loss that stays the same."""
    out: list[Any] = []
    for p in v.phases:
        schedule: Any = p.spec.schedule
        total, lr = p.spec.steps or 1, getattr(p.spec.optim, "lr", None)
        decided = schedule.decisions([1.0] * LOOKS) if schedule.adapts else []
        out.append((lr, [schedule.factor(i, total) for i in range(total)], decided))
    return out


def _numbers(v: Variant) -> list[Any]:
    return [dump(p.spec.optim) for p in v.phases]


class Trained:
    """Weights after two steps of each phase, on the first seed; each variant is trained once."""

    def __init__(self, e: Expansion, settings: Settings, data: Data) -> None:
        self._settings, self._data, self._seed = settings, data, e.trials[0].seed
        self._known: dict[int, dict[str, torch.Tensor]] = {}

    def equal(self, a: Variant, b: Variant) -> bool:
        """To the bit."""
        x, y = self._after(a), self._after(b)
        return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)

    def _after(self, v: Variant) -> dict[str, torch.Tensor]:
        if v.index not in self._known:
            short = [Phase(p.name, shorter(p.spec, self._settings), p.optim) for p in v.phases]
            m = Member("effects", v.name, self._seed, short)
            rows = max(p.spec.rows or 1 for p in short)
            Trainer([m], self._settings, self._data, micro=rows).run()
            state = m.state[0] if m.state else {}
            self._known[v.index] = {k: t for k, t in state.items() if k.startswith("param/")}
        return self._known[v.index]

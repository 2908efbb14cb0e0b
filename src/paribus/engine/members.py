"""Members of a stack: trials, and the trunks that several of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from paribus import spec as specs
from paribus.contracts import Optimizer
from paribus.spec import Spec
from paribus.store import Attempt


@dataclass(frozen=True)
class Phase:
    name: str
    spec: Spec
    optim: str  # "keep" or "reset": what becomes of the optimizer state of the phase before

    @property
    def steps(self) -> int:
        assert self.spec.steps is not None
        return self.spec.steps


@dataclass
class Member:
    """One trial of a stack, or a trunk: the beginning that several trials share.

    Attributes:
        until: the step at which a trunk ends; None: the end of the last phase.
        state: tensors and notes to go on from; None at step 0.
        files: the checkpoint that `state` was read from.
        parent: the trunk that it was forked from.
        reason: why it ended alone, if it did.
    """

    trial: str
    name: str
    seed: int
    phases: list[Phase]
    until: int | None = None
    attempt: Attempt | None = None
    parent: str | None = None
    state: tuple[dict[str, Tensor], dict[str, Any]] | None = None
    reason: str | None = None
    files: Mapping[str, Path] | None = None

    @property
    def step(self) -> int:
        return int(self.state[1]["step"]) if self.state else 0

    def at(self, step: int) -> Phase:
        """The phase that a step (from 1) belongs to."""
        for phase in self.phases:
            if step <= phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]

    @property
    def total(self) -> int:
        """Steps to its end."""
        return self.until or sum(p.steps for p in self.phases)


class Stopped(Exception):
    """Asked to stop; every member has a checkpoint."""


def weights_of(state: Mapping[str, Tensor], optim: Optimizer | None = None) -> dict[str, Tensor]:
    """What is kept of a member's state: the parameters, as its optimizer would have them
    evaluated (None: as they are trained)."""
    params = {k[len("param/") :]: t for k, t in state.items() if k.startswith("param/")}
    if optim is None:
        return params
    held: dict[str, dict[str, Tensor]] = {}
    for k, t in state.items():
        if k.startswith("optim/"):
            _, name, path = k.split("/", 2)
            held.setdefault(name, {})[path] = t
    return dict(optim.weights(params, held))


def member(data: Mapping[str, Any], trial: str, name: str, until: int | None = None) -> Member:
    """A trial's stored spec as a member of a stack."""
    phases = [Phase(p["name"], specs.load(p["spec"]), p["optim"]) for p in data["phases"]]
    return Member(trial, name, int(data["seed"]), phases, until)

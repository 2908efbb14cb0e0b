"""Trunks: beginnings that trials share, trained once; each trial forks from the last checkpoint.

Two trials are equal up to step s where all that a step reads is equal: the seed, the phases and
their order, everything of each phase's spec but its schedule and its number of steps, the factor
of the learning rate at every step, what becomes of the optimizer between phases, and the interval
evaluations.  Data and random streams depend on the seed, the phase's number and the step alone,
never on how many steps are to come; so a fork is bit-equal to training alone.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from paribus import parts
from paribus import spec as specs
from paribus.parts import dump
from paribus.spec import CORE_REVISION, Model, canonical, digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from paribus.study.expand import Trial, Variant

    Factors = NDArray[np.float64]

_Node = tuple[int, int | None, list[int]]

# A trunk costs a claim, a checkpoint and a start of its own: it must save more than that.
SHORTEST = 0.1  # of the steps of the shortest trial that shares it


@dataclass(frozen=True)
class Trunk:
    """A shared beginning, a unit that is trained like a trial.

    Attributes:
        id: hash of ``data``.
        name: how it prints: the name of ``like`` and the step.
        until: global step, counted over all phases, at which it ends.
        parent: id of the trunk that it forks from itself.
        like: the first of the trials that share it; its phases up to ``until`` are trained.
        pack_key: trunks of equal key may stack, as trials of equal pack key may.
        data: what identifies it, as plain data: its spec.json.
    """

    id: str
    name: str
    seed: int
    until: int
    parent: str | None
    like: Trial
    pack_key: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Forest:
    """The trunks of a set of trials.

    Attributes:
        trunks: parents before their children, else in order of the trials.
        parent: trial id -> id of the longest trunk that the trial shares; others are absent.
        saved_steps: steps that all trials and trunks train together fewer than the trials alone.
    """

    trunks: list[Trunk]
    parent: dict[str, str]
    saved_steps: int


def forest(trials: Sequence[Trial], intervals: Callable[[Trial], Sequence[str]]) -> Forest:
    """The shared beginnings of trials.

    A trunk is as long as all that share it are equal, is shared by two distinct trials at least,
    and adds to its parent at least a tenth of the steps of the shortest trial that shares it.

    Args:
        intervals: what identifies the interval evaluations of a trial; they lie in its curve.
    """
    return _Builder(intervals).forest(trials)


class _Trace:
    """Factors of the learning rate at the steps of a phase, as the trainer computes them; as many
    as were asked for."""

    def __init__(self, schedule: Any, steps: int) -> None:
        self.schedule, self.steps = schedule, steps
        self._known = array("d")

    def at(self, step: int) -> float:
        return float(self.schedule.factor(step, self.steps))

    def first(self, n: int) -> Factors:
        """The factors of the first ``n`` steps."""
        import numpy as np

        known = len(self._known)
        if known < n:
            factor, steps = self.schedule.factor, self.steps
            self._known = self._known + array("d", [factor(i, steps) for i in range(known, n)])
        return np.frombuffer(self._known, np.float64, n)


@lru_cache(maxsize=128)
def _trace(identity: str, schedule: str, steps: int) -> _Trace:
    """The trace of a schedule in canonical JSON; computed once a process, for it takes some
    microseconds a step."""
    return _Trace(parts.build("schedules", json.loads(schedule), "schedule"), steps)


class _Line:
    """What a variant's training runs through, step by step."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.steps = [p.spec.steps or 0 for p in variant.phases]
        self.total = sum(self.steps)
        self.traces = []
        for phase, steps in zip(variant.phases, self.steps, strict=True):
            schedule = phase.spec.schedule
            which = type(schedule).identity()
            self.traces.append(_trace(which, canonical(dump(schedule)), steps))
        # What becomes of the optimizer as the first phase begins is no question: it has no state.
        self.optims = [p.optim if i else None for i, p in enumerate(variant.phases)]
        self.keys = [digest([self.plain(i), o], 32) for i, o in enumerate(self.optims)]

    def plain(self, index: int) -> dict[str, Any]:
        """All that a step of a phase reads, but for the factor of the learning rate."""
        data = dict(self.variant.plain["phases"][index]["spec"])
        if not type(self.variant.phases[index].spec.schedule).adapts:
            data.pop("schedule", None)  # of one that looks at losses the factors do not say all
        data.pop("steps", None)
        return data

    def at(self, step: int) -> tuple[Any, ...]:
        """What decides the step, as something to group by: equal where the step is the same."""
        for index, steps in enumerate(self.steps):
            if step < steps:
                return (index, self.keys[index], self.traces[index].at(step))
            step -= steps
        return ("end",)

    def common(self, other: _Line) -> int:
        """Steps from the start on that are the same in both."""
        done = 0
        for index, (mine, theirs) in enumerate(zip(self.steps, other.steps, strict=False)):
            if self.keys[index] != other.keys[index]:
                return done
            same = _common(self.traces[index], other.traces[index], n := min(mine, theirs))
            done += same
            if same < n or mine != theirs:
                return done
        return done

    def spans(self, until: int) -> list[tuple[int, int]]:
        """(phase, steps of it) of the phases that the first ``until`` steps lie in."""
        out = []
        for index, steps in enumerate(self.steps):
            if until <= 0:
                break
            out.append((index, min(steps, until)))
            until -= steps
        return out


def _common(a: _Trace, b: _Trace, n: int) -> int:
    """Of the first ``n`` factors, how many are equal from the start on."""
    if a is b:
        return n
    known, block = 0, 64
    while known < n:  # most traces that differ do so soon: no more of them is computed
        end = min(n, known + block)
        differ = (a.first(end)[known:] != b.first(end)[known:]).nonzero()[0]
        if differ.size:
            return known + int(differ[0])
        known, block = end, 2 * block
    return n


class _Builder:
    def __init__(self, intervals: Callable[[Trial], Sequence[str]]) -> None:
        self.intervals = intervals
        self.lines: dict[int, _Line] = {}
        self.known: dict[tuple[int, ...], list[_Node]] = {}
        self.prints: dict[tuple[int, int], dict[str, Any]] = {}
        self.out: list[Trunk] = []
        self.parent: dict[str, str] = {}
        self.saved = 0

    def forest(self, trials: Sequence[Trial]) -> Forest:
        groups: dict[tuple[int, str], list[Trial]] = {}
        for t in trials:
            # What an external model keeps outside its parameters is in no checkpoint.
            if all(isinstance(p.spec.model, Model) for p in t.variant.phases):
                groups.setdefault((t.seed, self.line(t).keys[0]), []).append(t)
        for group in groups.values():
            if len(group) > 1:  # only here is anything computed that costs
                finer: dict[tuple[str, ...], dict[str, Trial]] = {}
                for t in group:
                    finer.setdefault(tuple(self.intervals(t)), {}).setdefault(t.id, t)
                for watched, alike in finer.items():
                    if len(alike) > 1:
                        self.split(list(alike.values()), watched)
        return Forest(self.out, self.parent, self.saved)

    def line(self, trial: Trial) -> _Line:
        if id(trial.variant) not in self.lines:
            self.lines[id(trial.variant)] = _Line(trial.variant)
        return self.lines[id(trial.variant)]

    def split(self, alike: list[Trial], watched: tuple[str, ...]) -> None:
        """Trunks of trials that may share their beginning, parents first."""
        variants = tuple(id(t.variant) for t in alike)
        if variants not in self.known:  # the same for every seed
            self.known[variants] = _trie([self.line(t) for t in alike])
        made: list[Trunk] = []
        for until, parent, sharers in self.known[variants]:
            above = made[parent] if parent is not None else None
            made.append(self.trunk(alike[sharers[0]], until, above, watched))
            self.parent |= {alike[i].id: made[-1].id for i in sharers}
            self.saved += (len(sharers) - 1) * (until - (above.until if above else 0))

    def trunk(
        self, like: Trial, until: int, above: Trunk | None, watched: tuple[str, ...]
    ) -> Trunk:
        line = self.line(like)
        known = (id(like.variant), until)
        if known not in self.prints:
            self.prints[known] = _described(line, until)
        data = {
            "trunk": True,
            "until": until,
            "seed": like.seed,
            "core": CORE_REVISION,
            **self.prints[known],
            "intervals": list(watched),
        }
        made = Trunk(
            id=digest(data),
            name=f"{like.name}-trunk{until}",
            seed=like.seed,
            until=until,
            parent=above.id if above else None,
            like=like,
            pack_key=digest(["trunk", until, like.pack_key]),
            data=data,
        )
        self.out.append(made)
        return made


def _trie(lines: Sequence[_Line]) -> list[_Node]:
    """Trunks of lines whose first phases are alike, parents first: (step at which it ends, place
    of its parent in the list, places of the lines that share it)."""
    out: list[_Node] = []
    waiting: list[tuple[list[int], int | None]] = [(list(range(len(lines))), None)]
    while waiting:
        group, parent = waiting.pop()
        first = lines[group[0]]
        until = min(first.common(lines[i]) for i in group[1:])
        start = out[parent][0] if parent is not None else 0
        if until - start >= SHORTEST * min(lines[i].total for i in group):
            out.append((until, parent, group))
            parent = len(out) - 1
        branches: dict[tuple[Any, ...], list[int]] = {}
        for i in group:
            branches.setdefault(lines[i].at(until), []).append(i)
        branches.pop(("end",), None)  # these have no step left to share
        waiting += [(b, parent) for b in reversed(branches.values()) if len(b) > 1]
    return out


def _described(line: _Line, until: int) -> dict[str, Any]:
    """Phases, part revisions and data of the first steps: the same whichever trial they are read
    from."""
    phases: list[dict[str, Any]] = []
    used: dict[str, str] = {}
    prints = dict(line.variant.begun)
    for index, steps in line.spans(until):
        spec = line.variant.phases[index].spec
        trace = (line.traces[index].first(steps) + 0.0).astype("<f8").tobytes()  # no -0.0
        phases.append(
            {
                "spec": {**line.plain(index), "steps": steps},
                "optim": line.optims[index],
                "trace": hashlib.blake2b(trace, digest_size=16).hexdigest(),
            }
        )
        adapts = type(spec.schedule).adapts
        used |= {
            k: v
            for k, v in specs.used_parts(spec).items()
            if adapts or not k.startswith("schedules.")
        }
        prints |= line.variant.prints(spec.task)
    return {"phases": phases, "parts": used, "data": prints}

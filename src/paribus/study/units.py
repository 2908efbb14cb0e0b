"""Units of work: trials and the trunks that they fork from, cut into packs, as workers are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paribus.contracts import Probe
from paribus.parts import dump
from paribus.spec import Model, digest
from paribus.store import TrialState
from paribus.study.trunks import Forest, Trunk

if TYPE_CHECKING:
    from paribus.study.expand import Trial
    from paribus.study.plan import Cell, Item, Plan

WAITING = ("planned", "running", "interrupted", "blocked")  # states that training goes on from
FAILED = ("failed", "out of memory")  # states that it goes on from only where asked


@dataclass(frozen=True)
class Todo:
    """What is to be worked on.

    Attributes:
        items: trials to train or to evaluate, by id, in order of declaration.
        trunks: trunks to train, parents first, with their states.
        source: id of a trial or trunk -> the trunk that it forks from; absent: from step 0.
    """

    items: dict[str, Item]
    trunks: dict[str, tuple[Trunk, TrialState]]
    source: dict[str, Trunk]

    @cached_property
    def spans(self) -> list[tuple[Item | Trunk, int, int]]:
        """(unit, first step, step at which it ends) of all that is trained."""
        ends: list[tuple[Item | Trunk, int]] = [(t, t.until) for t, _ in self.trunks.values()]
        ends += [(i, i.steps) for i in self.items.values() if trains(i)]
        forks = ((self.source.get(_id(unit)), unit, end) for unit, end in ends)
        return [(unit, fork.until if fork else 0, end) for fork, unit, end in forks]

    @property
    def shared(self) -> int:
        """Trunks that what is trained forks from, trained already or not."""
        forks = (self.source.get(_id(unit)) for unit, _, _ in self.spans)
        return len({t.id for t in forks if t is not None})

    @property
    def steps(self) -> int:
        """Steps that are trained, from the forks on (checkpoints of begun units not counted)."""
        return sum(end - start for _, start, end in self.spans)

    @property
    def saved(self) -> int:
        """Steps that sharing saves: those of the trials alone, less what is trained."""
        alone = sum(item.steps for item in self.items.values() if trains(item))
        return alone - self.steps


def _id(unit: Item | Trunk) -> str:
    return unit.id if isinstance(unit, Trunk) else unit.trial.id


def trains(item: Item) -> bool:
    """Whether a trial that is to be worked on is trained, not evaluated alone."""
    return not item.done or bool(item.lost)


def todo(plan: Plan, items: Sequence[Item], *, trunks: bool = True, retry: bool = False) -> Todo:
    """What is to be worked on for the given trials.

    A trunk is trained where at least two unfinished units of the study need it, or where it has
    begun already; what needs another one forks from the next shorter trunk.  A trunk that failed
    is left alone (its trials train alone, with equal results) unless ``retry``.

    Args:
        trunks: False trains every trial alone.
        retry: trunks that failed are tried again.
    """
    mine = {i.trial.id: i for i in items}
    shared = plan.forest if trunks else Forest([], {}, 0)
    needs = _needs(plan, mine, shared)
    kept: dict[str, tuple[Trunk, TrialState]] = {}
    usable: set[str] = set()
    for trunk in reversed(shared.trunks):  # what forks from a trunk, before the trunk
        need = needs.pop(trunk.id, [])
        if not any(asked for _, asked in need):
            continue
        state = plan.store.state(trunk.id)
        if state.state == "done":
            if plan.store.forkable(trunk.id):
                usable.add(trunk.id)
            elif trunk.parent is not None:
                needs.setdefault(trunk.parent, []).extend(need)
            continue
        can = state.state in WAITING or (retry and state.state in FAILED)
        if can and (len(need) > 1 or state.attempt):
            kept[trunk.id] = (trunk, state)
            need = [(state.last_step, True)]
        if trunk.parent is not None:
            above = plan.trunks[trunk.parent].until
            needs.setdefault(trunk.parent, []).extend(n for n in need if n[0] < above)
    usable |= kept.keys()
    source: dict[str, Trunk] = {}
    for unit, parent in [
        *((t.id, t.parent) for t in shared.trunks),
        *((t, shared.parent.get(t)) for t in mine),
    ]:
        while parent is not None and parent not in usable:
            parent = plan.trunks[parent].parent
        if parent is not None:
            source[unit] = plan.trunks[parent]
    ordered = {t.id: kept[t.id] for t in shared.trunks if t.id in kept}
    return Todo(mine, ordered, source)


def _needs(
    plan: Plan, mine: Mapping[str, Item], shared: Forest
) -> dict[str, list[tuple[int, bool]]]:
    """Trunk id -> (step that it stands at, whether asked for) of the trials that need it: those
    that are unfinished and have not passed its end."""
    out: dict[str, list[tuple[int, bool]]] = {}
    for trial, parent in shared.parent.items():
        item = mine.get(trial) or plan.unique[trial]
        asked = trial in mine and trains(item)
        if not asked and item.state.state not in WAITING:
            continue
        stands = item.state.last_step if item.state.state in WAITING else 0
        if stands < plan.trunks[parent].until:
            out.setdefault(parent, []).append((stands, asked))
    return out


# ── packs ───────────────────────────────────────────────────────────────────────────────────


def packs(plan: Plan, wanted: Todo, stack: int, *, trunks: bool = True) -> list[list[str]]:
    """Chunks of the sorted ids of each pack key, of about one size, for which a graph is compiled:
    trunks first, then in the order in which their first trials were declared.  Those that freeze
    the same are neighbours: what all of a stack freeze costs no gradient.

    They are cut from all that is declared, and what is not wanted drops out then: so chunks do
    not depend on what is finished, and all who work on the study cut the same ones.
    """
    keys: dict[str, list[tuple[str, str]]] = {}
    alone: set[str] = set()

    def add(key: str, unit: str, like: Trial) -> None:
        freezes = repr([p.spec.freeze for p in like.variant.phases])
        keys.setdefault(key, []).append((freezes, unit))

    for trunk in plan.forest.trunks if trunks else ():
        add(pack_key(plan, trunk), trunk.id, trunk.like)
    for item in plan.unique.values():
        key = pack_key(plan, item, trunks=trunks)
        add(key, item.trial.id, item.trial)
        if not isinstance(item.trial.variant.spec.model, Model):
            alone.add(key)  # a user's own module is not stacked
    declared = {unit: n for n, unit in enumerate([*plan.trunks, *plan.unique])}
    chunks: list[list[str]] = []
    for key, found in keys.items():
        ids = [unit for _, unit in sorted(found)]
        size = 1 if key in alone else -(-len(ids) // -(-len(ids) // stack))
        chunks += [ids[i : i + size] for i in range(0, len(ids), size)]
    chunks.sort(key=lambda chunk: min(declared[u] for u in chunk))
    left = [[u for u in chunk if u in wanted.items or u in wanted.trunks] for chunk in chunks]
    return [chunk for chunk in left if chunk]


def pack_key(plan: Plan, unit: Item | Trunk, *, trunks: bool = True) -> str:
    """Units of equal key are trained as one stack: of one shape and length, watched at the same
    steps, and forked at the same step."""
    if isinstance(unit, Trunk):
        key, parent, cells = unit.pack_key, unit.parent, plan.unique[unit.like.id].cells
    else:
        key, cells = unit.trial.pack_key, unit.cells
        parent = plan.forest.parent.get(unit.trial.id) if trunks else None
    fork = plan.trunks[parent].until if parent else 0
    watched = [
        [c.condition.key, c.condition.evaluation.every, c.refused is not None]
        for c in cells
        if c.condition.evaluation.every
    ]
    return digest([key, fork, watched]) if fork or watched else key


# ── what workers are told ───────────────────────────────────────────────────────────────────


def told(c: Cell) -> dict[str, Any]:
    """A cell as workers are told of it."""
    e = c.condition.evaluation
    probe = {"probe": dump(e.what)} if isinstance(e.what, Probe) else {}
    return {
        **probe,
        "id": c.id,
        "key": c.condition.key,
        "spec": dump(c.spec) if c.spec else None,
        "refused": c.refused,
        "split": e.split,
        "examples": e.examples,
        "by": list(e.by),
        "every": e.every,
    }


def work(
    plan: Plan,
    items: Sequence[Item],
    stack: int,
    *,
    trunks: bool = True,
    retry: bool = False,
    **where: Any,
) -> dict[str, Any]:
    """What workers are told: packs of units, and of each unit what it is.

    ``trials[id]`` holds: ``name``; ``like``, the trial whose spec.json gives the phases (its own,
    of a trial); ``until``, the step at which a trunk ends, None of a trial; ``trunk``, the trunk
    that it forks from, or None; ``key``, its pack key; ``attempts``, the number of its last
    attempt now; ``retry``, whether to try again what failed; ``conditions``, resolved (of a
    trunk, those at intervals).

    Args:
        trunks: False trains every trial alone.
    """
    wanted = todo(plan, items, trunks=trunks, retry=retry)
    units: dict[str, dict[str, Any]] = {}
    for trunk, state in wanted.trunks.values():
        cells = plan.unique[trunk.like.id].cells
        units[trunk.id] = {
            "name": trunk.name,
            "like": trunk.like.id,
            "until": trunk.until,
            "key": pack_key(plan, trunk),
            "attempts": state.attempt,
            "conditions": [told(c) for c in cells if c.condition.evaluation.every],
        }
    for item in wanted.items.values():
        units[item.trial.id] = {
            "name": item.trial.name,
            "like": item.trial.id,
            "until": None,
            "key": pack_key(plan, item, trunks=trunks),
            "attempts": item.state.attempt,
            "conditions": [told(c) for c in item.cells],
        }
    for unit, about in units.items():
        source = wanted.source.get(unit)
        about |= {"trunk": source.id if source else None, "retry": retry}
    return {
        "instance": plan.study.instance,
        "home": str(plan.store.home),
        "keep": list(plan.study.keep),
        "packs": packs(plan, wanted, stack, trunks=trunks),
        "trials": units,
        **{k: str(v) if isinstance(v, Path) else v for k, v in where.items()},
    }

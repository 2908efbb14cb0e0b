"""The plan: what is there, what is to be trained and evaluated, in which packs, at what cost.

Torch-free, and writes nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from paribus import spec as specs
from paribus._version import __version__
from paribus.errors import SpecError
from paribus.parts import dump
from paribus.spec import Model, digest
from paribus.store import Store, TrialState
from paribus.store.scan import Look, Scan
from paribus.study import stacks, units
from paribus.study.expand import Condition, Expansion, Trial, expand
from paribus.study.record import flops_per_token, most_tokens, parameters, parameters_trained
from paribus.study.record import study_record as study_record
from paribus.study.study import Study
from paribus.study.trunks import Forest, Trunk, forest
from paribus.study.units import work as work  # told by those who have a plan

# Sustained training rates that an estimate starts from, FLOP/s; measured runs replace them.
ASSUMED = {"cpu": 8e9, "cuda": 1e14, "mps": 1e12}
OVERHEAD = {"cpu": 4e-3, "cuda": 8e-3, "mps": 2e-2}  # seconds a step that no FLOP explains


@dataclass(frozen=True)
class Cell:
    """A trial under a condition: its id, and why it is refused, if it is."""

    condition: Condition
    id: str
    trial: Trial
    refused: str | None
    done: bool

    @property
    def spec(self) -> specs.Spec | None:
        """What is evaluated, resolved; None where it is refused."""
        return self.condition.resolved(self.trial)


@dataclass
class Item:
    """A trial in the plan."""

    trial: Trial
    state: TrialState
    cells: list[Cell]
    look: Look
    store: Store

    @cached_property
    def lost(self) -> str:
        """Why evaluations that are missing cannot be made: the weights are gone or damaged.  They
        are read to know it."""
        if not self.done or all(c.done for c in self.cells):
            return ""
        return self.store.weights_lost(self.trial.id)

    @property
    def done(self) -> bool:
        return self.state.state == "done"

    @property
    def steps(self) -> int:
        return sum(p.spec.steps or 0 for p in self.trial.variant.phases)


class Plan:
    """A study laid beside the store.

    Attributes:
        note: what a person should know of what is read; see ``registered.reading``.
    """

    def __init__(
        self,
        study: Study,
        store: Store,
        before: Plan | None = None,
        *,
        expansion: Expansion | None = None,
    ) -> None:
        self.study, self.store = study, store
        self.note: str = before.note if before else ""
        self.expansion: Expansion = before.expansion if before else expansion or expand(study)
        self._watched: dict[int, list[str]] = before._watched if before else {}
        self._forest: list[Forest] = before._forest if before else []
        self._record: list[dict[str, Any]] = before._record if before else []
        self.scan: Scan = before.scan if before else Scan(store)
        self.items = [self._item(t) for t in self.expansion.trials]

    def again(self) -> Plan:
        """The same study beside the store as it is now; it is not expanded again."""
        return Plan(self.study, self.store, self)

    def _item(self, trial: Trial) -> Item:
        look = self.scan.look(trial.id)
        cells = [
            Cell(c, cid := c.id(trial), trial, c.refused(trial), cid in look.records)
            for c in self.expansion.conditions
            if c.applies(trial)
        ]
        return Item(trial, look.state, cells, look, self.store)

    @property
    def record(self) -> dict[str, Any]:
        """study.json, as far as it does not depend on what is finished; not to be changed."""
        if not self._record:
            self._record.append(study_record(self))
        return self._record[0]

    # ── what cannot be run yet, said before anything runs ──

    def refuse(self) -> None:
        """Features that expand and hash but are not executed yet."""
        s = self.study
        if s.references:
            raise SpecError(f"references: {next(iter(s.references))!r} cannot be evaluated yet")
        for v in self.expansion.variants:
            if v.spec.start and not isinstance(v.spec.model, Model):
                raise SpecError("start=: an external model begins with its own initialisation")
        for e in s.evaluate:
            if isinstance(e.what, str):
                raise SpecError(f"evaluation {e.name!r}: probes by path cannot be run yet")

    # ── trunks and packs ──

    @property
    def forest(self) -> Forest:
        """Beginnings that trials of this study share.

        Trials that keep their best weights share none: the best step may lie in the trunk, and
        of a trunk the last checkpoint alone is there.
        """
        if not self._forest:
            best = {key for key, _ in self.study.best}
            trials = [
                i.trial for i in self.items if best.isdisjoint(c.condition.key for c in i.cells)
            ]
            self._forest.append(forest(trials, self._intervals))
        return self._forest[0]

    @cached_property
    def trunks(self) -> dict[str, Trunk]:
        return {t.id: t for t in self.forest.trunks}

    def _intervals(self, trial: Trial) -> list[str]:
        """What identifies the interval evaluations of a trial, for its curve is part of it: their
        steps, conditions and the model that they evaluate (that of the last phase)."""
        if trial.variant.index not in self._watched:
            out = []
            for c in self.expansion.conditions:
                if c.evaluation.every and c.applies(trial):
                    s = c.resolved(trial)
                    model = [dump(s.model), dump(s.task), s.precision] if s else c.refused(trial)
                    out.append(digest([c.key, c.evaluation.every, c.id(trial), model]))
            self._watched[trial.variant.index] = out
        return self._watched[trial.variant.index]

    def packs(
        self, stack: int, items: Sequence[Item] | None = None, *, trunks: bool = True
    ) -> list[list[str]]:
        """Ids of units that are trained together: what is left to do, or of the given trials."""
        wanted = units.todo(self, self.left() if items is None else items, trunks=trunks)
        return units.packs(self, wanted, stack, trunks=trunks)

    def graphs(self, items: Sequence[Item] | None = None) -> list[dict[str, Any]]:
        """One trial of each distinct graph with its conditions, for the preflight."""
        out: list[dict[str, Any]] = []
        packs: set[Any] = set()
        varied = {
            path.rpartition(":")[2]: f.name
            for f in self.study.all_factors()
            for level in f.levels
            for path in level.patch
        }
        own: dict[int, str] = {}  # of each variant: what its trials are not stacked by
        for i in self.items if items is None else items:
            v = i.trial.variant
            if v.index not in own:
                each = [p.spec for p in v.phases]
                form = [(s.freeze, dump(s.init), _form(dump(s.model))) for s in each]
                own[v.index] = repr(form)
            graph = i.trial.pack_key, own[v.index]
            if graph in packs:
                continue
            packs.add(graph)
            told = [units.told(c) for c in i.cells]
            out.append(
                {
                    "id": digest([__version__, i.trial.data, told], 32),
                    "name": i.trial.variant.name,
                    "data": i.trial.data,
                    "conditions": told,
                    "varied": varied,
                }
            )
        return out

    # ── counts and costs ──

    @cached_property
    def unique(self) -> dict[str, Item]:
        return {i.trial.id: i for i in self.items}

    def left(self) -> list[Item]:
        """Trials that are not trained and evaluated whole."""
        return [i for i in self.unique.values() if not i.done or not all(c.done for c in i.cells)]

    def to_train(self) -> list[Item]:
        return [i for i in self.unique.values() if not i.done]

    @cached_property
    def training(self) -> units.Todo:
        """What is to be trained, with the trunks that it needs."""
        return units.todo(self, self.to_train())

    def shared(self) -> int:
        """Trials that another study of this home has too."""
        others: set[str] = set()
        for instance in self.store.studies():
            if instance != self.study.instance:
                record = self.store.read_study(instance) or {}
                others |= {t["id"] for t in record.get("trials", [])}
        return len(others & self.unique.keys())

    def missing(self) -> int:
        """Evaluations that are not there yet."""
        seen = {(i.trial.id, c.id) for i in self.unique.values() for c in i.cells if not c.done}
        return len(seen)

    def seconds(
        self,
        item: Item,
        device: str,
        start: int = 0,
        until: int | None = None,
        world: int = 1,
        stack: int = 1,
    ) -> tuple[float, str]:
        """(seconds that steps ``start`` … ``until`` of the trial take on ``world`` devices, basis);
        in a stack of so many trials its share of the stack's."""
        until = item.steps if until is None else until
        other = self._measured.get(item.trial.pack_key)
        if other is not None:
            told = other.state.end or {}
            engine = told.get("engine", {})
            whole = float(told.get("seconds") or 0.0) * engine.get("world", 1) / world
            whole /= min(engine.get("stack", 1), stack)
            return whole * (until - start) / max(1, item.steps), "measured here"
        kind = device.partition(":")[0]
        total, first = 0.0, 0
        for phase in item.trial.variant.phases:
            s = phase.spec
            end = first + (s.steps or 0)
            steps = max(0, min(end, until) - max(first, start))
            flops = 0.0
            if isinstance(s.model, Model) and steps:
                flops = most_tokens(s) * steps / (end - first) * flops_per_token(s)
            total += flops / (ASSUMED[kind] * world) + steps * OVERHEAD[kind] / stack
            first = end
        return total, f"assumed {ASSUMED[kind]:.0e} FLOP/s"

    @cached_property
    def _measured(self) -> dict[str, Item]:
        """Pack key -> a trial of it that is done."""
        return {i.trial.pack_key: i for i in self.unique.values() if i.done}

    def time(self, device: str) -> tuple[float, str]:
        """(seconds that all that is to be trained takes, one after another, basis)."""
        total, basis = 0.0, ""
        for unit, start, until in self.training.spans:
            item = self.unique[unit.like.id] if isinstance(unit, Trunk) else unit
            seconds, basis = self.seconds(item, device, start, until)
            total += seconds
        return total, basis

    def disk(self) -> int:
        """Bytes that the trials to train will need: weights (as large as those of a finished trial
        of the shape, else parameters in fp32), and checkpoints (parameters, and two moments of what
        is trained) of trunks, of trials that keep theirs, and of as many as may run at once."""
        sizes: dict[str, int] = {}
        for i in self.to_train():
            if (key := i.trial.pack_key) not in sizes:
                sizes[key] = self._weights(key) or 4 * parameters(i.trial.variant.spec)

        def state(trial: Trial) -> float:
            spec = trial.variant.spec
            return sizes[trial.pack_key] * (
                1 + 2 * parameters_trained(spec) / (parameters(spec) or 1)
            )

        each = [sizes[i.trial.pack_key] for i in self.to_train()]
        states = sorted(state(i.trial) for i in self.to_train())
        trunks = [state(t.like) for t, _ in self.training.trunks.values()
                  if t.like.pack_key in sizes]  # fmt: skip
        kept = len(each) if "state" in self.study.keep else max(16, stacks.trials(self))
        return round(sum(each) + sum(states[-kept:]) + sum(trunks))

    def _weights(self, pack_key: str) -> int:
        """Bytes of the weights of a finished trial of the shape; 0 where there is none."""
        if (item := self._measured.get(pack_key)) is None:
            return 0
        result = self.store.result(item.trial.id)
        try:
            return result.weights.stat().st_size if result else 0
        except FileNotFoundError:
            return 0

    def memory(self, world: int = 1) -> int:
        """Bytes that a step of the largest trial to train needs on each of its devices: as measured
        on a finished trial of the shape, else by formula; 0 where unknown."""
        shapes = {(i.trial.pack_key, *(p.spec.freeze for p in i.trial.variant.phases)): i
                  for i in self.to_train()}  # fmt: skip
        return max((self._memory(i, world) for i in shapes.values()), default=0)

    def _memory(self, item: Item, world: int) -> int:
        if (other := self._measured.get(item.trial.pack_key)) is not None:
            engine = (other.state.end or {}).get("engine", {})
            if engine.get("peak_memory") and engine.get("world", 1) == world:
                return int(engine["peak_memory"] / engine.get("stack", 1))
        return self.said_memory(item, world)

    def said_memory(self, item: Item, world: int = 1) -> int:
        """What the formula says that a step of this trial needs; 0 where it says nothing."""
        from paribus.nn import flops

        sizes = [0]
        for p in item.trial.variant.phases:
            length = p.spec.task.io().length
            if isinstance(p.spec.model, Model) and length:
                need = flops.memory(
                    p.spec.model,
                    trials=1,
                    rows=-(-(p.spec.rows or 1) // world),
                    length=length,
                    precision=p.spec.precision,
                    freeze=p.spec.freeze,
                    optim=p.spec.optim,
                )
                sizes.append(need["total"])
        return max(sizes)

    def free(self) -> int:
        folder = self.store.home
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    # ── plain data ──

    def data(self) -> dict[str, Any]:
        """``plan --json``."""
        of: dict[int, list[Item]] = {}
        for i in self.items:
            of.setdefault(i.trial.variant.index, []).append(i)
        # Where one evaluation of a trial is another one of it, it is made once.
        cells = {(i.trial.id, c.id): c for i in self.unique.values() for c in i.cells}
        return {
            "study": self.study.name,
            "scale": self.study.scale,
            "home": str(self.store.home),
            "trials": len(self.items),
            "distinct_trials": len(self.unique),
            "done": sum(i.done for i in self.unique.values()),
            "to_train": len(self.to_train()),
            "shared": self.shared(),
            "trunks": self.training.shared,
            "steps": self.training.steps,
            "steps_saved": self.training.saved,
            "evaluations": len(cells),
            "evaluations_refused": sum(bool(c.refused) for c in cells.values()),
            "evaluations_missing": self.missing(),
            "skipped": len(self.expansion.skipped),
            "memory_bytes": self.memory(),
            "disk_bytes": self.disk(),
            "disk_free_bytes": self.free(),
            "variants": [
                {
                    "name": v.name,
                    "levels": dict(v.tags),
                    "parameters": parameters(v.spec),
                    "parameters_trained": parameters_trained(v.spec),
                    "tokens": sum(most_tokens(p.spec) for p in v.phases),
                    "tokens_at_most": any(p.spec.task.io().ragged for p in v.phases),
                    "steps": sum(p.spec.steps or 0 for p in v.phases),
                    "trials": [
                        {"name": i.trial.name, "id": i.trial.id, "state": i.state.state}
                        for i in of.get(v.index, ())
                    ],
                }
                for v in self.expansion.variants
            ],
        }


def _form(told: Any) -> Any:
    """Plain data without its numbers: which parts there are, with what lists and words."""
    if isinstance(told, Mapping):
        return {k: _form(v) for k, v in told.items()}
    if isinstance(told, list | tuple):
        return [_form(v) for v in told]
    return told if isinstance(told, str | bool) or told is None else 0

"""The plan: what is there, what is to be trained and evaluated, in which packs, at what cost.

Torch-free, and writes nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from paribus import spec as specs
from paribus._version import __version__
from paribus.errors import Refused, SpecError
from paribus.parts import dump
from paribus.spec import Model, digest
from paribus.store import Store, TrialState
from paribus.study.expand import Condition, Expansion, Trial, expand
from paribus.study.study import Study

# Sustained training rates that an estimate starts from, FLOP/s; measured runs replace them.
ASSUMED = {"cpu": 8e9, "cuda": 1e14, "mps": 1e12}
OVERHEAD = {"cpu": 4e-3, "cuda": 8e-3, "mps": 2e-2}  # seconds a step that no FLOP explains


@dataclass(frozen=True)
class Cell:
    """A trial under a condition: its id, its resolved spec or why it is refused."""

    condition: Condition
    id: str
    spec: specs.Spec | None
    refused: str | None
    done: bool


@dataclass
class Item:
    """A trial in the plan."""

    trial: Trial
    state: TrialState
    cells: list[Cell]
    lost: str = ""  # why evaluations that are missing cannot be made: weights gone or damaged

    @property
    def done(self) -> bool:
        return self.state.state == "done"


class Plan:
    """A study laid beside the store."""

    def __init__(self, study: Study, store: Store) -> None:
        self.study, self.store = study, store
        self.expansion: Expansion = expand(study)
        self._specs: dict[Any, tuple[specs.Spec | None, str | None]] = {}
        self.items = [self._item(t) for t in self.expansion.trials]

    def _item(self, trial: Trial) -> Item:
        have = self.store.evaluations(trial.id)
        cells = []
        for c in self.expansion.conditions:
            if c.applies(trial):
                spec, refused = self._resolved(c, trial)
                cid = c.id(trial)
                cells.append(Cell(c, cid, spec, refused, cid in have))
        state = self.store.state(trial.id)
        lost = ""
        if state.state == "done" and not all(c.done for c in cells):
            lost = self.store.weights_lost(trial.id)
        return Item(trial, state, cells, lost)

    def _resolved(self, c: Condition, trial: Trial) -> tuple[specs.Spec | None, str | None]:
        key = (id(c), trial.variant.index)
        if key not in self._specs:
            try:
                self._specs[key] = specs.resolve(c.spec(trial)), None
            except Refused as error:  # an outcome, such as a length beyond a learned table
                self._specs[key] = None, str(error)
            except SpecError as error:
                raise SpecError(f"evaluation {c.key!r}: {error}") from None
        return self._specs[key]

    # ── what cannot be run yet, said before anything runs ──

    def refuse(self) -> None:
        """Features that expand and hash but are not executed yet."""
        s = self.study
        for f in s.all_factors():
            if f.tuned:
                raise SpecError(f"factor {f.name!r}: tuned factors expand, but cannot be run yet")
        if s.references:
            raise SpecError(f"references: {next(iter(s.references))!r} cannot be evaluated yet")
        for v in self.expansion.variants:
            if any(p.spec.start for p in v.phases):
                raise SpecError("start=: foreign checkpoints cannot be continued yet")
        for e in s.evaluate:
            if isinstance(e.what, str):
                raise SpecError(f"evaluation {e.name!r}: probes by path cannot be run yet")
            if e.what is not None and not hasattr(e.what, "score"):
                raise SpecError(f"evaluation {e.name!r}: probes cannot be run yet")

    # ── packs ──

    def packs(self, items: Sequence[Item], stack: int) -> list[list[str]]:
        """Chunks of the sorted ids of each pack key, in order of declaration."""
        keys: dict[str, list[str]] = {}
        alone: set[str] = set()
        for item in items:
            ids = keys.setdefault(item.trial.pack_key, [])
            if item.trial.id not in ids:
                ids.append(item.trial.id)
            if not isinstance(item.trial.variant.spec.model, Model):
                alone.add(item.trial.pack_key)  # a user's own module is not stacked
        out: list[list[str]] = []
        for key, ids in keys.items():
            size = 1 if key in alone else stack
            out += [sorted(ids)[i : i + size] for i in range(0, len(ids), size)]
        return out

    def graphs(self, items: Sequence[Item] | None = None) -> list[dict[str, Any]]:
        """One trial of each distinct graph with its conditions, for the preflight."""
        out: list[dict[str, Any]] = []
        packs: set[str] = set()
        varied = {
            path.rpartition(":")[2]: f.name
            for f in self.study.all_factors()
            for level in f.levels
            for path in level.patch
        }
        for i in self.items if items is None else items:
            if i.trial.pack_key in packs:
                continue
            packs.add(i.trial.pack_key)
            told = [_told(c) for c in i.cells]
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

    def to_train(self) -> list[Item]:
        return [i for i in self.unique.values() if not i.done]

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

    def seconds(self, item: Item, device: str) -> tuple[float, str]:
        """(seconds that the trial takes alone, basis)."""
        kind = device.partition(":")[0]
        for other in self.unique.values():
            end = other.state.end
            if other.done and end and other.trial.pack_key == item.trial.pack_key:
                return float(end.get("seconds") or 0.0), "measured here"
        total = 0.0
        for phase in item.trial.variant.phases:
            s = phase.spec
            steps = s.steps or 0
            flops = 0.0
            if isinstance(s.model, Model):
                flops = tokens(s) * flops_per_token(s)
            total += flops / ASSUMED[kind] + steps * OVERHEAD[kind]
        return total, f"assumed {ASSUMED[kind]:.0e} FLOP/s"

    def disk(self) -> int:
        """Bytes that the trials to train will need: weights, and one checkpoint of each that
        runs (parameters and two moments)."""
        return sum(4 * parameters(i.trial.variant.spec) * 2 for i in self.to_train())

    def memory(self) -> int:
        """Bytes that a step of the largest trial to train needs, by formula; 0 where unknown."""
        from paribus.nn import flops

        sizes = [0]
        for i in self.to_train():
            for p in i.trial.variant.phases:
                length = p.spec.task.io().length
                if isinstance(p.spec.model, Model) and length:
                    need = flops.memory(
                        p.spec.model,
                        trials=1,
                        rows=p.spec.rows or 1,
                        length=length,
                        precision=p.spec.precision,
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
        counts = [len([c for c in i.cells if not c.refused]) for i in self.items]
        return {
            "study": self.study.name,
            "scale": self.study.scale,
            "home": str(self.store.home),
            "trials": len(self.items),
            "distinct_trials": len(self.unique),
            "done": sum(i.done for i in self.unique.values()),
            "to_train": len(self.to_train()),
            "shared": self.shared(),
            "evaluations": sum(len(i.cells) for i in self.items),
            "evaluations_refused": sum(len(i.cells) for i in self.items) - sum(counts),
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
                    "tokens": sum(tokens(p.spec) for p in v.phases),
                    "steps": sum(p.spec.steps or 0 for p in v.phases),
                    "trials": [
                        {"name": i.trial.name, "id": i.trial.id, "state": i.state.state}
                        for i in self.items
                        if i.trial.variant is v
                    ],
                }
                for v in self.expansion.variants
            ],
        }


def parameters(spec: specs.Spec) -> int:
    """Trained and frozen parameters; 0 for an external model (it counts itself when run)."""
    if not isinstance(spec.model, Model):
        return 0
    from paribus.nn.declare import declare

    return sum(prod(p.shape) for p in declare(spec.model).values())


def tokens(spec: specs.Spec) -> int:
    """Tokens that training reads."""
    return (spec.steps or 0) * (spec.rows or 0) * (spec.task.io().length or 1)


def flops_per_token(spec: specs.Spec) -> float:
    """Training FLOPs a token; 0 for an external model."""
    if not isinstance(spec.model, Model):
        return 0.0
    from paribus.nn import flops

    return float(flops.training(spec.model, spec.task.io().length or 1))


def study_record(plan: Plan) -> dict[str, Any]:
    """study.json: everything that tables, verdicts and the report need, as plain data."""
    s, e = plan.study, plan.expansion
    metrics: dict[str, Any] = {}
    baselines_of = e.variants[0].spec.task
    for evaluation in s.evaluate:
        what = evaluation.what if evaluation.what is not None else baselines_of
        for name, m in getattr(what, "metrics", {}).items():
            known = metrics.setdefault(
                name,
                {
                    "unit": m.unit,
                    "better": m.better,
                    "of": m.of,
                    "transform": m.transform,
                    "evaluations": [],
                },
            )
            known["evaluations"].append(evaluation.name)
    return {
        "name": s.name,
        "scale": s.scale,
        "instance": s.instance,
        "question": s.question,
        "paribus": __version__,
        "factors": [f.data("variant") for f in s.factors]
        + [f.data("condition") for f in s.condition_factors()],
        "trained": _trained(s, e),
        "seeds": s.seeds,
        "variants": [{"name": v.name, "levels": dict(v.tags)} for v in e.variants],
        "trials": [
            {
                "name": i.trial.name,
                "id": i.trial.id,
                "variant": i.trial.variant.index,
                "seed": i.trial.seed,
                "run": i.trial.run,
                "pack": i.trial.pack_key,
                "cells": {c.condition.key: c.id for c in i.cells},
            }
            for i in plan.items
        ],
        "conditions": [
            {
                "key": c.key,
                "evaluation": c.evaluation.name,
                "levels": dict(c.tags),
                "split": c.evaluation.split,
                "by": list(c.evaluation.by),
                "every": c.evaluation.every,
            }
            for c in e.conditions
        ],
        "metrics": metrics,
        "trivial": sorted({b for v in e.variants for b in v.spec.task.trivial}),
        "primary": s.primary or next(iter(baselines_of.metrics)),
        "baseline": s.baseline.data() if s.baseline else None,
        "columns": s.columns,
        "skipped": e.skipped,
        "accept": dict(s.accept),
        "variants_info": {
            v.name: {
                "parameters": parameters(v.spec),
                "tokens": sum(tokens(p.spec) for p in v.phases),
                "steps": sum(p.spec.steps or 0 for p in v.phases),
                "rows": v.spec.rows,
                "flops": sum(tokens(p.spec) * flops_per_token(p.spec) for p in v.phases),
                "spec": [
                    {"name": p.name, "optim": p.optim, "spec": dump(p.spec, full=True)}
                    for p in v.phases
                ],
            }
            for v in e.variants
        },
        "registration": registration(s),
    }


def _trained(s: Study, e: Expansion) -> dict[str, Any]:
    """Condition factor -> the value that training used, where all variants agree on a number."""
    out: dict[str, Any] = {}
    for f in s.condition_factors():
        try:
            values = {specs.at(v.spec, f.path) for v in e.variants} if f.path else set()
        except (SpecError, TypeError):
            continue
        if len(values) == 1 and isinstance(value := values.pop(), (int, float)):
            out[f.name] = value
    return out


def registration(s: Study) -> dict[str, Any]:
    """What is declared beforehand."""

    def plain(named: Any) -> dict[str, Any]:
        return {k: h.data() for k, h in named.items()}

    return {
        "question": s.question,
        "hypotheses": plain(s.hypotheses),
        "criteria": plain(s.criteria),
        "checks": plain(s.checks),
        "alpha": s.alpha,
        "seeds": list(s.seeds) if not isinstance(s.seeds, int) else s.seeds,
    }


def _told(c: Cell) -> dict[str, Any]:
    """A cell as workers are told of it."""
    e = c.condition.evaluation
    return {
        "id": c.id,
        "key": c.condition.key,
        "spec": dump(c.spec) if c.spec else None,
        "refused": c.refused,
        "split": e.split,
        "examples": e.examples,
        "by": list(e.by),
        "every": e.every,
    }


def work(plan: Plan, items: Sequence[Item], stack: int, **where: Any) -> dict[str, Any]:
    """What workers are told: packs of trials, and each trial's conditions, resolved."""
    return {
        "instance": plan.study.instance,
        "home": str(plan.store.home),
        "packs": plan.packs(items, stack),
        "trials": {
            i.trial.id: {
                "name": i.trial.name,
                "conditions": [_told(c) for c in i.cells],
            }
            for i in items
        },
        **{k: str(v) if isinstance(v, Path) else v for k, v in where.items()},
    }

"""The study's record, study.json: all that tables, verdicts, the audit and the report need."""

from __future__ import annotations

import json
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

from paribus import parts
from paribus import spec as specs
from paribus._version import __version__
from paribus.contracts import Probe
from paribus.errors import SpecError
from paribus.nn.reach import reach, seen
from paribus.parts import dump
from paribus.spec import Model, canonical
from paribus.study.expand import Expansion, Variant
from paribus.study.study import Study

if TYPE_CHECKING:
    from paribus.study.plan import Plan


def parameters(spec: specs.Spec) -> int:
    """Trained and frozen parameters; 0 for an external model (it counts itself when run)."""
    if not isinstance(spec.model, Model):
        return 0
    from paribus.nn.declare import declare

    return sum(prod(p.shape) for p in declare(spec.model).values())


def parameters_trained(spec: specs.Spec) -> int:
    """Those of them that are not frozen."""
    if not isinstance(spec.model, Model):
        return 0
    from paribus.nn.declare import declare
    from paribus.nn.freeze import is_frozen

    declared = declare(spec.model).items()
    return sum(prod(p.shape) for path, p in declared if not is_frozen(path, spec.freeze))


def tokens(spec: specs.Spec) -> int:
    """Tokens that training reads, padding not counted."""
    return round((spec.steps or 0) * (spec.rows or 0) * spec.task.io().per_row)


def most_tokens(spec: specs.Spec) -> int:
    """Tokens that training reads at most, padding not counted where that is known beforehand."""
    io = spec.task.io()
    each = io.tokens or io.length or 1
    return round((spec.steps or 0) * (spec.rows or 0) * each)


def flops_per_token(spec: specs.Spec) -> float:
    """Training FLOPs a token; 0 for an external model."""
    if not isinstance(spec.model, Model):
        return 0.0
    from paribus.nn import flops

    return float(flops.training(spec.model, spec.task.io().length or 1, spec.freeze))


def study_record(plan: Plan) -> dict[str, Any]:
    """study.json: everything that tables, verdicts and the report need, as plain data."""
    s, e = plan.study, plan.expansion

    def counted(v: Variant) -> bool:
        """Whether the tokens of its rows are known before they are read."""
        return not any(p.spec.task.io().ragged for p in v.phases)

    metrics: dict[str, Any] = {}
    # Variants may have tasks of several kinds; a metric that several have is the first one's.
    tasks: list[Any] = list({type(v.spec.task): v.spec.task for v in e.variants}.values())
    data = {i.trial.variant.name: i.trial.variant.data for i in plan.items}
    for evaluation in s.evaluate:
        judged = tasks if evaluation.what is None else [evaluation.what]
        every = [pair for what in judged for pair in getattr(what, "metrics", {}).items()]
        for name, m in {**dict(every), **dict(reversed(every))}.items():
            known = metrics.setdefault(
                name,
                {
                    "unit": m.unit,
                    "better": m.better,
                    "of": m.of,
                    "transform": m.transform,
                    **({"within": True} if m.within else {}),
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
                "trunk": plan.forest.parent.get(i.trial.id),
                "cells": {c.condition.key: c.id for c in i.cells},
            }
            for i in plan.items
        ],
        "trunks": [
            {"id": t.id, "name": t.name, "until": t.until, "parent": t.parent, "seed": t.seed}
            for t in plan.forest.trunks
        ],
        "keep": list(s.keep),
        "conditions": [
            {
                "key": c.key,
                "evaluation": c.evaluation.name,
                "levels": dict(c.tags),
                "split": c.evaluation.split,
                "by": list(c.evaluation.by),
                "every": c.evaluation.every,
                "examples": c.evaluation.examples,
                **_curve(c.evaluation.what),
            }
            for c in e.conditions
        ],
        "metrics": metrics,
        "trivial": sorted({b for v in e.variants for b in v.spec.task.trivial}),
        "primary": s.primary or next(iter(tasks[0].metrics)),
        "baseline": s.baseline.data() if s.baseline else None,
        "columns": s.columns,
        "skipped": e.skipped,
        "accept": dict(s.accept),
        "budget": {"unit": s.budget.unit, "amount": s.budget.amount} if s.budget else None,
        "evaluated": _evaluated(plan),
        "variants_info": {
            v.name: {
                "parameters": parameters(v.spec),
                "parameters_trained": parameters_trained(v.spec),
                "tokens": sum(tokens(p.spec) for p in v.phases) if counted(v) else None,
                "steps": sum(p.spec.steps or 0 for p in v.phases),
                "rows": v.spec.rows,
                "flops": sum(tokens(p.spec) * flops_per_token(p.spec) for p in v.phases)
                if counted(v)
                else None,
                **({} if counted(v) else {"flops_per_token": flops_per_token(v.spec)}),
                "data": data.get(v.name, {}),
                "lr": [_factors(p.spec) for p in v.phases],
                **(_reach(v.spec) if any(map(_curve, (x.what for x in s.evaluate))) else {}),
                "spec": [
                    {"name": p.name, "optim": p.optim, "spec": dump(p.spec, full=True)}
                    for p in v.phases
                ],
            }
            for v in e.variants
        },
        "registration": registration(s),
        "definitions": _definitions(e),
    }


def _curve(what: Any) -> dict[str, Any]:
    """What a probe with an axis says of it."""
    found = getattr(what, "curve", None)
    return {} if found is None else {"curve": found._asdict()}


def _reach(spec: specs.Spec) -> dict[str, Any]:
    """How far back the model looks, for marks in figures of such probes; and the bytes that it
    carries at the end of a row of its task, at four a number, where that has a length."""
    length = spec.task.io().length
    found = seen(spec.model, length)
    out: dict[str, Any] = {"reach": {"window": found.direct, "field": found.field}}
    if isinstance(spec.model, Model) and length is not None:
        out["state_bytes"] = reach(spec.model, length).state_bytes
    return out


def _evaluated(plan: Plan) -> dict[str, Any]:
    """Condition id -> what is evaluated there: split, examples, tokens a row, fingerprints of the
    data.  Trials that are judged on the same thing have the same id."""
    out: dict[str, Any] = {}
    for item in plan.items:
        for c in item.cells:
            if c.id not in out and c.spec is not None:
                e, task = c.condition.evaluation, c.spec.task
                asks = isinstance(e.what, Probe)  # its prompts have lengths of their own
                out[c.id] = {
                    "split": e.split,
                    "examples": e.examples,
                    "length": None if asks else task.io().length,
                    "data": item.trial.variant.prints(task),
                }
    return out


SAMPLED = 64  # steps at which a schedule is looked at


def _factors(spec: specs.Spec) -> list[float]:
    """The lowest and the highest factor of the learning rate in a phase, sampled over its steps."""
    which, text = type(spec.schedule).identity(), canonical(dump(spec.schedule))
    return list(_sampled(which, text, spec.steps or 1))


@lru_cache(maxsize=1024)
def _sampled(identity: str, schedule: str, total: int) -> tuple[float, float]:
    part: Any = parts.build("schedules", json.loads(schedule), "schedule")
    at = {i * (total - 1) // SAMPLED for i in range(SAMPLED + 1)} | {min(1, total - 1)}
    found = [float(part.factor(i, total)) for i in sorted(at)]
    return min(found), max(found)


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

    out: dict[str, Any] = {
        "question": s.question,
        "hypotheses": plain(s.hypotheses),
        "criteria": plain(s.criteria),
        "checks": plain(s.checks),
        "alpha": s.alpha,
        "seeds": list(s.planned_seeds),
    }
    # Left out at their defaults, so that what was registered before they were there stays equal.
    chosen = {"test": s.test, "looks": list(s.looks), "on_missing": s.on_missing}
    plain_ones = {"test": "paired_t", "looks": [], "on_missing": "missing"}
    return out | {k: v for k, v in chosen.items() if v != plain_ones[k]}


def _definitions(e: Expansion) -> dict[str, str]:
    """What each arm and each condition is, hashed by name: resolved settings and revisions of
    parts, without seeds and the contents of data."""
    out = {}
    for v in e.variants:
        levels = " & ".join(f"{f}={t}" for f, t in v.tags.items() if t is not None)
        out[levels or v.name] = specs.digest_text(specs.joined(v.text))
    for c in e.conditions:
        what = c.evaluation.what
        told = dump(what) if isinstance(what, parts.Part) else what
        settings = [told, dict(c.patch), c.evaluation.split, c.evaluation.examples]
        out[f"at {c.key}"] = specs.digest(dump(settings))
    return out


def results_seen(plan: Plan, stored: dict[str, Any]) -> int:
    """How many of a study's trials have results: of its trials now and of those that it had when it
    was last registered, whether or not they still belong to it."""
    mine = {i.trial.id: i.done for i in plan.items}
    before = {t["id"] for t in stored.get("trials", ())} - mine.keys()
    told = plan.store.ended(plan.study.instance)
    gone = {i for i in before if i in told or plan.store.state(i).state == "done"}
    return sum(mine.values()) + len(gone)


def registration_hash(record: dict[str, Any]) -> str:
    """A hash of what is registered and of the grid that it reads: claims, factors, resolved specs
    and evaluation conditions.  Seeds are in the claims' part; paths and versions are not in it."""
    grid = [
        record["factors"],
        [[v["name"], v["levels"]] for v in record["variants"]],
        {name: info["spec"] for name, info in record["variants_info"].items()},
        record["conditions"],
        record["metrics"],
        record["baseline"],
    ]
    return specs.digest([record["registration"], grid], 32)

"""Studies with known effects, as plain data: the record and the rows that a run would leave."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

from paribus.study.factors import Factor
from paribus.study.hypotheses import Tree

Row = dict[str, Any]
HEADS = Factor("heads", [4, 8], "model.heads")
POSITION = Factor("position", ["rope", "learned", "none"], "model.position")
LENGTH = Factor("length", [128, 256, 512], "task.length")


def study(
    variant: list[Factor] | None = None,
    condition: list[Factor] | None = None,
    *,
    seeds: int = 5,
    claims: Mapping[str, Tree] | None = None,
    checks: Mapping[str, Tree] | None = None,
    criteria: Mapping[str, Tree] | None = None,
    **more: Any,
) -> dict[str, Any]:
    vf = [POSITION] if variant is None else variant
    cf = [LENGTH] if condition is None else condition
    variants = []
    for tags in product(*([v.tag for v in f.levels] for f in vf)):
        levels = dict(zip((f.name for f in vf), tags, strict=True))
        variants.append({"name": "-".join(tags) or "base", "levels": levels})
    conditions = []
    for tags in product(*([v.tag for v in f.levels] for f in cf)):
        levels = dict(zip((f.name for f in cf), tags, strict=True))
        key = " ".join(["lm", *(f"{f}={t}" for f, t in levels.items())])
        conditions.append({"evaluation": "lm", "key": key, "levels": levels, "split": "test"})
    cells = {c["key"]: f"c{i}" for i, c in enumerate(conditions)}
    return {
        "name": "demo",
        "scale": "small",
        "instance": "demo@small",
        "question": "Which position encoding keeps loss flat beyond the trained length?",
        "paribus": "0.1",
        "factors": [f.data("variant") for f in vf] + [f.data("condition") for f in cf],
        "seeds": list(range(1, seeds + 1)),
        "variants": variants,
        "trials": [
            {"name": f"{v['name']}-s{s}", "id": f"{i:02d}{s:02d}abcdef", "variant": i, "seed": s,
             "run": s, "cells": cells}
            for i, v in enumerate(variants)
            for s in range(1, seeds + 1)
        ],
        "conditions": conditions,
        "metrics": {
            "loss": {"unit": "nats/token", "better": "lower", "of": None, "transform": None},
            "ppl": {"unit": "", "better": "lower", "of": "loss", "transform": "exp"},
            "accuracy": {"unit": "share", "better": "higher", "of": None, "transform": None},
        },
        "primary": "loss",
        "baseline": None,
        "columns": None,
        "skipped": [],
        "amendments": [],
        "variants_info": {
            v["name"]: {"parameters": 1_000_000, "tokens": 5_000_000, "steps": 1000, "rows": 32,
                        "flops": 3e13}
            for v in variants
        },
        "baselines": {c: {"unigram": {"loss": 3.0}, "uniform": {"loss": 5.5}}
                      for c in cells.values()},
        "registration": {
            "hypotheses": {k: h.data() for k, h in (claims or {}).items()},
            "checks": {k: h.data() for k, h in (checks or {}).items()},
            "criteria": {k: h.data() for k, h in (criteria or {}).items()},
            "alpha": 0.05,
            "seeds": list(range(1, seeds + 1)),
        },
        **more,
    }  # fmt: skip


def rows(
    record: dict[str, Any],
    loss: Callable[[dict[str, Any], dict[str, Any]], float],
    *,
    noise: float = 0.004,
    shared: float = 0.05,
    lost: Mapping[str, str] | None = None,
) -> list[Row]:
    """Rows of every cell: ``loss(levels, condition levels)``, a shift that all arms of a seed
    share, and noise of a cell.  ``lost``: trial name -> status."""
    out = []
    axes = [f["name"] for f in record["factors"] if f["kind"] == "condition"]
    for trial in record["trials"]:
        variant = record["variants"][trial["variant"]]
        shift = random.Random(f"seed {trial['seed']}").gauss(0, shared)
        status = (lost or {}).get(trial["name"], "done")
        for condition in record["conditions"]:
            draw = random.Random(f"{trial['name']} {condition['key']}")
            value = loss(variant["levels"], condition["levels"]) + shift + draw.gauss(0, noise)
            values = {"loss": value, "ppl": math.exp(value)} if status == "done" else {"loss": None}
            for metric, x in values.items():
                out.append(
                    {
                        "study": record["instance"],
                        "variant": variant["name"],
                        "trial": trial["name"],
                        "id": trial["id"],
                        "seed": trial["seed"],
                        **variant["levels"],
                        **{a: condition["levels"].get(a) for a in axes},
                        "evaluation": condition["evaluation"],
                        "slice": "",
                        "metric": metric,
                        "value": x,
                        "n": 40_000 if x is not None else None,
                        "unit": record["metrics"][metric]["unit"],
                        "status": status,
                        "reason": "" if status == "done" else "loss was nan at step 120",
                        "step": 1000,
                        "tokens": 5_000_000,
                        "flops": 3e13,
                        "seconds": 61.5 + trial["seed"],
                        "engine": "stacked",
                        "kernel": "sdpa",
                        "device": "cpu",
                        "dtype": "fp32",
                        "threads": 1,
                        "micro_batch": 32,
                        "torch": "2.11.0",
                        "parent": "",
                    }
                )
    return out

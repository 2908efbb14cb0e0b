"""Evaluations between steps: values of the curve, under the conditions that have ``every``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from paribus.engine.evaluate import Setting, evaluate
from paribus.engine.judging import setting
from paribus.engine.members import Member

if TYPE_CHECKING:
    from paribus.engine.resident import Resident
    from paribus.engine.train import Trainer


def intervals(w: Resident, group: Sequence[Member]) -> list[Setting]:
    """The conditions under which a stack is evaluated as it trains."""
    told = w.work["trials"][group[0].trial]["conditions"]
    return [setting(c) for c in told if c["every"] and c["spec"]]


def every(settings: Sequence[Setting]) -> list[int]:
    """At multiples of which steps something is evaluated."""
    return sorted({s.every for s in settings if s.every})


def checker(
    w: Resident, group: Sequence[Member], settings: Sequence[Setting]
) -> Callable[[Trainer], list[dict[str, float]]] | None:
    """A function that evaluates what is due: a row of values for each member (the leader's)."""

    def check(trainer: Trainer) -> list[dict[str, float]]:
        rows: list[dict[str, float]] = [{} for _ in group]
        for s in settings:
            if trainer.step % (s.every or 1):
                continue
            each = [w.setting(m.trial, s.key).spec for m in group]
            tasks: dict[Any, list[int]] = {}
            for e, spec in enumerate(each):
                tasks.setdefault(spec.task, []).append(e)
            for of in tasks.values():
                whole = len(of) == len(group)
                params = {k: p if whole else p[of] for k, p in trainer.weights().items()}
                specs, seeds = [each[e] for e in of], [group[e].seed for e in of]
                with torch.no_grad():
                    found = evaluate(params, specs, seeds, s, w.data, w.settings, w.opened, w.ranks)
                for e, record in zip(of, found, strict=not w.ranks.rank):
                    for of_slice, values in [("", record["metrics"]), *record["slices"].items()]:
                        where = f" {of_slice}" if of_slice else ""
                        for k, v in values.items():
                            rows[e][f"{s.key} {k}{where}"] = v["value"]
        return rows

    return check if settings else None

"""How many trials are trained as one stack.

A step of E trials takes FIXED · layers + E · FLOPs / RATE: what starting kernels costs is shared,
the rest is each trial's own.  Both were fitted to steps of 6 to 60 trials on an H200
(bench/stacked.py).  Nothing here depends on what is finished, so a study is cut alike when it is
taken up again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paribus.spec import Model, Spec
from paribus.study.record import flops_per_token, most_tokens

if TYPE_CHECKING:
    from paribus.study.plan import Plan

FIXED = 0.17e-3  # seconds a layer and step
RATE = 2e14  # FLOP/s of what small models do
SHARE = 0.05  # of a trial's own time, that the fixed part may come to
LARGEST = 64
ROOM = 0.8  # of the memory


def trials(plan: Plan, memory: float | None = None, slots: int = 1) -> int:
    """The trials of a stack beyond which a step takes at most 5 % less a trial.

    Args:
        memory: bytes that a worker may take; None: any.
        slots: workers; none of them is to stand idle for large stacks of the others.
    """
    found, need = 1, 0
    for item in {i.trial.pack_key: i for i in plan.unique.values()}.values():
        for phase in item.trial.variant.phases:
            found = max(found, _worth(phase.spec))
        need = max(need, plan.said_memory(item))
    if memory and need:
        found = min(found, int(ROOM * memory / need))
    return max(1, min(found, -(-len(plan.unique) // slots)))


def _worth(spec: Spec) -> int:
    if not isinstance(spec.model, Model) or not spec.steps:
        return 1
    own = most_tokens(spec) / spec.steps * flops_per_token(spec) / RATE
    fixed = FIXED * spec.model.layers
    return LARGEST if own * SHARE * LARGEST <= fixed else max(1, round(fixed / (SHARE * own)))

"""Who trains what, and for how long: a forecast of how workers share what is left.

Nobody assigns anything: workers take what is free, each from its own place in the list on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from paribus.study.trunks import Trunk

if TYPE_CHECKING:
    from paribus.study.plan import Item, Plan

SECONDS_AN_EVALUATION = 0.7


@dataclass
class Share:
    """What one worker is likely to do.

    Attributes:
        devices: of its ranks.
        names: of the trials, in order.
        seconds: until it finds nothing more.
    """

    worker: int
    devices: tuple[str, ...]
    names: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def data(self) -> dict[str, Any]:
        return {
            "worker": self.worker,
            "devices": list(self.devices),
            "trials": self.names,
            "seconds": self.seconds,
        }


def shares(
    plan: Plan, items: Sequence[Item], devices: Sequence[tuple[str, ...]], stack: int
) -> list[Share]:
    """A share for each worker.

    Args:
        devices: of each worker, one a rank.
        stack: trials trained together at most.
    """
    packs = plan.packs(stack, items)
    cost = _costs(plan, devices, {u: len(pack) for pack in packs for u in pack})
    names = {i.trial.id: i.trial.name for i in plan.items}
    out = [Share(n + 1, of) for n, of in enumerate(devices)]
    left = dict.fromkeys(range(len(packs)))
    while left:
        worker = min(out, key=lambda s: (s.seconds, s.worker))
        mine = [k for k in left if k % len(out) == worker.worker - 1]
        took = (mine or list(left))[0]
        del left[took]
        worker.names += [names[u] for u in packs[took] if u in names]
        worker.seconds += sum(cost.get(u, 0.0) for u in packs[took])
    return out


def _costs(
    plan: Plan, devices: Sequence[tuple[str, ...]], stacks: Mapping[str, int]
) -> dict[str, float]:
    """Unit -> seconds that its training and its missing evaluations take; ``stacks``: how many
    units each is trained together with."""
    device, world = devices[0][0], len(devices[0])
    out: dict[str, float] = {}
    for unit, start, until in plan.training.spans:
        item = plan.unique[unit.like.id] if isinstance(unit, Trunk) else unit
        own = unit.id if isinstance(unit, Trunk) else unit.trial.id
        out[own] = plan.seconds(item, device, start, until, world, stacks.get(own, 1))[0]
    for trial, item in plan.unique.items():
        missing = sum(not c.done for c in item.cells)
        out[trial] = out.get(trial, 0.0) + missing * SECONDS_AN_EVALUATION / world
    return out

"""Whether a phase goes on with the function that the phase before had learned.

Before its first step both models, with the same weights, read the same rows: those that the phase
before would have read next, and the first ones of the phase.  A change that should not show (longer
rows of the same RoPE) shows no difference in the former; what the others lose is the price of the
change before any training, at the old length and at the new one.

A training that begins from a folder of Hugging Face is held against that folder's own model, on its
first rows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paribus.engine.net import ExternalNet, Net, make_net
from paribus.engine.start import read
from paribus.parts import changed
from paribus.spec import Model, Spec

if TYPE_CHECKING:
    from paribus.engine.train import Trainer

TOKENS = 8192  # that a trial reads of each batch, at most (one row at least)

Found = dict[str, Any]


def continuity(trainer: Trainer) -> list[Found]:
    """What is recorded of each member as the trainer enters a phase; []: there is nothing before
    it whose model is known.

    ``phase`` and the ``step`` (over all phases) that it begins at; and of ``rows`` of the phase
    ``of`` that name: ``before`` and ``after``, the mean loss in nats under the model of the phase
    before and under that of this phase (None: it cannot read rows of this length, or the loss is
    not finite), and ``largest``, the largest difference of an output (0: equal to the bit).
    """
    index, members, settings = trainer.phase, trainer.members, trainer.settings
    batches = [(index, trainer.specs, 0)]
    if index:
        earlier = [m.phases[index - 1].spec for m in members]
        batches.insert(0, (index - 1, earlier, earlier[0].steps or 0))
    else:
        (begun,) = {s.start for s in trainer.specs}
        model = None if begun is None else read(begun)[0]
        if model is None:
            return []
        earlier = [changed(s, {"model": model}) for s in trainer.specs]
    nets = make_net(earlier, settings.device, settings.attention), trainer.net
    out: list[Found] = [
        {"phase": m.phases[index].name, "step": trainer.step, "batches": []} for m in members
    ]
    with torch.no_grad():
        for at, specs, step in batches:
            batch = _rows(trainer, at, specs[0], step)
            length = batch["inputs"].shape[2]
            pairs = zip(nets, (earlier, trainer.specs), strict=True)
            found = [_read(net, trainer.params, batch, of) for net, of in pairs]
            for e, m in enumerate(members):
                a, b = found
                losses = [x if x is None else _number(_loss(specs[e], x, batch, e)) for x in found]
                gap = None if a is None or b is None else _number((a[e] - b[e]).abs().max())
                row = {"of": m.phases[at].name, "rows": batch["inputs"].shape[1], "length": length}
                row |= {"before": losses[0], "after": losses[1], "largest": gap}
                out[e]["batches"].append(row)
    return out


def _rows(trainer: Trainer, index: int, spec: Spec, step: int) -> dict[str, Tensor]:
    """The first rows of a step of a phase, stacked."""
    n = spec.rows or 1
    few = min(n, max(1, TOKENS // (spec.task.io().length or 1)))
    rows = range(step * n, step * n + few)
    each = []
    for (source, seed), m in zip(trainer.open(index), trainer.members, strict=True):
        own = source.batch(seed, step, rows)
        each.append(own if seed == m.seed else source.for_trial(own, m.seed))
    return {k: torch.stack([own[k] for own in each]) for k in each[0]}


def _read(
    net: Net | ExternalNet, params: dict[str, Tensor], batch: dict[str, Tensor], specs: list[Spec]
) -> Tensor | None:
    """Outputs [E, …]; None where a position ends before the rows do."""
    length = batch["inputs"].shape[2]
    for spec in specs:
        position = spec.model.position if isinstance(spec.model, Model) else None
        limit = None if position is None else position.limit()
        if limit is not None and length > limit:
            return None
    return net(params, batch, None, net.prepare(batch))


def _loss(spec: Spec, outputs: Tensor, batch: dict[str, Tensor], e: int) -> Tensor:
    own = {k: t[e : e + 1] for k, t in batch.items()}
    total, count = spec.task.loss(outputs[e : e + 1], own)
    return (total / count)[0]


def _number(x: Tensor) -> float | None:
    value = float(x)
    return value if math.isfinite(value) else None

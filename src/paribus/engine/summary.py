"""What the end of an attempt records of a training: curves, counts, parameters, what ran."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import torch

from paribus import arrays
from paribus.engine.adaptive import decisions
from paribus.engine.net import Net
from paribus.engine.settings import describe

if TYPE_CHECKING:
    from paribus.engine.train import Trainer


def summary_of(trainer: Trainer, e: int) -> dict[str, Any]:
    """What the end of an attempt of member ``e`` records."""
    mine = trainer.curve(e)
    if all(map(math.isfinite, itertools.chain(*mine.values()))):
        curve = trainer.curves.packed(e)
    else:
        curve = {
            c: arrays.pack([x if math.isfinite(x) else 1e308 for x in v]) for c, v in mine.items()
        }
    device = trainer.settings.device
    peak = torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else None
    return {
        "step": trainer.step,
        "parent": trainer.members[e].parent,
        "tokens": int(trainer.tokens[e].item()),
        "targets": int(trainer.targets[e].item()),
        "seconds": round(trainer.seconds, 3),
        "curves": curve,
        "checks": trainer.checks[e],
        **({"continuity": trainer.continuity[e]} if trainer.continuity[e] else {}),
        **({"decisions": made} if (made := decisions(trainer, e)) else {}),
        "parameters": trainer.net.freezing.audit(e, trainer.state),
        "engine": {
            "engine": trainer.engine,
            "stack": trainer.e,
            "micro_batch": trainer.budget.micro,
            "accumulation": len(trainer.budget.pieces()),
            "halvings": trainer.halvings,
            "peak_memory": peak,
            "paired_init": isinstance(trainer.net, Net),
            **describe(trainer.settings),
            "kernel": trainer.net.kernel,
        },
    }

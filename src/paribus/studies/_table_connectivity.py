"""What the studies of table connectivity share: the base, the arms, the claims.

The document is the experiment guide of a fork of Garg et al.'s in-context-learning code;
docs/studies/table-connectivity.md sets it beside ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paribus import (
    Factor,
    Spec,
    baseline,
    criterion,
    init,
    masks,
    metric,
    optim,
    positions,
    presets,
    schedules,
    tasks,
)

if TYPE_CHECKING:
    from paribus import Arm
    from paribus.contracts import Schedule

accuracy, balanced = metric("accuracy"), metric("balanced_accuracy")
SLICES = ("hops", "present")

STANDARD = {"model.position": positions.learned(length=None), "model.mask": masks.causal()}
# The document's transformers release made every mask causal, and newer ones do not.
LOWRANK = {"model.position": positions.tiled(), "model.mask": masks.schema_blocks(causal=True)}


def base(
    *,
    width: int = 256,
    layers: int = 12,
    heads: int = 8,
    batch: int = 256,
    steps: int = 1001,
    lr: float = 1e-4,
    precision: str = "bf16",
    schedule: Schedule | None = None,
    clip: float | None = None,
    std: float | None = None,
    matrices: float = 0.02,
    **task: Any,
) -> Spec:
    """The document's recipe: GPT-2 blocks, Adam at a constant rate, no clipping.  ``std`` and
    ``matrices``: standard deviations of positions and of matrices at the start."""
    return Spec(
        model=presets.gpt2(
            width=width,
            layers=layers,
            heads=heads,
            position=positions.learned(length=None, std=std),
            read_in="vectors",
            read_out="scalar",
        ),
        task=tasks.connectivity(**{"V": 5, "examples": 4096, "batch": batch, **task}),
        # GPT-2's blocks between two of torch's linear layers, as Garg et al. have it.
        init={"every": init.gpt2(std=matrices), "read": init.torch_default()},  # type: ignore[arg-type]
        optim=optim.adam(lr=lr),
        schedule=schedule or schedules.constant(),
        clip=clip,
        precision=precision,  # type: ignore[arg-type]
        steps=steps,
    )


def tables(levels: Sequence[int]) -> Factor:
    return Factor("V", levels, "task.V")


def examples(levels: Sequence[int]) -> Factor:
    return Factor("N", levels, "task.examples")


def too_few(cell: Any) -> bool:
    return bool(cell.spec["task"]["batch"] > cell.N)


TOO_FEW = ("fewer examples than one batch", too_few)


def learned(arm: Arm, on: Any) -> dict[str, Any]:
    """The manipulation check: an arm that cannot tell the answers apart says nothing of another."""
    return {"learned": criterion(arm, on=on, above=baseline("majority"), by=0.05)}

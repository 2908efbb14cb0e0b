"""Which part of the structure helps, where being there tells nothing?

Positions, masks and causality are varied apart, on questions whose columns are both there and whose
answer no schema gives away; every arm is trained at the learning rate that suits it best.

The recipe is not the document's, by which no arm left chance on such questions in 3 001 steps.  By
trials at two and three tables they can be learned with clipping and a cosine; positions of standard
deviation 0.5 (names come in at about 0.6); names of 16 numbers; matrices of standard deviation
0.08, so that attention is not flat at the start; 512 rows a step.  At small scale there are three
tables, and no rate of 3e-3, at which none of nine models left chance.
"""

from typing import Any

from paribus import Eval, Factor, Study, better, masks, positions, schedules
from paribus.studies import _table_connectivity as shared

SCALES = ("small", "smoke", "paper")
MASKS = {
    "dense_causal": masks.causal(),
    "dense_both": masks.full(),
    "structured_causal": masks.schema_blocks(causal=True),
    "structured_both": masks.schema_blocks(causal=False),
}
RATES = {
    "paper": [1e-4, 3e-4, 1e-3, 3e-3],
    "small": [1e-4, 3e-4, 1e-3],
    "smoke": [1e-3, 3e-3],
}
GRID: dict[str, list[int]] = {
    "paper": [4096, 16_384, 65_536, 262_144],
    "small": [16_384, 65_536, 262_144],
    "smoke": [64],
}
SIZE: dict[str, dict[str, Any]] = {
    "paper": {"steps": 5001, "batch": 512},
    "small": {"width": 128, "layers": 4, "heads": 4, "batch": 512, "steps": 2001, "V": 3},
    "smoke": {
        "width": 32, "layers": 3, "heads": 4, "batch": 32, "steps": 4, "precision": "fp32",
        "V": 3, "examples": 64, "eval_examples": 200,
    },
}  # fmt: skip


def study(scale: str) -> Study:
    position = Factor(
        "position",
        {
            "full": positions.learned(length=None, std=0.5),
            "tiled": positions.tiled(std=0.5),
        },
        "model.position",
    )
    mask = Factor("mask", MASKS, "model.mask")
    N = shared.examples(GRID[scale])
    lr = Factor("lr", RATES[scale], "optim.lr", tuned="valid/balanced_accuracy")
    dense, causal = mask["dense_causal", "dense_both"], mask["dense_causal", "structured_causal"]
    structured = mask["structured_causal", "structured_both"]
    both = mask["dense_both", "structured_both"]
    full, tiled, over = position["full"], position["tiled"], shared.balanced.mean(N)
    return Study(
        "table-connectivity-factorial",
        "Which part of the structure, positions or masks, helps to tell whether two columns can be "
        "joined, when examples are few?",
        base=shared.base(
            mode="balanced",
            dims=16,
            schedule=schedules.cosine(warmup=0.05),
            clip=1.0,
            matrices=0.08,
            **SIZE[scale],
        ),
        factors=[position, mask, N, lr],
        seeds=1 if scale == "smoke" else 5,
        evaluate=[
            Eval("test", by=shared.SLICES),
            Eval("valid", split="validation", examples=4096),
        ],
        baseline=full & mask["dense_causal"],
        primary="balanced_accuracy",
        names="{position}-{mask}-N{N}-lr{lr}",
        columns="position, mask, N, lr, evaluation, slice, accuracy, balanced_accuracy, auc",
        skip=[shared.TOO_FEW],
        hypotheses=dict(
            structured_masks=better(structured, than=dense, on=over.mean(position, mask), by=0.02),
            tiled_positions=better(tiled, than=full, on=over.mean(mask), by=0.02),
            both_directions=better(both, than=causal, on=over.mean(position, mask), by=0.02),
            all_of_it=better(
                tiled & structured,
                than=full & dense,
                on=over.mean(mask),
                by=0.02,
            ),
        ),
        checks=shared.learned(
            full & mask["dense_causal"], shared.balanced.at(N[N.levels[-1].value])
        ),
    )

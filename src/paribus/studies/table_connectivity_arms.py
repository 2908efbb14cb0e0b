"""Do vectors of names that are the same in every run change the comparison, and do more examples?

The document's later grid of 320 trainings: five tables, 2¹⁵ to 2¹⁸ examples, both models with names
drawn anew in each run and with fixed ones, twenty runs of each.
"""

from typing import Any

from paribus import Eval, Factor, Study, baseline, better, criterion, same
from paribus.studies import _table_connectivity as shared

SCALES = ("small", "smoke", "paper")
GRID: dict[str, tuple[list[int], list[int]]] = {
    "paper": ([5], [2**15, 2**16, 2**17, 2**18]),
    "small": ([5], [2**12, 2**14]),
    "smoke": ([3], [64]),
}
SIZE: dict[str, dict[str, Any]] = {
    "paper": {"steps": 5001},
    "small": {"width": 64, "layers": 4, "steps": 2001, "lr": 1e-3, "precision": "fp32"},
    "smoke": {
        "width": 32, "layers": 3, "heads": 4, "batch": 32, "steps": 4, "precision": "fp32",
        "V": 3, "examples": 64, "eval_examples": 200,
    },
}  # fmt: skip
RUNS = {"paper": 20, "small": 5, "smoke": 1}


def study(scale: str) -> Study:
    V, N = (make(levels) for make, levels in zip(
        (shared.tables, shared.examples), GRID[scale], strict=True
    ))  # fmt: skip
    model = Factor("model", {"standard": shared.STANDARD, "lowrank": shared.LOWRANK})
    names = Factor("names", {"random": "run", "fixed": "fixed"}, "task.names")
    most = N.levels[-1].value
    over, last = shared.balanced.mean(V, N), shared.accuracy.at(N[most]).mean(V, names)

    def rule(arm: str, name: str) -> Any:
        return criterion(model[arm], on=last, above=baseline(name))

    return Study(
        "table-connectivity-arms",
        "Does the block structure of a schema help with many examples, and does it matter whether "
        "runs share the vectors of names?",
        base=shared.base(**SIZE[scale]),
        factors=[V, N, model, names],
        seeds=RUNS[scale],
        evaluate=[
            Eval("test", by=shared.SLICES),
            Eval("train", split="train", examples=min(4096, *GRID[scale][1])),
        ],
        baseline=model["standard"] & names["random"],
        primary="balanced_accuracy",
        names="table_connectivity_{model}_{names}_V{V}_N{N}_run{run}",
        columns="model, names, V, N, accuracy, balanced_accuracy, auc, recall, specificity, "
        "agreement",
        skip=[shared.TOO_FEW],
        hypotheses=dict(
            efficient=better(
                model["lowrank"], than=model["standard"], on=over.mean(names), by=0.02
            ),
            fixed=same(names["fixed"], names["random"], on=over.mean(model), within=0.02),
        ),
        criteria=dict(
            standard_above_majority=rule("standard", "majority"),
            lowrank_above_majority=rule("lowrank", "majority"),
            standard_above_membership=rule("standard", "membership"),
            lowrank_above_membership=rule("lowrank", "membership"),
        ),
        checks=shared.learned(model["standard"], shared.balanced.at(N[most]).mean(V, names)),
    )

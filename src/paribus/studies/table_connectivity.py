"""Does the block structure of a serialised schema help when examples are few?

The document's sixty trainings: two numbers of tables, five numbers of examples, a standard GPT-2
and one with repeating positions and structured masks ("low-rank"), three runs of each.
"""

from typing import Any

from paribus import Eval, Factor, Study, baseline, better, criterion
from paribus.studies import _table_connectivity as shared

SCALES = ("small", "smoke", "paper")
GRID: dict[str, tuple[list[int], list[int]]] = {
    "paper": ([5, 20], [256, 512, 1024, 2048, 4096]),
    "small": ([5], [256, 1024, 4096, 65_536]),
    "smoke": ([3], [64]),
}
SIZE: dict[str, dict[str, Any]] = {
    "paper": {},
    # The rate at which a plain model learns, and a size for minutes of one GPU.
    "small": {"width": 64, "layers": 4, "lr": 1e-3, "precision": "fp32"},
    "smoke": {
        "width": 32, "layers": 3, "heads": 4, "batch": 32, "steps": 4, "precision": "fp32",
        "V": 3, "examples": 64, "eval_examples": 500,
    },
}  # fmt: skip


def study(scale: str) -> Study:
    V, N = (make(levels) for make, levels in zip(
        (shared.tables, shared.examples), GRID[scale], strict=True
    ))  # fmt: skip
    model = Factor("model", {"standard": shared.STANDARD, "lowrank": shared.LOWRANK})
    most = N.levels[-1].value
    at_most = shared.balanced.at(N[most]).mean(V)

    def rule(arm: str, name: str) -> Any:
        return criterion(model[arm], on=shared.accuracy.at(N[most]).mean(V), above=baseline(name))

    return Study(
        "table-connectivity",
        "Does the block structure of a schema help to tell whether two columns can be joined, when "
        "examples are few?",
        base=shared.base(**SIZE[scale]),
        factors=[V, N, model],
        seeds=1 if scale == "smoke" else 3,
        evaluate=[
            Eval("test", by=shared.SLICES),
            Eval("train", split="train", examples=1024),
        ],
        baseline=model["standard"],
        primary="balanced_accuracy",
        names="table_connectivity_{model}_V{V}_N{N}_run{run}",
        columns="model, V, N, evaluation, slice, accuracy, balanced_accuracy, auc, recall, "
        "specificity, agreement",
        skip=[shared.TOO_FEW],
        hypotheses=dict(
            efficient=better(
                model["lowrank"],
                than=model["standard"],
                on=shared.balanced.mean(N, V),
                by=0.02,
            ),
        ),
        criteria=dict(
            standard_above_majority=rule("standard", "majority"),
            lowrank_above_majority=rule("lowrank", "majority"),
            standard_above_membership=rule("standard", "membership"),
            lowrank_above_membership=rule("lowrank", "membership"),
        ),
        checks=shared.learned(model["standard"], at_most),
    )

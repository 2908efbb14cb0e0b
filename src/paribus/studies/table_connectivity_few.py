"""Does the block structure of a schema help where examples are very few?

The document's last grid of 360 trainings: three to five tables, 2⁵ to 2⁷ examples, twenty runs of
each model.  A batch had 64 examples, so the 120 trainings on 32 could not begin; here they are
skipped, and counted.
"""

from typing import Any

from paribus import Eval, Factor, Study, baseline, better, criterion
from paribus.studies import _table_connectivity as shared

SCALES = ("small", "smoke", "paper")
GRID: dict[str, tuple[list[int], list[int]]] = {
    "paper": ([3, 4, 5], [2**5, 2**6, 2**7]),
    "small": ([3, 5], [2**5, 2**6, 2**7]),
    "smoke": ([3], [16, 32]),
}
SIZE: dict[str, dict[str, Any]] = {
    "paper": {"batch": 64, "steps": 5001},
    "small": {
        "width": 64, "layers": 4, "batch": 64, "lr": 1e-3, "precision": "fp32",
    },
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
    enough = [n for n in GRID[scale][1] if n >= SIZE[scale]["batch"]]
    trained, most = N[tuple(enough)], N[enough[-1]]

    def rule(arm: str, name: str) -> Any:
        return criterion(model[arm], on=shared.accuracy.at(most).mean(V), above=baseline(name))

    return Study(
        "table-connectivity-few",
        "Does the block structure of a schema help to tell whether two columns can be joined, when "
        "examples are very few?",
        base=shared.base(**SIZE[scale]),
        factors=[V, N, model],
        seeds=RUNS[scale],
        evaluate=[
            Eval("test", by=shared.SLICES),
            Eval("train", split="train", examples=enough[0]),
        ],
        baseline=model["standard"],
        primary="balanced_accuracy",
        names="table_connectivity_{model}_random_V{V}_N{N}_run{run}",
        columns="model, V, N, accuracy, balanced_accuracy, auc, recall, specificity, agreement",
        skip=[shared.TOO_FEW],
        hypotheses=dict(
            efficient=better(
                model["lowrank"],
                than=model["standard"],
                on=shared.balanced.mean(N, V),
                where=trained,
                by=0.02,
            ),
        ),
        criteria=dict(
            standard_above_majority=rule("standard", "majority"),
            lowrank_above_majority=rule("lowrank", "majority"),
            standard_above_membership=rule("standard", "membership"),
            lowrank_above_membership=rule("lowrank", "membership"),
        ),
        checks=shared.learned(model["standard"], shared.balanced.at(most).mean(V)),
    )

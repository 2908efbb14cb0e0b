"""Does learning to write the path of joins help to tell whether there is one?

The document's autoregressive model, corrected: it reads which columns are asked for, and says
"none" where there is no path.  Beside it stand the same model that is asked for the label alone,
and the classifier, which reads vectors of names instead of tokens.  All questions are balanced.
"""

from typing import Any

from paribus import (
    Eval,
    Factor,
    Study,
    baseline,
    better,
    criterion,
    metric,
    positions,
    schedules,
    tasks,
)
from paribus.studies import _table_connectivity as shared

SCALES = ("small", "smoke", "paper")
RATES = {"paper": [1e-4, 3e-4, 1e-3, 3e-3], "small": [3e-4, 1e-3, 3e-3], "smoke": [1e-3, 3e-3]}
GRID: dict[str, list[int]] = {
    "paper": [1024, 4096, 16_384, 65_536],
    "small": [1024, 4096, 16_384],
    "smoke": [64],
}
SIZE: dict[str, dict[str, Any]] = {
    "paper": {"steps": 5001},
    "small": {"width": 128, "layers": 4, "heads": 4, "batch": 128, "steps": 2001},
    "smoke": {
        "width": 32, "layers": 1, "heads": 4, "batch": 32, "steps": 4, "precision": "fp32",
        "V": 3, "examples": 64, "eval_examples": 100,
    },
}  # fmt: skip


def study(scale: str) -> Study:
    base = shared.base(
        mode="balanced", schedule=schedules.cosine(warmup=0.05), clip=1.0, std=0.5, **SIZE[scale]
    )
    asked = {f: getattr(base.task, f) for f in ("V", "examples", "batch", "mode", "eval_examples")}

    def written(answer: str) -> dict[str, Any]:
        task = tasks.join_paths(**asked, answer=answer)
        # Words come in as small as GPT-2's positions are, vectors of names do not.
        small = {"model.position": positions.learned(length=None)}
        return {"task": task, "model.read_in": "tokens", "model.read_out": "lm", **small}

    answer = Factor(
        "answer", {"classifier": {}, "label": written("label"), "path": written("path")}
    )
    N = shared.examples(GRID[scale])
    lr = Factor("lr", RATES[scale], "optim.lr", tuned="valid/balanced_accuracy")
    over, most = shared.balanced.mean(N), N[N.levels[-1].value]
    return Study(
        "table-connectivity-paths",
        "Does a model that writes the path of joins tell better whether there is one?",
        base=base,
        factors=[answer, N, lr],
        seeds=1 if scale == "smoke" else 5,
        evaluate=[
            Eval("test", by=shared.SLICES),
            Eval("valid", split="validation", examples=min(4096, asked["eval_examples"])),
        ],
        baseline=answer["classifier"],
        primary="balanced_accuracy",
        names="{answer}-N{N}-lr{lr}",
        columns="answer, N, lr, balanced_accuracy, auc, exact_match",
        skip=[shared.TOO_FEW],
        accept={"answer moves task": "what is answered is what the study asks about"},
        hypotheses=dict(
            paths=better(answer["path"], than=answer["classifier"], on=over, by=0.02),
            joins=better(answer["path"], than=answer["label"], on=over, by=0.02),
        ),
        criteria=dict(
            exact=criterion(
                answer["path"], on=metric("exact_match").at(most), above=baseline("none"), by=0.05
            ),
        ),
        checks=shared.learned(answer["classifier"], shared.balanced.at(most)),
    )

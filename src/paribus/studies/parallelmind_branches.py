"""Does the share of branch frequencies decide how loss grows with the number of branches?

ParallelMind's first experiment: 6 shares × 9 numbers of training branches, judged at 1 … 32.
"""

from paribus import Eval, Study, stated
from paribus.studies import _parallelmind as shared

SCALES = shared.SCALES


def study(scale: str) -> Study:
    ratio = shared.ratio(shared.RATIOS[scale])
    branch = shared.train_branch(shared.TRAINED[scale])
    judged = shared.eval_branch(scale)
    return Study(
        "parallelmind-branches",
        "Does the share of branch frequencies, or the number of training branches, decide how loss "
        "grows with the number of branches?",
        base=shared.base(scale),
        factors=[ratio, branch],
        seeds=1 if scale == "smoke" else 3,
        evaluate=[Eval("lm", over=[judged])],
        baseline=ratio[0],
        names="{model.width}-h{model.heads}-r{rope_ratio}-b{train_branch}",
        columns="rope_ratio, train_branch, eval_branch, loss, ppl",
        hypotheses={
            **shared.hypotheses(ratio, branch, judged),
            "H5": stated("More heads lower the loss: asked by parallelmind-heads."),
            "H6": stated("Larger heads control the ratio finer: asked by parallelmind-head-dim."),
        },
        checks=shared.learned(ratio, branch, judged),
    )

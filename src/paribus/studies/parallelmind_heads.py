"""Does it at every number of heads?  (Heads of one size, so the model's width grows with them.)

ParallelMind's second experiment, its "scaling law": the first one at four sizes of the model.
"""

from paribus import Eval, Factor, Study, decreasing, stated
from paribus.studies import _parallelmind as shared

SCALES = shared.SCALES
HEADS = {"paper": [4, 8, 16, 24], "small": [2, 4, 8], "smoke": [2, 4]}
TRAINED = {
    **shared.TRAINED,
    "small": {"fixed1": 1, "fixed4": 4, "1-7": (1, 7)},
}


def study(scale: str) -> Study:
    size = 32 if scale == "smoke" else 64
    heads = Factor(
        "num_heads", HEADS[scale], "model.heads", also=lambda h: {"model.width": size * h}
    )
    ratio = shared.ratio([0, 0.5, 1.0] if scale == "small" else shared.RATIOS[scale])
    branch = shared.train_branch(TRAINED[scale])
    judged = shared.eval_branch(scale)
    single = shared.loss.at(judged[1]).mean(ratio, branch)
    return Study(
        "parallelmind-heads",
        "Does the share of branch frequencies decide how loss grows with branches, at every width?",
        base=shared.base(scale),
        factors=[heads, ratio, branch],
        seeds=1 if scale == "smoke" else 3,
        evaluate=[Eval("lm", over=[judged])],
        baseline=ratio[0],
        names="{model.width}-h{num_heads}-r{rope_ratio}-b{train_branch}",
        columns="num_heads, hidden_size=model.width, rope_ratio, train_branch, eval_branch, loss, "
        "ppl",
        accept={"num_heads moves model.width": "head size is fixed, as in the document"},
        hypotheses={
            **shared.hypotheses(ratio, branch, judged, heads),
            "H5": decreasing(on=single.slope(heads.log2)),
            "H6": stated("Larger heads control the ratio finer: asked by parallelmind-head-dim."),
        },
        checks=shared.learned(ratio, branch, judged, heads),
    )

"""Does it at every size of the heads?  (Their number falls as they grow: the width is fixed.)

ParallelMind's third experiment.  A head of size d has d/2 pairs, so a ratio is met to 2/d.
"""

from paribus import Eval, Factor, Study, increasing, stated
from paribus.studies import _parallelmind as shared

SCALES = shared.SCALES
SIZES = {"paper": [32, 64, 128], "small": [32, 64, 128], "smoke": [16, 32]}
WIDTH = {"paper": 512, "small": 256, "smoke": 64}
TRAINED = {
    **shared.TRAINED,
    "small": {"fixed1": 1, "fixed4": 4, "1-7": (1, 7)},
}


def study(scale: str) -> Study:
    width = WIDTH[scale]
    head_dim = Factor(
        "head_dim",
        SIZES[scale],
        "model.head_dim",
        also=lambda d: {"model.heads": width // d},
    )
    ratio = shared.ratio([0, 0.5, 1.0] if scale == "small" else shared.RATIOS[scale])
    branch = shared.train_branch(TRAINED[scale])
    judged = shared.eval_branch(scale)
    rise = shared.loss.slope(judged.log2).mean(branch)
    return Study(
        "parallelmind-head-dim",
        "Does the size of the heads decide how finely the share of branch frequencies acts?",
        base=shared.base(scale),
        factors=[head_dim, ratio, branch],
        seeds=1 if scale == "smoke" else 3,
        evaluate=[Eval("lm", over=[judged])],
        baseline=ratio[0],
        names="{model.width}-d{head_dim}-h{model.heads}-r{rope_ratio}-b{train_branch}",
        columns="head_dim, num_heads=model.heads, rope_ratio, train_branch, eval_branch, loss, "
        "ppl, freq_count=model.head_dim/2, ratio_precision=2/model.head_dim",
        accept={"head_dim moves model.heads": "the width is fixed, as in the document"},
        hypotheses={
            **shared.hypotheses(ratio, branch, judged, head_dim),
            "H5": stated("More heads lower the loss: asked by parallelmind-heads."),
            # Finer control as something to measure: what the ratio does to the rise grows with
            # the size of the heads.
            "H6": increasing(on=(rise.at(ratio[0]) - rise.at(ratio[1.0])).slope(head_dim.log2)),
        },
        checks=shared.learned(ratio, branch, judged, head_dim),
    )

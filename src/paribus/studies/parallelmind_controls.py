"""Is it the branch frequencies, or what changes along with them?

In ParallelMind's experiments the ratio also decides how many pairs turn with the flat index, which
grows with the number of branches; and every text reads all the others.  Here each is varied alone.
"""

from typing import Any

from paribus import Eval, Factor, Study, baseline, best, better, criterion
from paribus.studies import _parallelmind as shared

SCALES = shared.SCALES
OTHER: dict[str, dict[str, Any]] = {
    "none": {},
    "fastest": {"model.position.choice": "fastest"},
    "interleaved": {"model.position.choice": "interleaved"},
    "per_head": {"model.position.choice": "per_head"},
    "stride1": {"model.position.stride": 1.0},
    "stride16": {"model.position.stride": 16.0},
    "offsets": {"task.offsets": True},
}
SHOWN = {
    "paper": list(OTHER),
    "small": ["none", "interleaved", "stride1"],
    "smoke": ["none", "per_head"],
}
TRAINED = {"paper": (1, 15), "small": (1, 7), "smoke": (1, 3)}
MEANT = {"other moves task.offsets": "offsets in training are one of the variations"}
HALF = {"paper": 0.5, "small": 0.5, "smoke": 1.0}


def study(scale: str) -> Study:
    mask = Factor("mask", ["columnar", "isolated"], "model.mask.reads")
    residual = Factor("residual", ["flat", "time"], "model.position.residual")
    ratio = shared.ratio(shared.RATIOS[scale])
    other = Factor("other", {name: OTHER[name] for name in SHOWN[scale]})
    judged = shared.eval_branch(scale)
    last = judged.levels[-1].value
    rise = shared.loss.slope(judged.log2)
    plain = other["none"]
    columnar, isolated = mask["columnar"] & plain, mask["isolated"] & plain
    flat, time = residual["flat"], residual["time"]

    def elsewhere(cell: Any) -> bool:
        varied = cell.levels["other"] != "none"
        original = cell.mask == "columnar" and cell.residual == "flat"
        return varied and not (original and cell.rope_ratio == HALF[scale])

    def ordinary(cell: Any) -> bool:
        apart = cell.mask == "isolated" and cell.residual == "time"
        return apart and scale != "paper" and cell.rope_ratio not in (0, 1.0)

    return Study(
        "parallelmind-controls",
        "Does loss rise least at ratio 1 because of branch frequencies, or because no pair is left "
        "on the flat index, and does it when texts do not read each other?",
        base=shared.base(scale, branches=TRAINED[scale]),
        factors=[mask, residual, ratio, other],
        seeds=1 if scale == "smoke" else 3,
        evaluate=[Eval("lm", over=[judged])],
        baseline=mask["columnar"] & flat & ratio[0] & plain,
        names="{mask}-{residual}-r{rope_ratio}-{other}",
        columns="mask, residual, rope_ratio, other, eval_branch, loss, ppl",
        accept=MEANT if "offsets" in SHOWN[scale] else {},
        skip=[
            ("pair choice, stride and offsets are varied in the original alone", elsewhere),
            ("isolated branches with times alone are ordinary texts at any ratio", ordinary),
        ],
        hypotheses=dict(
            H2=best(ratio[1.0], on=rise, where=columnar & flat),
            H2_time=best(ratio[1.0], on=rise, where=columnar & time),
            H2_isolated=best(ratio[1.0], on=rise, where=isolated & flat),
            flat_index=better(time, than=flat, on=rise.mean(ratio), where=columnar, by=0.02),
            reading=better(
                mask["isolated"],
                than=mask["columnar"],
                on=shared.loss.at(judged[last]).mean(ratio),
                where=flat & plain,
                by=0.02,
            ),
        ),
        criteria=dict(
            ordinary=criterion(
                isolated & time & ratio[0],
                on=shared.loss.gap(judged[last], judged[1]),
                above=-0.005,
                below=0.005,
            ),
        ),
        checks=dict(
            learned=criterion(
                isolated & time & ratio[0],
                on=shared.loss.at(judged[1]),
                below=baseline("unigram"),
                by=0.5,
            ),
        ),
    )

"""Position encodings that change the trained function, trained from the start.

ALiBi and FIRE cannot be put in at a checkpoint as the scalings of RoPE can, so each is trained from
scratch, on rows of the old length and of the new one, with as many tokens a step.  FIRE has learned
parameters of its own: the column ``parameters`` says how many.  There is no scale ``paper``: FIRE's
32 units of all pairs of 8,192 tokens are 8.6 GB a layer.
"""

from paribus import Factor, Study, better, decreasing, increasing, positions
from paribus.studies import _rope_scaling as shared

SCALES = ("small", "small-novels", "smoke")
LEAST = 0.001  # bits a byte


def study(scale: str) -> Study:
    s, T0, T1 = shared.size(scale), shared.old(scale), shared.new(scale)
    position = Factor(
        "position",
        {
            "rope": positions.rope(base=10000.0),
            "alibi": positions.alibi(),
            "fire": positions.fire(original=T0),
        },
        "model.position",
    )
    trained = Factor("trained", [T0, T1], "task.length")
    length = shared.length(scale)
    short, long = trained[T0], trained[T1]
    near, far = (shared.bpb.at(length[n]) for n in (T0, T1))
    rise = far - near

    return Study(
        "rope-scaling-scratch",
        "Does a position encoding that is made for longer rows, trained from the start, use them "
        "without seeing any?",
        base=shared.base(scale, steps={"small": 1250}.get(s)),
        factors=[position, trained],
        seeds={"small": 3, "smoke": 1}[s],
        evaluate=shared.judged(scale, length),
        baseline=position["rope"] & long,
        primary="bpb",
        names="{position}-{trained}",
        columns="position, trained, evaluation, length, bpb, loss",
        hypotheses=dict(
            rope_fails=increasing(position["rope"] & short, on=rise, by=LEAST),
            alibi_holds=decreasing(position["alibi"] & short, on=rise, by=LEAST),
            fire_holds=decreasing(position["fire"] & short, on=rise, by=LEAST),
            # And where all have seen such rows.
            alibi=better(position["alibi"] & long, than=position["rope"] & long, on=far, by=LEAST),
            fire=better(position["fire"] & long, than=position["rope"] & long, on=far, by=LEAST),
        ),
        checks=shared.learned(scale, position["rope"] & short),
    )

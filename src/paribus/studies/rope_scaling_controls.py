"""Does it matter how far a scaling of RoPE is set, and how the continuation begins?

The document leaves scales of 8 and 16 to the future, and never says that its schedule jumps from a
rate of 0 to 0.947 of the peak.  Rows are four times as long as the base's in all arms; a scaling of
8 or 16 makes room for rows that are longer still.
"""

from typing import Any

from paribus import Factor, Study, better, criterion, no_worse, scalings
from paribus.studies import _rope_scaling as shared

SCALES = shared.SCALES
LEAST = 0.001  # bits a byte
FACTORS = {"paper": [4, 8, 16], "small": [4, 8, 16], "smoke": [4, 16]}


def study(scale: str) -> Study:
    s, T0, T1 = shared.size(scale), shared.old(scale), shared.new(scale)
    scaling = Factor(
        "scaling",
        {
            "rope": None,
            "pi": scalings.pi(factor=4),
            "ntk": scalings.ntk(factor=4),
            "yarn": scalings.yarn(factor=4, original=T0),  # with its own 0.1 ln(factor) + 1
        },
        "extend:model.position.scaling",
    )
    factor = Factor(
        "factor",
        FACTORS[s],
        "extend:model.position.scaling.factor",
        when=scaling["pi", "ntk", "yarn"],
    )
    schedule = Factor("schedule", {"rewarm": shared.REWARM, "jump": shared.JUMP}, "extend:schedule")
    length = shared.length(scale)
    rewarm, jump, four = schedule["rewarm"], schedule["jump"], factor[4]
    most = factor[FACTORS[s][-1]]
    far, beyond = (shared.bpb.at(length[n]) for n in (T1, length.levels[-1].value))

    def far_set(cell: Any) -> bool:
        return cell.levels["schedule"] == "jump" and cell.levels["factor"] not in (None, "4")

    names = ("pi", "ntk", "yarn")
    return Study(
        "rope-scaling-controls",
        "Does a scaling of RoPE that is set further than the rows are long cost or gain, and does "
        "the schedule of the continuation decide which is best?",
        base=shared.extended(scale),
        factors=[scaling, factor, schedule],
        seeds={"paper": 1, "small": 3, "smoke": 1}[s],
        evaluate=shared.judged(scale, length),
        baseline=scaling["rope"] & rewarm,
        primary="bpb",
        names="{scaling}-{factor?}-{schedule}",
        columns="scaling, factor, schedule, evaluation, length, bpb, loss",
        skip=[("the jump is tried at four times alone", far_set)],
        hypotheses=dict(
            # Room for more costs nothing where it is not needed, and is of use beyond.
            **{
                f"room_{n}": no_worse(
                    scaling[n] & most & rewarm, than=scaling[n] & four & rewarm, on=far,
                    within=".01 bits",
                )
                for n in names
            },
            **{
                f"beyond_{n}": better(
                    scaling[n] & most & rewarm, than=scaling[n] & four & rewarm, on=beyond, by=LEAST
                )
                for n in names
            },
            gentle=better(
                scaling["yarn"] & four & rewarm, than=scaling["yarn"] & four & jump, on=far,
                by=LEAST,
            ),
        ),
        checks=shared.learned(scale, scaling["rope"] & rewarm),
        criteria=dict(
            yarn_first=criterion(
                scaling["yarn"] & four & jump, than=scaling["rope"] & jump, on=far, below="-0.40%"
            ),
        ),
    )  # fmt: skip

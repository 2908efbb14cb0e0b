"""What does a scaling of RoPE do to a model that has never seen longer rows?

The document expects that plain RoPE "cannot generalise" beyond the trained length and never looks,
for all its arms are trained at the new one.  Here nothing is trained after the base.  The base is a
trial of ``rope-scaling``, its arm *untouched*: in one home with that study it is only evaluated.
"""

from typing import Any

from paribus import Eval, Factor, Study, decreasing, increasing, metric
from paribus.studies import _rope_scaling as shared

SCALES = shared.SCALES
LEAST = 0.001  # bits a byte


def study(scale: str) -> Study:
    s, T0, T1 = shared.size(scale), shared.old(scale), shared.new(scale)
    read_with = Factor("read_with", shared.frequencies(scale), "model.position.scaling")
    temperature = Factor("temperature", {"1": 1.0, "a": shared.HOT}, "model.temperature")
    length = shared.length(scale)
    bpb = metric("bpb", evaluation="window")

    def at(name: str, tokens: int, warm: str = "1") -> Any:
        return bpb.at(read_with[name] & temperature[warm] & length[tokens])

    checked = shared.learned(scale, None)
    return Study(
        "rope-scaling-zero",
        "Which scaling of RoPE lets a model read four times longer rows than it was trained on, "
        "with no further training?",
        base=shared.base(scale).then("extend", shared.untouched(scale)),
        seeds={"paper": 1, "small": 5, "smoke": 1}[s],
        evaluate=[
            *shared.judged(scale, length)[:2],
            Eval("window", shared.window(scale), over=[read_with, temperature, length]),
        ],
        primary="bpb",
        names="base",
        columns="read_with, temperature, length, evaluation, bpb, loss",
        hypotheses=dict(
            fails=increasing(on=at("rope", T1) - at("rope", T0), by=LEAST),
            **{
                name: decreasing(on=at(name, T1) - at("rope", T1), by=LEAST)
                for name in ("pi", "ntk", "ntk13", "yarn")
            },
            temperature=decreasing(on=at("yarn", T1, "a") - at("yarn", T1), by=LEAST),
            temperature_alone=decreasing(on=at("rope", T0, "a") - at("rope", T0), by=LEAST),
            # The best case for reading more: the longer context is of use with no training at all.
            longer=decreasing(on=at("yarn", T1, "a") - at("rope", T0), by=LEAST),
        ),
        checks=checked,
    )

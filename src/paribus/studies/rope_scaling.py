"""Which scaling of RoPE uses a four times longer context, and how much of it is temperature?

A trained model goes on at four times the length.  The document compares plain RoPE, position
interpolation, NTK-aware scaling and YaRN; of these YaRN alone also multiplies queries and keys by
1.1386.  Here frequencies and temperature are two factors, and beside them stand the controls: the
base as it is, and the base continued at the old length.
"""

from typing import Any

from paribus import (
    Eval,
    Factor,
    Study,
    better,
    criterion,
    decreasing,
    increasing,
    metric,
    no_worse,
    same,
)
from paribus.studies import _rope_scaling as shared

SCALES = shared.SCALES
LEAST = 0.001  # bits a byte: what counts as a difference


def study(scale: str) -> Study:
    s, T0, T1 = shared.size(scale), shared.old(scale), shared.new(scale)
    scaling = Factor("scaling", shared.frequencies(scale), "extend:model.position.scaling")
    temperature = Factor("temperature", {"1": 1.0, "a": shared.HOT}, "extend:model.temperature")
    # At paper scale the document's schedule comes first: a jump from a rate of 0 to 0.947.
    schedule = Factor("schedule", {"jump": shared.JUMP, "rewarm": shared.REWARM}, "extend:schedule")
    paper = s == "paper"
    context = Factor(
        "context",
        {
            "long": {},
            "short": {"extend:task.length": T0},
            "untouched": {f"extend:{k}": v for k, v in shared.untouched(scale).items()},
        },
        when=scaling["rope"] & temperature["1"],
    )
    length = shared.length(scale)

    first = schedule["jump"] if paper else None
    cold, hot = temperature["1"], temperature["a"]
    plain = scaling["rope"] & cold & context["long"]
    short = scaling["rope"] & cold & context["short"]
    untouched = scaling["rope"] & cold & context["untouched"]
    yarn = scaling["yarn"] & hot
    far, near = shared.bpb.at(length[T1]), shared.bpb.at(length[T0])
    packed = shared.rows_bpb.at(length[T1])
    gain = near - far

    def at(arm: Any) -> Any:
        return arm if first is None else arm & first

    def of(name: str) -> Any:
        return plain if name == "rope" else scaling[name] & cold

    evaluate = [*shared.judged(scale, length), *shared.core(scale)]
    if paper:  # the document's "train BPB"
        evaluate.append(Eval("trained", shared.text(scale, length=T1), split="train"))
    criteria = dict(
        pi_published=criterion(at(of("pi")), than=at(plain), on=packed, below="-0.06%"),
        ntk_published=criterion(at(of("ntk13")), than=at(plain), on=packed, below="-0.20%"),
        yarn_published=criterion(at(yarn), than=at(plain), on=packed, below="-0.40%"),
        # "cannot generalise": the base itself, in longer rows than it was trained on.
        rope_fails=criterion(at(untouched), on=gain, below=0),
    )
    if shared.core(scale):
        core_v1 = metric("core_v1")
        criteria |= {
            f"core_{name}": criterion(at(arm), than=at(plain), on=core_v1, below=0)
            for name, arm in {"pi": of("pi"), "ntk": of("ntk13"), "yarn": yarn}.items()
        }
    return Study(
        "rope-scaling",
        "Which scaling of RoPE uses a four times longer context after a short continuation, and "
        "how much of it is temperature?",
        base=shared.extended(scale),
        factors=[scaling, temperature, *([schedule] if paper else []), context],
        seeds={"paper": 1, "small": 5, "smoke": 1}[s],
        evaluate=evaluate,
        baseline=at(plain),
        primary="bpb",
        names="d20-{scaling}-t{temperature}-{schedule}-{context?}"
        if paper
        else "{scaling}-t{temperature}-{context?}",
        columns="scaling, temperature, context, evaluation, length, bpb, loss",
        skip=[
            ("the base itself has no schedule", lambda c: c.levels["context"] == "untouched"
             and c.levels.get("schedule") == "rewarm"),
        ] if paper else [],
        accept={
            "context moves extend:task.length": "going on at the old length is a control",
            "context moves extend:steps": "the base itself stands beside its continuations",
            "context moves extend:schedule": "the base itself is not trained any more",
        },
        hypotheses=dict(
            pi=better(at(of("pi")), than=at(plain), on=far, by=LEAST),
            ntk=better(at(of("ntk")), than=at(plain), on=far, by=LEAST),
            yarn=better(at(of("yarn")), than=at(plain), on=far, by=LEAST),
            yarn_hot=better(at(yarn), than=at(plain), on=far, by=LEAST),
            temperature=better(at(yarn), than=at(of("yarn")), on=far, by=LEAST),
            temperature_alone=better(at(scaling["rope"] & hot), than=at(plain), on=far, by=LEAST),
            multiplier=same(at(of("ntk")), at(of("ntk13")), on=far, within=".001 bits"),
            **{
                f"uses_{name}": increasing(at(of(name)), on=gain, by=LEAST)
                for name in ("rope", "pi", "ntk", "yarn")
            },
            longer=decreasing(
                on=shared.bpb.gap(at(yarn) & length[T1], at(short) & length[T0]), by=LEAST
            ),
            shorter=no_worse(at(yarn), than=at(short), on=near, within=".01 bits"),
        ),
        criteria=criteria,
        checks=shared.learned(scale, at(untouched)),
    )  # fmt: skip

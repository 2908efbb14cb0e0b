"""Which position encoding keeps its loss beyond the trained length?

Byte-level language models on the sources of Python's standard library, trained at one length and
evaluated on the same text at others.
"""

from paribus import (
    Eval,
    Factor,
    Spec,
    Study,
    baseline,
    better,
    corpora,
    criterion,
    init,
    metric,
    no_worse,
    optim,
    positions,
    presets,
    schedules,
    tasks,
    tokenizers,
)

SCALES = ("small", "smoke", "paper")
STEPS = {"smoke": 20, "small": 500, "paper": 5_000}
WIDTH = {"smoke": 32, "small": 64, "paper": 256}


def study(scale: str) -> Study:
    loss = metric("loss")  # nats a token (here: a byte); the task says that lower is better
    position = Factor(
        "position",
        {"none": None, "rope": positions.rope(), "alibi": positions.alibi()},
        "model.position",
    )
    length = Factor("length", [64, 128, 256, 512], "task.length")
    trained, longest = length[128], length[512]
    return Study(
        "quickstart",
        "Which position encoding keeps its loss beyond the trained length?",
        base=Spec(
            model=presets.quickstart(width=WIDTH[scale]),
            task=tasks.lm(
                corpus=corpora.stdlib(),
                tokenizer=tokenizers.bytes(),
                length=128,
                eval_tokens=32_768,
            ),
            init={"every": init.torch_default()},  # a std of .02 is small for so narrow a model
            optim=optim.adamw(lr=4e-3 if scale != "paper" else 1e-3),
            schedule=schedules.cosine(warmup=20),
            rows=8,
            steps=STEPS[scale],
        ),
        factors=[position],
        seeds=3,
        evaluate=[Eval("lm", over=[length])],
        baseline=position["none"],
        names="{position}",
        hypotheses=dict(
            order=better(position["rope"], than=position["none"], on=loss.at(trained), by=0.1),
            extrapolates=better(
                position["alibi"],
                than=position["rope"],
                on=loss.at(longest) - loss.at(trained),
                by=0.05,
            ),
            flat=no_worse(
                position["alibi"],
                than=position["rope"],
                on=loss.at(trained),
                within=".05 nats",
            ),
        ),
        checks=dict(
            learned=criterion(
                on=loss.at(trained), arm=position["rope"], below=baseline("unigram"), by=0.3
            ),
        ),
    )

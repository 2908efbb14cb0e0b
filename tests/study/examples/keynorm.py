"""A new idea: a conditional factor and a tuned one."""

from paribus import (
    Eval,
    Factor,
    Spec,
    Study,
    better,
    corpora,
    metric,
    no_worse,
    norms,
    optim,
    positions,
    presets,
    probes,
    same,
    scales,
    schedules,
    tasks,
    tokenizers,
)

loss = metric("loss")
norm = Factor(
    "norm",
    {
        "none": {},
        "key": {"model.k_norm": norms.l2()},
        "qk": {"model.k_norm": norms.l2(), "model.q_norm": norms.l2()},
    },
)
scale = Factor(
    "scale",
    {"fixed": scales.fixed(), "log_n": scales.log_n(original=1024)},
    "model.logit_scale",
    when=norm["key", "qk"],
)
lr = Factor("lr", [3e-4, 1e-3, 3e-3], "optim.lr", tuned="valid/loss")
length = Factor("length", [512, 1024, 2048, 4096, 8192], "task.length")
study = Study(
    "key-norm-long",
    "Does normalising keys keep loss flat beyond the trained length?",
    base=Spec(
        model=presets.llama(width=512, layers=8, heads=8, position=positions.rope(base=1e4)),
        task=tasks.lm(
            corpus=corpora.files(path="books/*.jsonl"),
            tokenizer=tokenizers.bytes(),
            length=1024,
            tokens_per_step=131_072,
        ),
        optim=optim.adamw(lr=1e-3),
        schedule=schedules.wsd(decay=0.2),
        steps=8_000,
    ),
    factors=[norm, scale, lr],
    seeds=5,
    baseline=norm["none"],
    evaluate=[
        Eval("lm", over=[length]),
        Eval("norms", probes.key_norm(), every=500),
        Eval("gist", "my_probes.py:gist"),
    ],
    hypotheses=dict(
        flat=better(
            norm["key"] & scale["log_n"],
            than=norm["none"],
            on=loss.at(length[8192]) - loss.at(length[1024]),
            by=0.02,
        ),
        free=no_worse(
            norm["key"] & scale["log_n"],
            than=norm["none"],
            on=loss.at(length[1024]),
            within=".005 nats",
        ),
        which=same(
            norm["key"] & scale["log_n"],
            norm["qk"] & scale["log_n"],
            on=loss.at(length[8192]),
            within=".01 nats",
        ),
    ),
)

"""Three groups: an init of a parameter group, and freezing."""

from paribus import (
    Eval,
    Factor,
    Spec,
    Study,
    corpora,
    init,
    metric,
    no_worse,
    optim,
    presets,
    schedules,
    tasks,
    tokenizers,
)

group = Factor(
    "group",
    {
        "gpt_base": {},
        "oelm_no_freeze": {"init.qk": init.orthogonal(per="matrix")},
        "oelm_freeze": {
            "init.qk": init.orthogonal(per="matrix"),
            "freeze": ["*.attn.q", "*.attn.k"],
        },
    },
)
study = Study(
    "qk-freeze",
    "Can value, output and feed-forward layers make up for frozen orthogonal Q and K?",
    base=Spec(
        model=presets.gpt2(width=512, layers=6, heads=8, attn_bias=False),
        task=tasks.lm(
            corpus=corpora.files(path="train.bin"), tokenizer=tokenizers.ids(), length=512
        ),
        optim=optim.adamw(lr=3e-4),
        schedule=schedules.cosine(warmup=2000, floor=0.1),
        init={"qk": init.normal(std=0.02)},
        freeze=[],
        rows=16,
        steps=100_000,
    ),
    factors=[group],
    seeds=1,
    evaluate=[Eval("lm")],
    names="exp_{group}",
    baseline=group["gpt_base"],
    hypotheses=dict(
        H4=no_worse(
            group["oelm_freeze"], than=group["gpt_base"], on=metric("loss"), within="10% ppl"
        )
    ),
)

"""36 trials on 3 trunks."""

from paribus import (
    Eval,
    Factor,
    Spec,
    Study,
    better,
    corpora,
    metric,
    mlps,
    optim,
    positions,
    presets,
    probes,
    scalings,
    schedules,
    tasks,
    tokenizers,
)

scaling = Factor(
    "scaling",
    {
        "rope": None,
        "pi": scalings.pi(factor=4),
        "ntk": scalings.ntk(multiplier=13),
        "yarn": scalings.yarn(factor=4, original=2048, beta_fast=32, beta_slow=1, temperature=1),
    },
    "extend:model.position.scaling",
)
temp = Factor("temperature", {"1": 1.0, "a": 1.1386}, "extend:model.temperature")
# Only the control trains short.
ctx = Factor("context", [8192, 2048], "extend:task.length", when=scaling["rope"])
ramp = Factor(
    "beta_fast", [32, 16], "extend:model.position.scaling.beta_fast", when=scaling["yarn"]
)
length = Factor("length", [512, 1024, 2048, 4096, 8192, 16384], "task.length")
bpb = metric("bpb")
study = Study(
    "rope-scaling",
    "Which RoPE scaling uses a four times longer context after 5 000 steps?",
    base=Spec(
        model=presets.llama(
            width=1280, layers=20, heads=10, mlp=mlps.relu2(ratio=4),
            position=positions.rope(base=1e4, scaling=None), temperature=1.0,
        ),
        task=tasks.lm(
            corpus=corpora.files(path="fineweb-edu"),
            tokenizer=tokenizers.bpe(vocab=32_768),
            length=2048,
            tokens_per_step=524_288,
            eval_tokens=1_048_576,
        ),
        optim=optim.muon_adamw(),
        schedule=schedules.wsd(decay=0.2),
        steps=21_400,
    ).then(
        "extend",
        {
            "task.length": 8192,
            "steps": 5_000,
            "optim": "keep",
            "schedule": schedules.rewarm(peak=0.947, to=0),
        },
    ),
    factors=[scaling, ctx, ramp, temp],
    seeds=3,
    baseline=scaling["rope"] & ctx[8192] & temp["1"],
    references={"untouched base": "end of phase train", "gpt2-xl": 'hf("gpt2-xl")'},
    evaluate=[Eval("bpb", over=[length]), Eval("core", probes.core(data="core"))],
    names="d20-{scaling}-{context?}-{beta_fast?}-t{temperature}",
    hypotheses=dict(
        yarn=better(
            scaling["yarn"] & ramp[32] & temp["1"],
            than=scaling["rope"] & ctx[8192] & temp["1"],
            on=bpb.at(length[8192]),
            by=0.001,
        ),
        uses=better(
            scaling["yarn"] & ramp[32] & temp["a"],
            than=scaling["rope"] & ctx[8192] & temp["a"],
            on=bpb.at(length[8192]) - bpb.at(length[2048]),
        ),
    ),
)  # fmt: skip

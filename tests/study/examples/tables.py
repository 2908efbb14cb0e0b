"""60 trials in the documented order and names."""

from paribus import (
    Eval,
    Factor,
    Spec,
    Study,
    better,
    masks,
    metric,
    optim,
    positions,
    presets,
    schedules,
    tasks,
)

V = Factor("V", [5, 20], "task.V")
N = Factor("N", [256, 512, 1024, 2048, 4096], "task.examples")
model = Factor(
    "model",
    {
        "standard": {
            "model.position": positions.learned(length=128),
            "model.mask": masks.causal(),
        },
        "lowrank": {
            "model.position": positions.tiled(own=3),
            "model.mask": masks.schema_blocks(local_layers=2, causal=True),
        },
    },
)
bacc = metric("balanced_accuracy")
study = Study(
    "table-connectivity",
    "Does the schema's block structure help when examples are few?",
    base=Spec(
        model=presets.gpt2(
            width=256, layers=12, heads=8, position=None, mask=None,
            read_in="vectors", read_out="scalar",
        ),
        task=tasks.connectivity(V=5, C=3, examples=256, mode="published"),
        optim=optim.adam(lr=1e-4),
        schedule=schedules.constant(),
        rows=256,
        steps=1001,
    ),
    factors=[V, N, model],
    seeds=3,
    baseline=model["standard"],
    primary="balanced_accuracy",
    evaluate=[Eval("test", by=("hops", "present"))],
    names="table_connectivity_{model}_V{V}_N{N}_run{run}",
    skip=[("fewer examples than one batch", lambda c: c.spec["rows"] > c.N)],
    hypotheses=dict(
        efficient=better(model["lowrank"], than=model["standard"], on=bacc.mean(N, V), by=0.02)
    ),
)  # fmt: skip

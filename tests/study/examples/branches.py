"""216 trials and 1 512 evaluations."""

from paribus import (
    Eval,
    Factor,
    Spec,
    Study,
    best,
    better,
    corpora,
    every,
    masks,
    metric,
    optim,
    positions,
    presets,
    schedules,
    tasks,
    tokenizers,
)

loss = metric("loss")  # nats a token; the task says that lower is better
FIXED = {f"fixed{k}": k for k in (1, 2, 4, 8, 16)}
DYNAMIC = {f"1-{n}": (1, n) for n in (3, 7, 15, 31)}
heads = Factor("num_heads", [4, 8, 16, 24], "model.heads", also=lambda h: {"model.width": 64 * h})
ratio = Factor(
    "rope_ratio",
    [0, 0.25, 0.5, 0.75, 0.875, 1.0],
    "model.position.ratio",
    tag=lambda r: str(float(r)).replace(".", ""),
)
branch = Factor("train_branch", FIXED | DYNAMIC, "task.branches")
seen_at = Factor("eval_branch", [1, 2, 4, 8, 16, 24, 32], "task.branches")
study = Study(
    "parallelmind-heads",
    "Does the share of branch frequencies decide how loss grows with branches, at every width?",
    base=Spec(
        model=presets.minimind_512(
            width=512, heads=8, position=positions.rope2d(ratio=0.5), mask=masks.branch()
        ),
        task=tasks.branches(
            corpus=corpora.files(path="pretrain_512.jsonl"),
            tokenizer=tokenizers.bpe(vocab=6400),
            length=512,
            branches=1,
            texts_per_step=64,
        ),
        optim=optim.adamw(lr=5e-4),
        schedule=schedules.cosine(floor=0.1),
        steps=32_000,
    ),
    factors=[heads, ratio, branch],
    seeds=1,
    evaluate=[Eval("lm", over=[seen_at])],
    baseline=ratio[0],
    names="{model.width}-h{num_heads}-r{rope_ratio}-b{train_branch}",
    columns="num_heads, hidden_size=model.width, rope_ratio, train_branch, eval_branch, loss, ppl",
    accept={"num_heads moves model.width": "head size fixed at 64, as in the document"},
    hypotheses=dict(
        H1=best(ratio[0], on=loss.at(seen_at[1]).mean(heads), where=branch["fixed1"]),
        H2=best(ratio[1.0], on=loss.slope(seen_at.log2).mean(heads, branch)),
        H3=every(
            best(branch[f"fixed{k}"], on=loss.at(seen_at[k]).mean(heads, ratio))
            for k in FIXED.values()
        ),
        H4=better(
            branch[*DYNAMIC],
            than=branch[*FIXED],
            on=loss.mean(seen_at, heads, ratio, branch),
            by=0.01,
        ),
    ),
)

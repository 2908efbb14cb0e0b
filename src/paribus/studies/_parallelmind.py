"""What the studies of parallel branches share: grids, the base and the document's hypotheses.

The document is ParallelMind's ablation protocol; docs/studies/parallelmind.md sets it beside ours.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paribus import (
    Factor,
    Spec,
    baseline,
    best,
    better,
    corpora,
    criterion,
    every,
    init,
    masks,
    metric,
    optim,
    positions,
    presets,
    schedules,
    tasks,
    tokenizers,
)

SCALES = ("small", "smoke", "paper")
TEXTS = "pretrain_512.jsonl"  # the document's texts, where they lie beside the reader

loss = metric("loss")  # nats a token; the task says that lower is better


def ratio(levels: Sequence[float]) -> Factor:
    """The share of pairs that carry branch and time, named as the document does: 05, 0875."""
    return Factor(
        "rope_ratio",
        levels,
        "model.position.ratio",
        tag=lambda r: str(float(r)).replace(".", ""),
    )


RATIOS = {
    "paper": [0, 0.25, 0.5, 0.75, 0.875, 1.0],
    "small": [0, 0.25, 0.5, 0.75, 0.875, 1.0],
    "smoke": [0, 1.0],
}
FIXED = {f"fixed{k}": k for k in (1, 2, 4, 8, 16)}
DYNAMIC = {f"1-{n}": (1, n) for n in (3, 7, 15, 31)}
TRAINED = {
    "paper": {**FIXED, **DYNAMIC},
    "small": {"fixed1": 1, "fixed4": 4, "1-7": (1, 7), "1-15": (1, 15)},
    "smoke": {"fixed1": 1, "1-3": (1, 3)},
}
JUDGED = {
    "paper": [1, 2, 4, 8, 16, 24, 32],
    "small": [1, 2, 4, 8, 16, 24, 32],
    "smoke": [1, 2, 4],
}


def train_branch(levels: dict[str, Any]) -> Factor:
    return Factor("train_branch", levels, "task.branches")


def eval_branch(scale: str) -> Factor:
    return Factor("eval_branch", JUDGED[scale], "task.branches")


def base(scale: str, branches: int | tuple[int, int] = 1) -> Spec:
    """The base of every experiment: the document's recipe, or one for minutes of one GPU.

    Every arm is trained on the same number of texts a step, whatever its branches.
    """
    position, mask = positions.rope2d(ratio=0.5), masks.branch()
    if scale == "paper":
        here = Path(TEXTS).is_file()
        return Spec(
            model=presets.minimind_512(position=position, mask=mask),
            task=tasks.branches(
                # Without the document's file the text is Python's own: enough to plan and to try.
                corpus=corpora.files(path=TEXTS) if here else corpora.stdlib(),
                tokenizer=tokenizers.bpe(vocab=6400),
                length=512,
                branches=branches,
                texts_per_step=64,
                eval_texts=32_736,  # a multiple of every number of branches below 33 but 25 … 31
            ),
            init={"every": init.torch_default()},
            # lr(s) = lr/10 + lr/2 · (1 + cos(πs/S)) with lr = 5e-4: from 1.1 lr to 0.1 lr.
            optim=optim.adamw(lr=5.5e-4, betas=(0.9, 0.999), weight_decay=0.01, decay="all"),
            schedule=schedules.cosine(floor=1 / 11, reach=False),
            precision="bf16",
            steps=32_000,
        )
    small = scale == "small"
    width, heads, layers = (256, 4, 3) if small else (64, 2, 1)
    shape = {"width": width, "heads": heads, "layers": layers}
    return Spec(
        model=presets.minimind_512(vocab=None, position=position, mask=mask, **shape),
        task=tasks.branches(
            corpus=corpora.stdlib(),
            tokenizer=tokenizers.bytes(),
            length=128 if small else 32,
            branches=branches,
            cut="packed",
            texts_per_step=128 if small else 8,
            eval_texts=960 if small else 24,
        ),
        init={"every": init.torch_default()},
        optim=optim.adamw(lr=2e-3),
        schedule=schedules.cosine(warmup=50 if small else 2, floor=0.1),
        precision="bf16" if small else "fp32",
        steps=1_224 if small else 6,  # small: 20 million tokens a trial
    )


def hypotheses(ratios: Factor, trained: Factor, judged: Factor, *others: Factor) -> dict[str, Any]:
    """The document's first four; ``others`` are averaged over."""
    tags = [level.tag for level in trained.levels]
    fixed = [t for t in tags if t.startswith("fixed")]
    dynamic = [t for t in tags if t not in fixed]
    counts = {level.value for level in judged.levels}
    own = {t: k for t in fixed if (k := int(t.removeprefix("fixed"))) in counts}
    rise, single = loss.slope(judged.log2), loss.at(judged[1])
    return {
        "H1": best(
            ratios[0], on=single.mean(*others) if others else single, where=trained["fixed1"]
        ),
        "H2": best(ratios[1.0], on=rise.mean(trained, *others)),
        "H3": every(
            best(trained[t], on=loss.at(judged[k]).mean(ratios, *others)) for t, k in own.items()
        ),
        "H4": better(
            trained[tuple(dynamic)],
            than=trained[tuple(fixed)],
            on=loss.mean(judged, ratios, trained, *others),
            by=0.01,
        ),
    }


def learned(ratios: Factor, trained: Factor, judged: Factor, *others: Factor) -> dict[str, Any]:
    """The manipulation check: the single-branch model uses its context, by a wide margin."""
    arm, single = ratios[0] & trained["fixed1"], loss.at(judged[1])
    single = single.mean(*others) if others else single
    return {"learned": criterion(arm, on=single, below=baseline("unigram"), by=0.5)}

"""What the studies of frozen queries and keys share: the base and the first values compared.

The document is the completion report of the third phase of Orthogonal-ELM-Transformers;
docs/studies/qk-freeze.md sets it beside ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paribus import (
    Eval,
    Spec,
    baseline,
    corpora,
    criterion,
    init,
    metric,
    optim,
    positions,
    presets,
    schedules,
    tasks,
    tokenizers,
)
from paribus.errors import SpecError

SCALES = ("small", "smoke", "paper")
FOLDER = "data/tiny_stories"  # the document's train.bin and val.bin, where the reader has them
QK = ("*.attn.q", "*.attn.k")
WIDTH = {"paper": 512, "small": 256, "smoke": 32}
LAYERS = {"paper": 6, "small": 4, "smoke": 2}

loss, ppl = metric("loss"), metric("ppl")


def matched(scale: str) -> Any:
    """Normal draws whose rows are as long as those of an orthogonal matrix: the fair control."""
    return init.normal(std=WIDTH[scale] ** -0.5)


def most_frozen(scale: str) -> float:
    """The document's "more than 3 M" of 3,145,728; elsewhere the same share of what is frozen."""
    return 3e6 / 3_145_728 * 2 * LAYERS[scale] * WIDTH[scale] ** 2


def base(scale: str) -> Spec:
    """The document's recipe, or one for minutes of one GPU."""
    paper = scale == "paper"
    train, held = (Path(FOLDER) / name for name in ("train.bin", "val.bin"))
    there = [p for p in (train, held) if p.is_file()]
    if paper and len(there) == 1:
        (gone,) = {train, held} - {*there}
        raise SpecError(f"qk-freeze: {there[0]} is there and {gone} is not; put it beside, or move "
                        "the one away to plan and try with Python's own text")  # fmt: skip
    if paper and there:
        corpus: Any = corpora.files(path=str(train), test=str(held))
        tokenizer: Any = tokenizers.ids()
    else:  # Python's own text: at paper scale enough to plan and to try
        corpus = corpora.stdlib()
        tokenizer = tokenizers.bpe(vocab=6400) if paper else tokenizers.bytes()
    length = {"paper": 512, "small": 256, "smoke": 32}[scale]
    drop = 0.1 if paper else 0.0
    return Spec(
        model=presets.gpt2(
            width=WIDTH[scale],
            layers=LAYERS[scale],
            heads={"paper": 8, "small": 4, "smoke": 2}[scale],
            vocab=50257 if paper else None,
            position=positions.learned(length=length),
            attn_bias=False,
            dropout=drop,
            embed_dropout=drop,
            attn_dropout=drop,
        ),
        task=tasks.lm(
            corpus=corpus,
            tokenizer=tokenizer,
            length=length,
            eval_tokens={"paper": 409_600, "small": 262_144, "smoke": 2048}[scale],
        ),
        init={"every": init.normal(std=0.02)},
        optim=optim.adamw(
            lr=3e-4 if paper else 1e-3, betas=(0.9, 0.95), weight_decay=0.1, decay="all"
        ),
        # 3e-4 → 3e-5; the script counts progress as s/S, so its last step is a little above that.
        schedule=schedules.cosine(
            warmup={"paper": 2000, "small": 100, "smoke": 2}[scale], floor=0.1, reach=False
        ),
        rows=4 if scale == "smoke" else 16,
        clip=1.0,  # the script takes this option and never clips
        precision="fp32" if scale == "smoke" else "bf16",
        steps={"paper": 100_000, "small": 3000, "smoke": 4}[scale],
    )


def judged(scale: str) -> list[Eval]:
    """On the text that judges: after training, and during it as often as the document looks."""
    return [Eval("lm", every={"paper": 1000, "small": 300, "smoke": 2}[scale])]


def chosen() -> Eval:
    """On the text that learning rates are chosen on."""
    return Eval("valid", split="validation")


def learned(arm: Any) -> dict[str, Any]:
    """The manipulation check: the ordinary model uses its context, by a wide margin."""
    return {"learned": criterion(arm, on=loss, below=baseline("unigram"), by=0.5)}

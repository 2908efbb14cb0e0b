"""What the studies of working memory share: their text, and the recipe that the notes began with.

The notes are a laboratory diary of March 2024; docs/studies/working-memory.md and
lm-recipe.md set them beside ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paribus import (
    Spec,
    baseline,
    corpora,
    criterion,
    init,
    metric,
    optim,
    positions,
    presets,
    recipes,
    schedules,
    tasks,
    tokenizers,
)

SCALES = ("small", "smoke", "paper")
BOOKS = {"paper": ("data/pg19", "data/novels"), "small": ("data/novels",), "smoke": ()}
WORDS = 32_000  # of the vocabulary at paper scale
LENGTH = {"paper": 1024, "small": 256, "smoke": 32}
# Tokens a step of the middle recipe: 8 rows × 4 GPUs × 8 micro-steps of 1,024 tokens.
BATCH = {"paper": 262_144, "small": 16_384, "smoke": 128}
# Of one epoch of PG-19; elsewhere enough to see the schedules differ.
TOKENS = {"paper": 12_000 * 262_144, "small": 1500 * 16_384, "smoke": 16 * 128}
WARMUP = {"paper": 500, "small": 63, "smoke": 2}
RATE = 1e-3
BETAS = (0.9, 0.999)

loss, ppl = metric("loss", evaluation="test"), metric("ppl", evaluation="test")


def text(scale: str) -> tuple[Any, dict[str, Any]]:
    """The corpus, and how rows are cut from it: books where the reader has them in ``data/``, each
    by itself, else the sources of Python's own library."""
    for folder in BOOKS[scale]:
        if Path(folder).is_dir():
            apart = {"pack": "document", "within": "document", "words": True}
            return corpora.pg19(path=folder, overlap="drop"), apart
    return corpora.stdlib(megabytes=1 if scale == "smoke" else None), {}


def task(scale: str, length: int | None = None, **fields: Any) -> Any:
    """Language modelling of that text; ``length`` other than the recipe's."""
    corpus, apart = text(scale)
    tokenizer = tokenizers.bpe(vocab=WORDS) if scale == "paper" else tokenizers.bytes()
    held = {"paper": 4_194_304, "small": 262_144, "smoke": 2048}[scale]
    own = {"corpus": corpus, "tokenizer": tokenizer, "length": length or LENGTH[scale]}
    return tasks.lm(**{**own, "eval_tokens": held, **apart, **fields})


def model(scale: str, **fields: Any) -> Any:
    """The four-layer reading of the notes' 83 million parameters, or a small one of its kind."""
    if scale == "paper":
        return presets.wm83m_wide4(**fields)
    small = {"width": 256, "layers": 4, "heads": 4} if scale == "small" else {
        "width": 32, "layers": 2, "heads": 2,
    }  # fmt: skip
    return presets.wm83m_wide4(**{**small, "vocab": None, **fields})


def base(scale: str) -> Spec:
    """The notes' recipe: Adam at a constant rate of 1e-3, no warm-up, no decay, no clipping, one
    epoch in steps of a quarter of a million tokens.  At the small scale rows are fewer."""
    if scale == "paper":
        recipes.rows(per_gpu=8, gpus=4, accumulation=8, length=LENGTH[scale], tokens=BATCH[scale])
    return Spec(
        model=model(scale, position=positions.rope()),
        task=task(scale, tokens_per_step=BATCH[scale]),
        init={"every": init.gpt2(std=0.02)},
        optim=optim.adam(lr=RATE, betas=BETAS),
        schedule=schedules.constant(),
        clip=None,
        precision="fp32" if scale == "smoke" else "bf16",
    )


def batch(scale: str, tokens: int, **rules: Any) -> dict[str, Any]:
    """A patch to another batch, at equal tokens in all."""
    made = recipes.batch(
        tokens, reference=BATCH[scale], total=TOKENS[scale], lr=RATE, betas=BETAS, **rules
    )
    return {"task.tokens_per_step": tokens, **made}


def learned_at(arm: Any, on: Any, scale: str) -> dict[str, Any]:
    """The manipulation check: the model uses its context, by a wide margin."""
    by = 0.0 if scale == "smoke" else 0.5
    return {"learned": criterion(arm, on=on, below=baseline("unigram"), by=by)}

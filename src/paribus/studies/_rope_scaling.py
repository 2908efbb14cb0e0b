"""What the studies of longer rows share: the base, what it goes on as, and how it is judged.

The document is the report of an interview task on nanochat; docs/studies/rope-scaling.md sets it
beside ours.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from paribus import (
    Eval,
    Factor,
    Spec,
    corpora,
    criterion,
    init,
    metric,
    optim,
    positions,
    presets,
    probes,
    scalings,
    schedules,
    tasks,
    tokenizers,
)
from paribus.errors import SpecError

SCALES = ("small", "small-novels", "smoke", "paper")
NOVELS = "data/novels"  # train, validation and test, each .jsonl or .parquet, with a column text
WEB = "data/fineweb-edu"  # the folders train and test of nanochat's shards
BUNDLE = "data/eval_bundle"  # nanochat's questions of CORE

OLD = {"paper": 2048, "small": 256, "smoke": 32}
STEPS = {"paper": (21_400, 5_000), "small": (2_500, 500), "smoke": (4, 2)}
TOKENS = {"paper": 524_288, "small": 8_192, "smoke": 256}
FIRST = {"paper": 128, "small": 32, "smoke": 8}  # tokens of the first bin of places
LENGTHS = {"paper": [512, 1024, 2048, 4096, 8192, 16_384, 32_768],
           "small": [256, 512, 1024, 2048], "smoke": [32, 128]}  # fmt: skip
FACTOR = 4
HOT = 0.1 * math.log(FACTOR) + 1  # 1.1386: YaRN's temperature of q and of k
MULTIPLIER = FACTOR**2 - FACTOR + 1  # 13, where the rule of NTK-aware scaling has 4

bpb = metric("bpb", evaluation="window")  # the same targets at every length
rows_bpb = metric("bpb", evaluation="rows")  # packed rows, as the document evaluates


def size(scale: str) -> str:
    return scale.partition("-")[0]


def old(scale: str) -> int:
    """Tokens of the rows that the base is trained on."""
    return OLD[size(scale)]


def new(scale: str) -> int:
    return FACTOR * old(scale)


def text(scale: str, **fields: Any) -> Any:
    """The task on the scale's text: novels, or Python's own sources."""
    s = size(scale)
    corpus: Any = corpora.stdlib()
    if scale.endswith("-novels"):
        corpus = corpora.files(**{k: _novels(v) for k, v in SPLITS.items()})
    elif s == "paper" and all((Path(WEB) / part).is_dir() for part in ("train", "test")):
        corpus = corpora.files(path=f"{WEB}/train", test=f"{WEB}/test")
    tokenizer = tokenizers.bpe(vocab=65_536) if s == "paper" else tokenizers.bytes()
    most = {"paper": 20 * 524_288, "small": 65_536, "smoke": 2048}[s]
    return tasks.lm(
        corpus=corpus, tokenizer=tokenizer, **{"length": old(scale), "eval_tokens": most, **fields}
    )


SPLITS = {"path": "train", "validation": "validation", "test": "test"}


def _novels(split: str) -> str:
    for ending in (".jsonl", ".parquet"):
        if (there := Path(NOVELS) / f"{split}{ending}").is_file():
            return str(there)
    raise SpecError(
        f"rope-scaling, novels: no {NOVELS}/{split}.jsonl or .parquet in {Path.cwd()}; put whole "
        "books there (a column text, a row a book), or use --scale small, which needs no data"
    )


def base(scale: str, length: int | None = None, steps: int | None = None) -> Spec:
    """nanochat's recipe as it was when the document was written: Muon, a warm-down of a fifth to 0.
    At other scales than ``paper`` a smaller model that reads bytes."""
    s = size(scale)
    shape: dict[str, dict[str, Any]] = {
        "paper": {},
        "small": {"width": 256, "heads": 4, "vocab": None},
        "smoke": {"width": 32, "heads": 2, "vocab": None},
    }
    return Spec(
        model=presets.nanochat(
            {"paper": 20, "small": 6, "smoke": 2}[s],
            position=positions.rope(base=10000.0),
            **shape[s],
        ),
        task=text(scale, length=length or old(scale), tokens_per_step=TOKENS[s]),
        init={"every": init.nanochat()},
        optim=optim.muon_adamw(iteration="fp32") if s == "smoke" else optim.muon_adamw(),
        schedule=schedules.wsd(decay=0.2, reach=False),
        clip=1.0,
        precision="fp32" if s == "smoke" else "bf16",
        steps=steps or STEPS[s][0],
    )


# nanochat's schedule over 26,400 steps, from step 21,400 on: no warm-up, no word of it.
JUMP = schedules.rewarm(peak=5000 / 5280, reach=False)
REWARM = schedules.rewarm(warmup=0.1, peak=0.3)


def extended(scale: str) -> Any:
    """The base, and its continuation at four times the length and as many tokens a step."""
    return base(scale).then(
        "extend",
        {
            "task.length": new(scale),
            "steps": STEPS[size(scale)][1],
            "optim": "keep",
            "schedule": REWARM,
        },
    )


def untouched(scale: str) -> dict[str, Any]:
    """Of a continuation: one step at a rate of 0, so what is evaluated is the base itself."""
    return {"task.length": old(scale), "steps": 1, "schedule": schedules.rewarm(peak=0.0)}


def frequencies(scale: str) -> dict[str, Any]:
    """The variants without temperature: it is a factor of its own."""
    return {
        "rope": None,
        "pi": scalings.pi(factor=FACTOR),
        "ntk": scalings.ntk(factor=FACTOR),
        "ntk13": scalings.ntk(multiplier=MULTIPLIER),
        "yarn": scalings.yarn(factor=FACTOR, original=old(scale), temperature=1),
    }


def length(scale: str) -> Factor:
    return Factor("length", LENGTHS[size(scale)], "task.length")


def judged(scale: str, lengths: Factor) -> list[Eval]:
    """BPB of packed rows; by place in the row and in the document, of rows of the new length; of
    the same targets with more and less before them; and a number hidden in text.

    Nothing is evaluated as training goes on: it would be with the arm's own scaling in the base,
    too, and each arm would need a base of its own.
    """
    s = size(scale)
    hidden = {
        "paper": probes.passkey(lengths=(1024, 2048, 4096, 8192, 16_384, 32_768)),
        "small": probes.passkey(lengths=(512, 1024, 2048), depths=(0, 50, 100), trials=5),
        "smoke": probes.passkey(lengths=(512,), depths=(50,), trials=2),
    }
    return [
        Eval("rows", text(scale), over=[lengths]),
        Eval("places", text(scale, length=new(scale), bins=FIRST[s]), by=("position", "place")),
        Eval("window", window(scale), over=[lengths]),
        Eval("passkey", hidden[s], by=("length", "depth")),
    ]


def window(scale: str) -> Any:
    """Targets of documents that have room for the longest length before them, so that all lengths
    are judged on the same ones: each has the length less the stride before it at least."""
    s = size(scale)
    longest = LENGTHS[s][-1]
    stride = {"paper": 256, "small": 128, "smoke": 16}[s]
    fewer = {"paper": 1_048_576, "small": 65_536, "smoke": 1024}[s]
    return text(
        scale,
        length=longest,
        stride=stride,
        start=longest - stride,
        within="document",
        each=fewer // 8,  # of eight books at least
        eval_tokens=fewer,
    )


def core(scale: str) -> list[Eval]:
    """CORE, where nanochat's questions are there; its largest model alone is above guessing."""
    there = size(scale) == "paper" and Path(BUNDLE).is_dir()
    return [Eval("core", probes.core(data=BUNDLE), by=("task",))] if there else []


def learned(scale: str, arm: Any) -> dict[str, Any]:
    """The manipulation check: the base uses its context inside the old length.  Bytes in the second
    half of its rows cost less than those at the beginning, by a tenth of a bit."""
    late, early = (
        metric("bpb", evaluation="places", slice=f"position={place}")
        for place in (old(scale) // 2, 0)
    )
    return {"context": criterion(arm, on=late - early, below=-0.1)}

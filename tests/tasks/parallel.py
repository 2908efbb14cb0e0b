"""Parallel texts that the tests of ``tasks.branches`` share: documents, tasks, small models."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from paribus import corpora, init, masks, positions, tasks, tokenizers
from paribus.engine.net import Net, make_net
from paribus.spec import InitScheme, Spec
from paribus.text.samples import Samples
from tests.engine import tiny

LENGTH = 24
WIDE = InitScheme(every=init.gpt2(std=0.1))  # large enough for attention to vary


def documents(n: int = 240) -> list[str]:
    """Different documents of 2 to 70 bytes, a third of them longer than a text."""
    drawn = random.Random(5)
    words = ["ka", "lo", "mi", "ru", "ten", "so", "va", "pel"]
    out = []
    for i in range(n):
        text = f"{i:x} " + " ".join(drawn.choice(words) for _ in range(20))
        out.append(text[: drawn.choice([3, 9, 15, 20, 23, 24, 40, 70])])
    return list(dict.fromkeys(out))


def branches(**changes: Any) -> tasks.branches:
    fields = {
        "corpus": corpora.files(path="texts.jsonl", fractions=(0.6, 0.1, 0.3)),
        "tokenizer": tokenizers.bytes(),
        "length": LENGTH,
        "branches": 3,
        "eval_texts": 24,
    }
    return tasks.branches(**{**fields, **changes})


def spec(task: Any = None, **changes: Any) -> Spec:
    """A small model of branches in float64."""
    fields = {
        "task": task or branches(),
        "model.position": positions.rope2d(ratio=0.5),
        "model.mask": masks.branch(),
        "model.kv_heads": 1,
        "precision": "fp64",
        "init": WIDE,
        "rows": None if task is not None and task.texts_per_step else 4,
    }
    return tiny.spec(**{**fields, **changes})


def held(source: Samples, chosen: np.ndarray) -> list[list[list[int]]]:
    """The texts of each row, as ids; the main prefix cut to its length."""
    ids, out = np.asarray(source.tokens.ids), []
    for row in chosen:
        own = []
        for place, text in enumerate(row[row >= 0]):
            start, size = int(source.texts.starts[text]), int(source.texts.lengths[text])
            if place == 0 and source.task.main:
                size = min(size, source.task.main)
            own.append(ids[start : start + size].tolist())
        out.append(own)
    return out


def params_of(s: Spec, seeds: tuple[int, ...] = (1,)) -> tuple[Net, dict[str, torch.Tensor]]:
    net = make_net([s] * len(seeds), "cpu", "sdpa")
    return net, net.initial(seeds)


def stacked(batch: dict[str, torch.Tensor], e: int = 1) -> dict[str, torch.Tensor]:
    return {k: t[None].expand(e, *t.shape) for k, t in batch.items()}

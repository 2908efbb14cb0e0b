"""An induction circuit written into the weights of our Transformer, behind a sliding window: layer
0 brings each token's predecessor, layer 1 looks for the current token among predecessors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from paribus import corpora, masks, mlps, norms, optim, positions, presets, schedules, tasks
from paribus import tokenizers as kinds
from paribus.engine.probing import Trained
from paribus.engine.settings import Settings
from paribus.nn.declare import declare
from paribus.spec import Spec, resolve
from paribus.text.data import Data

V, P = 257, 160  # bytes and their mark; places


def spec(window: int | None, **more: Any) -> Spec:
    """Of width 3 V + P: the token, its place, its predecessor, what is said."""
    width = 3 * V + P
    model = presets.gpt2(
        width=width, layers=2, heads=1, attn_bias=False, tied=False,
        position=positions.learned(length=P), norm=norms.rmsnorm(gain=False),
        mlp=mlps.relu2(hidden=32),
        mask=masks.causal() if window is None else masks.sliding_window(size=window),
    )  # fmt: skip
    task = tasks.lm(corpus=corpora.stdlib(megabytes=0.5), tokenizer=kinds.bytes(), length=64)
    return resolve(Spec(model=model, task=task, optim=optim.adamw(lr=1e-3),
                        schedule=schedules.constant(), rows=1, steps=1, **more))  # fmt: skip


def weights(of: Spec) -> dict[str, torch.Tensor]:
    """[1, …] by path; said is what followed the current token before."""
    p = {k: torch.zeros(1, *d.shape) for k, d in declare(of.model).items()}  # type: ignore[arg-type]
    token, place, before, said = (slice(0, V), slice(V, V + P), slice(V + P, 2 * V + P),
                                  slice(2 * V + P, 3 * V + P))  # fmt: skip
    one = torch.eye(V)
    p["embed.tokens"][0, :, token] = one
    p["position.table"][0, :, place] = torch.eye(P)
    first, second = "blocks.0.attn", "blocks.1.attn"
    p[f"{first}.q"][0, place, place] = 4 * torch.eye(P).roll(-1, 0)  # asks for the place before
    p[f"{first}.k"][0, place, place] = torch.eye(P)
    p[f"{first}.v"][0, before, token] = one
    p[f"{first}.o"][0, before, before] = one
    p[f"{second}.q"][0, token, token] = 8 * one
    p[f"{second}.k"][0, token, before] = one
    p[f"{second}.v"][0, said, token] = one
    p[f"{second}.o"][0, said, said] = one
    p["head"][0, :, said] = one
    return p


def reader(window: int | None, folder: Path) -> Trained:
    of = spec(window)
    return Trained(weights(of), of, Data(folder), Settings(device="cpu"))

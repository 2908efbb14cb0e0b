"""A small MiniMind of parallel branches in float64, run on tokens whose places the oracle gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paribus import parts, presets
from paribus.contracts import View
from paribus.nn.initialise import initialise
from paribus.nn.transformer import Transformer
from tests.nn import oracle
from tests.nn.models import INIT, VOCAB
from tests.nn.oracle import Token

positions, masks = parts.Namespace("positions"), parts.Namespace("masks")
HEADS, KV, HEAD_DIM = 4, 2, 16
CLOSE = 1e-10  # of logits near 1 in float64, through two layers


def core_of(position: Any, reads: str = "columnar", **fields: Any) -> Transformer:
    small = {"width": HEADS * HEAD_DIM, "heads": HEADS, "kv_heads": KV, "layers": 2}
    small |= {"vocab": VOCAB, "mask": masks.branch(reads=reads), "position": position}
    return Transformer(presets.minimind_512(**{**small, **fields}))


def drawn(core: Transformer, seeds: Sequence[int] = (0,)) -> dict[str, Tensor]:
    return initialise(core.model, INIT, list(seeds), torch.float64)


def texts_of(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Random texts; no two tokens that follow each other are equal."""
    rng = np.random.default_rng(seed)
    return [[int(x) for x in rng.integers(1, VOCAB, n)] for n in lengths]


def ids_of(tokens: Sequence[Token], texts: Sequence[Sequence[int]]) -> list[int]:
    return [texts[t.text][t.order] for t in tokens]


def view_of(tokens: Sequence[Token], **moved: float) -> View:
    """The coordinates of tokens; ``moved`` adds to one of them."""
    at = {n: torch.tensor([getattr(t, n) for t in tokens]) for n in ("branch", "time", "main")}
    at["main"] = at["main"].long()
    return View(at | {n: at[n] + by for n, by in moved.items()})


def run(
    core: Transformer,
    p: dict[str, Tensor],
    tokens: Sequence[Token],
    ids: Sequence[int],
    view: View | None = None,
    **how: Any,
) -> Tensor:
    """Logits [T,V] of one row."""
    view = view_of(tokens) if view is None else view
    with torch.no_grad():
        return core(p, torch.tensor(ids).view(1, 1, -1), view, **how)[0, 0]


def by_oracle(
    p: dict[str, Tensor], tokens: Sequence[Token], ids: Sequence[int], reads: str, angle: Any
) -> Tensor:
    own = {k: t[0].numpy() for k, t in p.items()}
    seen = oracle.allowed(tokens, reads)
    return torch.from_numpy(oracle.forward(own, ids, seen, angle, heads=HEADS, kv_heads=KV))


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())

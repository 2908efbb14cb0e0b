"""How much each head of our Transformer looks at a token a given number of places back.

B rows, T tokens (queries), S tokens (keys), H heads, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paribus.errors import Refused
from paribus.nn.attention import Pattern
from paribus.nn.places import Ready
from paribus.nn.transformer import Transformer

PAIRS = 1 << 26  # entries of one layer's attention that are held at a time


def attention(
    core: Transformer, p: Mapping[str, Tensor], ids: Any, back: int, start: int, budget: int = 8192
) -> Any:
    """Mean weight [L,H] of queries from ``start`` on at the key ``back`` places before each, over
    rows ids [B,T].

    The reference kernel computes the pass; its scores are looked at on their way.
    """
    if getattr(core.model, "memory", None) is not None:
        raise Refused("a model with a memory does not show its attention")
    if core.replaced:
        raise Refused(f"positions.{core.model.position.name} replaces the scores")  # type: ignore[union-attr]
    rows_BT = torch.from_numpy(np.ascontiguousarray(ids, np.int64)).to(
        next(iter(p.values())).device
    )
    B, T = rows_BT.shape
    each = max(1, min(budget // T, PAIRS // (T * T * core.dims.heads)))
    total = torch.zeros(core.dims.layers, core.dims.heads, dtype=torch.float64)
    with torch.inference_mode():
        for i in range(0, B, each):
            total += _pass(core, p, rows_BT[i : i + each], back, start).cpu()
    return (total / (B * (T - start))).numpy()


def _pass(
    core: Transformer, p: Mapping[str, Tensor], ids_BT: Tensor, back: int, start: int
) -> Tensor:
    """Sums [L,H] over rows and queries."""
    T, device = ids_BT.shape[1], ids_BT.device
    view = core.view(T, device=device)
    tables = core.tables(view, dtype=next(iter(p.values())).dtype)
    plain = core.patterns(p, tables, view, view, None, {}, keep=False)
    seen: list[Tensor] = []

    def looked(at: Pattern) -> Pattern:
        def scores(q: Tensor, k: Tensor, scale: float, mask: Tensor | None) -> Tensor:
            s_EBHTS = (q @ k.mT).to(torch.promote_types(q.dtype, torch.float32)) * scale
            hidden = s_EBHTS
            if at.bias is not None:
                hidden = hidden + at.bias
            elif at.causal:
                keep = torch.ones(T, T, dtype=torch.bool, device=device).tril()
                hidden = hidden.masked_fill(~keep, float("-inf"))
            elif mask is not None:
                hidden = hidden.masked_fill(~mask, float("-inf"))
            weight = hidden.softmax(-1).diagonal(
                -back, -2, -1
            )  # query t, key t − back: from t = back
            seen.append(weight[0, :, :, max(start - back, 0) :].double().sum((0, 2)))
            return s_EBHTS

        return at._replace(scores=scores)

    reads = [looked(at) for at in plain]
    core(p, ids_BT[None], kernel="reference", ready=Ready(tables, reads), outputs=False)
    return torch.stack(seen)

"""How a model goes on in rows of ids: anything that gives logits at some of their tokens will do.

B rows, T tokens, N scored tokens of a row, C candidates, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paribus.nn.spans import OUTPUTS
from paribus.readers import Answers, Rows

Logits = Callable[[Tensor, Tensor], Tensor]  # (ids_BT, places at_BN) -> logits_BNV


def follow(
    logits: Logits, asked: Sequence[Rows], budget: int = 8192, device: Any = "cpu"
) -> list[Answers]:
    """Answers to each set of rows.

    Passes hold rows of one length, so nothing is padded.  What is found stays on the device until
    all is asked: in each pass the processor would wait for it.

    Args:
        budget: tokens of a pass, at most, where a row is not longer by itself.
    """
    out: list[Answers | None] = [None] * len(asked)
    # The longest first, so that memory runs out at once or not at all.
    order = sorted(range(len(asked)), key=lambda i: -np.shape(asked[i].ids)[1])
    waiting: list[tuple[int, list[Tensor]]] = []
    with torch.inference_mode():
        for i in order:
            waiting.append((i, _set(logits, asked[i], budget, device)))
        for i, (right, nats, *chosen) in waiting:
            out[i] = Answers(
                right.cpu().numpy(), nats.cpu().numpy(), chosen[0].cpu().numpy() if chosen else None
            )
    return [a for a in out if a is not None]


def at_places(logits: Callable[[Tensor], Tensor]) -> Logits:
    """Of a model that gives the logits of all tokens."""

    def some(ids_BT: Tensor, at_BN: Tensor) -> Tensor:
        z_BTV = logits(ids_BT)
        return z_BTV.gather(1, at_BN[..., None].expand(-1, -1, z_BTV.shape[2]))

    return some


def _set(logits: Logits, rows: Rows, budget: int, device: Any) -> list[Tensor]:
    B, T = rows.ids.shape
    ids_BT = torch.from_numpy(np.ascontiguousarray(rows.ids, np.int64)).to(device)
    at = torch.from_numpy(np.ascontiguousarray(rows.at, np.int64)).to(device)
    among = None if rows.among is None else torch.from_numpy(np.asarray(rows.among)).to(device)
    each = max(1, min(budget // T, OUTPUTS // max(1, at.shape[-1])))
    found = []
    for i in range(0, B, each):
        own = at if at.ndim == 1 else at[i : i + each]
        options = None if among is None else among[i : i + each]
        found.append(_pass(logits, ids_BT[i : i + each], own, options))
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def _pass(logits: Logits, ids_BT: Tensor, at: Tensor, among_BC: Tensor | None) -> list[Tensor]:
    at_BN = at.expand(len(ids_BT), -1) if at.ndim == 1 else at
    T = ids_BT.shape[1]
    place_BN = at_BN.clamp(min=1).clamp(max=T - 1)
    z_BNV = logits(ids_BT, (place_BN - 1).clamp(min=0))
    z_BNV = z_BNV if z_BNV.dtype == torch.float64 else z_BNV.float()
    target_BN = ids_BT.gather(1, place_BN)
    picked_BN = z_BNV.gather(-1, target_BN[..., None])[..., 0]
    nats_BN = (z_BNV.logsumexp(-1) - picked_BN).double()
    there_BN = (at_BN >= 1) & (at_BN < T) & ~nats_BN.isnan()
    right_BN = (z_BNV.argmax(-1) == target_BN) & there_BN
    out = [right_BN, nats_BN.masked_fill(~there_BN, float("nan"))]
    if among_BC is not None:
        wanted = among_BC[:, None].expand(-1, at_BN.shape[1], -1)
        out.append(z_BNV.gather(-1, wanted).argmax(-1))
    return out

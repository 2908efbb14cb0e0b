"""What attention looks like inside a pass: lengths of queries and keys, logits, entropy.

E trials, B rows, T queries, S keys, H query heads, G key heads, d head size, L layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paribus.nn.attention import Pattern, logits, repeated

NAMES = ("query_norm", "key_norm", "max_logit", "entropy")


class Tap:
    """Looks at every layer of a pass that it is given to; ``found`` has a number [E] for each name
    and layer.  Attention of the pass itself runs as it would: logits are computed once more.

    query_norm, key_norm: mean length of heads as they leave their linear maps, before any norm.
    max_logit: the largest logit that the mask lets be, as the softmax sees it.
    entropy: nats of what a query reads, mean over queries that read anything.
    """

    def __init__(self) -> None:
        # name -> layer -> sum and count [E] of what was averaged, or the largest so far
        self.found: dict[str, dict[int, tuple[Tensor, Tensor]]] = {name: {} for name in NAMES}

    def lengths(self, layer: int, q_EBHTd: Tensor, k_EBGTd: Tensor) -> None:
        for name, x in (("query_norm", q_EBHTd), ("key_norm", k_EBGTd)):
            long_EN = x.double().norm(dim=-1).flatten(1)
            self._add(name, layer, long_EN, torch.ones_like(long_EN))

    def reads(
        self, layer: int, q_EBHTd: Tensor, k_EBGSd: Tensor, at: Pattern, scale: float
    ) -> None:
        k_EBHSd = repeated(k_EBGSd, q_EBHTd.shape[2] // k_EBGSd.shape[2])
        s_EBHTS = logits(q_EBHTd, k_EBHSd, at, scale)
        logp_EBHTS = s_EBHTS.log_softmax(-1).double()
        nats_EBHT = -(logp_EBHTS.exp() * logp_EBHTS.clamp(min=-1e9)).sum(-1)
        live_EBHT = torch.ones_like(nats_EBHT)
        if at.dead is not None:  # let to read all keys, and cleared afterwards
            live_EBHT = live_EBHT * ~at.dead[..., 0]
            s_EBHTS = s_EBHTS.masked_fill(at.dead, float("-inf"))
        self._add("entropy", layer, (nats_EBHT * live_EBHT).flatten(1), live_EBHT.flatten(1))
        top_E = s_EBHTS.double().flatten(1).amax(1)
        if (had := self.found["max_logit"].get(layer)) is not None:
            top_E = torch.maximum(top_E, had[0])
        self.found["max_logit"][layer] = top_E, torch.ones_like(top_E)

    def _add(self, name: str, layer: int, sum_EN: Tensor, count_EN: Tensor) -> None:
        new = sum_EN.sum(1), count_EN.sum(1)
        old = self.found[name].get(layer)
        self.found[name][layer] = new if old is None else (old[0] + new[0], old[1] + new[1])

    def values(self) -> dict[str, Tensor]:
        """Name -> [E,L]; layers without attention are left out."""
        return {
            name: torch.stack([s / n for s, n in (of[i] for i in sorted(of))], 1)
            for name, of in self.found.items()
            if of
        }

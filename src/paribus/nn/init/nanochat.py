"""The initialisation of nanochat (December 2025; its scale by fan-in and fan-out is that of Yang et
al. 2023, "A spectral condition for feature learning").

embeddings, position tables       N(0, 1)
o and down, head, read-out        zeros
other matrices [out, in]          N(0, min(1, √(out/in)) / √in)
biases                            zeros
gains                             ones

nanochat has neither position tables, biases nor gains; theirs are ours.
"""

from __future__ import annotations

from paribus.contracts import Dims, Init, P


class Nanochat(Init, frozen=True, kw_only=True):
    """Every block is the identity at first, and all tokens are equally likely."""

    def rule(self, p: P, d: Dims) -> tuple[str, float]:
        if p.role == "gain":
            return "constant", 1.0
        if p.role in ("o", "down", "head", "read_out", "bias"):
            return "constant", 0.0
        if p.role in ("embedding", "position") or len(p.shape) < 2:
            return "normal", 1.0
        fan_out, fan_in = p.shape[0], p.shape[-1]
        return "normal", min(1.0, (fan_out / fan_in) ** 0.5) / fan_in**0.5

"""ParallelMind's definitions written down a second time, in plain loops and numpy float64, to hold
positions, layouts, masks and the model against.  Nothing here is taken from paribus.

T tokens, F pairs of a head, d head size, H query heads, G key heads, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Token(NamedTuple):
    """A token of a sample.

    Attributes:
        text: which text of the sample, the main prefix first where there is one.
        order: its place in the text.
        branch, time: its two coordinates; the branch without its stride.
        main: whether it belongs to the main prefix.
    """

    text: int
    order: int
    branch: int
    time: int
    main: bool = False


# ── layout, mask, labels ────────────────────────────────────────────────────────────────────


def layout(
    lengths: Sequence[int], main: int = 0, right: bool = False, offsets: Sequence[int] = ()
) -> list[Token]:
    """The tokens of branches in their flat order: by time, then branch, then order."""
    first = 1 if main else 0
    tokens = [Token(0, order, 0, order, True) for order in range(main)]
    longest = max(lengths, default=0)
    for b, length in enumerate(lengths):
        start = main
        if right:
            start += longest - length
        if offsets:
            start += offsets[b]
        for order in range(length):
            tokens.append(Token(first + b, order, first + b, start + order))
    return sorted(tokens, key=lambda t: (t.time, t.branch, t.order))


def allowed(tokens: Sequence[Token], reads: str = "columnar") -> Array:
    """[T,T], true where the token of the row reads that of the column."""
    out = np.zeros((len(tokens), len(tokens)), bool)
    for i, q in enumerate(tokens):
        for j, k in enumerate(tokens):
            own = k.branch == q.branch or (reads == "prefix" and k.main)
            out[i, j] = i == j or (k.time < q.time and (own or reads == "columnar"))
    return out


def labels(tokens: Sequence[Token], texts: Sequence[Sequence[int]], answer: int = 0) -> list[int]:
    """The target of each token: the next of its own text, −100 where there is none, where it
    stands before ``answer``, and in the main prefix."""
    out = []
    for t in tokens:
        target = t.order + 1
        counts = not t.main and target < len(texts[t.text]) and target >= answer
        out.append(texts[t.text][target] if counts else -100)
    return out


# ── rotation ────────────────────────────────────────────────────────────────────────────────


def slowest(F: int, ratio: float, least: int = 0) -> list[int]:
    """The pairs that are chosen, ascending."""
    n = min(F, max(least, round(F * ratio)))
    return list(range(F - n, F))


def angles(
    tokens: Sequence[Token],
    d: int,
    *,
    ratio: float,
    base: float = 1e6,
    stride: float = 128.0,
    residual: str = "flat",
    chosen: Sequence[int] | None = None,
    axis: int | None = None,
) -> Array:
    """Radians [T,F].  Of the chosen pairs every second one turns with the time, beginning with the
    second, the others with the branch; ``axis`` 0: all with the branch, 1: all with the time."""
    F = d // 2
    chosen = slowest(F, ratio) if chosen is None else list(chosen)
    out = np.zeros((len(tokens), F))
    for flat, t in enumerate(tokens):
        for i in range(F):
            if i not in chosen:
                along: float = flat if residual == "flat" else t.time
            elif (chosen.index(i) % 2 if axis is None else axis) == 0:
                along = t.branch * stride
            else:
                along = t.time
            out[flat, i] = along * base ** (-2 * i / d)
    return out


def turn(x_Td: Array, angle_TF: Array) -> Array:
    """x·cos + rotate_half(x)·sin, the angles standing for both halves of a head."""
    F = angle_TF.shape[1]
    cos = np.concatenate([np.cos(angle_TF)] * 2, 1)
    sin = np.concatenate([np.sin(angle_TF)] * 2, 1)
    return x_Td * cos + np.concatenate([-x_Td[:, F:], x_Td[:, :F]], 1) * sin


# ── the model ───────────────────────────────────────────────────────────────────────────────


def forward(
    p: dict[str, Array],
    ids: Sequence[int],
    allowed_TT: Array,
    angle: Array | Callable[[int], Array],
    *,
    heads: int,
    kv_heads: int,
    added_TD: Array | None = None,
) -> Array:
    """Logits [T,V] of MiniMind's decoder for one row.

    Args:
        p: parameters by path, without the trial axis, float64.
        angle: radians [T,F], or those of each key head.
        added_TD: what is added to the embeddings.
    """
    of_head = angle if callable(angle) else lambda g: angle
    x = p["embed.tokens"][np.asarray(ids)]
    x = x if added_TD is None else x + added_TD
    layer = 0
    while f"blocks.{layer}.attn.q" in p:
        own = {k.split(".", 2)[2]: v for k, v in p.items() if k.startswith(f"blocks.{layer}.")}
        h = _rms(x, own["norm1.gain"])
        q, k, v = (h @ own[f"attn.{name}"].T for name in "qkv")
        d = q.shape[1] // heads
        outs = []
        for head in range(heads):
            g = head // (heads // kv_heads)
            turned_q = turn(q[:, head * d : (head + 1) * d], of_head(g))
            turned_k = turn(k[:, g * d : (g + 1) * d], of_head(g))
            out = np.zeros_like(turned_q)
            for i in range(len(x)):
                seen = np.flatnonzero(allowed_TT[i])
                s = turned_k[seen] @ turned_q[i] / math.sqrt(d)
                w = np.exp(s - s.max())
                out[i] = (w / w.sum()) @ v[seen, g * d : (g + 1) * d]
            outs.append(out)
        x = x + np.concatenate(outs, 1) @ own["attn.o"].T
        h = _rms(x, own["norm2.gain"])
        gate = h @ own["mlp.gate"].T
        up = h @ own["mlp.up"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ own["mlp.down"].T
        layer += 1
    return _rms(x, p["final_norm.gain"]) @ p.get("head", p["embed.tokens"]).T


def _rms(x: Array, gain: Array) -> Array:
    return x / np.sqrt((x * x).mean(1, keepdims=True) + 1e-5) * gain


def losses(logits_TV: Array, targets: Sequence[int]) -> Array:
    """Nats of each target that counts."""
    at = [i for i, t in enumerate(targets) if t != -100]
    x = logits_TV[at] - logits_TV[at].max(1, keepdims=True)
    return np.log(np.exp(x).sum(1)) - x[range(len(at)), [targets[i] for i in at]]

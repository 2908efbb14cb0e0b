"""Which tokens a model must compute for the outputs that are scored, where that is the last alone.

T tokens, S tokens of a layer's input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paribus.nn.attention import Pattern, pattern, settle

LONGEST = 1024  # tokens of a row whose pairs are looked at


def needed(
    reads: Sequence[Pattern], T: int, device: torch.device
) -> tuple[list[Pattern], list[Tensor | None]] | None:
    """(patterns among the tokens that are left, which tokens go on) for the output of the last
    token; None where rows differ, or nothing can be left out.

    What goes on stands first for the tokens that enter the first layer, then for those that leave
    each layer, as places among the tokens that it was given; None: all of them.
    """
    if T > LONGEST:
        return None
    whole = [_matrix(at, T, device) for at in reads]
    after = torch.zeros(T, dtype=torch.bool, device=device)
    after[-1] = True
    sets = [after]
    for mask in reversed(whole):
        if mask is None:
            return None
        sets.insert(0, sets[0] | mask[sets[0]].any(0))
    go: list[Tensor | None] = []
    given = torch.ones_like(after)
    for tokens in sets:
        go.append(None if torch.equal(tokens, given) else tokens[given].nonzero()[:, 0])
        given = tokens
    left = [
        _pattern(mask[rows][:, cols])
        for mask, cols, rows in zip(whole, sets[:-1], sets[1:], strict=True)
        if mask is not None
    ]
    return left, go


def _matrix(at: Pattern, T: int, device: torch.device) -> Tensor | None:
    """bool [T,T] of a pattern that is the same for all rows and heads."""
    if at.block is not None or at.bias is not None:
        return None
    if at.mask is None:
        whole = torch.ones(T, T, dtype=torch.bool, device=device)
        return whole.tril() if at.causal else whole
    mask = at.mask if at.dead is None else at.mask & ~at.dead
    return mask[0, 0, 0] if mask.shape[:3] == (1, 1, 1) else None


def _pattern(mask: Tensor) -> Pattern:
    T, S = mask.shape
    if mask.all():
        return Pattern()
    if T == S and torch.equal(mask, torch.ones_like(mask).tril()):
        return Pattern(causal=True)
    return settle(pattern(mask[None, None, None]))

"""Models whose answers are known: what a probe finds of them is checked against theory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paribus.engine.following import at_places, follow
from paribus.readers import Answers, Reader, Rows

VOCAB = 1000
WORDS = [f"w{i}" for i in range(VOCAB)]


class Oracle(Reader):
    """``logits(ids_BT)`` of each kind below; words w0 … are tokens, one document of text in an
    order without rule.

    Args:
        texts: held-out documents.
    """

    vocab = VOCAB

    def __init__(self, texts: Sequence[str] = (), window: int | None = None) -> None:
        self.texts, self.window = texts, window
        self.asked: list[Rows] = []
        self.words = {w: i for i, w in enumerate(WORDS)}

    def ordinary(self) -> Any:
        return np.arange(1, self.vocab)

    def documents(self) -> Sequence[str]:
        return self.texts or super().documents()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[self.words.setdefault(w, len(self.words)) for w in t.split()] for t in texts]

    def logits(self, ids_BT: Tensor) -> Tensor:
        raise NotImplementedError

    def follow(self, asked: Sequence[Rows]) -> list[Answers]:
        self.asked += asked
        return follow(at_places(self.logits), asked)

    def one(self, tokens_BT: Tensor) -> Tensor:
        """Logits that are sure of one token."""
        return torch.nn.functional.one_hot(tokens_BT, self.vocab).float() * 20


class Uniform(Oracle):
    """Every token alike; of equals the lowest id is said, or a random one by rows."""

    def logits(self, ids_BT: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(ids_BT.sum()))
        return 1e-6 * torch.rand(*ids_BT.shape, self.vocab, generator=generator)


class Induction(Oracle):
    """The successor of the latest earlier token, among the last ``window`` ones, that follows one
    equal to the current one; else nothing (id 0)."""

    def __init__(self, window: int, texts: Sequence[str] = ()) -> None:
        super().__init__(texts, window)
        self.field = window

    def logits(self, ids_BT: Tensor) -> Tensor:
        T = ids_BT.shape[1]
        c, j = torch.arange(T)[:, None], torch.arange(T)[None]
        # j is the place that is copied: it follows an equal token, and is in the window of c.
        same = torch.zeros(len(ids_BT), T, T, dtype=torch.bool)
        same[:, :, 1:] = ids_BT[:, :, None] == ids_BT[:, None, :-1]
        assert self.window is not None
        same &= (j <= c) & (j > c - self.window)
        best = torch.where(same, j, -1).amax(-1)
        return self.one(torch.where(best >= 0, ids_BT.gather(1, best.clamp(min=0)), 0))


class PerfectCopy(Oracle):
    """The token ``lag`` places before the one to be said."""

    def __init__(self, lag: int) -> None:
        super().__init__()
        self.lag = lag

    def logits(self, ids_BT: Tensor) -> Tensor:
        said = torch.zeros_like(ids_BT)
        said[:, self.lag - 1 :] = ids_BT[:, : ids_BT.shape[1] - self.lag + 1]
        return self.one(said)


class Bigram(Oracle):
    """A table: what follows depends on the last token alone."""

    def __init__(self, table: Tensor, texts: Sequence[str] = ()) -> None:
        super().__init__(texts)
        self.table = table

    def logits(self, ids_BT: Tensor) -> Tensor:
        return self.table[ids_BT]

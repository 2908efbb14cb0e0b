"""Loss, learning rate and gradient norm of every step.  E trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from paribus import arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES = ("loss", "lr", "norm")
PARTS = 64  # of a curve, one for each look, before they are made one


class Curves:
    """The curves of a stack's members.

    What a step found stays on its device, for nobody is to wait for it; who looks fetches all that
    is new together, once: stacked anew for every member, thousands of small tensors took longer
    than the end of a training and its evaluations.
    """

    def __init__(self, members: int) -> None:
        self._past = [dict[str, list[float]]() for _ in range(members)]
        self._new: dict[str, list[Tensor]] = {c: [] for c in NAMES}
        self._held: dict[str, list[NDArray[np.float64]]] = {c: [] for c in NAMES}
        self._packed: dict[int, tuple[int, dict[str, str]]] = {}
        self._steps = 0

    def add(self, loss_E: Tensor, lr_E: Sequence[float], norm_E: Tensor) -> None:
        """A step's."""
        rates = torch.tensor(lr_E, dtype=torch.float64)
        for c, x_E in zip(NAMES, (loss_E, rates, norm_E), strict=True):
            self._new[c].append(x_E)
        self._steps += 1

    def fetch(self) -> None:
        """Fetch what is new; after this, and before the next step, threads may look."""
        for c, new in self._new.items():
            if new:
                held = self._held[c]
                held.append(torch.stack(new).cpu().double().numpy())
                new.clear()
                if len(held) > PARTS:
                    held[:] = [np.concatenate(held)]

    def last(self, c: str) -> list[float]:
        """The members' newest values, which there must be."""
        self.fetch()
        out: list[float] = self._held[c][-1][-1].tolist()
        return out

    def of(self, e: int) -> dict[str, list[float]]:
        """The curves of member ``e`` from its first step on."""
        self.fetch()
        return {
            c: self._past[e].get(c, []) + [x for part in held for x in part[:, e].tolist()]
            for c, held in self._held.items()
        }

    def packed(self, e: int) -> dict[str, str]:
        """The same as text (``arrays.pack``)."""
        if self._packed.get(e, (-1,))[0] != self._steps:
            self._packed[e] = self._steps, {c: arrays.pack(v) for c, v in self.of(e).items()}
        return self._packed[e][1]

    def restore(self, e: int, packed: dict[str, Any]) -> None:
        """Begin with what ``packed`` gave."""
        self._past[e] = {c: arrays.unpack(v).tolist() for c, v in packed.items()}

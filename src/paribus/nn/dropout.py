"""Dropout by an integer hash instead of a generator.

Whether an element is dropped depends on the trial's key, the step, the site (which dropout of the
model), the row's global number and the element's place in its row: not on the device, the stack,
or how a step is cut into micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paribus import rng

# Odd 64-bit constants (golden ratio; the finaliser of splitmix64), as signed integers: products
# of int64 wrap around alike on every device.
GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
SECOND = 0x94D049BB133111EB - (1 << 64)


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser; int64 shifts copy the sign, the masks take the copies off."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * FIRST
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * SECOND
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def _times_golden(index: Tensor, key: Tensor) -> Tensor:
    """Places 0, 1, … times the constant.  Adding a number that is read from memory, and taking it
    off, changes nothing; without it torch's compiler takes the product for an index of 32 bits,
    which the constant does not fit, and the pass is not compiled."""
    return ((index + key) - key) * GOLDEN


class Dropout:
    """The dropout of one forward pass.

    Args:
        keys_E: one key a trial, from ``keys``.
        step: the optimizer step.
        first_row: global number of the batch's first row.
    """

    def __init__(self, keys_E: Tensor, step: int, first_row: int = 0) -> None:
        self.keys_E, self.step, self.first_row = keys_E, step, first_row

    @staticmethod
    def keys(seeds: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """The trials' keys [E]."""
        bits = [rng.key(seed, "dropout") & ((1 << 63) - 1) for seed in seeds]
        return torch.tensor(bits, dtype=torch.int64, device=device)

    def part(self, number: int) -> Dropout:
        """Of the n-th part of rows that are read in parts, each with places from 0."""
        return Dropout(_mix(self.keys_E + (number + 1)), self.step, self.first_row)

    def keep(self, shape: torch.Size, p: float, site: int) -> Tensor:
        """Mask [E,B,…] of what stays."""
        device = self.keys_E.device
        size = shape[2:].numel()
        row_B = torch.arange(self.first_row, self.first_row + shape[1], device=device)
        key_E1 = _mix(_mix(self.keys_E + self.step * 2 + 1) + site)[:, None]
        row_EB = _mix(key_E1 + _times_golden(row_B, self.keys_E[0]))
        place_N = _times_golden(torch.arange(size, device=device), self.keys_E[0])
        bits_EBN = (_mix(row_EB[..., None] + place_N) >> 11) & ((1 << 53) - 1)
        return (bits_EBN >= round(p * (1 << 53))).view(shape)

    def apply(self, x: Tensor, p: float, site: int) -> Tensor:
        """x [E,B,…] with a share p of its elements dropped, the rest scaled to keep the mean."""
        if p == 0:
            return x
        return x * self.keep(x.shape, p, site) * (1 / (1 - p))

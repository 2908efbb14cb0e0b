"""Rows of a step into micro-batches; what happens when memory runs out."""

from __future__ import annotations

from dataclasses import dataclass

MAX_HALVINGS = 3


class OutOfMemory(Exception):
    """Memory ran out and nothing is left to halve."""


@dataclass
class Budget:
    """The effective batch is sacred: ``rows`` a step, in micro-batches that may shrink.

    Attributes:
        rows: rows per optimizer step.
        micro: rows per forward pass; accumulation rises as it falls.
        halvings: how often memory ran out.
    """

    rows: int
    micro: int
    halvings: int = 0

    def pieces(self) -> list[range]:
        """Rows of a step, 0 … rows − 1, in micro-batches."""
        return [range(i, min(i + self.micro, self.rows)) for i in range(0, self.rows, self.micro)]

    def halve(self) -> None:
        """A smaller micro-batch, at most three times and never below one row."""
        if self.micro <= 1 or self.halvings >= MAX_HALVINGS:
            raise OutOfMemory(
                f"out of memory with {self.micro} rows a pass after {self.halvings} halvings"
            )
        self.micro = (self.micro + 1) // 2
        self.halvings += 1

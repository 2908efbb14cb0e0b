"""Rows of a step into micro-batches; what happens when memory runs out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_HALVINGS = 3


@dataclass(frozen=True)
class Budget:
    """The effective batch is sacred: ``rows`` a step, in micro-batches that may shrink.

    Attributes:
        rows: rows per optimizer step.
        micro: rows per forward pass; accumulation rises as it falls.
        halvings: how often memory ran out for a trial alone.
        own: those rows of a step that this process computes; None: all of them.
    """

    rows: int
    micro: int
    halvings: int = 0
    own: range | None = None

    def pieces(self) -> list[range]:
        """This process's rows of a step in micro-batches, by their numbers among 0 … rows − 1."""
        own = self.own or range(self.rows)
        return [own[i : i + self.micro] for i in range(0, len(own), self.micro)]


class OutOfMemory(Exception):
    """Memory ran out.  The process gives its trials back and a fresh one goes on with less.

    Attributes:
        stack, micro, halvings: what was too much.
    """

    def __init__(self, stack: int, micro: int, halvings: int) -> None:
        super().__init__(
            f"out of memory with {micro} rows a pass"
            + (f" in a stack of {stack}" if stack > 1 else "")
            + (f" after {halvings} halving{'s' * (halvings > 1)}" if halvings else "")
        )
        self.stack, self.micro, self.halvings = stack, micro, halvings

    def less(self) -> dict[str, Any] | None:
        """What to try next: half the stack; for a trial alone half the micro-batch, at most three
        times and never below one row.  None: nothing is left to halve."""
        if self.stack > 1:
            return {
                "stack": (self.stack + 1) // 2,
                "micro": self.micro,
                "halvings": self.halvings,
            }
        if self.micro <= 1 or self.halvings >= MAX_HALVINGS:
            return None
        return {"stack": 1, "micro": (self.micro + 1) // 2, "halvings": self.halvings + 1}


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory, of the device or of the host, was refused."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)

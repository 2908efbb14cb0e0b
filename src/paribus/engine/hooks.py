"""What a worker adds to training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from paribus.engine.members import Member

if TYPE_CHECKING:
    from paribus.engine.train import Trainer


@dataclass
class Hooks:
    """What the worker adds.

    Attributes:
        stop: a look at the stop flag.
        write: does a write, and waits while the disk refuses.
        every, evaluate: interval evaluations: a row of values for each member.
        best: values whose best step is kept, with the direction that is better.
    """

    stop: Callable[[], bool] = lambda: False
    progress: Callable[[Trainer], None] = lambda _: None
    diverged: Callable[[Member], None] = lambda _: None
    write: Callable[[Callable[[], Any]], Any] = lambda call: call()
    every: Sequence[int] = ()
    evaluate: Callable[[Trainer], list[dict[str, float]]] | None = None
    best: Mapping[str, str] = field(default_factory=dict)

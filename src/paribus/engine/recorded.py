"""A training step of one shape as a CUDA graph: recorded once, then started as a whole.

A stack of small models takes hundreds of kernels a step, which the processor starts one by one;
where they are short, it is the processor that is waited for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

WARM = 3  # steps before the recording: kernels are made, chosen and tuned in them
MISSES = 3  # steps in a row of another shape after which a recording is given up
Step = Callable[[Mapping[str, Tensor], Any, Mapping[str, Tensor]], tuple[Tensor, ...]]


class Recorded:
    """What a step does on the device, recorded after a few steps as they are.

    Args:
        step: (batch, ready, v) -> tensors, without a look of the processor; what it changes it
            changes in place.

    Attributes:
        on: whether steps are started from a recording.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.given_up = False
        self._seen = self._missed = 0
        self._graph: Any = None
        self._inputs: dict[str, Tensor] = {}  # where the recording reads
        self._last: dict[str, Tensor] = {}  # what was written there last
        self._ready: Any = None
        self._out: tuple[Tensor, ...] = ()

    @property
    def on(self) -> bool:
        return self._graph is not None

    def __call__(
        self, batch: Mapping[str, Tensor], ready: Any, v: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...] | None:
        """What the step gives; None: nothing was done, for there is no recording that fits."""
        if self.given_up:
            return None
        given = {f"batch {k}": t for k, t in batch.items()} | {f"v {k}": t for k, t in v.items()}
        if self._graph is None:
            self._seen += 1
            if self._seen <= WARM or not self._record(given, ready):
                return None
        elif not self._fits(given, ready):
            self._missed += 1
            if self._missed >= MISSES:
                self._give_up()
            return None
        self._missed = 0
        fresh = [k for k, t in given.items() if t is not self._last.get(k)]
        torch._foreach_copy_([self._inputs[k] for k in fresh], [given[k] for k in fresh])
        self._last = given
        self._graph.replay()
        return tuple(x.clone() for x in self._out)

    def _fits(self, given: Mapping[str, Tensor], ready: Any) -> bool:
        return (
            ready is self._ready
            and given.keys() == self._inputs.keys()
            and all(
                t.shape == self._inputs[k].shape and t.dtype == self._inputs[k].dtype
                for k, t in given.items()
            )
        )

    def _record(self, given: Mapping[str, Tensor], ready: Any) -> bool:
        # Copies: what a source gave may be its own, and is not to be written to.
        self._inputs = {k: t.clone() for k, t in given.items()}
        self._last, self._ready = {}, ready
        batch, v = (
            {k[len(kind) :]: t for k, t in self._inputs.items() if k.startswith(kind)}
            for kind in ("batch ", "v ")
        )
        try:
            self._graph, self._out = self.captured(lambda: self.step(batch, ready, v))
        except Exception as error:  # out of memory too: a step as it is needs less at a time
            logging.getLogger(__name__).warning("not recorded, so slower", exc_info=error)
            self._give_up()
        return self.on

    def captured(self, function: Callable[[], tuple[Tensor, ...]]) -> tuple[Any, Any]:
        """A graph of what ``function`` starts, which is not done yet, and where it will write."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # what earlier steps held: the recording has memory of its own
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            out = function()
        return graph, out

    def _give_up(self) -> None:
        self.given_up, self._graph, self._out = True, None, ()
        self._inputs, self._last, self._ready = {}, {}, None

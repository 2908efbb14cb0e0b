"""Torch's compiler leaves kernels to helper processes and waits for them without end; a helper that
dies or hangs would hold a worker, and its GPU, for ever.  Here somebody looks at the clock."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

LOOK = 5.0  # seconds between looks
PATIENCE = 600.0  # seconds without any answer after which none is expected

lost = 0  # how often helpers were given up


class NoAnswer(RuntimeError):
    """What waits for a helper is told instead of an answer."""


class Watch:
    """Gives up helpers that do not answer.

    Args:
        patience: seconds without an answer.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self._seen: dict[int, tuple[frozenset[Any], float]] = {}

    def look(self, pools: Iterable[Any], now: float) -> None:
        """One look at all pools of helpers.  One whose process is dead is given up at the second
        look, so that what it still said is read."""
        for pool in list(pools):
            waiting = getattr(pool, "pending_futures", None)
            if waiting is None:
                continue
            with pool.futures_lock:
                open_ = frozenset(waiting)
            known, since = self._seen.get(id(pool), (None, now))
            if not open_ or open_ != known:
                self._seen[id(pool)] = open_, now
            elif pool.process.poll() is not None or now - since > self.patience:
                _give_up(pool)

    def run(self) -> None:
        while True:
            time.sleep(LOOK)
            module = sys.modules.get("torch._inductor.async_compile")
            try:
                self.look(getattr(module, "_pool_set", ()), time.monotonic())
            except Exception as error:  # pools changed meanwhile; or torch did: as without a watch
                logging.getLogger(__name__).debug("compile helpers: %s", error)


def _give_up(pool: Any) -> None:
    """End all waiting; from now on this process compiles by itself."""
    global lost
    import torch._inductor.config as config

    config.compile_threads = 1
    lost += 1
    with pool.futures_lock:
        waiting = list(pool.pending_futures.values())
        pool.pending_futures.clear()
    for future in waiting:
        if not future.done():
            future.set_exception(NoAnswer("a process that helps to compile does not answer"))


_started = threading.Lock()


def watch() -> None:
    """Start the watch of this process, once."""
    if _started.acquire(blocking=False):
        threading.Thread(target=Watch().run, name="paribus helpers", daemon=True).start()

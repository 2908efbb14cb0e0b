"""Compilation where it works: the record says which engine ran."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any

import torch

from paribus import lazy
from paribus.engine import helpers
from paribus.engine.process import unswept
from paribus.engine.settings import Settings

log = logging.getLogger(__name__)


def compiles(settings: Settings) -> bool:
    """Whether a process with these settings compiles what can be."""
    on = settings.compile == "on" or (
        settings.compile == "auto" and settings.device.startswith("cuda")
    )
    return on and not settings.exact  # a compiler may choose another kernel after a resume


def load() -> None:
    """Import the compiler, which takes seconds."""
    with unswept():
        importlib.import_module("torch._dynamo")
        importlib.import_module("torch._inductor.compile_fx")


class Either:
    """A function, compiled where that is asked for and works, else as it is.

    Args:
        able: whether it can be compiled at all.
        dynamic: torch.compile's; False compiles each shape for itself.

    Attributes:
        engine: "compiled", "eager", or "eager (compile: <why not>)".
    """

    def __init__(
        self,
        function: Callable[..., Any],
        settings: Settings,
        *,
        able: bool,
        dynamic: bool | None = None,
    ) -> None:
        self._plain, self._fast = function, None
        self.engine = "eager"
        if not able or not compiles(settings):
            return
        try:
            load()
            lazy.fill()
            # The same code is compiled anew for each phase and condition; beyond its limit torch
            # would silently run it as it is.
            limit = torch._dynamo.config.recompile_limit
            torch._dynamo.config.recompile_limit = max(64, limit)
            # Ours are made of plain operations, all of which the graph that is kept shows; without
            # this a fresh worker would trace every pass anew, with all code there.
            torch._functorch.config.autograd_cache_allow_custom_autograd_functions = True
            helpers.watch()
            self._fast = torch.compile(function, dynamic=dynamic)
            self.engine = "compiled"
        except Exception as error:  # no compiler here
            self._give_up(error)

    @property
    def plain(self) -> Callable[..., Any]:
        """The function as it is."""
        return self._plain

    @property
    def fast(self) -> Callable[..., Any] | None:
        """The compiled function, where there is one."""
        return self._fast

    def _give_up(self, error: Exception) -> None:
        self._fast = None
        log.warning("not compiled, so slower", exc_info=error)
        self.engine = f"eager (compile: {type(error).__name__})"

    def __call__(self, *arguments: Any) -> Any:
        while self._fast is not None:
            lost = helpers.lost
            try:
                return self._fast(*arguments)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                if helpers.lost == lost:
                    self._give_up(error)
                else:
                    log.warning("compiled again, for a helper of the compiler was lost")
        return self._plain(*arguments)

"""Compilation where it works: the record says which engine ran."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from paribus import lazy
from paribus.engine.settings import Settings


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
        wanted = settings.compile
        if wanted == "off" or (wanted == "auto" and not settings.device.startswith("cuda")):
            return
        if not able or settings.exact:
            return  # a compiler may choose another kernel after a resume
        try:
            lazy.fill()
            # The same code is compiled anew for each phase and condition; beyond its limit torch
            # would silently run it as it is.
            limit = torch._dynamo.config.recompile_limit
            torch._dynamo.config.recompile_limit = max(64, limit)
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
        logging.getLogger(__name__).warning("not compiled, so slower", exc_info=error)
        self.engine = f"eager (compile: {type(error).__name__})"

    def __call__(self, *arguments: Any) -> Any:
        if self._fast is not None:
            try:
                return self._fast(*arguments)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                self._give_up(error)
        return self._plain(*arguments)

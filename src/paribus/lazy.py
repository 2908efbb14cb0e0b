"""Handles to heavy libraries that import them on first use.

A part file writes ``from paribus.lazy import torch`` and may be scanned, counted and planned
without torch being loaded.  The handles put nothing into ``sys.modules`` (scipy looks there to
decide whether to load torch).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


class _Lazy:
    def __init__(self, name: str) -> None:
        self.__dict__["_name"] = name

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(importlib.import_module(self.__dict__["_name"]), attribute)
        self.__dict__[attribute] = value
        return value

    def __repr__(self) -> str:
        return f"<lazy {self.__dict__['_name']}>"


_HANDLES = {name: _Lazy(name) for name in ("numpy", "torch", "torch.nn.functional")}

if TYPE_CHECKING:
    import numpy as numpy
    import torch as torch
    from torch.nn import functional as F

    __all__ = ["F", "fill", "numpy", "torch"]
else:
    numpy, torch, F = _HANDLES.values()


def fill() -> None:
    """Import the libraries and look their names up: a compiler stops at imports, and would cut
    what it compiles into pieces there."""
    for name, handle in _HANDLES.items():  # no method: torch has a ``fill`` of its own
        found = vars(importlib.import_module(name))
        handle.__dict__.update({k: v for k, v in found.items() if not k.startswith("__")})

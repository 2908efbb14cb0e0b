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


if TYPE_CHECKING:
    import numpy as numpy
    import torch as torch
    from torch.nn import functional as F

    __all__ = ["F", "numpy", "torch"]
else:
    numpy = _Lazy("numpy")
    torch = _Lazy("torch")
    F = _Lazy("torch.nn.functional")

"""Coordinates of tokens, as masks and biases read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paribus.errors import SpecError


class View:
    """Coordinates of tokens by name (``index``, ``token``, ``segment`` …), broadcast as the reader
    needs them.  A coordinate that is not there is an error that lists those present.

    ``index`` is the place in the row and ``token`` the place in its text.  Parallel branches have
    ``branch``, ``time`` and ``main`` (1 where a token belongs to their common prefix); rows of
    blocks have ``block``, ``slot`` (the place in it) and ``summary`` (1: it stands for it)."""

    def __init__(self, coordinates: Mapping[str, Any]) -> None:
        self.__dict__["coordinates"] = dict(coordinates)

    def __getattr__(self, name: str) -> Any:
        coordinates = self.__dict__["coordinates"]
        if name in coordinates:
            return coordinates[name]
        if name.startswith("__"):
            raise AttributeError(name)
        have = ", ".join(sorted(coordinates))
        raise SpecError(f"tokens have no coordinate {name!r} here; they have: {have}")

    def map(self, function: Any) -> View:
        """The view with ``function`` applied to every coordinate."""
        return View({k: function(v) for k, v in self.__dict__["coordinates"].items()})

"""How far back a model can look: directly, and through all of its layers.

A layer keeps C earlier tokens (its cache) beside the W tokens that are read at a time (its work).
A query reads at most C + W tokens, itself included: the direct window.  Through N layers N·C + W
tokens can reach it: the theoretical field.  A sliding window of w tokens is W = 1 and C = w − 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Reach(NamedTuple):
    """Attributes:
    direct, field: tokens; None: not known.
    said: how the field comes about.
    work: tokens that are read at a time, where a cache of earlier ones stands beside them.
    """

    direct: int | None = None
    field: int | None = None
    said: str = ""
    work: int | None = None


def cached(layers: int, cache: int, work: int) -> Reach:
    """Of N layers that each keep ``cache`` tokens beside ``work`` of them."""
    field = layers * cache + work
    said = f"N·C + W = {layers}·{cache} + {work} = {field}"
    return Reach(cache + work, field, said, work if work > 1 else None)


def reach(model: Any, length: int | None) -> Reach:
    """Of a resolved model in rows of ``length`` tokens.

    A memory says its own: ``model.memory.reach(layers)`` gives (cache, work).
    """
    layers = getattr(model, "layers", None)
    memory = getattr(model, "memory", None)
    if memory is not None and hasattr(memory, "reach") and layers is not None:
        return cached(layers, *memory.reach(layers))
    if getattr(model, "mixer", None) is not None:
        return Reach()
    if memory is not None and length is not None and hasattr(memory, "field"):
        seen = memory.field(model.dims(), length, 4)
        direct, far = (length if n is None else n for n in (seen.direct, seen.theoretical))
        return Reach(direct, far, "by the memory")
    mask = getattr(model, "mask", None)
    size = getattr(mask, "size", None)
    if mask is None or layers is None:
        return Reach(length, length, "")
    if mask.name == "sliding_window" and isinstance(size, int):
        return cached(layers, size - 1, 1)
    if mask.sdpa is not None:  # every earlier token, whatever there is
        return Reach(length, length, "all of the row" if length else "")
    return Reach()

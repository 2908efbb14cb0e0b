"""How far back a model can see, directly and through all of its layers, and the bytes that it
carries to do so.  Loads no torch.

A layer keeps C earlier tokens (its cache) beside the W tokens that are read at a time (its work).
A query reads at most C + W tokens, itself included: the direct window.  Through N layers N·C + W
tokens can reach it: the theoretical field.  A sliding window of w tokens is W = 1 and C = w − 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from paribus.nn.declare import numbers
from paribus.sequence import Reach
from paribus.spec import Model


def reach(model: Model, length: int, size: int = 4) -> Reach:
    """Of rows of ``length`` tokens, at ``size`` bytes a number: by the memory, the mixer, or the
    mask's window.  A position encoding may make far tokens useless; this is what is let through."""
    model = numbers(model)
    d = model.dims()
    if model.mixer is not None:
        return Reach(None, None, d.layers * model.mixer.state_bytes(d, size))
    if model.memory is not None:
        return model.memory.field(d, length, size)
    assert model.mask is not None
    window = model.mask.window
    direct = None if window is None else int(window())
    held = length if direct is None else min(direct, length)
    state = 2 * d.layers * d.kv_heads * d.head_dim * held * size
    far = None if direct is None else d.layers * (direct - 1) + 1
    return Reach(direct, far, state)


class Seen(NamedTuple):
    """What probes and figures say of it.

    Attributes:
        direct, field: tokens; None: not known, or without a limit.
        said: how the field comes about.
        work: tokens that are read at a time, where a cache of earlier ones stands beside them.
    """

    direct: int | None = None
    field: int | None = None
    said: str = ""
    work: int | None = None


def cached(layers: int, cache: int, work: int) -> Seen:
    """Of N layers that each keep ``cache`` tokens beside ``work`` of them."""
    field = layers * cache + work
    said = f"N·C + W = {layers}·{cache} + {work} = {field}"
    return Seen(cache + work, field, said, work if work > 1 else None)


def seen(model: Any, length: int | None) -> Seen:
    """Of a resolved model in rows of ``length`` tokens (None: of any); an external one is taken to
    read all of them.  Nothing is known of a state that is not made of tokens, nor of a mask that
    is neither causal or full nor a window."""
    if not isinstance(model, Model):
        return Seen(length, length)
    if model.mixer is not None:
        return Seen()
    mask, memory = model.mask, model.memory
    if memory is None and mask is not None and mask.window is None and mask.sdpa is None:
        return Seen()
    told = reach(model, length or 1)
    if told.direct is None and memory is None:
        return Seen(length, length, "all of the row" if length else "")
    layers, kept = numbers(model).dims().layers, getattr(memory, "reach", None)
    if memory is None:
        return cached(layers, (told.direct or 1) - 1, 1)
    found = cached(layers, *kept(layers)) if kept is not None else Seen()
    if found.field is not None and found.field == told.theoretical:
        return found
    direct = length if told.direct is None else told.direct
    # A memory that hands vectors on or retrieves has no field: rows it was trained on are no limit.
    said = "by the memory" if told.theoretical else "by the memory, without a limit"
    return Seen(direct, told.theoretical, said, found.work)

"""How far back a model can see, and the bytes that it carries to do so.  Loads no torch."""

from __future__ import annotations

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

"""Arrays of numbers as text, compact and exact: zlib and base64 of little-endian float64."""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING, Any

from paribus.lazy import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def pack(values: Any) -> str:
    """float64 values of any shape as text (the shape is not kept)."""
    raw = np.ascontiguousarray(values, "<f8").tobytes()
    return base64.b64encode(zlib.compress(raw, 6)).decode()


def unpack(text: str) -> NDArray[np.float64]:
    """What ``pack`` was given, flat."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<f8")

"""Sinusoidal absolute positions (Vaswani et al. 2017), added to the embeddings.

The paper multiplies the embeddings by √width before it adds sines of amplitude 1.  Without that
factor, beside embeddings of standard deviation 0.02, such a table drowns the tokens and the model
hardly learns; so the table's size is a field, and by default it is the embeddings'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from paribus.contracts import Dims, P, Position, View
from paribus.errors import SpecError
from paribus.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class Sinusoidal(Position, frozen=True, kw_only=True):
    """Sines at even places of the vector, cosines at odd ones.

    Attributes:
        base: the longest wavelength is 2π · base (nearly).
        scale: root mean square of the table; the sines' amplitude is scale · √2.
    """

    base: Annotated[float, Meta(gt=1)] = 10000.0
    scale: Annotated[float, Meta(gt=0)] = 0.02

    stackable: ClassVar[frozenset[str]] = frozenset({"base", "scale"})

    def params(self, d: Dims) -> dict[str, P]:
        if d.width % 2:
            raise SpecError(f"positions.sinusoidal: width {d.width} is odd")
        return {}

    def tables(self, d: Dims, pos: View) -> dict[str, Tensor]:
        pair = torch.arange(0, d.width, 2, dtype=torch.float64, device=pos.token.device)
        angle = pos.token[..., None] * self.base ** -(pair / d.width)
        wave = torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)
        return {"wave": wave * self.scale * 2**0.5}

    def embed(self, t: Mapping[str, Tensor], p: Mapping[str, Tensor], x_EBTD: Tensor) -> Tensor:
        return x_EBTD + t["wave"]

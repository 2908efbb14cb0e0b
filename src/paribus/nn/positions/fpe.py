"""Fourier branch embedding (ParallelMind's ``pe=fpe``): sinusoids of the branch are added to the
embeddings, and pairs turn with the time alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from paribus.contracts import Dims, P, Position, View
from paribus.errors import SpecError
from paribus.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class Fpe(Position, frozen=True, kw_only=True):
    """Sines at even places of the vector, cosines at odd ones, of the branch's number.

    Attributes:
        base: of RoPE on the time: pair i of F turns by base^(−i/F) radians a step.
        branch_base: of the sinusoids; the longest wavelength is 2π · branch_base (nearly).
        stride: the branch coordinate of branch b is b · stride.
        rows: coordinates from ``rows`` − 1 on share one vector, as in the document's table.
        scale: root mean square of the added vector.  The document adds sines of amplitude 1
            (scale 0.7071), which drown embeddings of standard deviation 0.02.
    """

    base: Annotated[float, Meta(gt=0)] = 1e6
    branch_base: Annotated[float, Meta(gt=1)] = 10000.0
    stride: Annotated[float, Meta(ge=0)] = 1.0
    rows: Annotated[int, Meta(ge=1)] = 512
    scale: Annotated[float, Meta(gt=0)] = 0.02

    stackable: ClassVar[frozenset[str]] = frozenset(
        {"base", "branch_base", "stride", "rows", "scale"}
    )

    def params(self, d: Dims) -> dict[str, P]:
        if d.width % 2 or d.head_dim % 2:
            sizes = f"width {d.width} and head size {d.head_dim}"
            raise SpecError(f"positions.fpe: {sizes} must be even")
        return {}

    def tables(self, d: Dims, pos: View) -> dict[str, Tensor]:
        pair = torch.arange(0, d.head_dim, 2, dtype=torch.float64, device=pos.time.device)
        turn = pos.time[..., None] * self.base ** -(pair / d.head_dim)
        place = (pos.branch * self.stride).double().clamp(max=self.rows - 1)
        wave = torch.arange(0, d.width, 2, dtype=torch.float64, device=pos.time.device)
        angle = place[..., None] * self.branch_base ** -(wave / d.width)
        code = torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)
        return {"cos": turn.cos(), "sin": turn.sin(), "code": code * self.scale * 2**0.5}

    def embed(self, t: Mapping[str, Tensor], p: Mapping[str, Tensor], x_EBTD: Tensor) -> Tensor:
        return x_EBTD + t["code"]

    def rotate(self, t: Mapping[str, Tensor], p: Mapping[str, Tensor], x_EBHTd: Tensor) -> Tensor:
        cos, sin = t["cos"].unsqueeze(2), t["sin"].unsqueeze(2)
        a, b = x_EBHTd.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

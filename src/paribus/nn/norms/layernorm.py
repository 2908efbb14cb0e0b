"""Layer normalisation (Ba et al. 2016): zero mean, unit variance, then gain and bias.

gain  ones
bias  zeros
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from paribus.contracts import Norm, P
from paribus.lazy import F, torch
from paribus.nn.linear import summed

if TYPE_CHECKING:
    from torch import Tensor


class LayerNorm(Norm, frozen=True, kw_only=True):
    """Layer normalisation, in fp32 at least.

    Attributes:
        eps: added to the variance.
        gain, bias: whether they are learned; without them they are 1 and 0.
    """

    eps: Annotated[float, Meta(gt=0)] = 1e-5
    gain: bool = True
    bias: bool = True

    def params(self, n: int) -> dict[str, P]:
        out = {}
        if self.gain:
            out["gain"] = P((n,), init="ones", decay=False, role="gain")
        if self.bias:
            out["bias"] = P((n,), init="zeros", decay=False, role="bias")
        return out

    def forward(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.gain and within(x, p["gain"]):
            return self._each(p["gain"], p.get("bias"), x)
        # To the same bits, torch's kernel for the CPU is twice as fast where it is given weights.
        unit = x.new_ones(x.shape[-1]) if x.device.type == "cpu" else None
        y = F.layer_norm(x, x.shape[-1:], unit, eps=self.eps)
        if self.gain and self.bias:
            return torch.addcmul(p["bias"], y, p["gain"])
        if self.gain:
            return y * p["gain"]
        return y + p["bias"] if self.bias else y

    def added(self, p: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        able = self.gain and self.bias and x.dtype == torch.float32 and x.shape == y.shape
        if not (able and summed(x) and len(x) > 1):  # of one trial the compiler does as well
            return super().added(p, x, y)
        from paribus.nn._sums import added_norm

        flat = (t.reshape(x.shape[0], -1, x.shape[-1]) for t in (x, y))
        own = (p[name].reshape(-1, x.shape[-1]) for name in ("gain", "bias"))
        s, n, *_ = added_norm(*flat, *own, self.eps)
        return s.view(x.shape), n.view(x.shape)

    def _each(self, gain: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        """Trial by trial, gain and bias within the kernel: one pass forward and one backward."""
        n, E = x.shape[-1], gain.shape[0]
        if E == 1:
            one = None if bias is None else bias.reshape(n)
            return F.layer_norm(x, (n,), gain.reshape(n), one, self.eps)
        gains = gain.reshape(E, n).unbind()
        biases = [None] * E if bias is None else bias.reshape(E, n).unbind()
        rows = x.expand(E, *x.shape[1:]).unbind()
        y = [
            F.layer_norm(row, (n,), g, b, self.eps)
            for row, g, b in zip(rows, gains, biases, strict=True)
        ]
        return torch.stack(y)


def within(x: Tensor, gain: Tensor) -> bool:
    """Whether gain and bias are the kernel's, which takes them in one dtype with x: on a CPU that
    runs operations one by one."""
    return x.device.type == "cpu" and x.dtype == gain.dtype and not torch.compiler.is_compiling()

"""Gated linear attention with one gate a head (Yang et al. 2024; gated retention, Sun et al. 2024).

E trials, B rows, H heads, T tokens, N chunks of C tokens, d head size.

gate [H, D], gate_bias [H]   the logit of what a head keeps
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from paribus.contracts import Dims, P
from paribus.lazy import F, torch
from paribus.nn.linear import linear
from paribus.sequence import Mixer

if TYPE_CHECKING:
    from torch import Tensor


class GatedLinear(Mixer, frozen=True, kw_only=True):
    """S ← a S + kᵀ v, o = q S with a = sigmoid(gate · h + gate_bias)^(1/τ) for each head and token;
    outputs are normed head by head (root mean square, no gain).

    It is computed in chunks, within which it is attention with a decay; one token at a time it is
    the recurrence, with the same numbers but for rounding.  Everything is in fp32 at least.

    Attributes:
        chunk: tokens of a chunk.
        tau: τ; the larger, the longer a head remembers at its beginning.
        eps: added to the mean square of outputs.
    """

    chunk: Annotated[int, Meta(ge=1)] = 64
    tau: Annotated[float, Meta(gt=0)] = 16.0
    eps: Annotated[float, Meta(gt=0)] = 1e-5

    def params(self, d: Dims) -> dict[str, P]:
        return {
            "gate": P((d.heads, d.width), role="gate"),
            "gate_bias": P((d.heads,), init="zeros", decay=False, role="bias", fan_in=d.width),
        }

    def forward(
        self,
        p: Mapping[str, Tensor],
        q_EBHTd: Tensor,
        k_EBHTd: Tensor,
        v_EBHTd: Tensor,
        h_EBTD: Tensor,
        state: Tensor | None,
        valid_EBT: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(q_EBHTd.dtype, torch.float32)
        q, k, v = (x.to(wide) for x in (q_EBHTd, k_EBHTd, v_EBHTd))
        gate_EBTH = linear(h_EBTD.to(wide), p["gate"].to(wide), p["gate_bias"].to(wide))
        log_a = F.logsigmoid(gate_EBTH).transpose(2, 3) / self.tau
        if valid_EBT is not None:
            here = valid_EBT.bool()[:, :, None]
            log_a, k = log_a * here, k * here[..., None]
        if state is None:
            state = q.new_zeros(*k.shape[:3], k.shape[-1], v.shape[-1])
        o_EBHTd, state = _chunked(q, k, v, log_a, state, min(self.chunk, q.shape[3]))
        o_EBHTd = F.rms_norm(o_EBHTd, v.shape[-1:], eps=self.eps)
        return o_EBHTd.to(q_EBHTd.dtype), state

    def state_bytes(self, d: Dims, size: int) -> int:
        return d.heads * d.head_dim**2 * max(size, 4)

    def flops(self, d: Dims) -> float:
        # Within a chunk q·k and p·v over half of it; the state is read once and written once.
        return 4.0 * d.heads * d.head_dim * ((self.chunk + 1) / 2 + d.head_dim)


def _chunked(
    q: Tensor, k: Tensor, v: Tensor, log_a_EBHT: Tensor, S_EBHdd: Tensor, C: int
) -> tuple[Tensor, Tensor]:
    """(outputs, state), all chunks at once.  All exponents are of what is at most 0."""
    T = q.shape[3]
    rest = -T % C  # tokens that neither write nor forget
    q, k, v = (F.pad(x, (0, 0, 0, rest)).unflatten(3, (-1, C)) for x in (q, k, v))
    sum_EBHNC = F.pad(log_a_EBHT, (0, rest)).unflatten(3, (-1, C)).cumsum(-1)
    past = torch.ones(C, C, dtype=torch.bool, device=q.device).tril()
    decay = sum_EBHNC[..., None] - sum_EBHNC[..., None, :]
    o = (q @ k.mT * decay.masked_fill(~past, float("-inf")).exp()) @ v
    # What each chunk writes, as it is left at its end; and what is left of it before a later one.
    total_EBHN = sum_EBHNC[..., -1]
    left = (total_EBHN[..., None] - sum_EBHNC).exp()[..., None]
    wrote_EBHNdd = (k * left).mT @ v
    # Differences of long sums: in fp64, where the device has it.
    exact = q.dtype if q.device.type == "mps" else torch.float64
    upto_EBHN = total_EBHN.to(exact).cumsum(-1)
    wrote = torch.cat([S_EBHdd[..., None, :, :], wrote_EBHNdd], 3)
    end = F.pad(upto_EBHN, (1, 0))  # of the state that came in, then of each chunk
    N = end.shape[-1]
    kept = torch.ones(N, N, dtype=torch.bool, device=q.device).tril()
    share = (end[..., None] - end[..., None, :]).masked_fill(~kept, float("-inf")).exp().to(q.dtype)
    states = (share @ wrote.flatten(4)).view(wrote.shape)  # after what came in, and each chunk
    o = o + (q * sum_EBHNC.exp()[..., None]) @ states[..., :-1, :, :]
    return o.flatten(3, 4)[..., :T, :], states[..., -1, :, :]

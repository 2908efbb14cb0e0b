"""Muon (Jordan et al. 2024) for the matrices of the blocks, AdamW for all else, as in nanochat.

E trials, N matrices of all trials that are R × C or C × R.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from paribus.contracts import Optimizer, P
from paribus.lazy import torch
from paribus.optim import _adam
from paribus.optim._wide import wide, zeros

if TYPE_CHECKING:
    from torch import Tensor

Rate = Annotated[float, Meta(ge=0)]
Beta = Annotated[float, Meta(ge=0, lt=1)]

A, B, C = 3.4445, -4.7750, 2.0315  # of the quintic that takes singular values to 0.7 … 1.2
EPS = 1e-7  # added to a matrix's norm
NO_MATRIX = {"embedding", "head", "position", "read_in", "read_out"}  # roles
RATES = {"embedding": "embedding_lr", "head": "head_lr", "read_out": "head_lr"}  # by role


class MuonAdamw(Optimizer, frozen=True, kw_only=True):
    """Matrices: m ← μ m + (1 − μ) g, u = (1 − μ) g + μ m, w ← w − lr · √max(1, R/C) · o(u), for w
    [R,C]; o(u) is nearly U Vᵀ of u = U S Vᵀ.  All else: AdamW without weight decay.

    A matrix has one tensor of state, anything else two.  Of an external model every tensor of two
    axes is taken for a matrix, its embeddings too.

    Attributes:
        lr: peak learning rate of matrices.
        embedding_lr, head_lr: peak rates of the token embedding, and of the head or read-out.
        rest_lr: of what is neither (gains, biases, position tables, a read-in of vectors); nanochat
            has none of them, so the number is ours.
        by_width: whether embedding_lr and head_lr are times (width / 768)^−½.
        momentum: μ, from the step on at which it has risen to it.
        momentum_start, momentum_steps: where μ starts, and in how many steps it rises, straight.
        iterations: Newton–Schulz steps.
        iteration: in which precision they run: "bf16", as published, or "fp32"; training in fp64
            runs them in fp64.  Norms are fp32 at least; published code takes them in bf16 too.
        betas, eps: AdamW's.
    """

    lr: Rate = 0.02
    embedding_lr: Rate = 0.2
    head_lr: Rate = 0.004
    rest_lr: Rate = 0.004
    by_width: bool = True
    momentum: Beta = 0.95
    momentum_start: Beta = 0.85
    momentum_steps: Annotated[int, Meta(ge=0)] = 300
    iterations: Annotated[int, Meta(ge=1)] = 5
    iteration: Literal["bf16", "fp32"] = "bf16"
    betas: tuple[Beta, Beta] = (0.8, 0.95)
    eps: Annotated[float, Meta(gt=0)] = 1e-10

    rates: ClassVar[frozenset[str]] = frozenset({"lr", "embedding_lr", "head_lr", "rest_lr"})
    stackable: ClassVar[frozenset[str]] = rates
    # In fp32 a stack on the CPU is bit-equal to its trials alone; of bf16 no library promises it.
    example: ClassVar[dict[str, Any]] = {"iteration": "fp32"}

    def states(self, p: P) -> int:
        return 1 if _is_matrix(p) else 2

    def state(
        self, params: Mapping[str, Tensor], declared: Mapping[str, P]
    ) -> dict[str, dict[str, Tensor]]:
        matrices, rest = _divided(params, declared)
        return {
            "momentum": zeros(params, matrices),
            "mean": zeros(params, rest),
            "square": zeros(params, rest),
        }

    def numbers(self, step: int) -> dict[str, float]:
        return _adam.numbers(self.betas, self.eps, step)

    def update(
        self,
        v: Mapping[str, Tensor],
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: dict[str, dict[str, Tensor]],
        step: int,
        declared: Mapping[str, P],
    ) -> None:
        matrices, rest = _divided(params, declared)
        groups: dict[tuple[str, float], list[str]] = {}
        for path in rest:
            p = declared[path]
            rate = RATES.get(p.role, "rest_lr")
            scale = (p.shape[-1] / 768) ** -0.5 if self.by_width and p.role in RATES else 1.0
            groups.setdefault((rate, scale), []).append(path)
        for (rate, scale), paths in groups.items():
            _adam.update(v, v[rate] * scale, self.betas, params, grads, state, paths)
        if not matrices:
            return
        rise = min(step / self.momentum_steps, 1.0) if self.momentum_steps else 1.0
        mu = (1 - rise) * self.momentum_start + rise * self.momentum
        g, memory = [grads[k] for k in matrices], [state["momentum"][k] for k in matrices]
        torch._foreach_lerp_(memory, g, 1 - mu)
        ahead = dict(zip(matrices, torch._foreach_lerp(g, memory, mu), strict=True))
        alike: dict[tuple[int, ...], list[str]] = {}
        for path in matrices:
            alike.setdefault(tuple(sorted(ahead[path].shape[1:])), []).append(path)
        for paths in alike.values():
            # Wide ones, so that the products of the iteration are R × R with R ≤ C.
            wide_ = [_wide_side(ahead.pop(path)) for path in paths]
            made = self._orthogonal(torch.cat(wide_)).split([t.shape[0] for t in wide_])
            for path, o_ERC in zip(paths, made, strict=True):
                w = params[path]
                o_ERC = o_ERC if o_ERC.shape == w.shape else o_ERC.mT
                lr_E = v["lr"] * max(1.0, w.shape[1] / w.shape[2]) ** 0.5
                w.addcmul_(o_ERC.to(w.dtype), *wide(lr_E, [w]), value=-1)

    def _orthogonal(self, x_NRC: Tensor) -> Tensor:
        """About U Vᵀ of each matrix, R ≤ C: odd polynomials of it, whatever the others are."""
        if x_NRC.is_cuda:
            norm_N = torch.linalg.vector_norm(x_NRC, dim=(1, 2))
        else:  # one by one: a stacked reduction has other bits than that of a trial alone
            norm_N = torch.stack(torch._foreach_norm(x_NRC.unbind()))
        x_NRC = x_NRC / (norm_N[:, None, None] + EPS)
        if x_NRC.dtype != torch.float64:
            x_NRC = x_NRC.to(torch.bfloat16 if self.iteration == "bf16" else torch.float32)
        for _ in range(self.iterations):
            square_NRR = torch.bmm(x_NRC, x_NRC.mT)
            poly_NRR = torch.baddbmm(square_NRR, square_NRR, square_NRR, beta=B, alpha=C)
            x_NRC = torch.baddbmm(x_NRC, poly_NRR, x_NRC, beta=A)
        return x_NRC


def _is_matrix(p: P) -> bool:
    return len(p.shape) == 2 and p.role not in NO_MATRIX


def _divided(paths: Mapping[str, Any], declared: Mapping[str, P]) -> tuple[list[str], list[str]]:
    """(matrices of the blocks, all else)."""
    matrices = [path for path in paths if _is_matrix(declared[path])]
    return matrices, [path for path in paths if not _is_matrix(declared[path])]


def _wide_side(x_ERC: Tensor) -> Tensor:
    return x_ERC.mT if x_ERC.shape[1] > x_ERC.shape[2] else x_ERC

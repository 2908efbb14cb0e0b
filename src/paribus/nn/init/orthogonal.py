"""Orthogonal queries and keys (Saxe et al. 2014); everything else as init.normal().

A matrix with more rows than columns gets orthonormal columns, any other orthonormal rows: what is
square is an isometry, and every head slice of it has orthonormal rows.  Drawn head by head, the
rows of one head are orthonormal and those of two heads are not: no isometry.

No gain: a row of a matrix that is not higher than wide has length 1, as N(0, 1/√width) gives it on
average.  So ``init.normal(std=width ** -0.5)`` is the control of equal size.

Draws are the same on every machine; LAPACK rounds by the kind of CPU, so that between two machines
a few numbers may differ in the last bit of fp32 (more of them under "svd").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from paribus.contracts import Dims, Init, P
from paribus.lazy import numpy as np

if TYPE_CHECKING:
    from paribus.rng import Floats


class Orthogonal(Init, frozen=True, kw_only=True):
    """Orthogonal q and k, made of normal draws in float64.

    Attributes:
        per: "matrix": all heads together; "head": each head by itself.
        method: "qr": Q of the QR decomposition, column j times the sign of R_jj; "svd": the left
            singular vectors, each times the sign of the first number of its right one; both are
            uniform over orthogonal matrices.  "householder": as many random reflections as there
            are columns, one after the other: orthogonal, but nearer to the identity than uniform.
    """

    per: Literal["matrix", "head"] = "matrix"
    method: Literal["qr", "svd", "householder"] = "qr"

    def rule(self, p: P, d: Dims) -> tuple[str, float]:
        if p.role == "bias":
            return "constant", 0.0
        if p.role == "gain":
            return "constant", 1.0
        if p.role not in ("q", "k"):
            return "normal", 0.02
        rows = d.head_dim if self.per == "head" else p.shape[0]
        return "normal", max(rows, p.shape[1]) ** -0.5

    def made(self, p: P, d: Dims, drawn: Floats) -> Floats:
        if p.role not in ("q", "k"):
            return drawn
        if self.per == "matrix":
            return self._orthogonal(drawn)
        heads = drawn.reshape(-1, d.head_dim, p.shape[1])
        return np.concatenate([self._orthogonal(w) for w in heads])

    def _orthogonal(self, w: Floats) -> Floats:
        """Orthonormal rows, or columns where there are fewer of them."""
        if w.shape[0] < w.shape[1]:
            return self._orthogonal(w.T).T
        if self.method == "qr":
            q, r = np.linalg.qr(w)
            return q * _sign(np.diagonal(r))
        if self.method == "svd":  # U and V are known up to one sign a pair, which this undoes
            u, _, v = np.linalg.svd(w, full_matrices=False)
            return u * _sign(v[:, 0])
        out = np.eye(*w.shape)
        for x in w.T / np.linalg.norm(w, axis=0)[:, None]:
            out -= np.outer(2 * x, x @ out)
        return out


def _sign(x: Floats) -> Floats:
    return np.where(x < 0, -1.0, 1.0)

"""Named random streams: every draw is keyed, none comes from a global generator.

A stream is Philox with a key hashed from (seed, purpose, path…).  Only raw 64-bit words are taken
from numpy (the one thing that it promises to keep); uniforms and normals are our own transforms,
made of additions, products, divisions and square roots alone, which IEEE 754 rounds exactly, so
that a stream is the same on every CPU, and on a GPU that rounds so too (``exact``).

Rows are numbered globally: row r starts at a fixed place of the stream, whatever range is drawn,
so halving a micro-batch, sharding or stacking changes nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paribus.lazy import numpy as np
from paribus.lazy import torch
from paribus.moving import moved

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Words = NDArray[np.uint64]
    Floats = NDArray[np.float64]


def key(*parts: str | int) -> int:
    """128-bit Philox key of a tuple of strings and integers."""
    text = json.dumps(list(parts), separators=(",", ":"), ensure_ascii=False)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


class Stream:
    """One random stream.

    Args:
        seed: the trial's seed (or the data's own seed).
        purpose: what the draws are for ("init", "order", "dropout" …).
        path: a parameter path, a step, an epoch … as needed to make the stream unique.
    """

    def __init__(self, seed: int, purpose: str, *path: str | int) -> None:
        self.key = key(int(seed), purpose, *path)

    def words(self, n: int, *, start: int = 0) -> Words:
        """``n`` raw words from word number ``start`` on."""
        bits = np.random.Philox(key=self.key)
        block, offset = divmod(start, 4)  # one Philox counter step gives four words
        if block:
            bits.advance(block)
        return bits.random_raw(n + offset)[offset:]

    def rows(self, rows: range, per_row: int) -> Words:
        """Raw words [len(rows), per_row] of the given global rows."""
        stride = -(-per_row // 4) * 4
        if len(rows) == 0:
            return np.empty((0, per_row), np.uint64)
        assert rows.step == 1, "rows are contiguous"
        flat = self.words(stride * len(rows), start=stride * rows.start)
        return flat.reshape(len(rows), stride)[:, :per_row]

    def uniform(self, n: int, *, start: int = 0) -> Floats:
        """``n`` float64 in (0, 1), 53 bits."""
        return uniform(self.words(n, start=start))

    def normal(self, n: int, *, start: int = 0) -> Floats:
        """``n`` standard normal float64."""
        return normal(self.uniform(n, start=start))

    def integers(self, n: int, high: int) -> NDArray[np.int64]:
        """``n`` integers uniform on [0, high)."""
        return integers(self.words(n), high)

    def permutation(self, n: int) -> NDArray[np.int64]:
        """A uniform permutation of 0 … n − 1."""
        return np.argsort(self.words(n), kind="stable")


# ── rows of several streams ─────────────────────────────────────────────────────────────────


def side_by_side(streams: Sequence[Stream], rows: range, per_row: int, device: Any) -> Tensor:
    """The same rows of each stream, one stream after another: int64 [per_row, streams · rows].  A
    GPU draws them itself: it is faster at that than a processor, and nothing has to be copied."""
    if torch.device(device).type == "cuda":
        return philox([s.key for s in streams], rows, per_row, device)
    n = len(rows)
    out = torch.empty(per_row, len(streams) * n, dtype=torch.int64)
    for i, stream in enumerate(streams):
        words = stream.rows(rows, per_row).view(np.int64)
        out[:, i * n : (i + 1) * n] = torch.from_numpy(words).T
    return out.to(device)


MASK, FULL = (1 << 32) - 1, (1 << 64) - 1
# Of Philox 4x64, by Salmon et al. (2011): what it multiplies by, what its key grows by each round.
FACTORS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
GROWTH = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)


def philox(keys: Sequence[int], rows: range, per_row: int, device: Any) -> Tensor:
    """What ``side_by_side`` gives of streams with these keys, drawn on a device.

    Products and sums of int64 wrap around alike everywhere.  Axes: word, block of four words, key,
    row; of the four words the first and third are ``even``, the others ``odd``.
    """

    def there(numbers: list[Any]) -> Tensor:
        return moved(np.array(numbers, np.uint64).view(np.int64), device)

    n, blocks = len(rows), -(-per_row // 4)
    each = [[[(k >> 64 * i) + r * GROWTH[i] & FULL for k in keys] for i in (0, 1)]
            for r in range(10)]  # fmt: skip
    keys_of = there(each)[:, :, None, :, None]
    factor, low, high = there(
        [FACTORS, [f & MASK for f in FACTORS], [f >> 32 for f in FACTORS]]
    ).view(3, 2, 1, 1, 1)
    counter = torch.arange(1 + rows.start * blocks, 1 + rows.stop * blocks, device=device)
    even = torch.zeros(2, blocks, len(keys), n, dtype=torch.int64, device=device)
    even[0] = counter.view(n, blocks).T[:, None]
    odd = torch.zeros_like(even)
    for key_ in keys_of:
        # The upper 64 bits of a product of 128, from products of halves.
        a, b = even & MASK, even >> 32 & MASK
        middle = b * low + (a * low >> 32 & MASK)
        upper = b * high + (middle >> 32 & MASK)
        upper += a * high + (middle & MASK) >> 32 & MASK
        even, odd = upper.flip(0) ^ odd ^ key_, (even * factor).flip(0)
    words = torch.stack([even, odd], 1).flatten(0, 1).transpose(0, 1)
    return words.reshape(4 * blocks, len(keys) * n)[:per_row]


AT_ONCE = 1 << 24  # numbers of all streams that a device draws together; a multiple of four


def uniforms(streams: Sequence[Stream], n: int, device: Any) -> Tensor:
    """The first ``n`` uniforms of each stream, drawn on a GPU: float64 [streams, n]."""
    each = min(max(4, AT_ONCE // len(streams) // 4 * 4), -(-n // 4) * 4)
    out = torch.empty(len(streams), n, dtype=torch.float64, device=device)
    for i in range(0, n, each):
        words = philox([s.key for s in streams], range(i // each, i // each + 1), each, device)
        upper = words[: n - i].T >> 11 & (1 << 53) - 1
        out[:, i : i + each] = (upper.to(torch.float64) + 0.5) * 2.0**-53
    return out


def normals(streams: Sequence[Stream], n: int, device: Any) -> Tensor:
    """The first ``n`` standard normals of each stream, drawn on a GPU: float64 [streams, n]."""
    out = uniforms(streams, n, device)
    each = max(1, AT_ONCE // len(streams))
    for i in range(0, n, each):
        u = out[:, i : i + each]
        q = u - 0.5
        r = torch.sqrt(-_log(torch.minimum(u, 1.0 - u), torch))
        w = torch.where(r <= 5.0, _ratio(r - 1.6, _NEAR, torch), _ratio(r - 5.0, _FAR, torch))
        near = q * _ratio(0.180625 - q * q, _CENTRE, torch)
        out[:, i : i + each] = torch.where(q.abs() > 0.425, torch.where(q < 0, -w, w), near)
    return out


@functools.cache
def exact(device: str) -> bool:
    """Whether a device draws the very normals that a processor draws; looked at once."""
    own = Stream(0, "exact")
    try:
        return np.array_equal(normals([own], 1 << 16, device)[0].cpu().numpy(), own.normal(1 << 16))
    except (RuntimeError, TypeError):  # it has no float64, say
        return False


# ── distributions ───────────────────────────────────────────────────────────────────────────


def uniform(words: Words) -> Floats:
    """float64 in (0, 1): the upper 53 bits, centred between neighbours."""
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def integers(words: Words, high: int) -> NDArray[np.int64]:
    """Integers on [0, high); the bias is below high / 2⁵³."""
    return np.minimum((uniform(words) * high).astype(np.int64), high - 1)


# Wichura (1988), Applied Statistics 37(3), algorithm AS 241 (PPND16): relative error about 1e-16.
_CENTRE = (
    (2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
     13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608),
    (5226.495278852545925, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
     5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1.0),
)  # fmt: skip
_NEAR = (
    (7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177,
     1.27045825245236838258, 3.64784832476320460504, 5.7694972214606914055,
     4.6303378461565452959, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966,
     0.14810397642748007459, 0.68976733498510000455, 1.6763848301838038494,
     2.05319162663775882187, 1.0),
)  # fmt: skip
_FAR = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386,
     0.026532189526576123093, 0.29656057182850489123, 1.7848265399172913358,
     5.4637849111641143699, 6.6579046435011037772),
    (2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5,
     7.868691311456132591e-4, 0.0148753612908506148525, 0.13692988092273580531,
     0.59983220655588793769, 1.0),
)  # fmt: skip


def _ratio(x: Any, coefficients: tuple[tuple[float, ...], tuple[float, ...]], of: Any = np) -> Any:
    """Of an array, or of a tensor with ``of`` torch; so is the logarithm."""
    top, bottom = (of.full_like(x, c[0]) for c in coefficients)
    for a, b in zip(coefficients[0][1:], coefficients[1][1:], strict=True):
        top *= x
        top += a
        bottom *= x
        bottom += b
    top /= bottom
    return top


def _log(x: Any, of: Any = np) -> Any:
    """Natural logarithm by exactly rounded operations: 2·artanh((m − 1)/(m + 1)) + e·ln 2."""
    m, e = of.frexp(x)
    low = m < math.sqrt(0.5)
    m = of.where(low, 2.0 * m, m)
    e = of.where(low, e - 1, e) * of.ones_like(x)  # float64
    s = (m - 1.0) / (m + 1.0)
    t = s * s
    total = of.full_like(t, 1.0 / 25.0)
    for k in range(23, 0, -2):
        total *= t
        total += 1.0 / k
    return 2.0 * s * total + e * 0.6931471805599453


def normal(u: Floats) -> Floats:
    """Standard normal quantile of float64 ``u`` in (0, 1), by AS 241."""
    shape, u = u.shape, u.ravel()
    out = np.empty_like(u)
    for i in range(0, len(u), 1 << 16):  # blocks that stay in the cache
        v = u[i : i + (1 << 16)]
        q = v - 0.5
        z = q * _ratio(0.180625 - q * q, _CENTRE)
        tail = np.flatnonzero(np.abs(q) > 0.425)
        if len(tail):
            vt = v[tail]
            r = np.sqrt(-_log(np.minimum(vt, 1.0 - vt)))
            w = np.where(r <= 5.0, _ratio(r - 1.6, _NEAR), _ratio(r - 5.0, _FAR))
            z[tail] = np.where(q[tail] < 0, -w, w)
        out[i : i + (1 << 16)] = z
    return out.reshape(shape)

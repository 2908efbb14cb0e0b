"""How evaluation cuts text: windows, which of their targets are scored, and where those stand.

E trials, B windows, T tokens, P parts of a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from paribus.lazy import numpy as np
from paribus.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from paribus.text.data import Tokens

PLACES = 16  # bins of places in a document; the last has no end


class Windows(NamedTuple):
    """Windows in order; each is ``length`` tokens, or as many as there are before its end.

    Attributes:
        base: where its text starts in the stream; the stream's own start, or a document's.
        end: the last scored target, counted from there.
        count: targets scored, the last ones.
    """

    base: Any  # [N]
    end: Any  # [N]
    count: Any  # [N]

    @property
    def size(self) -> int:
        return len(self.base)


def cut(
    tokens: Tokens, *, stride: int, start: int, within: str, most: int, each: int | None = None
) -> Windows:
    """Blocks of ``stride`` targets in the order of the text, from the target at place ``start`` of
    each text (1 at least: the first token is no target) on, ``most`` targets in all.

    They do not depend on the window's length: conditions of any length score the same targets.
    Of the stream whole blocks alone are scored; a document's last block may be shorter.  ``each``:
    so many targets of a document at most, so that more documents are read.
    """
    first, n = max(start, 1), len(tokens.ids)
    if within == "stream":
        size = max(0, min(most, n - first) // stride)
        end = first - 1 + stride * (1 + np.arange(size))
        return Windows(np.zeros(size, np.int64), end, np.full(size, stride))
    ends = np.append(tokens.starts[1:], n)
    targets = np.maximum(ends - tokens.starts - first, 0)
    if each is not None:
        targets = np.minimum(targets, each)
    blocks = -(-targets // stride)
    of = np.repeat(np.arange(len(blocks)), blocks)
    number = np.arange(len(of)) - np.repeat(np.cumsum(blocks) - blocks, blocks)
    count = np.minimum(stride, targets[of] - number * stride)
    keep = np.cumsum(count) <= most
    end = first - 1 + number * stride + count
    return Windows(tokens.starts[of][keep], end[keep], count[keep])


def rows(windows: Windows, i: int, j: int, length: int, last: int) -> tuple[Any, Any]:
    """(places in the stream of tokens [B,T+1], which targets count [B,T]) of windows i … j − 1.
    What follows a window's last target is no part of it, and a causal model does not read it."""
    base, end, count = (x[i:j, None] for x in windows)
    begin = np.maximum(end - length, 0)
    at_T1 = begin + np.arange(length + 1)
    target_T = at_T1[:, 1:]
    return np.minimum(base + at_T1, last), (target_T > end - count) & (target_T <= end)


# ── where tokens stand ──────────────────────────────────────────────────────────────────────


def edges(first: int, bins: int) -> list[int]:
    """The least place of each bin: [0, first), [first, 2 first), [2 first, 4 first) …"""
    return [0, *(first << k for k in range(bins - 1))]


def bins(first: int, length: int) -> int:
    """Bins of the places of a window."""
    return 1 + sum(first << k < length for k in range(64))


def parts(first: int, length: int) -> int:
    """Items of a window: its bins times those of places in a document."""
    return bins(first, length) * PLACES


def labels(first: int, length: int, size: int) -> dict[str, Any]:
    """The bins' least places of each item [size · P]: ``position`` in the window, that is, the
    tokens read before, and ``place`` in the document."""
    mine, places = bins(first, length), PLACES
    return {
        "position": np.tile(np.repeat(edges(first, mine), places), size),
        "place": np.tile(edges(first, places), size * mine),
    }


def binned(tokens: Tokens, at_BT: Any, first: int) -> Any:
    """The part of its window that each token belongs to [B,T]."""
    length = at_BT.shape[1]
    place = at_BT - tokens.starts[tokens.doc_of(at_BT)]
    of_position = np.searchsorted(edges(first, bins(first, length))[1:], np.arange(length), "right")
    of_place = np.searchsorted(edges(first, PLACES)[1:], place, "right")
    return of_position * PLACES + of_place


def apart(x_EBT: Tensor, part_BT: Tensor, P: int) -> Tensor:
    """Sums over the tokens of each part [E,B·P], in float64."""
    E, B, _ = x_EBT.shape
    out = x_EBT.new_zeros((E, B, P), dtype=torch.float64)
    out.scatter_add_(2, part_BT.expand(x_EBT.shape), x_EBT.double())
    return out.view(E, B * P)


def language(
    nats_EBT: Tensor, counted_EBT: Tensor, batch: Mapping[str, Tensor], P: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """The metrics of ``nn.losses.language`` for each part of each window."""
    part = batch["parts"]
    out = {"loss": (apart(nats_EBT, part, P), apart(counted_EBT, part, P))}
    if "bytes" in batch:
        bytes_EBT = batch["bytes"] * counted_EBT
        bits_EBT = nats_EBT.double() * (bytes_EBT > 0) / np.log(2.0)
        out["bpb"] = (apart(bits_EBT, part, P), apart(bytes_EBT, part, P))
    return out

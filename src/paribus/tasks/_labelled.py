"""Labelled texts as padded rows, and how answers to them are scored.

E trials, B rows, T tokens, C classes, N items of an evaluation.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from paribus.contracts import Source
from paribus.errors import SpecError
from paribus.lazy import F, torch
from paribus.lazy import numpy as np
from paribus.moving import moved
from paribus.nn.losses import nats
from paribus.rng import Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from paribus.tasks.classes import Classes
    from paribus.text.data import Data

    Ints = NDArray[np.int64]

SHOWN = 120  # characters of a text in titles


class Texts(Source):
    """The texts of a split, each from its beginning, padded at the end."""

    def __init__(self, task: Classes, data: Data, device: str) -> None:
        self.task, self.device = task, device
        self.labelled, self.names = task.labelled(), task.names()
        self.split = data.split
        self.labels = self._numbered(data.split)
        tokens = data.tokens(self.labelled, task.tokenizer)
        self.starts = np.asarray(tokens.starts, np.int64)
        self.whole = np.diff(np.append(self.starts, len(tokens.ids)))
        if tokens.bos is None and tokens.eos is not None:
            self.whole = self.whole - 1
        if len(self.whole) != len(self.labels) or self.whole.min() < 1:
            raise SpecError(
                f"classes.tokenizer: some text of the {data.split} split has no token under "
                f"tokenizers.{task.tokenizer.name}"
            )
        self.lengths = np.minimum(self.whole, task.length)
        self.size = self.epoch = len(self.labels)
        self._ids = tokens.ids
        self._order: dict[tuple[int, int], Ints] = {}

    def _numbered(self, split: str) -> Ints:
        """The class of each text of a split."""
        number = {name: i for i, name in enumerate(self.names)}
        rows = self.labelled.rows(split)
        for row in rows:
            if row.label not in number:
                raise SpecError(
                    f"classes.label: {row.place} ({split}) is {row.label!r}, which is no class of "
                    f"the task: {', '.join(self.names)}"
                )
        return np.array([number[row.label] for row in rows], np.int64)

    # ── rows ──

    @cached_property
    def _kept(self) -> dict[str, Tensor]:
        arrays = {
            "ids": np.asarray(self._ids).astype(np.int32),
            "starts": self.starts,
            "lengths": self.lengths,
            "labels": self.labels,
        }
        return {name: torch.from_numpy(a).to(self.device) for name, a in arrays.items()}

    def _rows(self, which: Ints) -> dict[str, Tensor]:
        at = moved(which, self.device)
        place_T = torch.arange(self.task.length, device=self.device)
        length_B1 = self._kept["lengths"][at][:, None]
        valid_BT = place_T < length_B1
        token_BT = self._kept["starts"][at][:, None] + torch.minimum(place_T, length_B1 - 1)
        return {
            "inputs": self._kept["ids"][token_BT].long() * valid_BT,
            "targets": self._kept["labels"][at],
            "valid": valid_BT,
        }

    def _epoch(self, seed: int, epoch: int) -> Ints:
        if (seed, epoch) not in self._order:
            for old in [k for k in self._order if k[0] == seed and k[1] < epoch - 1]:
                del self._order[old]
            self._order[seed, epoch] = Stream(seed, "order", epoch).permutation(self.size)
        return self._order[seed, epoch]

    def batch(self, seed: int, step: int, rows: range) -> dict[str, Tensor]:
        place = [divmod(r, self.size) for r in rows]
        return self._rows(np.array([self._epoch(seed, epoch)[i] for epoch, i in place]))

    def examples(self, i: int, j: int) -> dict[str, Tensor]:
        return self._rows(np.arange(i, j))

    # ── what they are ──

    def slices(self) -> dict[str, Any]:
        return {
            "class": np.array(self.names)[self.labels],
            "cut": np.where(self.whole > self.lengths, "yes", "no"),
        }

    def titles(self, i: int, j: int) -> list[dict[str, str]]:
        return [
            {"text": _beginning(row.text.decode()), "truth": row.label}
            for row in self.labelled.rows(self.split)[i:j]
        ]

    def realised(self, seed: int | None, rows: range) -> dict[str, Any]:
        """Texts and tokens that were read; how many texts were cut, and tokens cut off.  Of an
        evaluation also a hash of its texts, and the share of them that training has, too."""
        if seed is not None:
            times = np.zeros(self.size, np.int64)
            first, last = (divmod(r, self.size) for r in (rows.start, rows.stop))
            for epoch in range(first[0], last[0] + 1):
                low = first[1] if epoch == first[0] else 0
                high = last[1] if epoch == last[0] else self.size
                times[self._epoch(seed, epoch)[low:high]] += 1
            return self._told(times)
        mine = [row.identity for row in self.labelled.rows(self.split)[rows.start : rows.stop]]
        told = self._told(np.isin(np.arange(self.size), np.asarray(rows)).astype(np.int64))
        told["list"] = hashlib.blake2b(b"".join(mine), digest_size=16).hexdigest()
        if self.split != "train":
            known = {row.identity for row in self.labelled.rows("train")}
            told["duplicates"] = sum(i in known for i in mine) / max(1, len(mine))
        return told

    def _told(self, times: Ints) -> dict[str, Any]:
        lost = self.whole - self.lengths
        return {
            "texts": int(times.sum()),
            "tokens": int((times * self.lengths).sum()),
            "cut": int((times * (lost > 0)).sum()),
            "truncated": int((times * lost).sum()),
        }

    # ── trivial baselines ──

    def _trivial(self) -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
        """(sum_N, count_N) of each metric by baseline: the commonest class of the training split,
        always, with its frequencies (one more of each) for chances; and all classes alike."""
        C, truth_N = len(self.names), torch.from_numpy(self.labels)
        counts = np.bincount(self._numbered("train"), minlength=C)
        chances = torch.from_numpy((counts + 1) / (counts.sum() + C))
        said_N = torch.full_like(truth_N, int(counts.argmax()))
        one = torch.ones(self.size, dtype=torch.float64)
        majority = {
            "loss": (-chances.log()[truth_N], one),
            "accuracy": ((said_N == truth_N).double(), one),
        }
        majority |= {k: (s[0], c[0]) for k, (s, c) in whole(said_N[None], truth_N[None]).items()}
        return {
            "majority": majority,
            "uniform": {"loss": (one * math.log(C), one), "accuracy": (one / C, one)},
        }

    def trivial(self) -> dict[str, dict[str, float]]:
        every = torch.ones(self.size, dtype=torch.bool)
        return {name: _ratios(items, every) for name, items in self._trivial().items()}

    def trivial_slices(self, by: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
        """{baseline: {slice: {metric: value}}} of the same two."""
        out: dict[str, dict[str, dict[str, float]]] = {}
        for name, items in self._trivial().items():
            for slice_, labels in self.slices().items():
                for level in sorted(set(labels.tolist())) if slice_ in by else ():
                    at = torch.from_numpy(labels == level)
                    out.setdefault(name, {})[f"{slice_}={level}"] = _ratios(items, at)
        return out


def _beginning(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _ratios(items: Mapping[str, tuple[Tensor, Tensor]], at: Tensor) -> dict[str, float]:
    return {name: float(s[at].sum() / c[at].sum()) for name, (s, c) in items.items()}


# ── scores ──────────────────────────────────────────────────────────────────────────────────


def answer(outputs_EBTC: Tensor, valid_EBT: Tensor, read: str) -> Tensor:
    """Logits [E,B,C]: those of the last token that is no padding, or their mean over all such.  The
    read-out is linear, so the mean of what it gives is what it gives for the mean state."""
    at_EBT = valid_EBT
    if read == "last":
        at_EBT = valid_EBT & ~F.pad(valid_EBT[..., 1:], (0, 1))
    chosen = torch.where(at_EBT[..., None], outputs_EBTC, 0.0)
    return chosen.sum(2) / at_EBT.sum(2)[..., None]


def loss(logits_EBC: Tensor, targets_EB: Tensor) -> Tensor:
    """Nats of each row [E,B]."""
    return nats(logits_EBC[:, :, None], targets_EB[..., None])[0][..., 0]


def score(logits_EBC: Tensor, targets_EB: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """(sum_EB, count_EB) of loss and accuracy, and what ``whole`` needs."""
    nats_EB, said_EB = loss(logits_EBC.double(), targets_EB), logits_EBC.argmax(-1)
    one = torch.ones_like(nats_EB)
    return {
        "loss": (nats_EB, one),
        "accuracy": ((said_EB == targets_EB).double(), one),
        "_said": (said_EB, one),
        "_class": (targets_EB, one),
    }


def whole(said_EN: Tensor, truth_EN: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What takes all items at once, as sums over them.

    ``macro_f1``: a class that stands in a of N items and was said of b, r times rightly, has
    F1 = 2r / (a + b).  Of K classes that occur, each weighs N / K, which its items share: so a
    ratio of sums is the mean of F1 over the classes, and among the items of one class its F1.
    ``commonest``: the share of items that were given the answer given most often; 1 where the
    answer is always the same.
    """
    said_EN, truth_EN = said_EN.long(), truth_EN.long()
    E, N = said_EN.shape
    C = int(max(said_EN.max(), truth_EN.max())) + 1

    def counts(of_EN: Tensor) -> Tensor:
        one = torch.ones(E, N, dtype=torch.float64, device=of_EN.device)
        return torch.zeros(E, C, dtype=torch.float64, device=of_EN.device).scatter_add_(
            1, of_EN, one
        )

    there_EC, given_EC = counts(truth_EN), counts(said_EN)
    each_E1 = N / (there_EC > 0).double().sum(1, keepdim=True)
    weight_EC = each_E1 / there_EC.clamp(min=1)
    credit_EC = 2 * each_E1 / (there_EC + given_EC).clamp(min=1)
    right_EN = (said_EN == truth_EN).double()
    same_EN = (said_EN == given_EC.argmax(1, keepdim=True)).double()
    return {
        "macro_f1": (right_EN * credit_EC.gather(1, truth_EN), weight_EC.gather(1, truth_EN)),
        "commonest": (same_EN, torch.ones_like(same_EN)),
    }

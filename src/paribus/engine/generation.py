"""Continuations of several prompts at a time: as branches of one row on one cache, and as the rows
of an ordinary batch.

E trials, B prompts, n branches that go on, N tokens of a packed row, T tokens of a padded one,
V vocabulary.  A lower-case e is 1 or E.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from paribus.contracts import View
from paribus.errors import Refused
from paribus.nn.cache import Cache, choose
from paribus.nn.transformer import Transformer
from paribus.parts import describe
from paribus.text.columns import columns

Prompts = Sequence[Sequence[int]]


class Columns:
    """Prompts as branches of one row on one cache: they advance together, a column at a time.

    The prompts are one pass, laid out as ``tasks.branches`` trains (by time, then branch); then
    each step is a chunk with the next token of every branch that goes on.  It is what one pass over
    the finished row computes, if a token's column comes when all earlier columns are in: so the
    prompts must end at one time, as with ``align="right"`` they do.

    Args:
        prompts: ids, one list a branch; the same for every trial.
        room: tokens that a branch can be given by ``advance``.
        main: ids of a prefix that all branches share.
        align: as of ``tasks.branches``; "left" takes prompts of one length alone.
        kernel, dtype: as of the model's pass.

    Attributes:
        logits_EBV: of every branch's next token; a branch that has ended keeps its last.
        cache: the one cache.
    """

    def __init__(
        self,
        transformer: Transformer,
        p: Mapping[str, Tensor],
        prompts: Prompts,
        room: int,
        *,
        main: Sequence[int] = (),
        align: Literal["left", "right"] = "right",
        kernel: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check(transformer, prompts, kernel, align)
        sizes = [len(x) for x in prompts]
        if align == "left" and len(set(sizes)) > 1:
            raise Refused(
                f'align="left" with prompts of {min(sizes)} … {max(sizes)} tokens: the longer ones '
                "are read before the tokens exist that shorter branches generate at the same "
                "times, so that decoding would not be what the model was trained on; use "
                'align="right", or prompts of one length'
            )
        self._pass = _Pass(transformer, p, kernel, dtype)
        E, B = self._pass.trials, len(prompts)
        texts = [list(main), *map(list, prompts)] if main else [*map(list, prompts)]
        lengths_n = np.array([len(x) for x in texts])
        at = columns(lengths_n[None], main=bool(main), right=align == "right")
        begins_n = np.cumsum(lengths_n) - lengths_n
        ids_N = np.concatenate(texts)[begins_n[at["text"]] + at["order"]]
        places = {"branch": at["text"], "time": at["time"]}
        if main:
            places["main"] = (at["text"] == 0).astype(np.int64)
        self.cache = Cache(transformer.dims, E, 1, len(ids_N) + B * room)
        device = self._pass.device
        view = View({k: torch.from_numpy(v).to(device) for k, v in places.items()})
        inputs = torch.from_numpy(ids_N.astype(np.int64)).to(device)[None, None]
        logits_E1NV = self._pass(inputs, view, None, self.cache)
        # The last column is the last token of every prompt, in the order of the branches.
        self.logits_EBV = logits_E1NV[:, 0, -B:]
        self._time = int(at["time"][-1]) + 1
        self._filled_e1 = torch.full((1, 1), len(ids_N), device=device)  # flat indexes given out
        self._first = int(bool(main))
        self._live_EB = torch.ones(E, B, dtype=torch.bool)
        self._select()

    def _select(self) -> None:
        """Which branches the next chunks hold: those that go on in some trial."""
        device = self._pass.device
        at_n = self._live_EB.any(0).nonzero()[:, 0]
        live_en = self._live_EB[:, at_n]
        whole = bool(live_en.all())
        live_en = live_en[:1] if whole else live_en
        self._at_n = at_n.to(device)
        self._order_en = (live_en.cumsum(1) - 1).to(device)
        self._count_e1 = live_en.sum(1, keepdim=True).to(device)
        # Where trials differ, the chunk holds tokens that are none of a trial's.
        self._valid_e1n = None if whole else live_en[:, None].to(device)

    def advance(self, next_EB: Tensor, live_EB: Tensor | None = None) -> None:
        """Append one token to each branch that goes on.

        Args:
            next_EB: the tokens.
            live_EB: on the CPU, false where a branch has ended, now or earlier: its token is not
                appended.  None: as before.
        """
        if live_EB is not None and not torch.equal(live_EB, self._live_EB):
            self._live_EB = live_EB
            self._select()
        index_e1n = (self._filled_e1 + self._order_en)[:, None]
        at = {
            "index": index_e1n,
            "token": index_e1n,
            "time": torch.full_like(self._at_n, self._time),
            "branch": self._at_n + self._first,
        }
        tokens = next_EB[:, None, self._at_n]
        logits_EnV = self._pass(tokens, View(at), self._valid_e1n, self.cache)[:, 0]
        if len(self._at_n) == next_EB.shape[1]:
            self.logits_EBV = logits_EnV
        else:
            self.logits_EBV = self.logits_EBV.index_copy(1, self._at_n, logits_EnV)
        self._filled_e1 = self._filled_e1 + self._count_e1
        self._time += 1


class Rows:
    """Prompts as rows of an ordinary batch, each with the numbers that it would have alone.

    Shorter prompts are padded on the left; places count from the first token of the prompt, and no
    query reads padding.  Arguments and attributes are those of ``Columns``.
    """

    def __init__(
        self,
        transformer: Transformer,
        p: Mapping[str, Tensor],
        prompts: Prompts,
        room: int,
        *,
        kernel: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check(transformer, prompts, kernel)
        self._pass = _Pass(transformer, p, kernel, dtype)
        device = self._pass.device
        T = max(len(x) for x in prompts)
        self.cache = Cache(transformer.dims, self._pass.trials, len(prompts), T + room)
        ids_BT = torch.tensor([[0] * (T - len(x)) + list(x) for x in prompts], device=device)
        place_BT = torch.arange(T, device=device) - torch.tensor(
            [[T - len(x)] for x in prompts], device=device
        )
        # Without padding the places are the usual ones, and the mask may be the kernel's own.
        self._ragged = len({len(x) for x in prompts}) > 1
        self._next_B1 = place_BT[:, -1:] + 1
        valid = (place_BT >= 0)[None] if self._ragged else None
        view = self._view(place_BT.clamp(min=0))
        self.logits_EBV = self._pass(ids_BT[None], view, valid, self.cache)[:, :, -1]

    def _view(self, place_BT: Tensor) -> View | None:
        names = ("index", "token", "time")
        return View(dict.fromkeys(names, place_BT)) if self._ragged else None

    def advance(self, next_EB: Tensor, live_EB: Tensor | None = None) -> None:
        """Append one token to each row; ended rows get theirs as well, which nobody reads."""
        view = self._view(self._next_B1)
        self.logits_EBV = self._pass(next_EB[:, :, None], view, None, self.cache)[:, :, -1]
        self._next_B1 = self._next_B1 + 1


class _Pass:
    """The model's pass, with what is the same in every step."""

    def __init__(
        self, core: Transformer, p: Mapping[str, Tensor], kernel: str | None, dtype: Any
    ) -> None:
        first = next(iter(p.values()))
        self.trials, self.device = first.shape[0], first.device
        self._core, self._p, self._how = core, p, {"kernel": kernel, "dtype": dtype}

    @torch.no_grad()
    def __call__(
        self, inputs: Tensor, view: View | None, valid: Tensor | None, cache: Cache
    ) -> Tensor:
        return self._core(self._p, inputs, view, valid_EBT=valid, cache=cache, **self._how)


def generate_branches(
    transformer: Transformer,
    p: Mapping[str, Tensor],
    prompts: Prompts,
    new: int,
    *,
    main: Sequence[int] = (),
    align: Literal["left", "right"] = "right",
    temperature: float = 0.0,
    top_p: float = 1.0,
    seeds: Sequence[int] = (0,),
    stop: int | None = None,
    kernel: str | None = None,
    dtype: torch.dtype | None = None,
) -> list[list[list[int]]]:
    """Continuations of prompts as branches of one row: of each trial, of each branch, the new ids.

    Args:
        prompts, main, align, kernel, dtype: as of ``Columns``.
        new: tokens that each branch is given, or fewer where it stops.
        temperature, top_p, seeds: as of ``nn.cache.generate``; a draw is keyed by seed, place and
            branch, whatever becomes of other branches.
        stop: the token that ends a branch.  It is returned, and no other branch reads it.
    """
    state = Columns(
        transformer, p, prompts, max(new - 1, 0), main=main, align=align, kernel=kernel, dtype=dtype
    )
    return _decode(state, new, stop, temperature, top_p, seeds)


def generate_rows(
    transformer: Transformer,
    p: Mapping[str, Tensor],
    prompts: Prompts,
    new: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seeds: Sequence[int] = (0,),
    stop: int | None = None,
    kernel: str | None = None,
    dtype: torch.dtype | None = None,
) -> list[list[list[int]]]:
    """Continuations of prompts as rows of an ordinary batch, of whatever lengths; otherwise as
    ``generate_branches``."""
    state = Rows(transformer, p, prompts, max(new - 1, 0), kernel=kernel, dtype=dtype)
    return _decode(state, new, stop, temperature, top_p, seeds)


def _decode(
    state: Columns | Rows,
    new: int,
    stop: int | None,
    temperature: float,
    top_p: float,
    seeds: Sequence[int],
) -> list[list[list[int]]]:
    E, B = state.logits_EBV.shape[:2]
    live_EB = None if stop is None else torch.ones(E, B, dtype=torch.bool)
    found: list[Tensor] = []
    for place in range(new):
        if place:
            state.advance(found[-1], live_EB)
        found.append(choose(state.logits_EBV, place, range(B), temperature, top_p, seeds))
        if live_EB is not None:
            live_EB = live_EB & (found[-1] != stop).cpu()
            if not live_EB.any():
                break
    if not found:
        return [[[] for _ in range(B)] for _ in range(E)]
    ids = torch.stack(found, 2).tolist()
    return [[_until(branch, stop) for branch in trial] for trial in ids]


def _until(ids: list[int], stop: int | None) -> list[int]:
    return ids[: ids.index(stop) + 1] if stop in ids else ids


def _check(
    transformer: Transformer, prompts: Prompts, kernel: str | None, align: str = "right"
) -> None:
    if align not in ("left", "right"):
        raise Refused(f'align={align!r}: "left" or "right"')
    vocab = transformer.dims.vocab
    if wrong := [i for x in prompts for i in x if not 0 <= i < vocab]:
        raise Refused(f"a prompt has id {wrong[0]}; the model's go from 0 to {vocab - 1}")
    if not prompts or not all(len(x) for x in prompts):
        raise Refused("generation continues prompts: give one at least, each of one token at least")
    if not transformer.mask.causal:
        raise Refused(
            f"model.mask: {describe(transformer.mask)}() shows later tokens, and the cache holds "
            "what tokens read before those existed; generate with a causal mask"
        )
    if kernel == "flex":
        raise Refused('generation has no use for the flex kernel; use "sdpa" or "reference"')

"""Keys and values of earlier tokens, and generation with them.

E trials, B rows, T new tokens, S tokens so far, G key heads, d head size, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from paribus import rng
from paribus.contracts import Dims, View
from paribus.errors import Refused

if TYPE_CHECKING:
    from paribus.nn.transformer import Transformer


class Cache:
    """Rotated keys and values of every layer, with the coordinates of their tokens.

    Args:
        dims: the model's.
        trials, rows, capacity: sizes; more tokens than ``capacity`` are refused.
    """

    def __init__(self, dims: Dims, trials: int, rows: int, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self._shape = (trials, rows, dims.kv_heads, capacity, dims.head_dim)
        self._keys: list[Tensor | None] = [None] * dims.layers
        self._values: list[Tensor | None] = [None] * dims.layers
        self._states: list[Tensor | None] = [None] * dims.layers
        self._seen: dict[str, Tensor] = {}

    def see(self, q: View, valid_EBT: Tensor | None) -> tuple[View, Tensor | None]:
        """Coordinates [e,b,S] and validity of all keys once the tokens of ``q`` are added."""
        T = q.index.shape[2]
        if self.length + T > self.capacity:
            raise Refused(f"the cache holds {self.capacity} tokens, not {self.length + T}")
        new = dict(q.coordinates)
        if valid_EBT is not None or "valid" in self._seen:
            new["valid"] = torch.ones_like(q.index, dtype=torch.bool)
            if valid_EBT is not None:
                new["valid"] = valid_EBT.bool()
            if self.length and "valid" not in self._seen:
                self._seen["valid"] = torch.ones_like(self._seen["index"], dtype=torch.bool)
        if self.length:
            new = {name: _append(self._seen[name], c) for name, c in new.items()}
        self._seen = new
        return View({n: c for n, c in new.items() if n != "valid"}), new.get("valid")

    def put(self, layer: int, k_EBGTd: Tensor, v_EBGTd: Tensor) -> tuple[Tensor, Tensor]:
        """Append one layer's keys and values; returns all of them."""
        out = []
        S = self.length + k_EBGTd.shape[3]
        for store, new in ((self._keys, k_EBGTd), (self._values, v_EBGTd)):
            buffer = store[layer]
            if buffer is None:
                buffer = store[layer] = new.new_zeros(self._shape)
            buffer[..., self.length : S, :] = new
            out.append(buffer[..., :S, :])
        return out[0], out[1]

    def state(self, layer: int) -> Tensor | None:
        """A mixer's state after the tokens so far; None: there were none."""
        return self._states[layer]

    def remember(self, layer: int, state: Tensor) -> None:
        self._states[layer] = state

    def pad(self, valid_EBS: Tensor) -> None:
        """Say afterwards which of the tokens so far are padding (at the end, so that none of the
        others has read them): later tokens do not read them."""
        self._seen["valid"] = valid_EBS

    def repeated(self, of_B: Tensor, capacity: int) -> Cache:
        """A cache of rows that begin with what rows ``of_B`` of this one hold."""
        out = copy.copy(self)
        E, _, G, _, d = self._shape
        out.capacity, out._shape = capacity, (E, len(of_B), G, capacity, d)
        out._seen = {n: c[:, of_B] if c.shape[1] > 1 else c for n, c in self._seen.items()}

        def taken(held: list[Tensor | None]) -> list[Tensor | None]:
            made: list[Tensor | None] = []
            for x in held:
                made.append(None if x is None else x.new_zeros(out._shape))
                if x is not None:
                    made[-1][..., : self.length, :] = x[:, of_B, :, : self.length]  # type: ignore[index]
            return made

        out._keys, out._values = taken(self._keys), taken(self._values)
        out._states = [None if s is None else s[:, of_B] for s in self._states]
        return out

    def advance(self, T: int) -> None:
        """The tokens of a pass are in."""
        self.length += T

    @property
    def bytes(self) -> int:
        """What keys and values take, those of tokens to come included, and states."""
        held = [x for x in (*self._keys, *self._values, *self._states) if x is not None]
        return sum(x.numel() * x.element_size() for x in held)


def _append(old: Tensor, new: Tensor) -> Tensor:
    e, b = (max(old.shape[i], new.shape[i]) for i in (0, 1))
    return torch.cat([old.expand(e, b, -1), new.expand(e, b, -1)], 2)


@torch.no_grad()
def generate(
    transformer: Transformer,
    p: Mapping[str, Tensor],
    prompts_EBT: Tensor,
    new: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seeds: Sequence[int] = (0,),
    first_row: int = 0,
    kernel: str = "sdpa",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Continuations [E,B,new] of prompts of one length.

    Args:
        temperature: 0 takes the likeliest token.
        top_p: draw from the likeliest tokens that together hold this probability.
        seeds: one a trial; a draw is keyed by seed, place and global row.
        first_row: global number of the first prompt.
    """
    E, B = next(iter(p.values())).shape[0], prompts_EBT.shape[1]
    cache = Cache(transformer.dims, E, B, prompts_EBT.shape[2] + new)
    tokens, out = prompts_EBT, []
    for place in range(new):
        logits = transformer(p, tokens, cache=cache, kernel=kernel, dtype=dtype)[:, :, -1]
        rows = range(first_row, first_row + B)
        next_EB = choose(logits, place, rows, temperature, top_p, seeds)
        out.append(next_EB)
        tokens = next_EB[:, :, None]
    return torch.stack(out, 2) if out else prompts_EBT.new_zeros(E, B, 0)


def choose(
    logits_EBV: Tensor,
    place: int,
    rows: range,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seeds: Sequence[int] = (0,),
) -> Tensor:
    """The next token [E,B] of every row, the ``place``-th that is generated; arguments as of
    ``generate``."""
    if not temperature >= 0 or not 0 < top_p <= 1:
        raise Refused(f"temperature={temperature}, top_p={top_p}: 0 or above, and above 0 up to 1")
    if temperature == 0:
        return logits_EBV.argmax(-1)
    E = logits_EBV.shape[0]
    if len(seeds) not in (1, E):
        raise Refused(f"{len(seeds)} seeds for {E} trials: give one, or one a trial")
    every = list(seeds) * E if len(seeds) == 1 else list(seeds)
    draws = [rng.Stream(s, "generate", place).rows(rows, 1)[:, 0] for s in every]
    u_EB = torch.from_numpy(np.stack([rng.uniform(w) for w in draws])).to(logits_EBV.device)
    return _sample(logits_EBV.double() / temperature, top_p, u_EB)


def _sample(logits_EBV: Tensor, top_p: float, u_EB: Tensor) -> Tensor:
    """Tokens at quantile u of the likeliest tokens, in order of probability."""
    p_EBV, order_EBV = logits_EBV.softmax(-1).sort(stable=True, dim=-1, descending=True)
    before_EBV = p_EBV.cumsum(-1) - p_EBV
    p_EBV = p_EBV.masked_fill(before_EBV >= top_p, 0.0)
    reached_EBV = p_EBV.cumsum(-1) <= u_EB[..., None] * p_EBV.sum(-1, keepdim=True)
    last = (p_EBV > 0).sum(-1) - 1
    return order_EBV.gather(-1, torch.minimum(reached_EBV.sum(-1), last)[..., None])[..., 0]

"""How likely a model finds spans of tokens; what the options of a question begin with is read once.

B rows, T tokens, P tokens of a beginning, N tokens whose successors are scored, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from paribus.contracts import View
from paribus.nn.cache import Cache
from paribus.nn.questions import Question, Scored, common
from paribus.nn.transformer import Transformer

OUTPUTS = 65536  # tokens of a pass that have logits, at most: a vocabulary's worth each


class Reads(Protocol):
    """A model that reads beginnings, and then what follows each of them."""

    device: Any

    def begin(self, ids_BP: Tensor, sizes_B: Tensor) -> Any: ...

    def go_on(
        self, begun: Any, of_R: Tensor, ids_RT: Tensor, sizes_R: Tensor, at_RN: Tensor
    ) -> Tensor:
        """Logits [R,N,V] at some tokens of rows that follow beginnings ``of_R``."""
        ...


class Cached:
    """Our Transformer: keys and values of a beginning are kept.

    Args:
        p: parameters [1, …] by path.
        dtype: compute dtype; None: that of the parameters.
    """

    def __init__(self, core: Transformer, p: Mapping[str, Tensor], dtype: Any = None) -> None:
        self.core, self.p, self.dtype = core, p, dtype
        self.device = next(iter(p.values())).device

    def begin(self, ids_BP: Tensor, sizes_B: Tensor) -> tuple[Cache, Tensor]:
        """Padding is at the end, where a causal model does not see it: no mask is needed."""
        B, P = ids_BP.shape
        cache = Cache(self.core.dims, 1, B, max(P, 1))
        if P:
            self.core(self.p, ids_BP[None], cache=cache, dtype=self.dtype, outputs=False)
            cache.pad((torch.arange(P, device=self.device) < sizes_B[:, None])[None])
        return cache, sizes_B

    def go_on(
        self,
        begun: tuple[Cache, Tensor],
        of_R: Tensor,
        ids_RT: Tensor,
        sizes_R: Tensor,
        at_RN: Tensor,
    ) -> Tensor:
        cache, sizes_B = begun
        T = ids_RT.shape[1]
        cache = cache.repeated(of_R, cache.length + T)
        number = torch.arange(T, device=self.device)[None]
        # What pads a row stands at its last place: a model may end right behind it.
        own_RT = torch.minimum(number, (sizes_R[:, None] - 1).clamp(min=0))
        place = (sizes_B[of_R][:, None] + own_RT)[None]
        return self.core(
            self.p,
            ids_RT[None],
            View({"index": place, "token": place}),  # as of a row alone, without its padding
            valid_EBT=(number < sizes_R[:, None])[None],
            cache=cache,
            dtype=self.dtype,
            outputs=at_RN,
        )[0]


class Whole:
    """Any model with logits [B,T,V] of ids [B,T]: each row is read from its start.

    Args:
        unpadded: rows of one length alone are read together, for the model goes by how long the
            padded row is.
    """

    def __init__(
        self, logits: Callable[[Tensor], Tensor], device: Any = "cpu", unpadded: bool = False
    ) -> None:
        self.logits, self.device, self.unpadded = logits, device, unpadded

    def begin(self, ids_BP: Tensor, sizes_B: Tensor) -> tuple[Tensor, Tensor]:
        return ids_BP, sizes_B

    def go_on(
        self,
        begun: tuple[Tensor, Tensor],
        of_R: Tensor,
        ids_RT: Tensor,
        sizes_R: Tensor,
        at_RN: Tensor,
    ) -> Tensor:
        ids_BP, sizes_B = begun
        before_R = sizes_B[of_R]
        whole = int((before_R + sizes_R).max())
        rows = ids_RT.new_zeros(len(of_R), whole)
        told = zip(of_R.tolist(), before_R.tolist(), sizes_R.tolist(), strict=True)
        for r, (b, n, own) in enumerate(told):
            rows[r, :n] = ids_BP[b, :n]
            rows[r, n : n + own] = ids_RT[r, :own]
        at_RN = (before_R[:, None] + at_RN).clamp(max=whole - 1)
        length_R = before_R + sizes_R
        sets = length_R.unique().tolist() if self.unpadded else [whole]
        out: Tensor | None = None
        for length in sets:
            own = (length_R == length).nonzero()[:, 0] if self.unpadded else slice(None)
            z_RTV = self.logits(rows[own, :length])
            at = at_RN[own].clamp(max=length - 1)
            found = z_RTV.gather(1, at[..., None].expand(-1, -1, z_RTV.shape[2]))
            if out is None:
                out = found.new_zeros(*at_RN.shape, found.shape[2])
            out[own] = found
        assert out is not None
        return out


def scores(model: Reads, questions: Sequence[Question], budget: int = 8192) -> list[list[Scored]]:
    """Of each question, each option's span, in order.

    Args:
        budget: tokens of a pass, padding included; numbers depend on it by rounding alone.
    """
    out: list[list[Scored]] = [[] for _ in questions]
    cut = [_shared(q) for q in questions]
    with torch.inference_mode():
        for batch in _batches(questions, cut, budget):
            for i, found in zip(batch, _batch(model, questions, cut, batch), strict=True):
                out[i] = found
    return out


def _shared(question: Question) -> int:
    """Tokens that are read once for all options; the one before the first scored is not among
    them, for its logits are wanted."""
    least = min(s.start for s in question)
    return max(0, min(least - 1, common([s.ids for s in question])))


def _batches(questions: Sequence[Question], cut: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Questions of like length together, the longest first, so that memory runs out at once or
    not at all."""
    longest = [max(len(s.ids) for s in q) for q in questions]
    order = sorted(range(len(questions)), key=lambda i: (-longest[i], i))
    batch: list[int] = []
    rows = begin = more = scored = 0
    for i in order:
        own, count = longest[i] - cut[i], max(s.end - s.start for s in questions[i])
        r, b, m, n = (
            rows + len(questions[i]),
            max(begin, cut[i]),
            max(more, own),
            max(scored, count),
        )
        if batch and (r * (b + m) > budget or r * n > OUTPUTS):
            yield batch
            batch, r, b, m, n = [], len(questions[i]), cut[i], own, count
        batch.append(i)
        rows, begin, more, scored = r, b, m, n
    if batch:
        yield batch


def _batch(
    model: Reads, questions: Sequence[Question], cut: Sequence[int], batch: Sequence[int]
) -> list[list[Scored]]:
    begins = [list(questions[i][0].ids[: cut[i]]) for i in batch]
    spans = [(b, s, cut[i]) for b, i in enumerate(batch) for s in questions[i]]
    rests = [list(s.ids[n:]) for _, s, n in spans]

    def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        sizes = torch.tensor([len(r) for r in rows], device=model.device)
        longest = max(map(len, rows))
        ids = torch.tensor([r + [0] * (longest - len(r)) for r in rows], device=model.device)
        return ids.long().view(len(rows), longest), sizes

    of_R = torch.tensor([b for b, *_ in spans], device=model.device)
    ids_RT, sizes_R = padded(rests)
    # The first scored token follows token start − 1; rows of fewer scored ones are filled up.
    start = torch.tensor([s.start - n for _, s, n in spans], device=model.device)[:, None]
    count = torch.tensor([s.end - s.start for _, s, _ in spans], device=model.device)[:, None]
    number = torch.arange(max(s.end - s.start for _, s, _ in spans), device=model.device)[None]
    scored_RN = number < count
    at_RN = torch.where(scored_RN, start - 1 + number, 0)
    logits_RNV = model.go_on(model.begin(*padded(begins)), of_R, ids_RT, sizes_R, at_RN)
    wide = logits_RNV if logits_RNV.dtype == torch.float64 else logits_RNV.float()
    targets_RN = torch.where(scored_RN, ids_RT.gather(1, at_RN + scored_RN), 0)
    picked_RN = wide.gather(-1, targets_RN[..., None])[..., 0]
    nats_RN = (wide.logsumexp(-1) - picked_RN).double()
    hit_RN = wide.argmax(-1) == targets_RN
    nats = (nats_RN * scored_RN).sum(1).tolist()
    tokens = scored_RN.sum(1).tolist()
    likeliest = (hit_RN | ~scored_RN).all(1).tolist()
    found = iter([Scored(*x) for x in zip(nats, tokens, likeliest, strict=True)])
    return [[next(found) for _ in questions[i]] for i in batch]

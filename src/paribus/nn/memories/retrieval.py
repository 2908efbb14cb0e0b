"""Retrieval of single keys from far back (Wu et al. 2022, Memorizing Transformers)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Dims, View
from paribus.errors import SpecError
from paribus.lazy import torch
from paribus.parts import describe
from paribus.sequence import Memory, Reach

if TYPE_CHECKING:
    from torch import Tensor

    from paribus.spec import Model


class Retrieval(Memory, frozen=True, kw_only=True):
    """Besides its segment and the ``cache`` tokens before it, each query and head reads the ``top``
    keys that fit it best among all older ones, in every layer, under one softmax.  They are turned
    by their own places.  It runs on the reference kernel.

    Attributes:
        segment: tokens of a segment.
        cache: tokens before it that are read as they are; None: as many as a segment has.
        top: keys that are retrieved; more where several are equally good.
        store: how many older tokens can be retrieved; None: all of the row.
        normed: whether keys are ranked as if they had one length (q · k / ‖k‖), as keys of old
            weights or other layers' scale had better be; else by their logits.
        through: segments that gradients flow through; 1: what is retrieved is numbers, as in
            Memorizing Transformers; None: all of the row.
    """

    segment: Annotated[int, Meta(ge=1)]  # type: ignore[misc]
    cache: Annotated[int, Meta(ge=0)] | None = None
    top: Annotated[int, Meta(ge=1)]
    store: Annotated[int, Meta(ge=1)] | None = None
    normed: bool = True
    through: Annotated[int, Meta(ge=1)] | None = 1  # type: ignore[misc]

    examples: ClassVar[Any] = [
        {"segment": 4, "top": 2},
        {"segment": 4, "cache": 2, "top": 2, "store": 6, "through": None, "normed": False},
    ]

    @property
    def held(self) -> int:
        """Tokens in the cache."""
        return self.segment if self.cache is None else self.cache

    def _near(self, q: View) -> Tensor:
        """The first index of what is read as it is."""
        first: Tensor = q.index // self.segment * self.segment - self.held
        return first

    def allowed(self, q: View, k: View) -> Tensor:
        before: Tensor = k.index <= q.index
        return before if self.store is None else before & (k.index >= self._near(q) - self.store)

    def kept(self) -> int | None:
        return None if self.store is None else self.held + self.store

    def scores(  # type: ignore[override]
        self,
        q_EBHTd: Tensor,
        k_EBHSd: Tensor,
        scale: float,
        allowed: Tensor,
        q: View,
        k: View,
    ) -> Tensor:
        s_EBHTS = (q_EBHTd @ k_EBHSd.mT).to(torch.promote_types(q_EBHTd.dtype, torch.float32))
        s_EBHTS = s_EBHTS * scale
        far = k.index < self._near(q)
        n = min(self.top, k_EBHSd.shape[3])
        with torch.no_grad():
            rank_EBHTS = s_EBHTS
            if self.normed:
                length_EBHS = k_EBHSd.to(s_EBHTS.dtype).norm(dim=-1).clamp(min=1e-6)
                rank_EBHTS = s_EBHTS / length_EBHS[..., None, :]
            rank_EBHTS = rank_EBHTS.masked_fill(~(far & allowed), float("-inf"))
            least_EBHT1 = rank_EBHTS.topk(n, -1).values[..., -1:]
            left = far & ~((rank_EBHTS >= least_EBHT1) & (rank_EBHTS > float("-inf")))
        return s_EBHTS.masked_fill(left, float("-inf"))

    def mean_keys(self, length: int) -> float:
        return (length + 1) / 2  # all are scored

    def field(self, d: Dims, length: int, size: int) -> Reach:
        kept = self.kept()
        held = length if kept is None else min(kept, length)
        state = 2 * d.layers * d.kv_heads * d.head_dim * held * size
        return Reach(self.held + self.segment, None, state)

    def check(self, model: Model) -> None:
        super().check(model)
        position = model.position
        if position is not None and position.scores is not None:
            raise SpecError(
                f"model.position: {describe(position)} replaces the scores, and {describe(self)} "
                "does, too; use positions.rope(), alibi() or None"
            )

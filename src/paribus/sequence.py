"""What a memory and a sequence mixer provide: the base classes of these kinds of parts.

E trials of a stack, B rows, T tokens (queries), S tokens (keys), D width, H heads, d head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from paribus.contracts import Dims, P, View
from paribus.errors import SpecError
from paribus.parts import Part, describe

if TYPE_CHECKING:
    from torch import Tensor

    from paribus.spec import Model


@dataclass(frozen=True)
class Reach:
    """How far back a model can see, in tokens, the reading one included, and what that costs.

    Attributes:
        direct: of the last token of a segment (or row) in one layer, of text alone; None: the whole
            row.
        theoretical: through all layers, as a mask alone would have it; None: the whole row.
        state_bytes: what is carried from one token (or segment) to the next.
    """

    direct: int | None
    theoretical: int | None
    state_bytes: int


class Memory(Part, frozen=True, kw_only=True):
    """What a model carries from one segment of a row to the next.

    Fields of each: ``segment``, tokens of a segment, the first of which begins with the row; and
    ``through``, how many segments gradients flow through: what is carried is cut off before every
    ``through``-th segment (1: before each, as in Transformer-XL).  None: nowhere.  A row is read
    segment by segment where the memory has ``tokens`` or ``scores``; else it is one masked pass.  A
    memory starts empty in each row.
    """

    kind: ClassVar[str] = "memories"
    segment: ClassVar[int]
    through: ClassVar[int | None]
    tokens: ClassVar[int] = 0  # memory tokens, at both ends of each segment
    # (q_EBHTd, k_EBHSd, scale, allowed, q, k) -> s_EBHTS in place of scale · q·k, where not all
    # that is allowed is read: on the reference kernel alone.
    scores: ClassVar[Any] = None

    def params(self, d: Dims) -> dict[str, P]:
        return {}

    def allowed(self, q: View, k: View) -> Tensor | None:
        """True where query q may read key k by this memory; the mask says so too.  None: always."""
        return None

    def kept(self) -> int | None:
        """How many of the newest keys and values a segment hands on; None: all."""
        return 0

    def mean_keys(self, length: int) -> float:
        """Keys that a query reads on average in a row, for counting FLOPs."""
        raise NotImplementedError

    def passed(self, length: int) -> float:
        """Tokens that go through the blocks for each token of a row, its own included."""
        return 1.0

    def field(self, d: Dims, length: int, size: int) -> Reach:
        """Of rows of ``length`` tokens, at ``size`` bytes a number."""
        raise NotImplementedError

    def check(self, model: Model) -> None:
        """Refuse a model that it does not go with."""
        mask = model.mask
        if mask is not None and mask.sdpa != "causal":
            raise SpecError(
                f"model.memory: {describe(self)} says what is read beyond a segment, and "
                f"{describe(mask)} would say so too; use masks.causal()"
            )


class Mixer(Part, frozen=True, kw_only=True):
    """What mixes tokens in the place of softmax attention, causal, with a state of constant size.
    Queries, keys, values and output are the model's own maps, norms and rotations."""

    kind: ClassVar[str] = "mixers"

    def params(self, d: Dims) -> dict[str, P]:
        return {}

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
        """(o_EBHTd, state after these tokens); ``h_EBTD`` is what q, k and v were made of, q is
        scaled, ``state`` that after earlier tokens, and where ``valid_EBT`` is false a token is
        padding, which leaves the state as it is."""
        raise NotImplementedError

    def state_bytes(self, d: Dims, size: int) -> int:
        """Bytes of one layer's state of a row."""
        raise NotImplementedError

    def flops(self, d: Dims) -> float:
        """Operations a token and layer of its forward pass, besides maps that it declares."""
        raise NotImplementedError

    def check(self, model: Model) -> None:
        """Refuse a model that it does not go with."""
        mask, position = model.mask, model.position
        if mask is not None and mask.sdpa != "causal":
            raise SpecError(
                f"model.mask: {describe(mask)}; {describe(self)} reads all earlier tokens through "
                "its state; use masks.causal()"
            )
        if position is not None and not (position.bias is None and position.scores is None):
            raise SpecError(
                f"model.position: {describe(position)} changes scores, of which "
                f"{describe(self)} has none; use positions.rope() or None"
            )
        if model.attn_dropout:
            raise SpecError(
                f"model.attn_dropout: {model.attn_dropout:g}, but {describe(self)} has no "
                "attention probabilities; use dropout"
            )
        if model.memory is not None:
            raise SpecError(f"model.memory: {describe(self)} is a memory of its own; give one")

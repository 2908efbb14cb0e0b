"""Words of the text that tokens stand for: runs of bytes that are no ASCII white space.

B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paribus.errors import SpecError
from paribus.lazy import numpy as np
from paribus.lazy import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class Words:
    """How many words begin in each token, given the token before it; words of all tokens add up to
    ``len(text.split())`` of the bytes that they spell."""

    def __init__(self, texts: list[bytes] | None, device: str) -> None:
        if texts is None:
            raise SpecError(
                "task.words: the tokenizer changes its text, so its tokens are no pieces of words; "
                "leave words out, or use a byte-level tokenizer"
            )
        inner = np.array([_inner(t) for t in texts], np.int64)
        first = np.array([bool(t) and not t[:1].isspace() for t in texts])
        ended = np.array([not t or t[-1:].isspace() for t in texts])
        self.inner_V, self.first_V, self.ended_V = (
            torch.from_numpy(x).to(device) for x in (inner, first, ended)
        )

    def begun(self, before_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Words that begin in each target [B,T]; ids below 0 have none."""
        known = targets_BT.clamp(min=0)
        found = self.inner_V[known] + (self.first_V[known] & self.ended_V[before_BT]).long()
        return found * (targets_BT >= 0)


def _inner(text: bytes) -> int:
    """Words that begin behind the first byte of a token."""
    return len(text.split()) - (bool(text) and not text[:1].isspace())


def metrics(
    found: Mapping[str, tuple[Tensor, Tensor]], batch: Mapping[str, Any]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Nats a word and a byte, from the ``bpb`` of ``nn.losses.language``."""
    bits_EB, bytes_EB = found["bpb"]
    nats_EB = bits_EB * float(np.log(2.0))
    words_EB = batch["words"].sum(2).expand(nats_EB.shape)
    return {"word_loss": (nats_EB, words_EB), "byte_loss": (nats_EB, bytes_EB)}

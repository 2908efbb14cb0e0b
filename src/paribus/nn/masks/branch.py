"""What tokens of parallel branches read of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from paribus.contracts import Mask, View

if TYPE_CHECKING:
    from torch import Tensor


class Branch(Mask, frozen=True, kw_only=True):
    """Tokens have a branch and a time; each reads itself and, of earlier times, ``reads``.

    Attributes:
        reads: "columnar": every branch (ParallelMind's; tokens of one time do not see each other);
            "isolated": its own branch, which makes the branches an ordinary batch of texts where
            positions go by time (``rope2d(residual="time")``); those that go by the place in the
            row count the tokens of other branches, too;
            "prefix": its own branch and the main prefix that all share.
    """

    reads: Literal["columnar", "isolated", "prefix"] = "columnar"

    def allowed(self, layer: int, q: View, k: View) -> Tensor:
        itself, earlier = k.index == q.index, k.time < q.time
        if self.reads == "columnar":
            return itself | earlier
        own = k.branch == q.branch
        if self.reads == "prefix":
            own = own | (k.main > 0)
        return itself | (earlier & own)

    def mean_keys(self, length: int) -> float:
        """That of one branch, which reads most: what others leave out is not known here."""
        return (length + 1) / 2

"""What is known of one claim, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from paribus.study.measures import Node


@dataclass(frozen=True)
class Verdict:
    """What is known of one claim.

    ``verdict``: supported, refuted, inconclusive, descriptive, missing or not testable; of
    criteria and checks: met, not met or missing.  ``effect`` is the mean of A − B in the metric's
    own unit and direction, ``low … high`` its interval at ``level``.  Of a joint claim they are
    those of the part that decides it (``about``).
    """

    name: str
    kind: str  # "hypothesis", "check" or "criterion"
    verdict: str
    claim: Node
    why: str = ""  # key of the reason in the strings, filled with ``facts``
    facts: Mapping[str, Any] = field(default_factory=dict)
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    level: float = 0.9
    unit: str = ""
    nats: bool = False  # the effect is a ratio of perplexities
    relative: bool = False  # the effect is the logarithm of a ratio
    better: str = "lower"
    about: Node | None = None
    tries: int = 1  # choices of tuned factors, by which p is multiplied
    test: str = "paired_t"
    p: float | None = None
    p_adjusted: float | None = None
    p_flips: float | None = None
    n: int = 0
    agree: int | None = None
    dz: float | None = None
    per_seed: Mapping[str, float] = field(default_factory=dict)
    items_se: float | None = None  # standard error of the effect over evaluation items
    items_matter: bool = False  # the boundary is within two such errors of the effect
    trend: Mapping[str, Any] | None = None  # of a slope: Page's test, and a power law's fit
    smallest_effect: float | None = None
    seeds_needed: int | None = None
    missing: tuple[str, ...] = ()
    dropped: int = 0  # seeds that were left out, for a cell of theirs has no value
    registered_seeds: int = 0  # how many were registered; 0: those of the verdict
    added_seeds: int = 0  # how many were added after results were seen; the verdict is theirs
    before: Verdict | None = None  # then: the verdict of the registered seeds
    look: int = 0  # which planned look it is from, from 1 on; 0: none is planned
    looks: tuple[int, ...] = ()  # seeds at each planned look
    post_hoc: bool = False
    registered: str | None = None  # when, if it was an amendment
    late: str = ""  # why else it is post hoc, a key of the strings
    threshold: str = ""  # of a criterion
    alpha: float = 0.05
    parts: tuple[Verdict, ...] = ()

    @property
    def signs(self) -> str:
        """How many seeds agree with the claim: "5/5"."""
        return "" if self.agree is None else f"{self.agree}/{self.n}"

    @property
    def ppl_percent(self) -> tuple[float, float, float] | None:
        """Effect and interval as per cent: of perplexity, or of the second arm's value."""
        if not (self.nats or self.relative):
            return None
        if self.effect is None or self.low is None or self.high is None:
            return None
        e, low, high = (100 * math.expm1(min(x, 50)) for x in (self.effect, self.low, self.high))
        return e, low, high

    def data(self) -> dict[str, Any]:
        from paribus.analysis.words import line, reason

        out = asdict(replace(self, parts=(), before=None))
        out |= {"signs": self.signs, "ppl_percent": self.ppl_percent}
        out |= {"reason": reason(self), "line": line(self)}
        out["parts"] = [part.data() for part in self.parts]
        out["before"] = self.before.data() if self.before else None
        plain: dict[str, Any] = finite(out)
        return plain


def finite(x: Any) -> Any:
    """Plain data in which infinities and NaN, which JSON does not know, are null."""
    if isinstance(x, float):
        return x if math.isfinite(x) else None
    if isinstance(x, Mapping):
        return {k: finite(v) for k, v in x.items()}
    return [finite(v) for v in x] if isinstance(x, list | tuple) else x

"""What a study will be able to see, said before it is paid for.

The spread of a claim's per-seed contrast comes from a pilot: the study's own first results, or
another scale of it.  Without one the smallest effect is told in units of that spread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from paribus.analysis.cells import Results, Row, reading
from paribus.analysis.judging import Judged, Rules, judge, simple
from paribus.analysis.stats import increments, smallest_effect
from paribus.analysis.verdicts import seed_blocks
from paribus.study.measures import Node, primitive

WANTED = 0.8


@dataclass(frozen=True)
class Outlook:
    """What one claim can be shown of with ``n`` seeds, at 80 % power and its share of alpha.

    ``effect``: the smallest distance from the claim's boundary that is seen, in ``unit``, or in
    standard deviations of the per-seed contrast where there is no pilot (``sd`` is None).
    ``half``: the seeds that see half of it.
    """

    claim: str
    n: int
    effect: float
    unit: str
    half: int | None
    sd: float | None = None
    basis: str = ""
    relative: bool = False
    test: str = "paired_t"

    def data(self) -> dict[str, Any]:
        return {**self.__dict__, "effect": self.effect if math.isfinite(self.effect) else None}


def outlook(study: Node, pilots: Iterable[tuple[Node, Sequence[Row]]]) -> list[Outlook]:
    """The outlook of every hypothesis that is tested, in order.

    Args:
        study: the study's record.
        pilots: (record, rows) of studies that may tell the spread, the best first.
    """
    registered = study["registration"]
    rules, blocks = Rules.of(registered), seed_blocks(study)
    looks = registered.get("looks") if len(blocks) == 1 else None
    n = looks[-1] if looks else len(blocks[-1])
    alpha = rules.alpha / 2 ** max(0, len(blocks) - 2)
    if looks:
        alpha = increments(alpha, [k / looks[-1] for k in looks])[-1]
    claims = {k: c for k, c in registered["hypotheses"].items() if c["claim"] != "stated"}
    given = [(p["instance"], Results(p, rows), rows) for p, rows in pilots]
    out = []
    tuned = math.prod(len(f["levels"]) for f in study["factors"] if f.get("tuned"))
    for name, node in claims.items():
        found, tries, basis = None, tuned, ""
        for instance, results, rows in given:
            if found is None and (widest := _widest(results, node, rows)) is not None:
                found, tries = widest.sd, widest.tries
                basis = f"{instance}, {widest.verdict.n} seeds"
        u, m = _joint(node, study)
        share = alpha / max(1, len(claims)) / tries / (m - u + 1)
        wanted = WANTED ** (1 / u)
        effect = smallest_effect(found or 1.0, n, share, wanted)
        if rules.test != "paired_t" and 2.0**-n >= share:
            effect = math.inf
        unit, relative = _unit(node, study) if found else ("sd", False)
        half = _half(n, share, wanted) if math.isfinite(effect) else None
        out.append(Outlook(name, n, effect, unit, half, found, basis, relative, rules.test))
    return out


def _joint(node: Node, study: Node) -> tuple[int, int]:
    """(how many of its comparisons must be shown, how many there are) of a claim."""
    if node["claim"] == "at_least":
        return node["u"], len(node["parts"])
    if node["claim"] == "best":
        levels = {f["name"]: len(f["levels"]) for f in study["factors"]}
        rivals = math.prod(levels[f] for f in node["arm"]) - 1
        return max(1, rivals), max(1, rivals)
    return 1, 1


def _half(n: int, alpha: float, power: float, most: int = 1000) -> int | None:
    """The seeds that see half of what ``n`` see; None where n see nothing or it takes too many."""
    wanted = smallest_effect(1.0, n, alpha, power) / 2
    if not math.isfinite(wanted) or smallest_effect(1.0, most, alpha, power) > wanted:
        return None
    low, high = n, most
    while high - low > 1:
        middle = (low + high) // 2
        seen = smallest_effect(1.0, middle, alpha, power) <= wanted
        low, high = (low, middle) if seen else (middle, high)
    return high


def _widest(results: Results, node: Node, rows: Sequence[Row]) -> Judged | None:
    """The contrast of a claim that spreads most over the seeds of a pilot; None where it has not
    two seeds of them, or the claim cannot be read there."""
    done = {r["seed"] for r in rows if r.get("value") is not None}
    seeds = [s for s in results.study["seeds"] if s in done]
    if len(seeds) < 2:
        return None
    try:
        found = judge(results, node, seeds, "", Rules(on_missing="drop_seed_block"), False)
    except (KeyError, TypeError, StopIteration):  # it speaks of what the pilot does not have
        return None
    parts = [j for j in simple(found) if j.sd > 0 and j.verdict.n > 1]
    return max(parts, key=lambda j: j.sd, default=None)


def _unit(node: Node, study: Node) -> tuple[str, bool]:
    from paribus.study.measures import relative, size

    units = {reading(p["on"], study)[0] for p in primitive(node) if "on" in p}
    shares = {relative(size(p)) is not None for p in primitive(node) if "on" in p}
    return (units.pop() if len(units) == 1 else ""), shares == {True}


def lines(found: Sequence[Outlook], trials: int, seconds: float) -> list[str]:
    """The outlook as text; claims that see the same are told together.

    Args:
        trials, seconds: of one more seed.
    """
    from paribus.analysis.words import number
    from paribus.grid import span

    if found and found[0].n < 2:
        return ["one seed: every hypothesis will be descriptive; from two on they are tested"]
    told: dict[str, list[str]] = {}
    for o in found:
        if not math.isfinite(o.effect):
            told.setdefault(f"{o.n} seeds can show nothing by {o.test}", []).append(o.claim)
            continue
        if o.sd is None:
            text = f"{o.n} seeds see {o.effect:.2g} standard deviations of the paired difference"
        else:
            shown = f"{100 * math.expm1(o.effect):.2g} %" if o.relative else number(o.effect)
            text = f"{o.n} seeds see {shown} {o.unit}".rstrip() + " beyond the boundary"
        power = "80 % power" + (" of the t-test; exact tests see less" * (o.test != "paired_t"))
        text += f" ({power}; sd {number(o.sd)}, {o.basis})" if o.sd else f" ({power})"
        if o.half:
            more = o.half - o.n
            text += f"; half of it takes {o.half} seeds, {more * trials} more trials"
            text += f", about {span(more * seconds)}" if seconds else ""
        told.setdefault(text, []).append(o.claim)
    return [f"{', '.join(names)}: {text}" for text, names in told.items()]

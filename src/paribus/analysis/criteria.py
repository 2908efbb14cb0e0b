"""Criteria and checks: thresholds on point values, met or not met; one seed is enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from paribus.analysis.cells import Lost, Results, reading
from paribus.analysis.judging import Rules, Verdict, decide, judge
from paribus.errors import SpecError
from paribus.study.measures import Missing, Node, read

Levels = Mapping[str, Sequence[Any]]


def checked(results: Results, name: str, node: Node, alpha: float, seeds: Sequence[int]) -> Verdict:
    """A hypothesis in the role of a check."""
    v = decide([judge(results, node, seeds, name, Rules(alpha))], alpha, 1)[0]
    said = {"supported": "met", "missing": "missing"}.get(v.verdict, "not met")
    return replace(v, kind="check", verdict=said)


def criterion(results: Results, name: str, node: Node, kind: str, alpha: float) -> Verdict:
    """Whether the mean over seeds meets a published threshold."""
    study, seeds = results.study, results.study["seeds"]
    v = Verdict(name, kind, "missing", node, alpha=alpha, n=len(seeds))
    lost: list[Lost] = []

    def mean(arm: Levels, of: Callable[[int], Any]) -> float:
        sides = [read(node, arm, of(seed), study) for seed in seeds]
        lost.extend(c for s in sides if isinstance(s, Missing) for c in sorted(s.cells))
        return math.fsum(s for s in sides if not isinstance(s, Missing)) / len(seeds)

    def cells(seed: int) -> Any:
        return results.cells(node["on"], seed)

    try:
        unit, better = reading(node["on"], study)
        mine = mean(node["arm"], cells)
        other = mean(node["than"], cells) if node.get("than") else 0.0
        if lost:
            gone = tuple(dict.fromkeys(map(str, lost)))
            return replace(v, why="missing", facts={"count": len(gone)}, missing=gone)
        met, said, effect = True, [], mine - other
        sides: dict[str, Any] = {
            side: node[side] for side in ("below", "above") if node.get(side) is not None
        }
        share = [isinstance(b, dict) and "percent" in b for b in sides.values()]
        relative = 100 * effect / other if any(share) else math.nan
        for side, bound in sides.items():
            value, shift, text = effect, node["by"] * (-1 if side == "below" else 1), ""
            if isinstance(bound, dict) and "percent" in bound:
                value, bound = relative, bound["percent"]
                text = " %" if all(share) else f" % ({relative:.4g} %)"
            elif isinstance(bound, dict):
                named = str(bound["baseline"])
                bound = mean(node["arm"], lambda s, n=named: results.baseline(n, cells(s)))  # type: ignore[misc]
                text = f" ({named} {bound:.4g}" + (f", margin {node['by']:g})" if shift else ")")
            edge_ = bound + shift
            # What equals the threshold but for rounding is neither below nor above it.
            apart = not math.isclose(value, edge_, rel_tol=1e-9)
            met &= apart and (value < edge_ if side == "below" else value > edge_)
            sign = "<" if side == "below" else ">"
            digits = 6 if abs(edge_) >= 1e4 else 4
            edge = f"{edge_:.{digits}g}".replace("-", "\N{MINUS SIGN}")
            said.append(f"{sign} {edge}{text}")
        if all(share):
            effect, unit = relative, "%"
    except (SpecError, ZeroDivisionError) as error:
        return replace(v, why="unreadable", facts={"error": str(error)})
    v = replace(v, unit=unit, better=better, threshold=" and ".join(said))
    if lost:  # of the baseline
        return replace(v, why="missing", facts={"count": 1}, missing=(str(lost[0]),))
    why = "met" if met else "not_met"
    return replace(v, verdict="met" if met else "not met", effect=effect, why=why)

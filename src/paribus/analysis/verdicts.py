"""Verdicts: each registered claim, judged from the study's record and its rows alone.

How one claim is tested stands in `judging`, thresholds on point values in `criteria`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from paribus.analysis.cells import Items, Results, Row
from paribus.analysis.criteria import checked, criterion
from paribus.analysis.judging import Judged as Judged
from paribus.analysis.judging import Rules, decide, judge
from paribus.analysis.judging import Verdict as Verdict
from paribus.analysis.stats import increments
from paribus.study.measures import Node

Claims = Sequence[tuple[str, Node]]


def verdicts(
    study: Node, records: Iterable[Row], items: Items | None = None, *, extras: bool = True
) -> list[Verdict]:
    """Checks first, then hypotheses, then criteria, as registered; amended ones are post hoc.

    Args:
        items: reads the sums of evaluation items, for their standard error.
        extras: with what decides nothing: errors of items, trends.
    """
    results = Results(study, records, items)
    original = study["registration"]
    amended = [a["registration"] | {"at": a.get("at")} for a in study.get("amendments") or ()]
    current = amended[-1] if amended else original
    rules = Rules.of(original)
    seeds, added = _seeds(study)
    thresholds = partial(_thresholds, results, original, amended, rules.alpha)
    checks = thresholds("checks", current)
    testable = partial(_testable, checks=checks, first=thresholds("checks", original))

    own = list(original.get("hypotheses", {}).items())
    out = _family(results, own, rules, seeds, () if added else _looks(original), extras)
    registered = original.get("seeds") or study["seeds"]
    if added and set(registered) <= set(study["seeds"]):
        first = _family(results, own, rules, registered, _looks(original), extras)
        first = [testable(v) for v in first]
        out = [replace(v, before=b) for v, b in zip(out, first, strict=True)]
    later = _later(own, amended)
    for name, node, amendment in later:
        j = judge(results.over(seeds), node, seeds, name, Rules.of(amendment), extras)
        post = replace(j.verdict, post_hoc=True, registered=amendment.get("at"))
        both = [*own, *((n, c) for n, c, _ in later)]
        out += decide([replace(j, verdict=post)], rules.alpha, _count(both))
    if study.get("seen_at_registration", 0) >= len(study["trials"]) > 0:
        # Every result was there before anything was claimed.
        out = [replace(v, post_hoc=True, late="" if v.registered else "late_all") for v in out]
    if added:
        out = [replace(v, added_seeds=len(seeds)) for v in out]
    elif len(seeds) < len(registered) and not original.get("looks"):
        out = [replace(v, registered_seeds=len(registered)) for v in out]
    return [*checks, *(testable(v) for v in out), *thresholds("criteria", current)]


def _count(claims: Claims) -> int:
    """The size of a family: what is stated in words alone is not tested."""
    return max(1, sum(1 for _, node in claims if node["claim"] != "stated"))


def _later(own: Claims, amended: Sequence[Node]) -> list[tuple[str, Node, Node]]:
    """(name, claim, its amendment) of every hypothesis that was added or changed later."""
    out: list[tuple[str, Node, Node]] = []
    for amendment in amended:
        known = [node for _, node in own] + [node for _, node, _ in out]
        taken = {n for n, _ in own} | {n for n, _, _ in out}
        for n, node in amendment.get("hypotheses", {}).items():
            if node not in known:
                out.append((f"{n} (amended)" if n in taken else n, node, amendment))
    return out


# ── seeds and looks ─────────────────────────────────────────────────────────────────────────


def _seeds(study: Node) -> tuple[list[int], bool]:
    """(the seeds that verdicts rest on, whether they were added after results were seen).  Such
    seeds are judged alone: pooling them with the first ones would look twice at the same data.
    Of either only those that the study still has."""
    blocks = [list(study["registration"].get("seeds") or study["seeds"])]
    for amendment in study.get("amendments") or ():
        known = {s for block in blocks for s in block}
        new = [s for s in amendment["registration"].get("seeds") or () if s not in known]
        if new and amendment.get("results_seen"):
            blocks.append(new)
        else:
            blocks[-1] += new
    for k in range(len(blocks) - 1, -1, -1):
        if there := [s for s in blocks[k] if s in study["seeds"]]:
            return there, k > 0
    return list(study["seeds"]), False


def _looks(registration: Node) -> tuple[int, ...]:
    return tuple(registration.get("looks") or ())


def _family(
    results: Results,
    claims: Claims,
    rules: Rules,
    seeds: Sequence[int],
    looks: tuple[int, ...],
    extras: bool,
) -> list[Verdict]:
    """The verdicts of the registered hypotheses.  Under planned looks each is that of the first
    look at which it was decided, else of the last one whose cells are all there; every look spends
    its own share of alpha on all seeds so far, which is conservative and needs no joint law."""

    def at(seeds: Sequence[int], rules: Rules) -> list[Verdict]:
        over = results.over(seeds)
        family = [judge(over, node, seeds, name, rules, extras) for name, node in claims]
        return decide(family, rules.alpha, _count(claims))

    if not looks:
        return at(seeds, rules)
    final: dict[int, Verdict] = {}
    latest: dict[int, Verdict] = {}
    shares = increments(rules.alpha, [n / looks[-1] for n in looks])
    for k, (n, share) in enumerate(zip(looks, shares, strict=True), 1):
        if k > 1 and len(seeds) < n:
            break
        for i, v in enumerate(at(seeds[:n], replace(rules, alpha=share))):
            v = replace(v, look=k, looks=looks)
            if v.verdict in ("supported", "refuted"):
                final.setdefault(i, v)
            elif v.verdict != "missing" or i not in latest:
                latest[i] = v
    return [final[i] if i in final else latest[i] for i in range(len(claims))]


# ── checks and criteria ─────────────────────────────────────────────────────────────────────


def _thresholds(
    results: Results,
    original: Node,
    amended: Sequence[Mapping[str, Any]],
    alpha: float,
    section: str,
    current: Node,
) -> list[Verdict]:
    """The verdicts of checks or criteria; one that was added or changed later is post hoc."""
    kind = {"checks": "check", "criteria": "criterion"}[section]
    out = []
    for name, node in (current.get(section) or {}).items():
        if node["claim"] == "criterion":
            v = criterion(results, name, node, kind, alpha)
        else:
            v = checked(results, name, node, alpha, results.study["seeds"])
        if node != (original.get(section) or {}).get(name):
            first = next((a for a in amended if (a.get(section) or {}).get(name) == node), None)
            if first is not None:
                v = replace(v, post_hoc=True, registered=first.get("at"))
        out.append(v)
    return out


def _testable(v: Verdict, checks: Sequence[Verdict], first: Sequence[Verdict]) -> Verdict:
    """A hypothesis under manipulation checks: where one fails it was not tested at all.  Where one
    that failed as registered was loosened or dropped later, the verdict is post hoc."""
    if v.kind != "hypothesis":
        return v
    failed = [c.name for c in checks if c.verdict == "not met"]
    if failed:
        return replace(v, verdict="not testable", why="check", facts={"checks": ", ".join(failed)})
    open_ = [c.name for c in checks if c.verdict == "missing"]
    if open_ and v.verdict != "missing":
        return replace(
            v, verdict="missing", why="check_missing", facts={"checks": ", ".join(open_)}
        )
    if any(c.verdict == "not met" for c in first):
        return replace(v, post_hoc=True, late="late_check")
    return v

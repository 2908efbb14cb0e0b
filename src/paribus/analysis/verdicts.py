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
from paribus.analysis.judging import Rules, decide, judge, simple
from paribus.analysis.stats import increments
from paribus.analysis.verdict import Verdict as Verdict
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
    blocks = seed_blocks(study)
    seeds = blocks[-1]
    thresholds = partial(_thresholds, results, original, amended, rules.alpha)
    checks = thresholds("checks", current)
    testable = partial(_testable, checks=checks, first=thresholds("checks", original))

    own = list(original.get("hypotheses", {}).items())
    out: list[Verdict] = []
    for k, block in enumerate(blocks):
        # The first block that is added has the study's alpha, the next half of it, a quarter …
        share = replace(rules, alpha=rules.alpha / 2 ** max(0, k - 1))
        now = _family(results, own, share, block, () if k else _looks(original), extras)
        if k:
            now = [replace(v, added_seeds=len(block)) for v in now]
            now = [replace(v, before=testable(b)) for v, b in zip(now, out, strict=True)]
        out = now
    later = _later(own, amended)
    for name, node, amendment in later:
        j = judge(results.over(seeds), node, seeds, name, Rules.of(amendment), extras)
        post = replace(j.verdict, post_hoc=True, registered=amendment.get("at"))
        post = replace(post, added_seeds=len(seeds) if len(blocks) > 1 else 0)
        both = [*own, *((n, c) for n, c, _ in later)]
        out += decide([replace(j, verdict=post)], rules.alpha, _count(both))
    out = _late(results, out, original.get("seeds") or study["seeds"])
    registered = original.get("seeds") or study["seeds"]
    if len(blocks) == 1 and len(seeds) < len(registered) and not original.get("looks"):
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


def seed_blocks(study: Node) -> list[list[int]]:
    """The seeds in the blocks that are judged apart: those that were registered, then those that
    were added each time after results were seen.  Pooling them would look twice at the same data.
    Of each only those that the study still has; the last block's verdict is the study's."""
    blocks = [list(study["registration"].get("seeds") or study["seeds"])]
    for amendment in study.get("amendments") or ():
        known = {s for block in blocks for s in block}
        new = [s for s in amendment["registration"].get("seeds") or () if s not in known]
        if new and amendment.get("results_seen"):
            blocks.append(new)
        else:
            blocks[-1] += new
    there = [[s for s in block if s in study["seeds"]] for block in blocks]
    return [block for block in there if block] or [list(study["seeds"])]


def _late(results: Results, found: list[Verdict], seeds: Sequence[int]) -> list[Verdict]:
    """With the mark of a claim that came when its answer could be seen: an arm was redefined after
    results, or some seed's number could be made from what was there when it was registered."""
    study = results.study
    if study.get("redefined"):
        return [replace(v, post_hoc=True, late=v.late or "late_grid") for v in found]
    if not (ids := set(study.get("seen_trials") or ())):
        return found
    names = {t["name"] for t in study["trials"] if t["id"] in ids}
    then = Results(study, [row for row in results.rows if row["trial"] in names])
    out = []
    for v in found:
        j = judge(then.over(seeds), v.claim, seeds, v.name, Rules(on_missing="any"), False)
        seen = not v.registered and any(p.verdict.n for p in simple(j))
        out.append(replace(v, post_hoc=True, late="late_seen") if seen else v)
    return out


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

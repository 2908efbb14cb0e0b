"""Verdicts: each registered claim, judged from the study's record and its rows alone.

Let θ be the contrast of a claim, turned so that lower is better, and δ ≥ 0 the claimed size.
*Supported*: the one-sided upper bound of θ lies below −δ.  *Refuted*: the lower bound lies above
−δ, so the claimed size is excluded.  *Inconclusive* otherwise.  One seed is *descriptive*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from paribus.analysis.cells import Lost, Results, Row, perplexity, reading
from paribus.analysis.stats import Sample, holm, partial_conjunction, seeds_needed, smallest_effect
from paribus.errors import SpecError
from paribus.study.measures import Missing, Node, margin, read, rivals, units_of

Levels = Mapping[str, Sequence[Any]]


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
    better: str = "lower"
    about: Node | None = None
    p: float | None = None
    p_adjusted: float | None = None
    p_flips: float | None = None
    n: int = 0
    agree: int | None = None
    dz: float | None = None
    per_seed: Mapping[str, float] = field(default_factory=dict)
    smallest_effect: float | None = None
    seeds_needed: int | None = None
    missing: tuple[str, ...] = ()
    registered_seeds: int = 0  # how many were registered; 0: those of the verdict
    added_seeds: int = 0  # how many were added after results were seen; the verdict is theirs
    before: Verdict | None = None  # then: the verdict of the registered seeds
    post_hoc: bool = False
    registered: str | None = None  # when, if it was an amendment
    threshold: str = ""  # of a criterion
    alpha: float = 0.05
    parts: tuple[Verdict, ...] = ()

    @property
    def signs(self) -> str:
        """How many seeds agree with the claim: "5/5"."""
        return "" if self.agree is None else f"{self.agree}/{self.n}"

    @property
    def ppl_percent(self) -> tuple[float, float, float] | None:
        """Effect and interval as per cent of perplexity."""
        if not self.nats or self.effect is None or self.low is None or self.high is None:
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
        finite: dict[str, Any] = _finite(out)
        return finite


def _finite(x: Any) -> Any:
    """JSON knows no infinity."""
    if isinstance(x, float):
        return x if math.isfinite(x) else None
    if isinstance(x, Mapping):
        return {k: _finite(v) for k, v in x.items()}
    return [_finite(v) for v in x] if isinstance(x, list | tuple) else x


@dataclass(frozen=True)
class Judged:
    """A claim before the family is adjusted for: p of support and of refutation."""

    support: float
    refute: float
    verdict: Verdict  # everything but the verdict itself
    distance: float = math.inf  # of the estimate from the boundary; positive: on the wrong side
    sd: float = 0.0
    parts: tuple[Judged, ...] = ()
    state: str | None = None  # "missing" or "descriptive", whatever the p-values


def verdicts(study: Node, records: Iterable[Row]) -> list[Verdict]:
    """Checks first, then hypotheses, then criteria, as registered; amended ones are post hoc."""
    results = Results(study, records)
    original = study["registration"]
    amended = [a["registration"] | {"at": a.get("at")} for a in study.get("amendments") or ()]
    current = amended[-1] if amended else original
    alpha = original.get("alpha", 0.05)
    seeds, added = _seeds(study)
    checks = [
        _criterion(results, name, node, "check", alpha)
        if node["claim"] == "criterion"
        else _checked(results, name, node, alpha, study["seeds"])
        for name, node in current.get("checks", {}).items()
    ]
    claims = [(n, node, None) for n, node in original.get("hypotheses", {}).items()]
    for later in amended:
        known = [node for _, node, _ in claims]
        taken = {n for n, _, _ in claims}
        for n, node in later.get("hypotheses", {}).items():
            if node not in known:
                claims.append((f"{n} (amended)" if n in taken else n, node, later))
    own = len(original.get("hypotheses", {}))

    def judged(seeds: Sequence[int], claims: Sequence[tuple[str, Node, Node | None]]) -> list[Any]:
        return [
            _judge(results, node, alpha, seeds, name, original if later is None else later)
            for name, node, later in claims
        ]

    out = _decide(judged(seeds, claims[:own]), alpha, own)
    registered = original.get("seeds") or study["seeds"]
    if added and set(registered) <= set(study["seeds"]):
        first = _decide(judged(registered, claims[:own]), alpha, own)
        first = [_testable(v, checks) for v in first]
        out = [replace(v, before=b) for v, b in zip(out, first, strict=True)]
    for j, (_, _, later) in zip(judged(seeds, claims[own:]), claims[own:], strict=True):
        assert later is not None
        post = replace(j.verdict, post_hoc=True, registered=later.get("at"))
        out += _decide([replace(j, verdict=post)], alpha, len(claims))
    if added:
        out = [replace(v, added_seeds=len(seeds)) for v in out]
    elif len(seeds) < len(registered):
        out = [replace(v, registered_seeds=len(registered)) for v in out]
    out = [*checks, *(_testable(v, checks) for v in out)]
    return out + [
        _criterion(results, name, node, "criterion", alpha)
        for name, node in current.get("criteria", {}).items()
    ]


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


def _testable(v: Verdict, checks: Sequence[Verdict]) -> Verdict:
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
    return v


# ── one claim ───────────────────────────────────────────────────────────────────────────────


def _judge(
    results: Results, node: Node, alpha: float, seeds: Sequence[int], name: str, rules: Node
) -> Judged:
    blank = Verdict(name, "hypothesis", "", node, alpha=alpha, level=1 - 2 * alpha)
    try:
        if node["claim"] == "criterion":
            raise SpecError("a criterion is no hypothesis; put it into criteria= or checks=")
        if node["claim"] == "at_least":
            parts = [_judge(results, p, alpha, seeds, name, rules) for p in node["parts"]]
            return _join(node["u"], parts, blank)
        if node["claim"] == "best":
            cells = results.cells(node["on"], seeds[0])
            others = rivals(node, cells)
            if not others:
                raise SpecError("no other arm to compare with")
            parts = [
                _judge(results, {**node, "claim": "better", "than": o}, alpha, seeds, name, rules)
                for o in others
            ]
            return _join(len(parts), parts, blank)
        return _contrast(results, node, seeds, blank, rules.get("on_missing", "missing"))
    except (SpecError, ZeroDivisionError) as error:
        why = replace(blank, why="unreadable", facts={"error": str(error)})
        return Judged(1.0, 1.0, why, state="missing")


def _join(u: int, parts: Sequence[Judged], blank: Verdict) -> Judged:
    """At least u of the parts.  All but the u − 1 best must fail for a refutation."""
    m = len(parts)
    support = partial_conjunction(u, [p.support for p in parts])
    refute = partial_conjunction(m - u + 1, [p.refute for p in parts])
    order = sorted(parts, key=lambda p: (p.state == "missing", p.support, p.distance))
    deciding = order[u - 1]  # the one that the claim stands or falls with
    states = {p.state for p in parts}
    state = "missing" if "missing" in states else "descriptive" if states - {None} else None
    lost = [c for p in parts for c in p.verdict.missing]
    shown = replace(
        deciding.verdict,
        claim=blank.claim,
        p=support,
        about=deciding.verdict.about or deciding.verdict.claim,
        missing=tuple(dict.fromkeys(lost)),
    )
    return Judged(support, refute, shown, deciding.distance, deciding.sd, tuple(parts), state)


def _contrast(
    results: Results, node: Node, seeds: Sequence[int], blank: Verdict, on_missing: str
) -> Judged:
    values: dict[int, float] = {}
    lost: list[str] = []
    for seed in seeds:
        cells = results.cells(node["on"], seed)
        arms = [node["arm"]] + ([node["than"]] if "than" in node else [])
        sides = [read(node, arm, cells, results.study) for arm in arms]
        gone = [str(c) for s in sides if isinstance(s, Missing) for c in sorted(s.cells)]
        if gone:
            lost += gone
            continue
        numbers = [s for s in sides if not isinstance(s, Missing)]
        values[seed] = numbers[0] - numbers[1] if len(numbers) > 1 else numbers[0]
    unit, better = reading(node["on"], results.study)
    sample = Sample(tuple(values.values()))
    state = None
    if lost and (on_missing != "drop_seed_block" or not values):
        state = "missing"
    elif sample.n < 2 or sample.sd == 0:  # nothing varies: there is nothing to test
        state = "descriptive"
    nats = perplexity(node["on"], results.study, "than" in node)
    shown = replace(blank, unit=unit, better=better, nats=nats, missing=tuple(dict.fromkeys(lost)))
    if not values:
        return Judged(1.0, 1.0, shown, state="missing")
    support, refute, theta, edge, agree, flips = _tests(
        node, sample, better, units_of(node["on"], results.study)
    )
    low, high = sample.interval(blank.alpha)
    shown = replace(
        shown,
        effect=sample.mean,
        low=low,
        high=high,
        p=support if sample.n > 1 else None,
        p_flips=flips if sample.n > 1 else None,
        n=sample.n,
        agree=agree,
        dz=sample.mean / sample.sd if sample.sd else None,
        per_seed={str(s): v for s, v in values.items()},
    )
    return Judged(support, refute, shown, theta - edge, sample.sd, state=state)


def _tests(
    node: Node, d: Sample, better: str, units: Sequence[str]
) -> tuple[float, float, float, float, int, float | None]:
    """(p of support, p of refutation, θ, its boundary, seeds that agree, p by sign flips)."""
    if node["claim"] == "same":
        down, up = margin(node["within"], units)
        refute = min(d.p_above(up), d.p_below(-down))
        inside = sum(-down < v < up for v in d.values)
        flipped = Sample(tuple(-v for v in d.values))
        sides = [d.p_flips_below(up), flipped.p_flips_below(down)]
        worst = max(s for s in sides if s is not None) if None not in sides else None
        far = abs(d.mean)
        return d.p_inside(-down, up), refute, far, up if d.mean > 0 else down, inside, worst
    turn = -1 if node["claim"] == "increasing" else 1
    if node["claim"] in ("better", "no_worse") and better == "higher":
        turn = -1
    theta = Sample(tuple(turn * v for v in d.values))
    down, up = margin(node["within"] if "within" in node else node["by"], units)
    edge = up if "within" in node else -down
    agree = sum(v < max(edge, 0.0) for v in theta.values)
    p_flips = theta.p_flips_below(edge)
    return theta.p_below(edge), theta.p_above(edge), theta.mean, edge, agree, p_flips


# ── the family ──────────────────────────────────────────────────────────────────────────────


def _decide(family: Sequence[Judged], alpha: float, size: int) -> list[Verdict]:
    """Verdicts of a family; Holm for support and, apart from it, for refutation: a claim is
    either true or false, so that only one of the two errors can be made of it."""
    # A claim that cannot be judged yet keeps its place in the family and claims nothing.
    supports = holm([1.0 if j.state else j.support for j in family], size)
    refutes = holm([1.0 if j.state else j.refute for j in family], size)
    out = []
    for j, s, r in zip(family, supports, refutes, strict=True):
        v = j.verdict
        v = replace(v, p=None, p_flips=None) if j.state else replace(v, p_adjusted=s)
        facts: dict[str, Any] = {"p": s, "family": size}
        if j.state == "missing":
            if v.why:
                out.append(replace(v, verdict="missing"))
                continue
            verdict, why, facts = "missing", "missing", {"count": len(v.missing)}
        elif j.state == "descriptive":
            verdict, why = "descriptive", "one_seed" if v.n == 1 else "constant"
        elif s < alpha:
            verdict, why = "supported", "supported"
        elif r < alpha:
            verdict, why, facts = "refuted", "refuted", {"p": r, "family": size}
        else:
            verdict = "inconclusive"
            why = "family" if min(j.support, j.refute) < alpha else "inconclusive"
            facts |= {"raw": min(j.support, j.refute)}
            v = replace(
                v,
                smallest_effect=smallest_effect(j.sd, v.n, alpha / size),
                seeds_needed=seeds_needed(abs(j.distance), j.sd, alpha / size),
            )
        parts = tuple(v for p in j.parts for v in _decide([p], alpha, 1))
        out.append(replace(v, verdict=verdict, why=why, facts=facts, parts=parts))
    return out


# ── criteria and checks ─────────────────────────────────────────────────────────────────────


def _checked(
    results: Results, name: str, node: Node, alpha: float, seeds: Sequence[int]
) -> Verdict:
    """A hypothesis in the role of a check."""
    v = _decide([_judge(results, node, alpha, seeds, name, {})], alpha, 1)[0]
    said = {"supported": "met", "missing": "missing"}.get(v.verdict, "not met")
    return replace(v, kind="check", verdict=said)


def _criterion(results: Results, name: str, node: Node, kind: str, alpha: float) -> Verdict:
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
            met &= value < bound + shift if side == "below" else value > bound + shift
            sign = "<" if side == "below" else ">"
            edge = f"{bound + shift:.4g}".replace("-", "\N{MINUS SIGN}")
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

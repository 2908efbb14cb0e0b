"""One claim, judged: its number for each seed, and the tests of it.

Let θ be the contrast of a claim, turned so that lower is better, and δ ≥ 0 the claimed size.
*Supported*: θ < −δ is shown at level alpha.  *Refuted*: θ > −δ is shown, so that the claimed size
is excluded.  *Inconclusive* otherwise.  One seed is *descriptive*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from paribus.analysis.cells import CENSORED, Results, perplexity, reading
from paribus.analysis.exact import flips_below, ranks_below
from paribus.analysis.stats import Sample, holm, partial_conjunction, seeds_needed, smallest_effect
from paribus.analysis.verdict import Verdict as Verdict
from paribus.errors import SpecError
from paribus.study.measures import (
    Cell,
    Missing,
    Node,
    margin,
    read,
    relative,
    rivals,
    size,
    units_of,
)

MOST_CELLS = 2000  # beyond this many the items of an effect are not read
WORST = ("diverged", "not a number")  # states of a cell that on_missing="worst" ranks last
FINAL = (*WORST, "failed", "out of memory", "refused", "lost")
"""States that on_missing="drop_seed_block" leaves out: what is still to come is waited for."""


@dataclass(frozen=True)
class Rules:
    """How the hypotheses of a study are tested."""

    alpha: float = 0.05
    test: str = "paired_t"
    on_missing: str = "missing"  # or "any": whatever seeds have their number

    @classmethod
    def of(cls, registration: Node) -> Rules:
        return cls(
            **{k: registration[k] for k in ("alpha", "test", "on_missing") if k in registration}
        )


@dataclass(frozen=True)
class Judged:
    """A claim before the family is adjusted for: p of support and of refutation."""

    support: float
    refute: float
    verdict: Verdict  # everything but the verdict itself
    distance: float = math.inf  # of the estimate from the boundary; positive: on the wrong side
    sd: float = 0.0
    tries: int = 1  # by which p is multiplied
    joint: int = 1  # comparisons that must be shown together
    parts: tuple[Judged, ...] = ()
    state: str | None = None  # "missing", "descriptive" or "stated", whatever the p-values


def judge(
    results: Results, node: Node, seeds: Sequence[int], name: str, rules: Rules, shown: bool = True
) -> Judged:
    """A claim over these seeds.  ``shown``: with what only the reader wants to know."""
    blank = Verdict(name, "hypothesis", "", node, alpha=rules.alpha, level=1 - 2 * rules.alpha)
    blank = replace(blank, test=rules.test)

    def part(p: Node) -> Judged:
        return judge(results, p, seeds, name, rules, shown)

    try:
        if node["claim"] == "criterion":
            raise SpecError("a criterion is no hypothesis; put it into criteria= or checks=")
        if node["claim"] == "stated":
            return Judged(1.0, 1.0, blank, state="stated")
        if node["claim"] == "at_least":
            return _join(node["u"], [part(p) for p in node["parts"]], blank)
        if node["claim"] == "best":
            others = rivals(node, results.cells(node["on"], seeds[0]))
            if not others:
                raise SpecError("no other arm to compare with")
            parts = [part({**node, "claim": "better", "than": o}) for o in others]
            return _join(len(parts), parts, blank)
        return _contrast(results, node, seeds, blank, rules, shown)
    except (SpecError, ZeroDivisionError) as error:
        why = replace(blank, why="unreadable", facts={"error": str(error)})
        return Judged(1.0, 1.0, why, state="missing")


def simple(j: Judged) -> list[Judged]:
    """The comparisons that a claim is made of."""
    return [s for p in j.parts for s in simple(p)] if j.parts else [j]


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
    return Judged(
        support,
        refute,
        shown,
        deciding.distance,
        deciding.sd,
        tries=deciding.tries * (m - u + 1),
        joint=deciding.joint * u,
        parts=tuple(parts),
        state=state,
    )


# ── one number per seed ─────────────────────────────────────────────────────────────────────


def _contrast(
    results: Results, node: Node, seeds: Sequence[int], blank: Verdict, rules: Rules, shown: bool
) -> Judged:
    study = results.study
    values: dict[int, float] = {}
    lost: list[str] = []
    waiting = beyond = False
    arms = [node["arm"]] + ([node["than"]] if "than" in node else [])
    ratio = "than" in node and relative(size(node)) is not None
    unit, better = reading(node["on"], study)
    turn = _turn(node, better)
    for seed in seeds:
        cells = results.cells(node["on"], seed)
        sides = [read(node, arm, cells, study) for arm in arms]
        gone = [[*sorted(s.cells)] if isinstance(s, Missing) else [] for s in sides]
        if not any(gone):
            numbers = [s for s in sides if not isinstance(s, Missing)]
            values[seed] = _difference(numbers, ratio)
        elif rules.on_missing == "worst" and all(c.status in WORST for g in gone for c in g):
            # Against the claim, but where the second arm alone diverged.
            values[seed] = turn * (math.inf if gone[0] else -math.inf)
        else:
            lost += [str(c) for g in gone for c in g]
            waiting |= any(c.status not in FINAL for g in gone for c in g)
            beyond |= any(c.status == CENSORED for g in gone for c in g)
    waiting &= rules.on_missing != "any"
    finite = {seed: v for seed, v in values.items() if math.isfinite(v)}
    sample = Sample(tuple(finite.values()))
    state = None
    dropped = rules.on_missing in ("drop_seed_block", "any") and not waiting
    if (lost and not dropped) or not values:
        state = "missing"
    elif len(values) < 2 or (sample.n == len(values) and sample.sd == 0):
        state = "descriptive"  # nothing varies: there is nothing to test
    nats = perplexity(node["on"], study, "than" in node) and not ratio
    seen = replace(blank, better=better, nats=nats, relative=ratio)
    seen = replace(seen, unit="" if ratio else unit, missing=tuple(dict.fromkeys(lost)))
    beyond &= rules.on_missing != "any"
    if not finite or beyond:  # what is left when the longest spans are out says nothing of them
        return Judged(1.0, 1.0, seen, state="missing" if beyond else state or "missing")
    units = units_of(node["on"], study)
    tested = _tests(node, tuple(values.values()), turn, units, rules.test)
    tries = [choices(results, node, arm, next(iter(finite))) for arm in arms]
    if node["claim"] == "same":  # the luck of either arm helps one side of it
        tries = [max(tries)]
    support, refute = min(1.0, tested.support * tries[0]), min(1.0, tested.refute * tries[-1])
    low, high = sample.interval(blank.alpha)
    seen = replace(
        seen,
        effect=sample.mean,
        low=low,
        high=high,
        tries=max(tries),
        p=support if len(values) > 1 else None,
        p_flips=tested.flips if len(values) > 1 else None,
        n=len(values),
        agree=tested.agree,
        dz=sample.mean / sample.sd if sample.sd else None,
        per_seed={str(s): v for s, v in finite.items()},
        dropped=len(seeds) - len(values) if dropped else 0,
    )
    if shown:  # what decides nothing
        error = _items_error(results, node, arms, list(finite), ratio)
        near = error is not None and abs(tested.distance) < 2 * error
        seen = replace(seen, items_se=error, items_matter=near)
        seen = replace(seen, trend=_trend(results, node, arms, list(finite)))
    return Judged(support, refute, seen, tested.distance, sample.sd, max(tries), state=state)


def choices(results: Results, node: Node, arm: Node, seed: int) -> int:
    """How many choices of its tuned factors an arm had: levels for each grid that it reads.

    The best of a grid on another split is also lucky on the test split, for it is the same trained
    models that are judged on both: an arm that is flat in a learning rate gains by it, one with a
    clear best does not.  So p is multiplied by the number of choices that the arm had, whose claim
    is helped (Bonferroni); the other arm's luck works against the claim.
    """
    from paribus.analysis.linear import gradient
    from paribus.study.measures import select

    tuned = [f for f in results.study["factors"] if f.get("tuned")]
    if not tuned:
        return 1
    there = select(select(results.cells(node["on"], seed), node["where"], True), arm)
    of = [
        results.origin[c] for c in gradient(node["on"], there, results.study) if c in results.origin
    ]
    variants = {trial["variant"] for trial, _ in of}
    levels = math.prod(len(f["levels"]) for f in tuned)
    return int(levels ** max(1, len(variants)))


def _turn(node: Node, better: str) -> int:
    """+1 where a claim speaks for low contrasts, −1 where for high ones."""
    if node["claim"] == "increasing":
        return -1
    return -1 if node["claim"] in ("better", "no_worse") and better == "higher" else 1


def _difference(sides: Sequence[float], ratio: bool) -> float:
    if len(sides) == 1:
        return sides[0]
    if not ratio:
        return sides[0] - sides[1]
    if min(sides) <= 0:
        raise SpecError(f"a share of {min(sides):g}: a margin in per cent needs positive values")
    return math.log(sides[0] / sides[1])


@dataclass(frozen=True)
class _Tested:
    support: float
    refute: float
    distance: float  # of the estimate from the boundary
    agree: int
    flips: float | None


def _tests(
    node: Node, values: Sequence[float], turn: int, units: Sequence[str], test: str
) -> _Tested:
    below = TESTS[test]
    down, up = margin(size(node), units)
    if turn < 0:  # of a logarithm the two sides are not alike
        down, up = up, down
    d = Sample(tuple(v for v in values if math.isfinite(v)))
    if node["claim"] == "same":
        other = [-v for v in values]
        p_high, p_low = below(values, up), below(other, down)
        refute = min(1.0, 2 * min(below(other, -up), below(values, -down)))  # on either side
        inside = sum(-down < v < up for v in values)
        sides = [flips_below(d.values, up), flips_below([-v for v in d.values], down)]
        worst = max(s for s in sides if s is not None) if None not in sides else None
        far = abs(d.mean) - (up if d.mean > 0 else down)
        return _Tested(max(p_high, p_low), refute, far, inside, worst)
    theta = [turn * v for v in values]
    edge = up if "within" in node else -down
    agree = sum(v < edge for v in theta)
    low = below(theta, edge)
    high = below([-v for v in theta], -edge)
    flips = flips_below([turn * v for v in d.values], edge)
    return _Tested(low, high, turn * d.mean - edge, agree, flips)


def _t_below(values: Sequence[float], delta: float) -> float:
    return Sample(tuple(values)).p_below(delta)


def _flips_below(values: Sequence[float], delta: float) -> float:
    found = flips_below(values, delta)
    return 1.0 if found is None else found


TESTS: dict[str, Callable[[Sequence[float], float], float]] = {
    "paired_t": _t_below,
    "signflip": _flips_below,
    "signed_rank": ranks_below,
}


# ── what stands beside the test ─────────────────────────────────────────────────────────────


def _items_error(
    results: Results, node: Node, arms: Sequence[Node], seeds: Sequence[int], ratio: bool
) -> float | None:
    """The standard error of the effect over evaluation items, the trained models as they are;
    None where the items of a cell are not there."""
    if results.items is None:
        return None
    from paribus.analysis.items import effect_error
    from paribus.analysis.linear import gradient
    from paribus.study.measures import select

    terms: list[Any] = []
    for seed in seeds:
        cells = results.cells(node["on"], seed)
        there = select(cells, node["where"], True)
        of = {id(c): c for c in cells}
        for sign, arm in zip((1.0, -1.0), arms, strict=False):
            value = read(node, arm, cells, results.study)
            scale = 1 / value if ratio and isinstance(value, float) else 1.0
            for key, weight in gradient(node["on"], select(there, arm), results.study).items():
                term = _term(results, of[key]) if len(terms) < MOST_CELLS else None
                if term is None:
                    return None
                terms.append((sign * scale * weight * term[0] / len(seeds), *term[1:]))
    return effect_error(terms) if terms else None


def _term(results: Results, cell: Cell) -> Any:
    """(derivative by the ratio of the items' sums, sums, counts, groups) of a cell."""
    assert results.items is not None
    if id(cell) not in results.origin or cell.tags["slice"] or cell.best:
        return None
    if cell.metric not in results.study["metrics"]:
        return None
    trial, condition = results.origin[id(cell)]
    info = results.study["metrics"][cell.metric]
    found = results.items(
        trial["id"], trial["cells"][condition["key"]], info.get("of") or cell.metric
    )
    if found is None or isinstance(cell.value, Missing):
        return None
    # The derivative of exp(x) is its value; the other transform is none.
    return (cell.value if info.get("transform") == "exp" else 1.0, *found)


def _trend(
    results: Results, node: Node, arms: Sequence[Node], seeds: Sequence[int]
) -> dict[str, Any] | None:
    """Of a slope along one axis: Page's rank test, and from four levels on a power law of the
    means, each of the first arm."""
    on = node["on"]
    while isinstance(on, dict) and on["op"] in ("prefer",):
        on = on["of"]
    if not isinstance(on, dict) or on["op"] != "slope" or len(seeds) < 2:
        return None
    from paribus.analysis.trends import page_trend, power_law

    factor = next(f for f in results.study["factors"] if f["name"] == on["over"][0])
    table: list[list[float]] = []
    tags = [v["tag"] for v in factor["levels"]]
    for seed in seeds:
        cells = results.cells(on, seed)
        row = []
        for tag in tags:
            arm = {**node["arm"], factor["name"]: [tag]}
            try:
                value = read({**node, "on": on["of"]}, arm, cells, results.study)
            except SpecError:
                continue
            if isinstance(value, Missing):
                return None
            row.append(value)
        table.append(row)
    if len({len(row) for row in table}) != 1 or len(table[0]) != len(tags) or len(tags) < 3:
        return None
    xs = [float(v["value"]) for v in factor["levels"]]
    means = [math.fsum(column) / len(table) for column in zip(*table, strict=True)]
    order = sorted(range(len(xs)), key=lambda i: xs[i])
    ranked = [[row[i] for i in order] for row in table]
    # The direction is the claim's; where it has none it is that of the data, and p is doubled.
    falls = means[order[-1]] < means[order[0]]
    sides = 2
    if node["claim"] in ("increasing", "decreasing"):
        falls, sides = node["claim"] == "decreasing", 1
    fit, why_not = power_law([xs[i] for i in order], [means[i] for i in order])
    return {
        "page_p": min(1.0, sides * page_trend(ranked, falling=falls).p),
        "falls": falls,
        "power_law": None if fit is None else {**asdict(fit), "error": fit.error},
        "no_power_law": why_not,
    }


def planning(j: Judged, n: int, alpha: float) -> dict[str, Any]:
    """The smallest distance from the boundary that is seen with 80 % power, and the seeds that see
    the distance that was seen.  Of a joint claim each comparison must be shown, taken as
    independent; exact tests of few seeds reach no level below 2^−n."""
    level, wanted = alpha / j.tries, 0.8 ** (1 / j.joint)
    needed = seeds_needed(abs(j.distance), j.sd, level, wanted)
    if needed is not None and j.verdict.test != "paired_t":
        needed = max(needed, math.floor(math.log2(1 / level)) + 1)
    return {"smallest_effect": smallest_effect(j.sd, n, level, wanted), "seeds_needed": needed}


# ── the family ──────────────────────────────────────────────────────────────────────────────


def decide(family: Sequence[Judged], alpha: float, count: int) -> list[Verdict]:
    """Verdicts of a family of ``count``; Holm for support and, apart from it, for refutation: a
    claim is either true or false, so that only one of the two errors can be made of it."""
    # A claim that cannot be judged yet keeps its place in the family and claims nothing.
    supports = holm([1.0 if j.state else j.support for j in family], count)
    refutes = holm([1.0 if j.state else j.refute for j in family], count)
    out = []
    for j, s, r in zip(family, supports, refutes, strict=True):
        v = j.verdict
        v = replace(v, p=None, p_flips=None) if j.state else replace(v, p_adjusted=s)
        facts: dict[str, Any] = {"p": s, "family": count}
        if j.state == "missing":
            if v.why:
                out.append(replace(v, verdict="missing"))
                continue
            verdict, why, facts = "missing", "missing", {"count": len(v.missing)}
        elif j.state == "stated":
            verdict, why = "descriptive", "stated"
        elif j.state == "descriptive":
            verdict, why = "descriptive", "one_seed" if v.n <= 1 else "constant"
        elif s < alpha:
            verdict, why = "supported", "supported"
        elif r < alpha:
            verdict, why, facts = "refuted", "refuted", {"p": r, "family": count}
        else:
            verdict = "inconclusive"
            why = "family" if min(j.support, j.refute) < alpha else "inconclusive"
            facts |= {"raw": min(j.support, j.refute)}
            v = replace(v, **planning(j, v.n, alpha / count))
        parts = tuple(v for p in j.parts for v in decide([p], alpha, 1))
        out.append(replace(v, verdict=verdict, why=why, facts=facts, parts=parts))
    return out

"""Hypotheses, criteria and measures: written in a study file, kept as plain data, read back.

A measure reduces the records of an arm and a seed to one number.  All of it is a thin wrapper of a
tree of plain data (``.data()``) that enters the registration; verdicts need that tree and the
records, never the study's file.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

from paribus.errors import SpecError, nearest
from paribus.study.factors import Arm, Axis, Factor

Node = dict[str, Any]
FORMS = ("best", "better", "no_worse", "same", "increasing", "decreasing", "at_least", "criterion")


class Tree:
    """Plain data, compared and hashed by its canonical text."""

    def __init__(self, node: Mapping[str, Any]) -> None:
        self.text = json.dumps(node, sort_keys=True, allow_nan=False)

    def data(self) -> Node:
        return dict(json.loads(self.text))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(self.text)


# ── what a study file writes ────────────────────────────────────────────────────────────────


def _operator(op: str, swap: bool = False) -> Callable[[Measure, Any], Measure]:
    def method(self: Measure, other: Any) -> Measure:
        if isinstance(other, bool) or not isinstance(other, Measure | int | float):
            raise SpecError(f"a measure {op} {other!r}: only measures and numbers are combined")
        args = [self.data(), other.data() if isinstance(other, Measure) else float(other)]
        return Measure({"op": op, "args": args[::-1] if swap else args})

    return method


def _reducer(op: str, doc: str) -> Callable[..., Measure]:
    def method(self: Measure, *factors: Factor | Axis | str) -> Measure:
        names = sorted(_name(f) for f in factors)
        if not names or len(set(names)) < len(names) or (op in CURVES and len(names) > 1):
            raise SpecError(f".{op}({', '.join(names)}): name one factor, or several, each once")
        by = {"by": getattr(factors[0], "transform", None)} if op in CURVES else {}
        return Measure({"op": op, "of": self.data(), "over": names, **by})

    method.__doc__ = doc
    return method


class Measure(Tree):
    """What is measured, as an expression: ``metric("loss").slope(length.log2).mean(heads)``."""

    mean = _reducer("mean", "Unweighted mean over the factors.")
    max = _reducer("max", "Largest value along the factors.")
    min = _reducer("min", "Smallest value along the factors.")
    span = _reducer("span", "Largest minus smallest value along the factors.")
    slope = _reducer("slope", "Least-squares slope along a numeric factor or its .log2 or .log.")
    area = _reducer("area", "Area under the curve along the axis, divided by the axis' width.")
    __add__, __radd__ = _operator("+"), _operator("+", True)
    __sub__, __rsub__ = _operator("-"), _operator("-", True)
    __mul__, __rmul__ = _operator("*"), _operator("*", True)
    __truediv__, __rtruediv__ = _operator("/"), _operator("/", True)

    def at(self, arm: Arm) -> Measure:
        """At these levels: one level is thereby fixed, several are left to be averaged."""
        return Measure({"op": "at", "of": self.data(), "arm": _levels(arm)})

    def gap(self, a: Arm, b: Arm) -> Measure:
        """The mean over the levels of ``a`` minus the mean over those of ``b``."""

        def mean(arm: Arm) -> Measure:
            several = [f for f, tags in arm.levels.items() if len(tags) > 1]
            return self.at(arm).mean(*several) if several else self.at(arm)

        return mean(a) - mean(b)

    def prefer(self, better: str) -> Measure:
        """Say which direction is better, "lower" or "higher", where the metric's is not meant."""
        if better not in ("lower", "higher"):
            raise SpecError(f"prefer({better!r}): say 'lower' or 'higher'")
        return Measure({"op": "prefer", "of": self.data(), "better": better})


def metric(name: str, *, evaluation: str | None = None, slice: str = "") -> Measure:
    """A metric; ``evaluation`` where several give it, ``slice`` for a part of the items."""
    return Measure({"op": "metric", "metric": name, "evaluation": evaluation, "slice": slice})


def _levels(arm: Arm | None) -> dict[str, list[str]]:
    if not isinstance(arm, Arm | None):
        raise SpecError(f"{arm!r} is no arm; write factor[level], joined by &")
    return {f: sorted(tags) for f, tags in sorted(arm.levels.items())} if arm else {}


def _name(factor: Any) -> str:
    named = factor.factor if isinstance(factor, Axis) else factor
    if not isinstance(named, Factor | str):
        raise SpecError(f"{factor!r} is no factor")
    return named if isinstance(named, str) else named.name


class Hypothesis(Tree):
    """A statistical claim; its verdict needs several seeds."""


class Criterion(Tree):
    """A published threshold on point values: met, not met or missing; n = 1 is enough."""


def _claim(form: str, arm: Arm | None, on: Measure, where: Arm | None, **more: Any) -> Node:
    if not isinstance(on, Measure):
        raise SpecError(f"{form}(on={on!r}): a measure is metric(…) with its reductions")
    return {"claim": form, "arm": _levels(arm), "on": on.data(), "where": _levels(where), **more}


By = float | str
Where = Arm | None


def best(arm: Arm, *, on: Measure, where: Where = None, by: By = 0) -> Hypothesis:
    """Better, by more than ``by``, than each other arm over the same factors."""
    return Hypothesis(_claim("best", arm, on, where, by=by))


def better(arm: Arm, *, than: Arm, on: Measure, by: By = 0, where: Where = None) -> Hypothesis:
    """Better than another arm by more than ``by`` (in the measure's unit, or "2% ppl")."""
    return Hypothesis(_claim("better", arm, on, where, than=_levels(than), by=by))


def no_worse(arm: Arm, *, than: Arm, on: Measure, within: str, where: Where = None) -> Hypothesis:
    """Worse than another arm by less than ``within`` ("2% ppl", ".005 nats"), or better."""
    return Hypothesis(_claim("no_worse", arm, on, where, than=_levels(than), within=within))


def same(a: Arm, b: Arm, *, on: Measure, within: str, where: Where = None) -> Hypothesis:
    """Equal within a margin, in both directions."""
    return Hypothesis(_claim("same", a, on, where, than=_levels(b), within=within))


def increasing(arm: Where = None, *, on: Measure, where: Where = None, by: By = 0) -> Hypothesis:
    """A slope, gap or difference is above ``by``: ``increasing(arm, on=loss.slope(x.log2))``."""
    return Hypothesis(_claim("increasing", arm, on, where, by=by))


def decreasing(arm: Where = None, *, on: Measure, where: Where = None, by: By = 0) -> Hypothesis:
    """A slope, gap or difference is below minus ``by``."""
    return Hypothesis(_claim("decreasing", arm, on, where, by=by))


def at_least(u: int, hypotheses: Iterable[Hypothesis]) -> Hypothesis:
    """At least ``u`` of the hypotheses hold."""
    parts = list(hypotheses)
    if not parts or not all(isinstance(h, Hypothesis) for h in parts):
        raise SpecError("every, all_of and at_least take hypotheses, at least one")
    if type(u) is not int or not 1 <= u <= len(parts):
        raise SpecError(f"at_least({u!r}, …): {len(parts)} hypotheses; give 1 … {len(parts)}")
    return Hypothesis({"claim": "at_least", "u": u, "parts": [h.data() for h in parts]})


def every(hypotheses: Iterable[Hypothesis]) -> Hypothesis:
    """All of the hypotheses hold."""
    parts = list(hypotheses)
    return at_least(len(parts), parts)


def all_of(*hypotheses: Hypothesis) -> Hypothesis:
    return every(hypotheses)


def baseline(name: str) -> Node:
    """A trivial baseline ("unigram") under the same measure, as the threshold of a criterion."""
    return {"baseline": name}


def criterion(
    arm: Where = None, *, on: Measure, than: Where = None, where: Where = None, by: float = 0,
    below: float | str | Node | None = None, above: float | str | Node | None = None,
) -> Criterion:  # fmt: skip
    """The mean over seeds is below and/or above a number, or a baseline with a margin ``by``.
    With ``than`` it is the difference of two arms, and "5%" is relative to the second."""
    if below is None and above is None:
        raise SpecError("criterion: give below= or above=")
    node = _claim("criterion", arm, on, where, than=_levels(than) if than else None, by=by)
    for side, bound in (("below", below), ("above", above)):
        if isinstance(bound, str):
            if than is None or not re.fullmatch(r"-?(\d+\.?\d*|\.\d+) ?%", bound):
                raise SpecError(f"criterion: {side}={bound!r}: a number, or 'x%' beside than=")
            bound = {"percent": float(bound.rstrip("% "))}
        node[side] = bound
    return Criterion(node)


def from_data(node: Mapping[str, Any]) -> Measure | Hypothesis | Criterion:
    """The object of a tree that was read from a study's record."""
    if "op" in node:
        return Measure(node)
    if (form := str(node.get("claim"))) not in FORMS:
        raise SpecError(f"no form of claim {form!r}; {nearest(form, FORMS)}")
    return Criterion(node) if form == "criterion" else Hypothesis(node)


# ── reading a measure off cells ─────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Missing:
    """Stands for a number that is not there; names the cells that are to blame."""

    cells: frozenset[Any]


Value = float | Missing


@dataclass(frozen=True)
class Cell:
    """A value of one seed; tags of each factor (None: absent), "evaluation" and "slice"."""

    metric: str
    tags: Mapping[str, str | None]
    value: Value


def select(cells: Sequence[Cell], levels: Mapping[str, Any], if_there: bool = False) -> list[Cell]:
    """The cells at these levels; ``if_there``: also those in which a factor does not exist."""
    want = [(f, {*tags, *([None] if if_there else [])}) for f, tags in levels.items()]
    return [c for c in cells if all(c.tags.get(f) in tags for f, tags in want)]


def reduce(node: Node | float, cells: Sequence[Cell], study: Node) -> Value | None:
    """A measure's one number; None where it selects nothing, an error where it leaves several.
    A missing value makes the result missing: nothing is averaged over what happens to be there."""
    if not isinstance(node, dict):
        return node
    op = node["op"]
    if op == "metric":
        found = [c for c in cells if (c.metric, c.tags["slice"]) == (node["metric"], node["slice"])]
        found = [c for c in found if node["evaluation"] in (None, c.tags["evaluation"])]
        if len(found) > 1:
            free = [f for f in found[0].tags if len({c.tags[f] for c in found}) > 1]
            raise SpecError(
                f"{len(found)} numbers per arm and seed: fix {' and '.join(free)} (by & or where=, "
                f".at(…), metric(…, evaluation=)) or average, .mean({', '.join(free)})"
            )
        return found[0].value if found else None
    if op == "prefer":
        return reduce(node["of"], cells, study)
    if op == "at":
        return reduce(node["of"], select(cells, node["arm"]), study)
    if op in OPERATORS:
        args = [reduce(arg, cells, study) for arg in node["args"]]
        lost = all(a is None for a, arg in zip(args, node["args"], strict=True) if arg != a)
        return None if lost and None in args else _combine(lambda v: OPERATORS[op](*v), args)
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell.tags[f] for f in node["over"]), []).append(cell)
    there = {k: v for k, g in groups.items() if (v := reduce(node["of"], g, study)) is not None}
    if not there:
        return None
    conditions = {f["name"] for f in study["factors"] if f["kind"] == "condition"}
    for f, tags in zip(node["over"], zip(*there, strict=True), strict=True):
        if f in conditions and None in tags and set(tags) != {None}:
            raise SpecError(f"not every evaluation has {f}; name one: metric(…, evaluation=…)")
    values = list(there.values())
    if op in REDUCERS:
        return _combine(REDUCERS[op], values)
    xs = [_number(study, node["over"][0], tag, node["by"]) for (tag,) in there]
    if len(xs) < 2:
        raise SpecError(f".{op}({node['over'][0]}) needs two levels or more; there is {len(xs)}")
    return _combine(lambda ys: CURVES[op](xs, ys), values)


def _combine(function: Callable[[list[float]], float], values: Sequence[Value | None]) -> Value:
    if None in values:
        raise SpecError("one side of the expression selects no cell where the other does")
    lost = [v.cells for v in values if isinstance(v, Missing)]
    if lost:
        return Missing(frozenset().union(*lost))
    return function([v for v in values if isinstance(v, int | float)])


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The ordinary least-squares slope."""
    mx, my = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    up = math.fsum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True))
    return up / math.fsum((x - mx) ** 2 for x in xs)


def area(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The trapezoid area over the width: a mean height."""
    p = sorted(zip(xs, ys, strict=True))
    sides = math.fsum((x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in pairwise(p))
    return sides / (p[-1][0] - p[0][0])


OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
REDUCERS: dict[str, Callable[[list[float]], float]] = {
    "mean": lambda v: math.fsum(v) / len(v),
    "max": max,
    "min": min,
    "span": lambda v: max(v) - min(v),
}
CURVES = {"slope": slope, "area": area}


def _number(study: Node, factor: str, tag: Any, by: str | None) -> float:
    levels = next(f["levels"] for f in study["factors"] if f["name"] == factor)
    x = next((v["value"] for v in levels if v["tag"] == tag), None)
    if isinstance(x, bool) or not isinstance(x, int | float) or (by and x <= 0):
        raise SpecError(
            f"level {tag!r} of {factor} is {x!r}: no number that {by or 'a slope'} takes"
        )
    return math.log2(x) if by == "log2" else math.log(x) if by else float(x)


def read(claim: Node, arm: Mapping[str, Any], cells: Sequence[Cell], study: Node) -> Value:
    """The number of an arm under a claim's measure and ``where``, from one seed's cells."""
    value = reduce(claim["on"], select(select(cells, claim["where"], True), arm), study)
    if value is None:
        said = " & ".join(
            f"{f}={'|'.join(map(str, t))}" for f, t in {**claim["where"], **arm}.items()
        )
        raise SpecError(f"{said or 'the study'} selects no variant and condition of this measure")
    return value


def rivals(claim: Node, cells: Sequence[Cell]) -> list[dict[str, list[Any]]]:
    """The other arms over the same factors, each a single level of every factor."""
    there = select(cells, claim["where"], True)
    combos = dict.fromkeys(tuple(c.tags[f] for f in claim["arm"]) for c in there)
    arms = [{f: [t] for f, t in zip(claim["arm"], combo, strict=True)} for combo in combos]
    return [a for a in arms if not all(a[f][0] in claim["arm"][f] for f in a)]


# ── refusals ────────────────────────────────────────────────────────────────────────────────


def leaves(node: Any) -> list[Node]:
    """Every metric of a measure, in order."""
    if not isinstance(node, dict) or node["op"] == "metric":
        return [node] if isinstance(node, dict) else []
    return [leaf for n in node.get("args", [node.get("of")]) for leaf in leaves(n)]


def margin(given: float | str, units: Sequence[str]) -> tuple[float, float]:
    """A margin as two positive distances, below and above zero; "x% ppl" is one of losses."""
    if not isinstance(given, str):
        return given, given
    found = re.fullmatch(r"\s*(\d+\.?\d*(?:e-?\d+)?|\.\d+)\s*(%?)\s*(.*?)\s*", given)
    nats = bool(units) and all(u.startswith("nat") for u in units)
    words = {w for u in units for w in (u, u.split("/")[0], u.split("/")[0].rstrip("s")) if w}
    if found and found[2] and found[3] == "ppl" and nats and float(found[1]) < 100:
        share = float(found[1]) / 100
        return -math.log1p(-share), math.log1p(share)
    if found and not found[2] and found[3] in words:
        return float(found[1]), float(found[1])
    ways = [f"'.01 {u.split('/')[0]}'" for u in dict.fromkeys(units)] + ["'2% ppl'"] * nats
    raise SpecError(f"margin {given!r}: give a number with its unit, such as {' or '.join(ways)}")


def metrics_of(study: Node) -> dict[str, Node]:
    """Metrics by name, and the numbers that every variant has (parameters, tokens …)."""
    numbers = {n: x for v in study.get("variants_info", {}).values() for n, x in v.items()}
    known = {
        n: {"unit": n, "better": "lower", "evaluations": []}
        for n, x in numbers.items()
        if isinstance(x, int | float) and not isinstance(x, bool)
    }
    return {**known, **study["metrics"]}


def planned(study: Node, measure: Node, evaluation: str | None = None) -> list[Cell]:
    """The cells that a measure may read, each missing and naming itself.  A tuned factor is settled
    elsewhere; ``evaluation`` stands in where the study does not say which ones give a metric."""
    tuned = {f["name"]: None for f in study["factors"] if f["tuned"]}
    blank = {**{f["name"]: None for f in study["factors"]}, "evaluation": None}
    cells: dict[str, Cell] = {}
    for leaf in leaves(measure):
        info = metrics_of(study)[leaf["metric"]]
        of = info.get("evaluations", [leaf["evaluation"] or evaluation])
        there = [{**c["levels"], "evaluation": c["evaluation"]} for c in judging(study, of)] or [{}]
        for variant, condition in product(study["variants"], there):
            tags = {**blank, **variant["levels"], **tuned, **condition, "slice": leaf["slice"]}
            missing = Missing(frozenset([tuple(tags.items())]))
            cells[repr((leaf["metric"], tags))] = Cell(leaf["metric"], tags, missing)
    return list(cells.values())


def judging(study: Node, evaluations: Sequence[str | None]) -> list[Node]:
    """The conditions that judge: those of the test split, never the ones used for choosing."""
    judges = [c for c in study["conditions"] if c.get("split") in (None, "test")]
    return [c for c in judges if evaluations == [None] or c["evaluation"] in evaluations]


def primitive(node: Node) -> list[Node]:
    """The claims that every, all_of and at_least join."""
    return [p for part in node["parts"] for p in primitive(part)] if "parts" in node else [node]


def verify(claims: Mapping[str, Tree | Node], study: Node) -> None:
    """Refuse what cannot be judged, one line each; ``study`` is the study's record."""
    problems = []
    guesses: list[str | None] = list(dict.fromkeys(c["evaluation"] for c in study["conditions"]))
    for name, claim in claims.items():
        for part in primitive(claim.data() if isinstance(claim, Tree) else dict(claim)):
            refused = []
            for guess in guesses or [None]:
                try:
                    _check(part, study, guess)
                    break
                except SpecError as error:
                    refused.append(f"{name}: {error}")
            else:
                problems.append(refused[0])
    if problems:
        raise SpecError("\n".join(dict.fromkeys(problems)))


def _check(node: Node, study: Node, evaluation: str | None) -> None:
    if node.get("claim") not in FORMS:
        raise SpecError("a measure alone claims nothing; wrap it: best, better, same …")
    known, used = metrics_of(study), [leaf["metric"] for leaf in leaves(node["on"])]
    for name in used:
        if name not in known:
            raise SpecError(f"no metric {name!r}; {nearest(name, known)}")
    for arm in (node["arm"], node.get("than") or {}, node["where"]):
        _levels_exist(arm, study)
    _spend(node["on"], study)
    if "within" in node and not isinstance(node["within"], str):
        raise SpecError(f"within={node['within']!r}: a margin needs its unit, as in '2% ppl'")
    given = node["within"] if "within" in node else node["by"]
    if min(margin(given, [known[m]["unit"] for m in used])) < 0:
        raise SpecError(f"by={given!r} must not be negative")
    ranks = node["claim"] in ("best", "better", "no_worse") and node["on"]["op"] != "prefer"
    if ranks and len({known[m]["better"] for m in used}) > 1:
        raise SpecError("metrics of opposite directions; add .prefer('lower') or .prefer('higher')")
    baselines = {n for of in study.get("baselines", {}).values() for n in of}
    for bound in (node.get("below"), node.get("above")):
        wanted = bound.get("baseline") if isinstance(bound, dict) else None
        if wanted and baselines and wanted not in baselines:
            raise SpecError(f"no baseline {wanted!r}; {nearest(wanted, baselines)}")
    cells = planned(study, node["on"], evaluation)
    mine = read(node, node["arm"], cells, study)
    others = rivals(node, cells) if node["claim"] == "best" else [node.get("than")]
    if not others:
        raise SpecError("best: no other arm to compare with; name a factor of several levels")
    for other in others:
        if other is not None:
            _alike({**node["arm"], **other}, mine, read(node, other, cells, study), study)


def _levels_exist(arm: Node, study: Node) -> None:
    known = {f["name"]: [v["tag"] for v in f["levels"]] for f in study["factors"]}
    for factor, tags in arm.items():
        if factor not in known:
            raise SpecError(f"no factor {factor!r}; {nearest(factor, known)}")
        for tag in tags:
            if tag not in known[factor]:
                raise SpecError(f"{factor} has no level {tag!r}; {nearest(tag, known[factor])}")


def _spend(node: Any, study: Node) -> set[str]:
    """The factors that a measure has fixed or reduced; twice is a mistake."""
    if not isinstance(node, dict) or node["op"] == "metric":
        return set()
    spent = set().union(*(_spend(n, study) for n in node.get("args", [node.get("of")])))
    _levels_exist(node.get("arm") or dict.fromkeys(node.get("over", ()), ()), study)
    now = {*node.get("over", ()), *(f for f, t in node.get("arm", {}).items() if len(t) == 1)}
    for f in sorted(spent & now):
        raise SpecError(f".{node['op']}(…): {f} is fixed or averaged already")
    return spent | now


def _alike(arms: Node, a: Value, b: Value, study: Node) -> None:
    """Two arms must not share cells, and must be averaged over the same levels of the rest."""
    assert isinstance(a, Missing) and isinstance(b, Missing)
    if a.cells & b.cells:
        raise SpecError("the two arms share cells; they must be disjoint")
    own = {*arms, *(f["name"] for f in study["factors"] if f["when"]), "evaluation", "slice"}
    left, right = ({tuple(p for p in c if p[0] not in own) for c in v.cells} for v in (a, b))
    for cell in sorted(map(str, left ^ right))[:1]:
        raise SpecError(f"only one of the arms has the cell {cell}; restrict both by where=")

"""Reading the plain data of measures and claims: cells, margins and the cells that are planned.

Verdicts and refusals share it: both see the tree of a claim and the study's record, never objects.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

from paribus.errors import SpecError

Node = dict[str, Any]


# ── reading a measure off cells ─────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Missing:
    """Stands for a number that is not there; names the cells that are to blame."""

    cells: frozenset[Any]


Value = float | Missing


@dataclass(frozen=True)
class Cell:
    """A value of one seed; tags of each factor (None: absent), "evaluation" and "slice"; ``best``:
    that of the best of its evaluations during training, in place of the last step's."""

    metric: str
    tags: Mapping[str, str | None]
    value: Value
    best: bool = False


def select(cells: Sequence[Cell], levels: Mapping[str, Any], if_there: bool = False) -> list[Cell]:
    """The cells at these levels; ``if_there``: also those in which a factor does not exist."""
    want = [(f, {*tags, *([None] if if_there else [])}) for f, tags in levels.items()]
    return [c for c in cells if all(c.tags.get(f) in tags for f, tags in want)]


def found(leaf: Node, cells: Sequence[Cell]) -> list[Cell]:
    """The cells of a metric as a measure names it."""
    wanted = (leaf["metric"], leaf["slice"], leaf.get("best", False))
    mine = [c for c in cells if (c.metric, c.tags["slice"], c.best) == wanted]
    return [c for c in mine if leaf["evaluation"] in (None, c.tags["evaluation"])]


def reduce(node: Node | float, cells: Sequence[Cell], study: Node) -> Value | None:
    """A measure's one number; None where it selects nothing, an error where it leaves several.
    A missing value makes the result missing: nothing is averaged over what happens to be there."""
    if not isinstance(node, dict):
        return node
    op = node["op"]
    if op == "metric":
        mine = found(node, cells)
        if len(mine) > 1:
            free = [f for f in mine[0].tags if len({c.tags[f] for c in mine}) > 1]
            raise SpecError(
                f"{len(mine)} numbers per arm and seed: fix {' and '.join(free)} (by & or where=, "
                f".at(…), metric(…, evaluation=)) or average, .mean({', '.join(free)})"
            )
        return mine[0].value if mine else None
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
    xs = [number(study, node["over"][0], tag, node["by"]) for (tag,) in there]
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


def number(study: Node, factor: str, tag: Any, by: str | None) -> float:
    """A level as a number of the axis."""
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


# ── what a study says of its metrics and cells ──────────────────────────────────────────────


def leaves(node: Any) -> list[Node]:
    """Every metric of a measure, in order."""
    if not isinstance(node, dict) or node["op"] == "metric":
        return [node] if isinstance(node, dict) else []
    return [leaf for n in node.get("args", [node.get("of")]) for leaf in leaves(n)]


def units_of(measure: Any, study: Node) -> list[str]:
    """The unit of every metric of a measure, in order."""
    known = metrics_of(study)
    return [known[leaf["metric"]]["unit"] for leaf in leaves(measure)]


SHARES = frozenset(["", "share"])  # units in which 0.05 may be said as five points


def margin(given: float | str, units: Sequence[str]) -> tuple[float, float]:
    """A margin as two positive distances, below and above zero; "x% ppl" is one of losses.  A
    metric without a unit takes a plain number, as text too, and points: "5 pp" is .05."""
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise SpecError(f"margin {given!r}: give {examples(units)}")
    if not isinstance(given, str):
        return given, given
    if (share := relative(given)) is not None and _quantities(units):
        return -math.log1p(-share), math.log1p(share)
    found = re.fullmatch(r"\s*(\d+\.?\d*(?:e-?\d+)?|\.\d+)\s*(%?)\s*(.*?)\s*", given)
    words = {w for u in units for w in (u, u.split("/")[0], u.split("/")[0].rstrip("s")) if w}
    if found and found[2] and found[3] == "ppl" and _nats(units) and float(found[1]) < 100:
        share = float(found[1]) / 100
        return -math.log1p(-share), math.log1p(share)
    if found and not found[2]:
        if found[3] in words or (not found[3] and not any(units)):
            return float(found[1]), float(found[1])
        if found[3] == "pp" and SHARES.issuperset(units):
            return float(found[1]) / 100, float(found[1]) / 100
    kind = "number with its unit" if any(units) else "plain number"
    raise SpecError(f"margin {given!r}: give a {kind}, such as {examples(units)}")


def relative(given: Any) -> float | None:
    """The share that a margin "x%" names: of the second arm's value, so that the contrast is a
    difference of logarithms.  None for every other margin."""
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*%\s*", given) if isinstance(given, str) else None
    return float(found[1]) / 100 if found and 0 <= float(found[1]) < 100 else None


def size(claim: Node) -> Any:
    """The margin or size of a claim, as it was written."""
    return claim["within"] if "within" in claim else claim["by"]


def examples(units: Sequence[str]) -> str:
    """Margins that a measure takes, as a refusal shows them."""
    ways = [f"'.01 {u.split('/')[0]}'" for u in dict.fromkeys(units) if u] or ["'.05'"]
    ways += ["'2% ppl'"] * _nats(units)
    ways += ["'5 pp' (percentage points)"] * SHARES.issuperset(units)
    ways += ["'5%' (of the second arm's value)"] * _quantities(units)
    return " or ".join(ways)


def _quantities(units: Sequence[str]) -> bool:
    """Whether a per cent of it is plain: not of losses (say 2% ppl) nor of shares (say 5 pp)."""
    return bool(units) and not _nats(units) and not SHARES.intersection(units)


def _nats(units: Sequence[str]) -> bool:
    return bool(units) and all(u.startswith("nat") for u in units)


MEASURED = {"seconds": {"unit": "s", "better": "lower", "evaluations": []}}
"""What every trained trial gives: the seconds that its training took."""


SPANS = ("L50", "L90")
"""Of each trial along a probe's axis: where its accuracy falls to a half and to nine tenths.  One
beyond what was asked has no number: its cell is missing."""
COUNTS = frozenset({"pairs"})
"""Axes of probes that count something else than tokens."""
REACHES = ("window", "field")
"""Of a variant whose model tells them: the direct window and the theoretical field, in tokens."""


def metrics_of(study: Node) -> dict[str, Node]:
    """Metrics by name; the spans of probes with an axis; and the numbers that every variant
    (parameters, tokens …) or every trained trial (seconds) has."""
    infos = study.get("variants_info", {}).values()
    numbers = {n: x for v in infos for n, x in v.items()}
    known = {
        n: {"unit": n, "better": "lower", "evaluations": []}
        for n, x in numbers.items()
        if isinstance(x, int | float) and not isinstance(x, bool)
    }
    spans: dict[str, Node] = {}
    if curved := [c["evaluation"] for c in study["conditions"] if axis_of(c)]:
        told = {"unit": "tokens", "better": "higher"}
        spans = {n: {**told, "evaluations": [*dict.fromkeys(curved)]} for n in SPANS}
        spans |= {n: {**told, "evaluations": []} for n in REACHES
                  if any(number_of(v, n) is not None for v in infos)}  # fmt: skip
    return {**MEASURED, **known, **spans, **study["metrics"]}


def axis_of(condition: Node) -> Node | None:
    """The curve of a condition whose axis counts tokens; None: it has none."""
    curve: Node | None = condition.get("curve")
    return curve if curve and curve["axis"] not in COUNTS else None


def number_of(info: Node, name: str) -> Any:
    """A number of a variant; None: it does not tell."""
    return (info.get("reach") or {}).get(name) if name in REACHES else info.get(name)


def is_span(name: str, study: Node) -> bool:
    return name in SPANS and name not in study["metrics"]


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
            best = leaf.get("best", False)
            cells[repr((leaf["metric"], best, tags))] = Cell(leaf["metric"], tags, missing, best)
    return list(cells.values())


def judging(study: Node, evaluations: Sequence[str | None]) -> list[Node]:
    """The conditions that judge: those of the test split, never the ones used for choosing."""
    judges = [c for c in study["conditions"] if c.get("split") in (None, "test")]
    return [c for c in judges if evaluations == [None] or c["evaluation"] in evaluations]


def primitive(node: Node) -> list[Node]:
    """The claims that every, all_of and at_least join."""
    return [p for part in node["parts"] for p in primitive(part)] if "parts" in node else [node]

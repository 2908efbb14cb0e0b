"""Hypotheses, criteria and measures: written in a study file, kept as plain data, read back.

A measure reduces the records of an arm and a seed to one number.  All of it is a thin wrapper of a
tree of plain data (``.data()``) that enters the registration; ``measures`` reads that tree, so that
verdicts need it and the records, never the study's file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from paribus.errors import SpecError, nearest
from paribus.study.factors import Arm, Axis, Factor
from paribus.study.measures import (
    CURVES,
    Missing,
    Node,
    Value,
    axis_of,
    examples,
    is_span,
    judging,
    leaves,
    margin,
    metrics_of,
    planned,
    primitive,
    read,
    relative,
    rivals,
    size,
    units_of,
)

FORMS = (
    *("best", "better", "no_worse", "same", "increasing", "decreasing", "at_least"),
    *("stated", "criterion"),
)


class Tree:
    """Plain data, compared and hashed by its canonical text."""

    def __init__(self, node: Mapping[str, Any]) -> None:
        try:
            self.text = json.dumps(node, sort_keys=True, allow_nan=False)
        except ValueError:
            said = node.get("claim") or node.get("op")
            raise SpecError(
                f"{said}: nan and infinity are no numbers to claim anything by"
            ) from None

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

    def best(self) -> Measure:
        """The best of the evaluations during training (``Eval(…, every=steps)``) and the last one,
        by the metric's direction: what early stopping would keep.  It looks at what judges, and
        the oftener it looks, the better it gets: compare arms that look equally often."""
        node = self.data()
        if node["op"] != "metric" or node["slice"]:
            raise SpecError(
                ".best() is of a metric over all items: metric(…).best(), then the rest"
            )
        return Measure({**node, "best": True})

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


def no_worse(arm: Arm, *, than: Arm, on: Measure, within: By, where: Where = None) -> Hypothesis:
    """Worse than another arm by less than ``within`` ("2% ppl", ".005 nats"), or better; of a
    metric without a unit ``.05``, or "5 pp" for five points of a share."""
    return Hypothesis(_claim("no_worse", arm, on, where, than=_levels(than), within=within))


def same(a: Arm, b: Arm, *, on: Measure, within: By, where: Where = None) -> Hypothesis:
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


def stated(text: str) -> Hypothesis:
    """A hypothesis in words alone, for which there is no measure: it stays *descriptive*, and the
    audit says that it names no measurable."""
    if not isinstance(text, str) or not text.strip():
        raise SpecError("stated(…): say the hypothesis in words")
    return Hypothesis({"claim": "stated", "text": text.strip()})


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


# ── refusals ────────────────────────────────────────────────────────────────────────────────


def verify(claims: Mapping[str, Tree | Node], study: Node) -> None:
    """Refuse what cannot be judged, one line each; ``study`` is the study's record, whose
    registration says in which section each claim stands."""
    problems = list(_misplaced(study.get("registration") or {}))
    guesses: list[str | None] = list(dict.fromkeys(c["evaluation"] for c in study["conditions"]))
    for name, claim in claims.items():
        for part in primitive(claim.data() if isinstance(claim, Tree) else dict(claim)):
            refused = []
            if part.get("claim") == "stated":
                continue
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


def _misplaced(registration: Node) -> Iterator[str]:
    """A hypothesis is tested over seeds and counted by Holm's correction, a criterion is neither:
    read as the other it would get a verdict that it has not earned."""
    for section in ("hypotheses", "criteria", "checks"):
        for name, node in (registration.get(section) or {}).items():
            form = node.get("claim")
            if section == "hypotheses" and form == "criterion":
                yield f"{name}: a criterion in hypotheses=; put it into criteria= or checks="
            elif section != "hypotheses" and form in FORMS and form != "criterion":
                ways = "put it into hypotheses=, or write criterion(…)"
                yield f"{name}: a hypothesis ({form}) in {section}=; {ways}"


def _check(node: Node, study: Node, evaluation: str | None) -> None:
    if node.get("claim") not in FORMS:
        raise SpecError("a measure alone claims nothing; wrap it: best, better, same …")
    known, used = metrics_of(study), [leaf["metric"] for leaf in leaves(node["on"])]
    for name in used:
        if name not in known:
            raise SpecError(f"no metric {name!r}; {nearest(name, known)}")
    for leaf in leaves(node["on"]):
        if is_span(leaf["metric"], study):
            _along(leaf, study)
        elif leaf.get("best"):
            _looked_at(leaf, known[leaf["metric"]], study)
    for arm in (node["arm"], node.get("than") or {}, node["where"]):
        _levels_exist(arm, study)
    _spend(node["on"], study)
    if node["claim"] in ("increasing", "decreasing") and not _differs(node["on"]):
        raise SpecError(
            f"{node['claim']}: the measure is a level, not a change; take .slope(axis), "
            ".gap(a, b) or a difference"
        )
    given, units = size(node), units_of(node["on"], study)
    if "within" in node and not isinstance(given, str) and any(units):
        raise SpecError(f"within={given!r}: a margin needs its unit, as in {examples(units)}")
    if isinstance(given, str) and given.rstrip().endswith("ppl") and _scaled(node["on"]):
        raise SpecError(
            f"margin {given!r}: a slope, a product or a quotient of losses is no ratio of "
            "perplexities; give a number with its unit"
        )
    if relative(given) is not None and "than" not in node and node["claim"] != "best":
        raise SpecError(f"{given!r} is relative to a second arm, and {node['claim']} has none")
    if relative(given) is not None and _differs(node["on"]):
        raise SpecError(f"{given!r} of a change, which may be zero; give a number with its unit")
    if node["claim"] == "same" and max(margin(given, units)) == 0:
        raise SpecError(f"same(within={given!r}): no data can show that two arms differ by nothing")
    if min(margin(given, units)) < 0:
        raise SpecError(f"by={given!r} must not be negative")
    ranks = node["claim"] in ("best", "better", "no_worse") and node["on"]["op"] != "prefer"
    if ranks and len({known[m]["better"] for m in used}) > 1:
        raise SpecError("metrics of opposite directions; add .prefer('lower') or .prefer('higher')")
    baselines = {n for of in study.get("baselines", {}).values() for n in of}
    baselines |= set(study.get("trivial", ()))
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
            both = node["arm"].keys() & other.keys()
            _alike(both, mine, read(node, other, cells, study), study)


def _along(leaf: Node, study: Node) -> None:
    """Refuse a span of an evaluation without an axis, of one whose slices are not recorded, and of
    several curves at once."""
    said, wanted = f"metric({leaf['metric']!r})", leaf["evaluation"]
    if leaf.get("best"):
        raise SpecError(f"{said}.best(): a span is of the last evaluation")
    there = [c for c in study["conditions"] if wanted in (None, c["evaluation"])]
    if wanted and not any(map(axis_of, there)):
        able = sorted({c["evaluation"] for c in study["conditions"] if axis_of(c)})
        raise SpecError(f"{said}: evaluation {wanted!r} has no axis of tokens; {', '.join(able)}")
    for c, curve in ((c, axis_of(c)) for c in there):
        if curve is None:
            continue
        by = c.get("by") or ()
        each = curve["by"] if "cell" in by else None
        if not each and curve["axis"] not in by:
            way = "cell" if curve["by"] else curve["axis"]
            raise SpecError(
                f"{said}: the slices of {c['evaluation']} are not recorded: by=({way!r},)"
            )
        if each and not leaf["slice"].startswith(f"{each}="):
            raise SpecError(f"{said}: a curve for each {each}: name one, slice='{each}=…'")
        if leaf["slice"] and not each:
            raise SpecError(f"{said}: {c['evaluation']} records one curve; slice= names none")


def _looked_at(leaf: Node, info: Node, study: Node) -> None:
    """Refuse the best of evaluations during training where there are none."""
    given = info.get("evaluations") or ()
    where = [leaf["evaluation"]] if leaf["evaluation"] else given
    if any(not c.get("every") for c in judging(study, where)) or not given:
        raise SpecError(
            f"metric({leaf['metric']!r}).best(): it is evaluated at the end alone; give "
            f"Eval({(where or ['…'])[0]!r}, every=steps)"
        )


def _differs(node: Any) -> bool:
    """Whether a measure is a change: a slope, a gap, a difference."""
    if not isinstance(node, dict):
        return False
    if node.get("op") in ("slope", "gap", "-", "span", "area"):
        return True
    return any(_differs(x) for x in (node.get("of"), *node.get("args", ())))


def _scaled(node: Any) -> bool:
    """Whether losses are divided or multiplied, by a step of an axis or by each other."""
    if not isinstance(node, dict):
        return False
    if node.get("op") in ("slope", "*", "/"):
        return True
    return any(_scaled(x) for x in (node.get("of"), *node.get("args", ())))


def _levels_exist(arm: Node, study: Node) -> None:
    known = {f["name"]: [v["tag"] for v in f["levels"]] for f in study["factors"]}
    tuned = {f["name"]: f["tuned"] for f in study["factors"] if f.get("tuned")}
    for factor, tags in arm.items():
        if factor not in known:
            raise SpecError(f"no factor {factor!r}; {nearest(factor, known)}")
        if factor in tuned:
            raise SpecError(
                f"{factor} is tuned: its level is chosen by {tuned[factor]!r}; no claim names it"
            )
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


def _alike(arms: Iterable[str], a: Value, b: Value, study: Node) -> None:
    """Two arms must not share cells, and must be averaged over the same levels of the rest."""
    assert isinstance(a, Missing) and isinstance(b, Missing)
    if a.cells & b.cells:
        raise SpecError("the two arms share cells; they must be disjoint")
    # A factor that both name is what is compared; one that only one of them fixes is not.
    own = {*arms, *(f["name"] for f in study["factors"] if f["when"]), "evaluation", "slice"}
    left, right = ({tuple(p for p in c if p[0] not in own) for c in v.cells} for v in (a, b))
    for cell in sorted(map(str, left ^ right))[:1]:
        raise SpecError(f"only one of the arms has the cell {cell}; restrict both by where=")

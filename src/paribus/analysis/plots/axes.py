"""What lines go along: a condition that is a number, else a number that training was given; and
which variants make one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from paribus.analysis.plots.canvas import COLOURS, DASHES, OTHERS
from paribus.analysis.plots.material import FEW, SINGLE, Look, Material, is_number
from paribus.analysis.settings import baseline
from paribus.analysis.tables import deciding, judged
from paribus.study.measures import Node

LEVELS = 3  # of a factor of training, fewer make no curve
WITHIN = 6  # lines of a panel that share it with their dashed ones


class Axis(NamedTuple):
    """A numeric factor.  ``trained``: each of its levels was trained, so that a line goes through
    several variants; else each variant was evaluated at every level."""

    name: str
    trained: bool
    values: Mapping[str, float]  # level -> number


class Lines(NamedTuple):
    """``series``: variant -> the line that it is a point of; ``looks``: line -> how it is drawn;
    ``places``: variant -> where on the axis it is ({} where the condition says that);
    ``reference``: lines of the baseline arm."""

    series: Mapping[str, str]
    looks: Mapping[str, Look]
    places: Mapping[str, float]
    reference: frozenset[str]


def conditioned(study: Node) -> str | None:
    """The condition factor that makes an axis: numeric, the one with most levels."""
    numeric = [f for f in study["factors"] if f["kind"] == "condition" and _numeric(f, 2)]
    best = max(numeric, key=lambda f: len(f["levels"]), default=None)
    return None if best is None else str(best["name"])


def trained(m: Material) -> str | None:
    """The factor of training that makes an axis where no condition does: numeric, three levels or
    more, a number for every variant that is shown, and more than one for most of them, all else
    alike; of several the one with most levels."""
    shown = [v["levels"] for v in m.study["variants"] if v["name"] in m.chosen]
    able = [
        f
        for f in m.factors
        if _numeric(f, LEVELS)
        and all(levels.get(f["name"]) is not None for levels in shown)
        and 2 * _crossed(shown, f["name"]) > len(shown)
    ]
    best = max(able, key=lambda f: len(f["levels"]), default=None)
    return None if best is None else str(best["name"])


def _crossed(shown: Sequence[Mapping[str, Any]], name: str) -> int:
    """Variants beside which stands another one that differs in this factor alone."""
    rest = [tuple((k, v) for k, v in own.items() if k != name) for own in shown]
    return sum(rest.count(own) > 1 for own in rest)


def axis_of(m: Material) -> Axis | None:
    """What the main figure's lines go along; None: it has a row a variant."""
    name = conditioned(m.study)
    found = name or trained(m)
    if found is None:
        return None
    return Axis(found, name is None, {v["tag"]: float(v["value"]) for v in m.levels(found)})


def learning(m: Material) -> Axis | None:
    """A second axis, of training: for conditions that judge and lack the axis that others have."""
    first, name = conditioned(m.study), trained(m)
    t = m.table()
    if first is None or name is None or all(t.conditions[k]["levels"].get(first)
                                            for k in judged(t.conditions)):  # fmt: skip
        return None
    return Axis(name, True, {v["tag"]: float(v["value"]) for v in m.levels(name)})


def _numeric(factor: Node, least: int) -> bool:
    levels = factor["levels"]
    return len(levels) >= least and all(is_number(v["value"]) for v in levels)


def geometric(xs: Sequence[float]) -> bool:
    """Whether the levels are spread by ratios rather than by steps."""
    xs = sorted(set(xs))
    if len(xs) < 3 or xs[0] <= 0:
        return False
    ratios = [b / a for a, b in pairwise(xs)]
    steps = [b - a for a, b in pairwise(xs)]
    return max(ratios) / min(ratios) < max(steps) / min(steps)


def lines(m: Material, axis: Axis, metric: str | None = None) -> Lines:
    """The lines along an axis."""
    first = frozenset(baseline(m.study))
    if not axis.trained:
        return Lines({n: n for n in m.chosen}, m.looks, {}, first)
    levels = {v["name"]: v["levels"] for v in m.study["variants"] if v["name"] in m.chosen}
    rest = [f["name"] for f in m.factors if f["name"] != axis.name]
    forced = apart(m, metric, rest)
    places = {n: axis.values[tags[axis.name]] for n, tags in levels.items()}
    series = {n: ", ".join(str(tags[f]) for f in rest if tags.get(f) is not None)
              for n, tags in levels.items()}  # fmt: skip
    arms = {series[n]: tags for n, tags in levels.items()}
    looks = dressed(m, arms, rest, forced, WITHIN)
    return Lines(series, looks, places, frozenset(series[n] for n in first if n in series))


def apart(m: Material, metric: str | None, factors: Sequence[str]) -> list[str]:
    """The factors that decide what the trivial baselines are worth: levels of them are other tasks,
    and have panels of their own."""
    t = m.table(metric)
    shown = judged(t.conditions)
    names = dict.fromkeys(n for of in t.trivial.values() for n in of)
    out: dict[str, None] = {}
    for name in names:
        values = {v: [of[name][k] for k in shown] for v, of in t.trivial.items() if name in of}
        out |= dict.fromkeys(f for f in deciding(m.study, values) or () if f in factors)
    return list(out)


def dressed(
    m: Material,
    arms: Mapping[str, Mapping[str, Any]],
    factors: Sequence[str],
    forced: Sequence[str] = (),
    most: int = SINGLE,
) -> dict[str, Look]:
    """How each arm is drawn.  ``forced`` factors make panels; of the others each combination has a
    colour while there are at most so many, else the colour is one factor and the rest make panels
    too: the baseline arm's first, then the first that leaves few."""
    rest = [f for f in factors if f not in forced and len({a.get(f) for a in arms.values()}) > 1]
    kinds = dict.fromkeys(tuple(a.get(f) for f in rest) for a in arms.values())
    if len(kinds) > most:
        own = list(m.study.get("baseline") or {})
        able = [f for f in [*own, *rest] if f in rest and len({a.get(f) for a in arms.values()})
                <= len(COLOURS)]  # fmt: skip

        def panels(by: str) -> int:
            return len({tuple(a.get(f) for f in factors if f != by) for a in arms.values()})

        by = next((f for f in able if panels(f) <= FEW), min(able, key=panels, default=None))
        if by is not None:
            forced, rest = [f for f in factors if f != by], [by]
            kinds = dict.fromkeys((a.get(by),) for a in arms.values())
    order = list(kinds)
    out = {}
    for name, a in arms.items():
        kind = tuple(a.get(f) for f in rest)
        i = order.index(kind)
        panel = ", ".join(f"{f}={a[f]}" for f in forced if a.get(f) is not None)
        said = [str(x) for x in kind if x is not None]
        label = f"{rest[0]}={said[0]}" if panel and len(rest) == 1 and said else ", ".join(said)
        label = label or (OTHERS if len(kinds) > 1 else "")
        dash = DASHES[i // len(COLOURS) % len(DASHES)]
        out[name] = Look(label, COLOURS[i % len(COLOURS)], dash, panel)
    return out

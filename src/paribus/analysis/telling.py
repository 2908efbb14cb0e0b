"""What each arm learned, as sentences in two languages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from paribus.analysis.learned import ALPHA, LEVEL, Against, Learned, Row
from paribus.analysis.plots.material import Material, is_number
from paribus.analysis.words import number, p_value, say

EACH = 8  # arms that have a sentence each; of more, arms of which the same is said share one
NAMED = 6  # arms that such a sentence names
LISTED = 240  # comparisons that the page lists one by one
LANGUAGES = ("en", "zh")


class Step(NamedTuple):
    """Neighbouring levels at which an arm stands alike; ``last`` names the last of them alone."""

    where: str
    last: str
    rows: tuple[Row, ...]


class Said(NamedTuple):
    """``arms``: what is said is said of each of them."""

    arms: tuple[str, ...]
    steps: tuple[tuple[Step, ...], ...]  # of each arm


class Sentence(NamedTuple):
    """``steps``: along the axis how the arms stand; ``parts``: of slices, or ""."""

    arms: str
    steps: tuple[str, ...]
    parts: str
    lang: str

    def __str__(self) -> str:
        stop = say("stop", self.lang)
        text = say("list_then", self.lang).join(self.steps) + stop
        return (text + (self.parts + stop if self.parts else "")).rstrip()


def sentences(found: Learned, m: Material, lang: str = "en") -> list[Sentence]:
    """What is said of each arm, in the order of the study."""
    said = _said(found, m)
    every = sum(len(s.arms) for s in said)
    return [
        Sentence(
            _arms(s.arms, every, lang),
            tuple(_stepped(found, s, lang)),
            _parts(found, s, lang) if len(s.arms) == 1 else "",
            lang,
        )
        for s in said
    ]


def lines(found: Learned, m: Material, lang: str = "en") -> str:
    """A line an arm, for the terminal."""
    head = say("learned_short" if found.tests else "learned_short_one", lang, metric=found.metric)
    colon = say("colon", lang)
    return "\n".join([head, *(f"  {s.arms}{colon}{s}" for s in sentences(found, m, lang))])


def note(found: Learned, lang: str = "en") -> str:
    """How the sentences are to be read."""
    x = f"{found.tolerance:g}" if found.share else f"{100 * found.tolerance:g}"
    near = say("learned_tolerance_share" if found.share else "learned_tolerance", lang, x=x)
    key = "learned_note" if found.tests else "learned_one"
    bits = [say(key, lang, metric=found.metric, tests=found.tests, tolerance=near,
                alpha=f"{ALPHA:.0%}", level=f"{LEVEL:.0%}")]  # fmt: skip
    if found.tests and any(a.above is None for r in found.rows for a in r.against):
        bits.append(say("learned_fewer", lang))
    if any(r.parts for r in found.rows):
        bits.append(say("learned_slices", lang))
    return ("" if lang == "zh" else " ").join(bits)


def compared(found: Learned) -> dict[str, Any] | None:
    """Every comparison for the page, {"names", "several", "rows"}: a row a variant and condition, a
    cell a baseline; None where they are too many to be read."""
    total = sum(len(r.against) for r in found.rows)
    if total > LISTED:
        return None
    names = list(dict.fromkeys(a.baseline for r in found.rows for a in r.against))
    rows = []
    for r in found.rows:
        of = {a.baseline: a for a in r.against}
        cells = [(a := of.get(name)) and {
            "stands": a.stands, "said": {g: say(f"is_{a.stands}", g) for g in LANGUAGES},
            "effect": _signed(found, a.effect), "range": _interval(found, a),
            "p": "" if a.above is None else f"p = {p_value(a.above)}".replace("= <", "<"),
        } for name in names]  # fmt: skip
        n, all_ = r.against[0].n, r.against[0].of
        rows.append({"variant": r.variant, "condition": r.label, "mean": _value(found, r.mean),
                     "cells": cells, "n": str(n) if n == all_ else f"{n}/{all_}"})  # fmt: skip
    several = len({r.label for r in found.rows}) > 1
    return {"names": names, "several": several, "rows": rows, "n": total}


def _interval(found: Learned, a: Against) -> str:
    if a.low is None or a.high is None:
        return ""
    return f"[{_signed(found, a.low)}, {_signed(found, a.high)}]"


# ── arms and steps ──────────────────────────────────────────────────────────────────────────


def _said(found: Learned, m: Material) -> list[Said]:
    """Arms with their steps; of many arms those of which the same is said together."""
    of: dict[str, dict[str, list[tuple[str, Row]]]] = {}
    names = _names(found, m)
    for r in found.rows:
        place, level = _place(found, m, r)
        of.setdefault(names[r.variant], {}).setdefault(place, []).append((level, r))
    arms = {
        arm: tuple(step for place, rows in places.items() for step in _steps(found, place, rows))
        for arm, places in of.items()
    }
    if len(arms) <= EACH:
        return [Said((arm,), (steps,)) for arm, steps in arms.items()]
    alike: dict[Any, list[str]] = {}
    for arm, steps in arms.items():
        key = tuple((s.where, tuple((a.baseline, a.stands) for a in s.rows[0].against))
                    for s in steps)  # fmt: skip
        alike.setdefault(key, []).append(arm)
    return [Said(tuple(who), tuple(arms[arm] for arm in who)) for who in alike.values()]


def _names(found: Learned, m: Material) -> dict[str, str]:
    """Variant -> its arm: without the level of an axis of training; numbers with their factor."""
    axis = found.axis
    if axis is None or not axis.trained:
        return {v: v for v in m.chosen}
    numeric = {f["name"] for f in m.factors if all(is_number(v["value"]) for v in f["levels"])}
    out = {}
    for v in m.study["variants"]:
        tags = {f["name"]: v["levels"].get(f["name"]) for f in m.factors if f["name"] != axis.name}
        said = [f"{f}={x}" if f in numeric else str(x) for f, x in tags.items() if x is not None]
        out[v["name"]] = ", ".join(said) or str(m.study["name"])
    return out


def _place(found: Learned, m: Material, r: Row) -> tuple[str, str]:
    """(the condition without the axis, the level on the axis or "")."""
    axis, levels = found.axis, r.condition["levels"]
    several = len({x.condition["evaluation"] for x in found.rows}) > 1
    own = [str(r.condition["evaluation"])] if several else []
    name = axis.name if axis else ""
    own += [f"{f}={x}" for f, x in levels.items() if x is not None and f != name]
    tags = levels
    if axis and axis.trained:
        tags = next(v["levels"] for v in m.study["variants"] if v["name"] == r.variant)
    return ", ".join(own), str(tags[name]) if axis and tags.get(name) is not None else ""


def _steps(found: Learned, place: str, rows: Sequence[tuple[str, Row]]) -> Iterator[Step]:
    name = found.axis.name if found.axis else ""
    runs: list[list[tuple[str, Row]]] = []
    for level, r in rows:
        key = [(a.baseline, a.stands) for a in r.against]
        if runs and key == [(a.baseline, a.stands) for a in runs[-1][-1][1].against]:
            runs[-1].append((level, r))
        else:
            runs.append([(level, r)])
    for run in runs:
        tags = [level for level, _ in run if level]
        where, last = _places(name, tags)
        yield Step(_joint(place, where), _joint(place, last), tuple(r for _, r in run))


def _places(name: str, tags: Sequence[str]) -> tuple[str, str]:
    return (f"{name}={_range(tags)}", f"{name}={tags[-1]}") if tags else ("", "")


def _joint(place: str, more: str) -> str:
    return ", ".join(x for x in (place, more) if x)


def _range(tags: Sequence[str]) -> str:
    return ", ".join(tags) if len(tags) < 3 else f"{tags[0]} … {tags[-1]}"


def _arms(arms: Sequence[str], every: int, lang: str) -> str:
    if len(arms) == every > 1:
        return say("all_arms", lang, n=every)
    comma = "; " if any(", " in a for a in arms) else ", "
    if len(arms) <= NAMED:
        return comma.join(arms)
    names = comma.join(arms[: NAMED - 1])
    return say("more_arms", lang, names=names, n=len(arms) - NAMED + 1)


# ── words ───────────────────────────────────────────────────────────────────────────────────


def _stepped(found: Learned, s: Said, lang: str) -> Iterator[str]:
    for steps in zip(*s.steps, strict=True):  # the same step of each arm
        rows = [r for step in steps for r in step.rows]
        said = []
        for k in range(len(rows[0].against)):
            every = [r.against[k] for r in rows]
            amount = _amount(found, every, lang)
            said.append(say("amount", lang, said=_stands(found, every[0], lang), amount=amount))
        where = f"{steps[0].where}{say('colon', lang)}" if steps[0].where else ""
        yield where + say("list_and", lang).join(said)


def _stands(found: Learned, a: Against, lang: str) -> str:
    stands = a.stands
    if not found.tests:  # said once for all of them
        stands = {"over": "above", "under": "below"}.get(stands, stands)
    key = "stands_at" if stands == "at" else f"stands_{stands}_{found.better}"
    return say(key, lang, baseline=a.baseline)


def _amount(found: Learned, every: Sequence[Against], lang: str = "en") -> str:
    """ "+0.21 [+0.19, +0.23]" of one; "+0.02 … +0.21" of several."""
    effects = [a.effect for a in every]
    if len(every) == 1:
        (a,) = every
        text = f"{_signed(found, a.effect)} {_interval(found, a)}".rstrip()
    else:
        ends = (min(effects), max(effects))
        low, high = (_signed(found, x) for x in ends)
        text = low if low == high else f"{low} … {high}"
    if every[0].stands == "open":
        k, n = sum(a.better for a in every), sum(a.n for a in every)
        text += say("list_then", lang) + say("seeds_better", lang, k=k, n=n)
    return text


def _signed(found: Learned, x: float) -> str:
    return f"+{_value(found, x)}" if x > 0 else _value(found, x)


def _value(found: Learned, x: float) -> str:
    if not found.share:
        return number(x)
    text = f"{x:.3f}" if abs(x) >= 5e-4 or x == 0 else f"{x:.1g}"
    if abs(x) < 1 <= abs(round(x, 3)):
        text = f"{x:.4f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _parts(found: Learned, s: Said, lang: str) -> str:
    """On which slices the arm is above each baseline, and where it is weakest: at the last of its
    steps that has slices, of an axis the last level."""
    with_parts = [(step, r) for step in s.steps[0] for r in step.rows if r.parts]
    if not with_parts:
        return ""
    step, r = with_parts[-1]
    where = step.last
    bits = []
    for b in dict.fromkeys(b for p in r.parts for b in p.against):
        ways: dict[int, list[str]] = {}
        for p in r.parts:
            if b in p.against:
                ways.setdefault(p.against[b][1], []).append(p.name)
        up, down = ("above", "below") if found.sliced_better == "higher" else ("better", "worse")
        nowhere = "parts_nowhere" if up == "above" else "parts_nowhere_better"
        told = [say(f"parts_{up}", lang, names=_joined(ways[1])) if 1 in ways else
                say(nowhere, lang)]  # fmt: skip
        if -1 in ways:
            told.append(say(f"parts_{down}", lang, names=_joined(ways[-1])))
        said = say("parts_and", lang).join(told)
        bits.append(say("parts_against", lang, baseline=b, said=said))
    worst = (min if found.sliced_better == "higher" else max)(r.parts, key=lambda p: p.mean)
    value = _value(found, worst.mean)
    value = value if found.sliced == found.metric else f"{found.sliced} {value}"
    bits.append(say("weakest", lang, name=worst.name, value=value))
    there = say("parts_at", lang, where=where) if where else ""
    return say("parts", lang, where=there, said=say("list_then", lang).join(bits))


def _joined(names: Sequence[str]) -> str:
    """ "hops=0, 1, 2; present=both"."""
    of: dict[str, list[str]] = {}
    for name in names:
        by, _, level = name.partition("=")
        of.setdefault(by, []).append(level)
    return " & ".join(f"{by}={', '.join(levels)}" for by, levels in of.items())

"""Rules of the audit over arms: what differs between them beside the factor that is asked about."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from paribus.study.arms import (
    BUDGET,
    Grid,
    at_once,
    beside,
    claims,
    compared,
    kind,
    moves,
    together,
)
from paribus.study.finding import Finding, joined
from paribus.study.measures import Node

SAME = 0.01  # share by which numbers of two arms may differ and still be called equal


def findings(study: Node) -> Iterator[Finding]:
    grid = Grid(study)
    asked = {name: compared(claim, grid.factors) for name, claim in claims(study).items()}
    for f in grid.factors:
        moved = grid.moved(f)
        found = list(_moved(grid, f, moved, asked))
        yield from found
        yield from _follows(grid, f, moved, [x.about for x in found if x.level == "refuse"])
        yield from _compound(f, moved, asked)
        yield from _evaluation(grid, f, asked)
        yield from _one_rate(grid, f, moved, asked)
        if f.get("when") and not f.get("tuned"):
            yield from _only_there(grid, f)
        if f.get("tuned"):
            yield from _grid_of(grid, f)
        if f.get("control"):
            yield Finding("note", "control", f"{f['name']} is a control", {"factor": f["name"]})
    aliased = list(_aliased(grid, asked))
    yield from aliased
    yield from _at_once(study, [{x.facts.get("factor"), x.facts.get("other")} for x in aliased])
    yield from _seeds(grid)


def _who(asked: dict[str, set[str]], *factors: str) -> tuple[str, ...]:
    return tuple(name for name, of in asked.items() if of & {*factors})


def _moved(
    grid: Grid, f: Node, moved: dict[str, Any], asked: dict[str, set[str]]
) -> Iterator[Finding]:
    """A factor that moves another setting beside its own."""
    name = f["name"]
    for path in beside(f, moved):
        about = f"{name} moves {path}"
        rule = kind(path) if kind(path) in BUDGET else "aliased"
        others = [p for p in moved if p != path]
        facts = {"factor": name, "path": path, "values": moved[path], "beside": others}
        yield Finding("refuse", rule, about, facts, _who(asked, name))
        for claim in _who(asked, name):
            yield _claim(claim, name, path, about)


def _claim(claim: str, factor: str, other: str, root: str) -> Finding:
    """A claim that compares levels of a factor that is not alone in what it changes."""
    facts = {"claim": claim, "factor": factor, "other": other, "root": root}
    about = f"{claim}: {factor} is aliased with {other}"
    return Finding("warn", "claim_aliased", about, facts, (claim,))


def _compound(f: Node, moved: dict[str, Any], asked: dict[str, set[str]]) -> Iterator[Finding]:
    """Levels that change several parts at once, as one treatment."""
    if f.get("tuned") or beside(f, moved) or not (parts := together(moved)):
        return
    about = f"{f['name']} changes {joined(parts)} together"
    facts = {"factor": f["name"], "joined": parts}
    yield Finding("note", "compound", about, facts, _who(asked, f["name"]))


def _at_once(study: Node, known: list[set[Any]]) -> Iterator[Finding]:
    """Claims whose arms differ in several factors, unless the factors never vary apart at all."""
    for name, claim in claims(study).items():
        for both in at_once(study, claim):
            if {*both} not in known:
                about = f"{name} compares {joined(both)} at once"
                facts = {"claim": name, "joined": both}
                yield Finding("warn", "two_factors", about, facts, (name,))


COUNTS = ("tokens", "steps", "rows")


def _follows(grid: Grid, f: Node, moved: dict[str, Any], refused: list[str]) -> Iterator[Finding]:
    """Budgets that differ between a factor's levels: as it says, by a rule, or for no reason."""
    name, budget = f["name"], (grid.study.get("budget") or {}).get("unit")
    if not grid.groups(name):
        return  # aliased with another factor, which is a finding of its own
    for what in COUNTS:
        if what in {p.rpartition(":")[2] for p in moved} or not (values := _numbers(grid, f, what)):
            continue
        facts = {"factor": name, "number": what, "values": values, "budget": budget}
        about = f"{name} changes {what}"
        if causes := [r for r in refused if kind(r.rpartition(" ")[2]) in BUDGET]:
            yield Finding("warn", what, about, {**facts, "root": causes[0]})
        elif budget or any(kind(p) in BUDGET for p in moved):
            yield Finding("note", what, about, facts)
        else:
            yield Finding("refuse", what, about, facts)
    costs = {w: v for w in ("parameters", "flops") if (v := _numbers(grid, f, w))}
    if costs:
        facts = {"factor": name, "costs": costs, "budget": budget}
        yield Finding("note", "cost", f"{name} changes {' and '.join(costs)}", facts)


def _numbers(grid: Grid, f: Node, what: str) -> dict[str, list[Any]] | None:
    """A number by level, where levels differ by more than SAME."""

    def read(variant: Node) -> Any:
        info = grid.infos.get(variant["name"]) or {}
        known = what not in ("tokens", "flops") or countable(info)
        return info.get(what) or None if known else None  # 0: an external model counts itself

    values = grid.differing(f["name"], read)
    flat = [x for of in (values or {}).values() for x in of if isinstance(x, int | float)]
    return values if flat and max(flat) - min(flat) > SAME * max(map(abs, flat)) else None


def countable(info: Node) -> bool:
    """Whether the tokens of a variant are known before it runs: a task without a fixed length
    counts rows instead."""
    counted = info.get("tokens")
    return counted is not None and counted != (info.get("steps") or 0) * (info.get("rows") or 0)


def _evaluation(grid: Grid, f: Node, asked: dict[str, set[str]]) -> Iterator[Finding]:
    """Levels that one condition judges on different data or lengths, and that are compared."""
    evaluated = grid.study.get("evaluated") or {}
    if not evaluated or (asked and not _who(asked, f["name"])):
        return
    index = {v["name"]: i for i, v in enumerate(grid.variants)}
    for what in ("data", "length"):
        keys, shown = [], None
        for c in grid.study["conditions"]:
            if c.get("split") not in (None, "test"):
                continue

            def read(variant: Node, key: str = c["key"], what: str = what) -> Any:
                cell = grid.cells.get(index[variant["name"]], {}).get(key)
                return (evaluated.get(cell) or {}).get(what)

            if values := grid.differing(f["name"], read):
                keys.append(c["key"])
                shown = shown or values
        if keys:
            facts = {"factor": f["name"], "what": what, "conditions": keys, "values": shown}
            about = f"{f['name']} changes the evaluation {what}"
            yield Finding("warn", f"evaluation_{what}", about, facts, _who(asked, f["name"]))


def _one_rate(
    grid: Grid, f: Node, moved: dict[str, Any], asked: dict[str, set[str]]
) -> Iterator[Finding]:
    """Sizes or optimizers that are compared at one learning rate."""

    def rates(variant: Node) -> list[Any]:
        phases = (grid.infos.get(variant["name"]) or {}).get("spec") or ()
        return [(p["spec"].get("optim") or {}).get("lr") for p in phases]

    kinds = {kind(p) for p in moved}
    tuned = any(g.get("tuned") for g in grid.factors)
    who = _who(asked, f["name"])
    apart = any("lr" in p for p in moved) or grid.differing(f["name"], rates)
    if kinds & {"size", "optim"} and who and not tuned and not apart:
        facts = {"factor": f["name"], "what": "size" if "size" in kinds else "optim"}
        about = f"{f['name']} is compared at one learning rate"
        yield Finding("note", "one_rate", about, facts, who)


def _only_there(grid: Grid, f: Node) -> Iterator[Finding]:
    """A factor that exists only under an arm and gives it a budget that no other arm has."""
    lacking = [v for v in grid.variants if v["levels"].get(f["name"]) is None]
    having = [v for v in grid.variants if v["levels"].get(f["name"]) is not None]
    (arm, *_) = f["when"]
    for path in moves(f):
        if kind(path) not in BUDGET or not lacking or not having or not grid.known():
            continue
        mine, theirs = ([grid.setting(v, path) for v in vs] for vs in (having, lacking))
        if not {json.dumps(x) for x in mine} & {json.dumps(x) for x in theirs}:
            values = {
                " or ".join(f["when"][arm]): _distinct(mine),
                "others": _distinct(theirs),
            }
            facts = {"factor": arm, "path": path, "values": values, "beside": [f["name"]]}
            yield Finding("refuse", kind(path), f"{arm} moves {path}", facts)


def _distinct(values: list[Any]) -> list[Any]:
    return list({json.dumps(x): x for x in values}.values())


def _grid_of(grid: Grid, f: Node) -> Iterator[Finding]:
    """A tuned factor has the same levels in every arm."""
    tuned = {g["name"] for g in grid.factors if g.get("tuned")}
    arms: dict[tuple[Any, ...], set[str]] = {}
    for v in grid.variants:
        arm = tuple((n, t) for n, t in v["levels"].items() if n not in tuned)
        tag = v["levels"].get(f["name"])
        arms.setdefault(arm, set()).update([] if tag is None else [tag])
    if len({frozenset(tags) for tags in arms.values()}) < 2:
        return
    order = grid.levels(f["name"])
    values = {
        ", ".join(f"{n}={t}" for n, t in arm if t is not None): [t for t in order if t in tags]
        for arm, tags in arms.items()
    }
    shown = {min(values, key=lambda a: len(values[a])), max(values, key=lambda a: len(values[a]))}
    facts = {"factor": f["name"], "values": {a: values[a] for a in values if a in shown}}
    yield Finding("refuse", "grid", f"{f['name']} has no equal grid", facts)


def _aliased(grid: Grid, asked: dict[str, set[str]]) -> Iterator[Finding]:
    """Factors that never vary apart over the variants that exist."""
    free = [f["name"] for f in grid.factors if not f.get("when") and not f.get("tuned")]
    free = [f for f in free if len(grid.levels(f)) > 1]
    split = {f: parts for f in free if len(parts := _components(grid, f)) > 1}
    done: set[str] = set()
    for f, g in combinations(free, 2):
        if f in split and g in split and (_apart(grid, f, g) or _apart(grid, g, f)):
            done |= {f, g}
            pairs = {(v["levels"][f], v["levels"][g]) for v in grid.variants}
            facts = {"factor": f, "other": g, "pairs": sorted(map(list, pairs))}
            about = f"{f} is aliased with {g}"
            yield Finding("refuse", "aliased_factors", about, facts, _who(asked, f, g))
            for claim in _who(asked, f, g):
                name, other = (f, g) if f in asked[claim] else (g, f)
                yield _claim(claim, name, other, about)
    for f, parts in split.items():
        if f not in done:
            facts = {"factor": f, "groups": parts}
            about = f"{f} is nowhere compared all else equal"
            yield Finding("refuse", "apart", about, facts, _who(asked, f))


def _components(grid: Grid, factor: str) -> list[list[str]]:
    """The levels of a factor, those together that some variants compare all else equal."""
    parts = [{tag} for tag in grid.levels(factor)]
    for group in grid.groups(factor):
        joined = set().union(*(p for p in parts if p & group.keys()))
        parts = [p for p in parts if not p & group.keys()] + [joined]
    order = grid.levels(factor)
    return [[t for t in order if t in p] for p in parts]


def _apart(grid: Grid, f: str, g: str) -> bool:
    """Whether each level of ``f`` has levels of ``g`` of its own."""
    seen: dict[Any, set[Any]] = {}
    for v in grid.variants:
        seen.setdefault(v["levels"].get(f), set()).add(v["levels"].get(g))
    every = list(seen.values())
    return all(a.isdisjoint(b) for i, a in enumerate(every) for b in every[:i])


def _seeds(grid: Grid) -> Iterator[Finding]:
    """Arms with seeds of their own: nothing is paired."""
    by: dict[int, set[int]] = {}
    for t in grid.study["trials"]:
        by.setdefault(t["variant"], set()).add(t["seed"])
    if len({frozenset(s) for s in by.values()}) > 1:
        values = {grid.variants[i]["name"]: sorted(s) for i, s in by.items()}
        yield Finding("refuse", "seeds", "arms have seeds of their own", {"values": values})

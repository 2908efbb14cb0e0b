"""Arms beside each other: the audit before anything runs, and `paribus diff`.  Torch-free."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from paribus.analysis import findings, settings
from paribus.analysis.realised import COLUMNS, rates
from paribus.asked import to_read
from paribus.cli import OK, emit
from paribus.errors import SpecError, nearest
from paribus.study.arms import beside, moves
from paribus.study.audit import declared, refusals
from paribus.study.finding import Finding
from paribus.study.measures import Node
from paribus.study.plan import Plan

# ── the audit ───────────────────────────────────────────────────────────────────────────────


def audited(plan: Plan) -> list[Finding]:
    """What the audit finds in a study as it stands in its file."""
    return declared(plan.record)


def refuse_unfair(plan: Plan) -> None:
    """Refuse a study whose arms differ in more than it says: a line for each refusal, with what
    would allow it."""
    if refused := refusals(audited(plan)):
        raise SpecError("\nparibus: ".join(findings.line(f) for f in refused))


def told(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings as plain data, with their sentences."""
    return [{**f.data(), "text": findings.line(f)} for f in found]


# ── diff ────────────────────────────────────────────────────────────────────────────────────

BUDGETS = ("tokens", "steps", "rows", "flops", "parameters")


@dataclass(frozen=True)
class Side:
    """What one of the two words of `diff` names: variants by number, perhaps one trial of them,
    and the factors whose levels were given."""

    text: str
    variants: list[int]
    trial: Node | None = None
    fixed: frozenset[str] = frozenset()


def do_diff(o: Namespace) -> int:
    _, plan = to_read(o)
    found = difference(plan, o.a, o.b)
    if o.json:
        emit(found)
    else:
        print("\n".join(_lines(found)))
    return OK


def difference(plan: Plan, a: str, b: str) -> dict[str, Any]:
    """What two arms differ in, as plain data.

    Args:
        a, b: a variant's name, a trial's name, or levels: ``position=rope,heads=8``.
    """
    study = plan.record
    sides = _side(study, a), _side(study, b)
    pair, pairs = _pair(study, *sides)
    names = [study["variants"][i]["name"] for i in pair]
    infos = [study["variants_info"][name] for name in names]
    unlike = [f for f in study["factors"] if f["kind"] == "variant" and _unlike(study, f, pair)]
    return {
        "a": sides[0].trial["name"] if sides[0].trial else names[0],
        "b": sides[1].trial["name"] if sides[1].trial else names[1],
        "pairs": pairs,
        "seeds": [side.trial["seed"] if side.trial else None for side in sides],
        "factors": {f["name"]: [study["variants"][i]["levels"][f["name"]] for i in pair]
                    for f in unlike},
        "settings": [
            {"path": c.path, "a": c.before, "b": c.after, **_why(c.path, unlike)}
            for c in settings.changes(infos[0]["spec"], infos[1]["spec"])
        ],
        "budgets": {n: [info[n] for info in infos] for n in BUDGETS},
        "realised": _realised(plan, pair, sides),
        "findings": told([x for x in declared(study)
                          if x.facts.get("factor") in {f["name"] for f in unlike}]),
    }  # fmt: skip


def _side(study: Node, text: str) -> Side:
    variants, trials = study["variants"], study["trials"]
    for i, v in enumerate(variants):
        if v["name"] == text:
            return Side(text, [i], None, frozenset(v["levels"]))
    for t in trials:
        if text in (t["name"], t["id"]):
            return Side(text, [t["variant"]], t, frozenset(variants[t["variant"]]["levels"]))
    factors = {f["name"]: f for f in study["factors"] if f["kind"] == "variant"}
    if "=" not in text:
        known = [v["name"] for v in variants] + [t["name"] for t in trials]
        known += [f"{f}={v['tag']}" for f in factors for v in factors[f]["levels"]]
        raise SpecError(f"diff: no variant, trial or level {text!r}; {nearest(text, known)}")
    levels: dict[str, str] = {}
    for part in text.split(","):
        name, _, tag = (p.strip() for p in part.partition("="))
        if name not in factors:
            raise SpecError(f"diff {text!r}: no factor {name!r}; {nearest(name, factors)}")
        if name in levels:
            raise SpecError(f"diff {text!r}: {name} stands twice")
        tags = [v["tag"] for v in factors[name]["levels"]]
        if tag not in tags:
            raise SpecError(f"diff {text!r}: {name} has no level {tag!r}; {nearest(tag, tags)}")
        levels[name] = tag
    found = [i for i, v in enumerate(variants) if levels.items() <= v["levels"].items()]
    if not found:
        raise SpecError(f"diff {text!r}: no variant has these levels together")
    return Side(text, found, None, frozenset(levels))


def _pair(study: Node, a: Side, b: Side) -> tuple[tuple[int, int], int]:
    """The first pair of variants that agree in all that neither word names, and how many do."""
    named = a.fixed | b.fixed
    of = [v["levels"] for v in study["variants"]]
    found = [
        (i, j)
        for i, j in product(a.variants, b.variants)
        if all(of[i][f] == of[j][f] for f in of[i] if f not in named)
        and (i != j or (a.trial is not None and b.trial is not None))
    ]
    if found:
        return found[0], len(found)
    if a.variants == b.variants:
        raise SpecError(f"diff: {a.text!r} and {b.text!r} are the same variant")
    free = sorted({f for levels in of for f in levels} - named)
    raise SpecError(
        f"diff: no variant of {a.text!r} agrees with one of {b.text!r} in "
        f"{', '.join(free) or 'anything'}; give levels of {' and '.join(free)} in both"
    )


def _unlike(study: Node, factor: Node, pair: tuple[int, int]) -> bool:
    a, b = (study["variants"][i]["levels"].get(factor["name"]) for i in pair)
    return bool(a != b)


def _why(path: str, unlike: Sequence[Node]) -> dict[str, str]:
    """Whether a factor declares a setting, moves it beside its own, or it follows by a rule."""
    inner = path.rpartition(":")[2]
    for f in unlike:
        aside = beside(f, dict.fromkeys(moves(f)))
        for moved in moves(f):
            place = moved.rpartition(":")[2]
            if f"{inner}.".startswith(f"{place}.") or f"{place}.".startswith(f"{inner}."):
                return {"why": "also" if moved in aside else "factor", "factor": f["name"]}
    return {"why": "follows", "factor": ""}


def _realised(plan: Plan, pair: tuple[int, int], sides: tuple[Side, Side]) -> Node | None:
    """What differs in how the trials of both ran; None where one has no results."""
    from paribus import api

    if not any(i.done for i in plan.items):
        return None
    loaded = api.Loaded.of(plan)
    rows = [r for r in loaded.results() if r["value"] is not None]
    seen: list[dict[str, list[Any]]] = []
    for number, side in zip(pair, sides, strict=True):
        name = plan.record["variants"][number]["name"]
        mine = [r for r in rows if r["variant"] == name]
        if side.trial is not None:
            mine = [r for r in mine if r["trial"] == side.trial["name"]]
        columns = {c: _distinct(mine, c) for c in (*COLUMNS, "step", "tokens")}
        trials = dict.fromkeys(r["trial"] for r in mine)
        spans = {rates(loaded.ends.get(t) or {}) for t in trials} - {None}
        columns["lr"] = [f"{low:g} … {high:g}" for low, high in sorted(filter(None, spans))]
        seen.append({"trials": list(trials), **columns})
    a, b = seen
    if not a["trials"] or not b["trials"]:
        return None
    return {c: [a[c], b[c]] for c in a if c != "trials" and a[c] != b[c]}


def _distinct(rows: Sequence[Mapping[str, Any]], column: str) -> list[Any]:
    return sorted({r[column] for r in rows if r.get(column) is not None}, key=str)


# ── as text ─────────────────────────────────────────────────────────────────────────────────

MARKS = {"factor": "factor {}", "also": "moved by {} beside its own", "follows": "follows"}


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"a  {found['a']}"
    yield f"b  {found['b']}"
    if found["pairs"] > 1:
        yield f"   the first of {found['pairs']} pairs that agree in every other factor"
    one, other = found["seeds"]
    if one != other and None not in found["seeds"]:
        yield f"seed, a → b  {one} → {other}"
    yield "settings, a → b"
    rows = [
        (s["path"], f"{settings.show(s['a'])} → {settings.show(s['b'])}",
         MARKS[s["why"]].format(s["factor"]))
        for s in found["settings"]
    ]  # fmt: skip
    yield from _aligned(rows) if rows else ["  none"]
    yield "budgets"
    yield from _aligned([(n, _count(a), _count(b), _ratio(a, b))
                         for n, (a, b) in found["budgets"].items()])  # fmt: skip
    if found["realised"] is not None:
        yield "realised, where they differ"
        ran = [(c, *(", ".join(map(str, x)) or "–" for x in pair))
               for c, pair in found["realised"].items()]  # fmt: skip
        yield from _aligned(ran) if ran else ["  in nothing that is recorded"]
    for f in found["findings"]:
        if f["level"] != "note" or f["accepted"]:
            yield f["text"]


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        yield f"  {'  '.join(cells)}".rstrip()


def _count(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else str(value)


def _ratio(a: Any, b: Any) -> str:
    return "equal" if a == b else f"× {b / a:.3g}" if a and b else ""

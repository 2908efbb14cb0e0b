"""The variants of a study's record beside each other: which settings a factor moves, which factors
a claim compares."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from paribus.study.measures import Node, leaves, primitive

SIZES = ("width", "layers", "heads", "kv_heads", "head_dim", "vocab", "in_dim", "classes")
STRUCTURE = ("model", "init", "freeze")  # kinds of settings that an arm is about
BUDGET = ("steps", "rows", "schedule", "optim", "precision", "data", "task", "start")

Groups = list[dict[str, list[Node]]]


def kind(path: str) -> str:
    """What sort of setting a path is: one of STRUCTURE or BUDGET, or "size" of the model."""
    head, _, rest = path.rpartition(":")[2].partition(".")
    if head == "model":
        inner, _, field = rest.partition(".")
        return "size" if inner in SIZES or (inner == "mlp" and field) else "model"
    if head == "task":
        if rest.startswith(("corpus", "tokenizer")):
            return "data"
        return "rows" if rest.endswith("_per_step") else "task"
    return {"clip": "optim"}.get(head, head)


def moves(factor: Node) -> list[str]:
    """Every path that a level of a factor patches, its own one first."""
    named = [p for v in factor["levels"] if isinstance(v["value"], Mapping) for p in v["value"]]
    own = [factor["path"]] if factor["path"] else named
    return list(dict.fromkeys([*own, *(factor.get("moves") or ())]))


class Grid:
    """The variants of a study and what tells them apart."""

    def __init__(self, study: Node) -> None:
        self.study = study
        self.factors: list[Node] = [f for f in study["factors"] if f["kind"] == "variant"]
        self.variants: list[Node] = study["variants"]
        self.infos: Mapping[str, Node] = study.get("variants_info") or {}
        self.cells: dict[int, Node] = {}
        for t in study["trials"]:
            self.cells.setdefault(t["variant"], t.get("cells") or {})
        self._groups: dict[str, Groups] = {}

    def levels(self, factor: str) -> list[str]:
        """The levels that some variant has, in order of declaration."""
        there = {v["levels"].get(factor) for v in self.variants}
        (found,) = (f for f in self.factors if f["name"] == factor)
        return [v["tag"] for v in found["levels"] if v["tag"] in there]

    def rest(self, variant: Node, *without: str) -> tuple[Any, ...]:
        """The levels of the other factors; one that exists only under an arm tells nothing of
        those that it does not exist in."""
        others = (f for f in self.factors if not f.get("when") and f["name"] not in without)
        return tuple(variant["levels"].get(f["name"]) for f in others)

    def groups(self, factor: str) -> Groups:
        """Variants that agree in the other factors, by their level of this one: of each group
        {level: variants}, with two levels at least."""
        if factor not in self._groups:
            out: dict[tuple[Any, ...], dict[str, list[Node]]] = {}
            for v in self.variants:
                if (tag := v["levels"].get(factor)) is not None:
                    out.setdefault(self.rest(v, factor), {}).setdefault(tag, []).append(v)
            self._groups[factor] = [g for g in out.values() if len(g) > 1]
        return self._groups[factor]

    def by_level(self, factor: str) -> dict[str, list[Node]]:
        out: dict[str, list[Node]] = {}
        for v in self.variants:
            if (tag := v["levels"].get(factor)) is not None:
                out.setdefault(tag, []).append(v)
        return out

    def setting(self, variant: Node, path: str) -> Any:
        """The resolved value at a path; None where there is none."""
        phase, _, inner = path.rpartition(":")
        value: Any = None
        for p in self.infos.get(variant["name"], {}).get("spec") or ():
            if p["name"] == (phase or "train"):
                value = p["spec"]
        for step in inner.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        return value

    def known(self) -> bool:
        """Whether the record holds the resolved specs."""
        return all((self.infos.get(v["name"]) or {}).get("spec") for v in self.variants)

    def differing(self, factor: str, read: Any) -> dict[str, list[Any]] | None:
        """Level -> values of ``read(variant)``, of the first group in which two levels have none
        in common; None where there is no such group.  Where the factor is never alone in what it
        changes, all variants are one group."""
        for group in self.groups(factor) or [self.by_level(factor)]:
            texts = {
                tag: {json.dumps(read(v), sort_keys=True, default=str) for v in variants}
                for tag, variants in group.items()
            }
            every = list(texts.values())
            if any(a.isdisjoint(b) for i, a in enumerate(every) for b in every[:i]):
                order = [t for t in self.levels(factor) if t in texts]
                return {tag: sorted(map(json.loads, texts[tag]), key=repr) for tag in order}
        return None

    def moved(self, factor: Node) -> dict[str, dict[str, list[Any]]]:
        """Path -> values by level, of the settings that a factor really moves."""
        if not self.known():
            return {path: {} for path in moves(factor)}
        found = ((p, self.differing(factor["name"], _at(self, p))) for p in moves(factor))
        return {path: values for path, values in found if values}


def _at(grid: Grid, path: str) -> Any:
    return lambda variant: grid.setting(variant, path)


def beside(factor: Node, moved: Mapping[str, Any]) -> list[str]:
    """Of the settings that a factor moves, those beside its own.

    A factor with a path is about that path.  One whose levels are mappings is about the structure
    of the model where they name it, else about its size, else about the first setting; several
    settings of that kind are one treatment.
    """
    paths = list(moved)
    if factor["path"]:
        own = factor["path"]
        return [p for p in paths if p != own and not p.startswith(own + ".")]
    kinds = {kind(p) for p in paths}
    if kinds & {*STRUCTURE}:
        return [p for p in paths if kind(p) not in STRUCTURE]
    if "size" in kinds:
        return [p for p in paths if kind(p) != "size"]
    if kinds <= {"data", "task"}:
        return []
    return [p for p in paths if kind(p) != kind(paths[0])]


def together(moved: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The parts of a spec that no levels of a factor tell apart: those in which a level differs
    from every other one, where it always differs in two or more at once.

    Sizes are one part, and so are fields of one sort, such as q_norm and k_norm.

    Args:
        moved: path -> values by level, as `Grid.moved` gives them.
    """
    tags = list(dict.fromkeys(tag for values in moved.values() for tag in values))
    out: list[str] = []
    for tag in tags:
        unlike = [
            list(dict.fromkeys(_part(p) for p, v in moved.items() if v.get(tag) != v.get(other)))
            for other in tags
            if other != tag
        ]
        if unlike and all(len({_sort(part) for part in parts}) > 1 for parts in unlike):
            out += sorted(unlike, key=len)[0]
    return list(dict.fromkeys(out))


def _part(path: str) -> str:
    """The part of a spec that a path is in: model.position of model.position.base."""
    head, *rest = path.rpartition(":")[2].split(".")
    return ".".join([head, *rest[:1]]) if head == "model" else head


def _sort(part: str) -> str:
    if kind(part) in ("model", "size"):
        return "size" if kind(part) == "size" else part.rpartition("_")[2].rpartition(".")[2]
    return "task" if kind(part) == "data" else kind(part)


# ── claims ──────────────────────────────────────────────────────────────────────────────────


def claims(study: Node) -> dict[str, Node]:
    """Hypotheses and criteria as they stand now, by name."""
    amended = study.get("amendments") or ()
    current = amended[-1]["registration"] if amended else study.get("registration") or {}
    return {**(current.get("hypotheses") or {}), **(current.get("criteria") or {})}


def compared(claim: Node, factors: Sequence[Node] = ()) -> set[str]:
    """The factors whose levels a claim holds against each other.  An arm that has no level of a
    factor is like one whose level changes nothing."""
    plain = {
        f["name"]: {v["tag"] for v in f["levels"] if v["value"] == {}}
        for f in factors
        if not f["path"]
    }

    def at(levels: Node, f: str) -> set[str]:
        found = {*levels.get(f, ())}
        return set() if found <= plain.get(f, set()) else found

    out: set[str] = set()
    for part in primitive(claim):
        arm, than = part.get("arm") or {}, part.get("than")
        if than:
            out |= {f for f in {*arm, *than} if at(arm, f) != at(than, f)}
        elif part["claim"] == "best":
            out |= {*arm}
        out |= _along(part.get("on"))
    return out


def at_once(study: Node, claim: Node) -> list[list[str]]:
    """The factors whose levels a claim changes together, two or more: named in both of its arms
    with no level in common.  A tuned factor is chosen for each arm, and one that exists only under
    an arm belongs to it."""
    own = [f["name"] for f in study["factors"] if not f.get("when") and not f.get("tuned")]
    out = []
    for part in primitive(claim):
        arm, than = part.get("arm") or {}, part.get("than") or {}
        both = [f for f in own if f in arm and f in than and not {*arm[f]} & {*than[f]}]
        if len(both) > 1:
            out.append(both)
    return out


def _along(node: Any) -> set[str]:
    """Factors along which a measure changes: axes of curves, extremes, and differences."""
    if not isinstance(node, Mapping):
        return set()
    inner = [node.get("of"), *node.get("args", ())]
    out = set().union(*(_along(n) for n in inner))
    if node.get("op") in ("slope", "area", "span", "max", "min"):
        out |= {*node["over"]}
    fixed = [dict(_fixed(n)) for n in node.get("args", ())]
    for a in fixed:
        out |= {f for b in fixed for f in a.keys() & b.keys() if a[f] != b[f]}
    return out


def _fixed(node: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    if isinstance(node, Mapping):
        for f, tags in (node.get("arm") or {}).items():
            yield f, tuple(tags)
        for inner in (node.get("of"), *node.get("args", ())):
            yield from _fixed(inner)


def measured(claim: Node) -> list[Node]:
    """Every metric that a claim reads."""
    return [m for part in primitive(claim) if "on" in part for m in leaves(part["on"])]

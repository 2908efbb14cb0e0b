"""What the resolved specs of two variants differ in, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from paribus.parts import same
from paribus.study.measures import Node

SHOWN = 4  # arguments of a part; more say less


class Difference(NamedTuple):
    """Variants that differ from their reference in the same settings."""

    variants: list[str]
    reference: str
    settings: list[str]


def baseline(study: Node) -> list[str]:
    """The variants of the study's baseline arm, in order; none where it names no arm."""
    factors = {f["name"] for f in study["factors"] if f["kind"] == "variant"}
    arm = {f: tags for f, tags in (study.get("baseline") or {}).items() if f in factors}
    if not arm:
        return []
    return [
        v["name"]
        for v in study["variants"]
        if all(v["levels"].get(f) in tags for f, tags in arm.items())
    ]


def references(study: Node) -> dict[str, str]:
    """Variant -> the one it is held against: of the baseline arm the one that shares its other
    levels, so that no difference is listed that another factor makes; else the first of all."""
    arm = study.get("baseline") or {}
    of = {v["name"]: v["levels"] for v in study["variants"]}
    base = baseline(study)
    first = (base or list(of))[0]

    def rest(name: str) -> dict[str, Any]:
        return {f: t for f, t in of[name].items() if f not in arm}

    return {
        name: next((b for b in base if name not in base and rest(b) == rest(name)), first)
        for name in of
        if name != first
    }


def differences(study: Node) -> list[Difference]:
    """Settings in which variants differ from their references; variants with the same ones are
    one entry."""
    infos = study.get("variants_info", {})
    out: dict[tuple[str, ...], Difference] = {}
    for name, reference in references(study).items():
        a, b = ((infos.get(n) or {}).get("spec") for n in (reference, name))
        if a and b:
            found = [str(change) for change in changes(a, b)]
            out.setdefault(tuple(found), Difference([], reference, found)).variants.append(name)
    return list(out.values())


class Change(NamedTuple):
    """One setting in which two specs differ; ``path`` as a factor writes it."""

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.path}: {show(self.before)} → {show(self.after)}"


def changes(a: Sequence[Node], b: Sequence[Node]) -> Iterator[Change]:
    """Every setting in which the resolved phases of two variants differ."""
    one, two = ({p["name"]: p for p in phases} for phases in (a, b))
    for phase in dict.fromkeys([*one, *two]):
        lead = f"{phase}:" if len({*one, *two}) > 1 else ""
        if phase not in one or phase not in two:
            words = ("not there", "there") if phase in two else ("there", "not there")
            yield Change(phase, *words)
            continue
        yield from _walk(one[phase]["spec"], two[phase]["spec"], lead)
        if one[phase].get("optim") != two[phase].get("optim"):
            states = [str(phases[phase].get("optim")) for phases in (one, two)]
            yield Change(f"{lead} state of optim".strip(), *states)


def _walk(a: Any, b: Any, path: str) -> Iterator[Change]:
    if same(a, b):
        return
    structs = isinstance(a, Mapping) and isinstance(b, Mapping)
    if structs and a.get("part") == b.get("part"):
        for key in dict.fromkeys([*a, *b]):
            dot = "." if path and not path.endswith(":") else ""
            yield from _walk(a.get(key), b.get(key), f"{path}{dot}{key}")
        return
    yield Change(path, a, b)


def show(value: Any, inner: bool = False) -> str:
    """A setting on one line; a part as ``rope(base=10000)``, one inside another by name alone."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(show(v, True) for v in value) + "]"
    if not isinstance(value, Mapping):
        return str(value)
    name = str(value.get("part", ""))
    fields = [(k, v) for k, v in value.items() if k != "part" and v is not None]
    if not fields or (inner and name):
        return name or "{}"
    said = [f"{k}={show(v, True)}" for k, v in fields[:SHOWN]] + ["…"] * (len(fields) > SHOWN)
    return f"{name}({', '.join(said)})"

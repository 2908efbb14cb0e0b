"""Factors, their levels, and arms (``factor[level] & …``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from paribus.errors import SpecError, nearest
from paribus.parts import Part, Strict, describe, dump, same


@dataclass(frozen=True)
class Level:
    """One level: how it prints, its value, and the patch that it makes (path -> value)."""

    tag: str
    value: Any
    patch: Mapping[str, Any]


@dataclass(frozen=True)
class Arm:
    """A choice of levels: factor name -> tags.  Joined by ``&``."""

    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __and__(self, other: Arm) -> Arm:
        both = self.levels.keys() & other.levels.keys()
        if both:
            raise SpecError(f"arm: {', '.join(sorted(both))} chosen twice; write factor[a, b]")
        return Arm({**self.levels, **other.levels})

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.levels.items())))

    def holds(self, tags: Mapping[str, str | None]) -> bool:
        """Whether a cell with these tags belongs to the arm."""
        return all(tags.get(f) in chosen for f, chosen in self.levels.items())

    def data(self) -> dict[str, list[str]]:
        return {f: list(tags) for f, tags in self.levels.items()}

    def __str__(self) -> str:
        return " & ".join(f"{f}={'|'.join(t)}" for f, t in self.levels.items()) or "every arm"


@dataclass(frozen=True)
class Axis:
    """A factor as a numeric axis, with a transform ("log2", "log" or none)."""

    factor: Factor
    transform: str | None = None


class Factor:
    """Something that is varied.

    Args:
        name: how it prints.
        levels: values, or a mapping of tag -> value; without ``path``, tag -> {path: value}.
        path: dotted path of the base spec that a level's value replaces (``phase:path`` for a
            later phase; of the task or model for a factor of evaluation).
        also: derived values, ``value -> {path: value}``.
        tag: how a level prints in names, ``value -> str``.
        when: the factor exists only under this arm.
        tuned: a nuisance setting, chosen per arm by this metric on a selection split.
        control: changes the trial's identity and must not change results.
    """

    def __init__(
        self,
        name: str,
        levels: Mapping[str, Any] | Iterable[Any],
        path: str | None = None,
        *,
        also: Callable[[Any], Mapping[str, Any]] | None = None,
        tag: Callable[[Any], str] | None = None,
        when: Arm | None = None,
        tuned: str | None = None,
        control: bool = False,
    ) -> None:
        self.name, self.path, self.when, self.tuned, self.control = name, path, when, tuned, control
        if not isinstance(when, Arm | None):
            raise SpecError(f"factor {name!r}: when={when!r} is no arm; write factor[level]")
        if name in RESERVED:
            raise SpecError(
                f"factor {name!r}: the name is reserved, for it is a column of results; call it "
                f"{name}_, or after what it varies"
            )
        if not name.replace("_", "").isalnum():
            raise SpecError(f"factor {name!r}: a name is letters, digits and _")
        tagged = isinstance(levels, Mapping)
        pairs = list(levels.items()) if isinstance(levels, Mapping) else [(None, v) for v in levels]
        if not pairs:
            raise SpecError(f"factor {name!r}: no levels")
        self.levels: list[Level] = []
        for given, value in pairs:
            label = str(given) if tagged else (tag or _tag)(value)
            self.levels.append(Level(label, value, self._patch(label, value, also)))
        tags = [level.tag for level in self.levels]
        twice = sorted({t for t in tags if tags.count(t) > 1})
        if twice:
            raise SpecError(f"factor {name!r}: level {twice[0]!r} stands twice")

    def _patch(self, label: str, value: Any, also: Any) -> dict[str, Any]:
        if self.path is not None:
            patch = {self.path: value}
        elif isinstance(value, Mapping):
            patch = dict(value)
        else:
            raise SpecError(
                f"factor {self.name!r}, level {label!r}: without a path a level is a mapping of "
                f"paths to values, not {value!r}"
            )
        return {**patch, **(also(value) if also else {})}

    def __getitem__(self, chosen: Any) -> Arm:
        """The arm of one level (by tag, else by equal value) or of several: ``factor[a, b]``."""
        if isinstance(chosen, tuple) and self._find(chosen) is None:
            return Arm({self.name: tuple(self.level(c).tag for c in chosen)})
        return Arm({self.name: (self.level(chosen).tag,)})

    def __iter__(self) -> Any:  # a factor is not a sequence: factor[0] means the level 0
        raise TypeError(f"factor {self.name!r} is not a sequence; use .levels")

    def _find(self, chosen: Any) -> Level | None:
        if isinstance(chosen, str):
            for level in self.levels:
                if level.tag == chosen:
                    return level
        for level in self.levels:
            if same(dump(level.value), dump(chosen)):
                return level
        return None

    def level(self, chosen: Any) -> Level:
        found = self._find(chosen)
        if found is None:
            tags = [level.tag for level in self.levels]
            raise SpecError(
                f"factor {self.name!r} has no level {chosen!r}; {nearest(chosen, tags)}"
            )
        return found

    @property
    def log2(self) -> Axis:
        return Axis(self, "log2")

    @property
    def log(self) -> Axis:
        return Axis(self, "log")

    def data(self, kind: str) -> dict[str, Any]:
        """Plain data for the study's record; ``kind`` is "variant" or "condition"."""
        return {
            "name": self.name,
            "kind": kind,
            "path": self.path,
            "levels": [{"tag": v.tag, "value": _printable(v.value)} for v in self.levels],
            "moves": list(dict.fromkeys(path for v in self.levels for path in v.patch)),
            "tuned": self.tuned,
            "control": self.control,
            "when": self.when.data() if self.when else None,
        }


RESERVED = frozenset(
    "seed run trial id study variant metric value unit n step tokens flops seconds status spec "
    "evaluation slice engine kernel device dtype threads stack attempt".split()
)


def _tag(value: Any) -> str:
    if isinstance(value, Part):
        return value.name
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    if isinstance(value, (tuple, list)):
        return "-".join(_tag(v) for v in value)
    if isinstance(value, (Strict, Mapping)):
        raise SpecError(f"level {describe(value)} needs a tag: write levels as {{tag: value}}")
    return str(value)


def _printable(value: Any) -> Any:
    return dump(value)

"""Which settings of a spec are read: a setting that nothing reads has no effect, and is refused.

Reads through attributes count; dumps, copies and checks go around them (``parts.raw``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paribus.parts import Strict, hints, raw


class _Watched:
    """Stands in for a field's descriptor and notes what reads it."""

    def __init__(self, inner: Any, name: str, seen: set[tuple[int, str]]) -> None:
        self.inner, self.name, self.seen = inner, name, seen

    def __get__(self, owner: Any, cls: type | None = None) -> Any:
        if owner is None:
            return self
        self.seen.add((id(owner), self.name))
        return self.inner.__get__(owner, cls)

    def __set__(self, owner: Any, value: Any) -> None:
        self.inner.__set__(owner, value)


def structs(value: Any, path: str = "") -> dict[str, Any]:
    """Every strict struct inside a spec by its dotted path, the spec itself at ""."""
    out: dict[str, Any] = {}
    if isinstance(value, Strict):
        out[path] = value
        for f, field in raw(value).items():
            out |= structs(field, f"{path}.{f}" if path else f)
    elif isinstance(value, Mapping):
        for k, v in value.items():
            out |= structs(v, f"{path}.{k}")
    return out


class Reads:
    """Collects the fields that are read inside ``with Reads(specs) as seen:``."""

    def __init__(self, *roots: Any) -> None:
        self.structs = [structs(r) for r in roots]
        self.seen: set[tuple[int, str]] = set()
        self._classes = {type(v) for found in self.structs for v in found.values()}

    def __enter__(self) -> Reads:
        self._before: list[tuple[type, str, Any]] = []
        for cls in self._classes:
            for name in hints(cls):
                owner = next(c for c in cls.__mro__ if name in vars(c))
                inner = vars(owner)[name]
                if isinstance(inner, _Watched):
                    continue
                setattr(owner, name, _Watched(inner, name, self.seen))
                self._before.append((owner, name, inner))
        return self

    def __exit__(self, *_: Any) -> None:
        for owner, name, inner in reversed(self._before):
            setattr(owner, name, inner)

    def unread(self, path: str) -> bool:
        """Whether the setting at a dotted path was read in none of the specs that have it."""
        head, _, field = path.rpartition(".")
        holders = [found[head] for found in self.structs if head in found]
        return bool(holders) and not any((id(h), field) in self.seen for h in holders)

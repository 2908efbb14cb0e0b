"""Strict structs, the kinds of parts, and the scan: a file in a parts folder is a part.

A part is one frozen schema plus functions, in one file.  Its name is its file's name; shipped
parts live in the package, a user's own live in ``parts/<kind>/`` beside the study.  Scanning and
building parts loads no torch.
"""

from __future__ import annotations

import copy
import difflib
import functools
import hashlib
import importlib
import importlib.machinery
import importlib.util
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from paribus.errors import SpecError, nearest

# ── strict structs ──────────────────────────────────────────────────────────────────────────


class Strict(msgspec.Struct, frozen=True, kw_only=True):
    """A frozen struct that checks the type of every field, however it is built.

    msgspec's own constructor checks nothing; this one converts an int for a float field, refuses
    NaN and infinities, and reports the field, the offending value and what was expected.
    """

    tag: ClassVar[str | None] = None  # tells a struct from another where either may stand

    def __post_init__(self) -> None:
        values = raw(self)
        for name, hint in hints(type(self)).items():
            value = values[name]
            checked = check(value, hint, f"{label(type(self))}.{name}")
            if checked is not value:
                msgspec.structs.force_setattr(self, name, checked)
        self.validate()

    def validate(self) -> None:
        """Checks across fields; raises SpecError."""


_HINTS: dict[type, dict[str, Any]] = {}


def hints(cls: type) -> dict[str, Any]:
    """Field name -> resolved type annotation, in order of declaration."""
    if cls not in _HINTS:
        every = typing.get_type_hints(cls, include_extras=True)
        _HINTS[cls] = {f: every[f] for f in cls.__struct_fields__}  # type: ignore[attr-defined]
    return _HINTS[cls]


def raw(value: Strict) -> dict[str, Any]:
    """Field -> value, without going through attributes: walking over a spec reads no setting."""
    return msgspec.structs.asdict(value)


_DEFAULTS: dict[type, dict[str, Any]] = {}


def defaults(cls: type) -> dict[str, Any]:
    """Field name -> default as plain data, for the fields that have one."""
    if cls not in _DEFAULTS:
        out = {}
        for f in msgspec.structs.fields(cls):
            if f.default is not msgspec.NODEFAULT:
                out[f.name] = dump(f.default)
            elif f.default_factory is not msgspec.NODEFAULT:
                out[f.name] = dump(f.default_factory())
        _DEFAULTS[cls] = out
    return _DEFAULTS[cls]


def label(cls: type) -> str:
    """How errors name a struct: the part's name, else the class's, in lower case."""
    return getattr(cls, "__part__", None) or cls.__name__.lower()


def check(value: Any, hint: Any, where: str) -> Any:
    """``value`` as ``hint`` wants it, or a SpecError that says where it stood."""
    if isinstance(value, dict) and "part" in value:
        for cls in _structs(hint):
            if issubclass(cls, Part):
                return build(cls.kind, value, where)
    if isinstance(value, Strict):
        accepted = _structs(hint)
        if any(isinstance(value, cls) for cls in accepted):
            return value
        raise SpecError(f"{where}: {describe(value)} does not fit; expected {_say(hint)}")
    if _structs(hint) and value is not None and not _plain(hint):
        inner = [c for c in _structs(hint) if not issubclass(c, Part)]
        if isinstance(value, Mapping) and inner:
            tags = {getattr(c, "tag", None): c for c in inner}
            fields = {k: v for k, v in value.items() if k != "is"}
            return construct(tags.get(value.get("is"), inner[0]), fields, where)
        raise SpecError(f"{where}: {value!r} does not fit; expected {_say(hint)}")
    origin = typing.get_origin(hint)
    if origin in (dict, Mapping, typing.Mapping) and isinstance(value, Mapping):
        value_hint = typing.get_args(hint)[1]
        return {k: check(v, value_hint, f"{where}.{k}") for k, v in value.items()}
    if origin is tuple and isinstance(value, (list, tuple)):
        value = tuple(value)
    _finite(value, where)
    try:
        return msgspec.convert(value, hint, strict=True)
    except (msgspec.ValidationError, TypeError) as error:
        reason = str(error).split(" - at")[0]
        if choices := _choices(hint) if reason.startswith("Invalid enum value") else []:
            given = value if isinstance(value, tuple) else (value,)
            wrong = next((x for x in given if x not in choices), value)
            close = difflib.get_close_matches(str(wrong), map(str, choices), n=1, cutoff=0.5)
            meant = f" did you mean {close[0]!r}?" if close else ""
            said = ", ".join(map(repr, choices))
            raise SpecError(f"{where}: {wrong!r} is none of {said};{meant}".rstrip(";")) from None
        raise SpecError(f"{where}: {value!r} does not fit: {reason}") from None


def _finite(value: Any, where: str) -> None:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        raise SpecError(f"{where}: {value!r} is not a finite number")
    if isinstance(value, (list, tuple)):
        for v in value:
            _finite(v, where)


def _choices(hint: Any) -> list[Any]:
    """The values that a Literal lists, wherever in the hint it stands."""
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    return [x for inner in typing.get_args(hint) for x in _choices(inner)]


def _union(hint: Any) -> tuple[Any, ...]:
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _union(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return tuple(a for h in typing.get_args(hint) for a in _union(h))
    return (hint,)


@functools.cache
def _structs(hint: Any) -> list[type]:
    return [h for h in _union(hint) if isinstance(h, type) and issubclass(h, Strict)]


def _plain(hint: Any) -> list[Any]:
    """Members of a union that are neither structs nor None."""
    return [h for h in _union(hint) if h is not type(None) and h not in _structs(hint)]


def _say(hint: Any) -> str:
    names = []
    for h in _union(hint):
        if isinstance(h, type) and issubclass(h, Part):
            names.append(f"a part of {h.kind}/ ({', '.join(available(h.kind)) or 'none'})")
        elif h is type(None):
            names.append("None")
        else:
            names.append(label(h) if isinstance(h, type) else str(h))
    return " or ".join(names)


def describe(value: Any) -> str:
    """A short name of a value for messages: ``positions.rope`` or its repr."""
    if isinstance(value, Part):
        return f"{value.kind}.{label(type(value))}"
    return repr(value)


def construct(cls: type, fields: Mapping[str, Any], where: str | None = None) -> Any:
    """Build a strict struct from keyword fields; an unknown key names the nearest valid one."""
    where = where or label(cls)
    known = hints(cls)
    for key in fields:
        if key not in known:
            raise SpecError(f"{where}: unknown key {key!r}; {nearest(key, known)}")
    missing = [k for k in known if k not in fields and k not in defaults(cls)]
    if missing:
        raise SpecError(f"{where}: {', '.join(missing)} must be given")
    try:
        return cls(**{k: check(v, known[k], f"{where}.{k}") for k, v in fields.items()})
    except SpecError:
        raise
    except (TypeError, ValueError) as error:
        raise SpecError(f"{where}: {error}") from None


def replace(value: Any, field: str, new: Any, where: str) -> Any:
    """A copy of a strict struct with one field changed."""
    known = hints(type(value))
    if field not in known:
        raise SpecError(f"{where}: {describe(value)} has no {field!r}; {nearest(field, known)}")
    fields = {field: check(new, known[field], where)}
    try:
        return changed(value, fields)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None


def changed(value: Any, fields: Mapping[str, Any]) -> Any:
    """A copy of a strict struct with some fields changed.  Those, and what `validate` looks at
    across fields, are checked; the others have been, and are frozen."""
    out = copy.copy(value)
    known = hints(type(value))
    for name, new in fields.items():
        new = check(new, known[name], f"{label(type(value))}.{name}")
        msgspec.structs.force_setattr(out, name, new)
    out.validate()
    return out


# ── dump ────────────────────────────────────────────────────────────────────────────────────


def dump(value: Any, *, full: bool = False) -> Any:
    """Plain data of a spec: parts are tagged by name, fields at their default are left out
    (so that a new field orphans no result); ``full=True`` keeps them."""
    if isinstance(value, Strict):
        default = defaults(type(value))
        out: dict[str, Any] = {}
        if isinstance(value, Part):
            out["part"] = label(type(value))
        elif type(value).tag is not None:
            out["is"] = type(value).tag
        for name, field in raw(value).items():
            mine = dump(field, full=full)
            if not full and name in default and same(mine, default[name]):
                continue
            out[name] = mine
        return out
    if isinstance(value, Mapping):
        return {str(k): dump(v, full=full) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [dump(v, full=full) for v in value]
    return value


def same(a: Any, b: Any) -> bool:
    """Equality of dumped data by type and value; 10000 equals 10000.0, True never equals 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


# ── parts ───────────────────────────────────────────────────────────────────────────────────


class Part(Strict, frozen=True, kw_only=True):
    """The base of every part: a frozen schema plus functions."""

    kind: ClassVar[str] = ""
    revision: ClassVar[int] = 1  # bumped when the part's numerics change
    stackable: ClassVar[frozenset[str]] = frozenset()  # fields that may differ inside one stack
    __part__: ClassVar[str | None] = None
    __source__: ClassVar[str | None] = None  # a local part's file; None for shipped parts

    @property
    def name(self) -> str:
        return label(type(self))

    @classmethod
    def identity(cls) -> str:
        """What enters a trial's id: the revision of a shipped part, a local part's source hash."""
        if cls.__source__ is None:
            return str(cls.revision)
        return "source:" + hashlib.sha256(Path(cls.__source__).read_bytes()).hexdigest()[:32]


FOLDERS = {
    "positions": "nn.positions",
    "scalings": "nn.scalings",
    "masks": "nn.masks",
    "memories": "nn.memories",
    "mixers": "nn.mixers",
    "norms": "nn.norms",
    "mlps": "nn.mlps",
    "scales": "nn.scales",
    "init": "nn.init",
    "tasks": "tasks",
    "optim": "optim",
    "schedules": "optim.schedules",
    "corpora": "text.corpora",
    "tokenizers": "text.tokenizers",
    "probes": "probes",
}
ROOT = Path(__file__).parent
_LOADED: dict[tuple[str, str | None], type[Part]] = {}
# Plain globals, not context variables: libraries open corpora from threads of their own.
_local: Path | None = None


_base: Path | None = None


def use_local(folder: Path | None, base: Path | None = None) -> None:
    """Look for a user's own parts in ``folder/parts/<kind>/`` from now on, and for external models
    in ``base``, the study's own folder (None: it is ``folder``)."""
    global _base, _local
    _base = base or folder
    if folder is not None and not (folder / "parts").is_dir():
        folder = None
    for found in sorted((folder / "parts").iterdir()) if folder else ():
        if found.is_dir() and found.name not in FOLDERS and not found.name.startswith(("_", ".")):
            raise SpecError(f"{found}: no kind of part; {nearest(found.name, FOLDERS)}")
    for kind in FOLDERS if folder else ():
        mine = _files(folder / "parts" / kind)  # type: ignore[operator]
        for name in mine.keys() & _files(_shipped(kind)).keys():
            raise SpecError(f"{mine[name]}: {kind}.{name} is shipped with paribus; rename the file")
    _local = folder


def local_folder() -> Path | None:
    """The folder whose ``parts/`` is in use, if any."""
    return _local


def local_folder_or_base() -> Path | None:
    """The study's own folder, whether or not it has parts of its own."""
    return _base


def _shipped(kind: str) -> Path:
    return ROOT.joinpath(*FOLDERS[kind].split("."))


def _files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {p.stem: p for p in sorted(folder.glob("*.py")) if not p.stem.startswith("_")}


def available(kind: str) -> dict[str, Path]:
    """Part name -> file, shipped ones first, then those beside the study."""
    out = _files(_shipped(kind))
    if _local is not None:
        out.update(_files(_local / "parts" / kind))
    return out


def get(kind: str, name: str, where: str | None = None) -> type[Part]:
    """The class of part ``kind.name``; an unknown name is an error with the nearest one."""
    if (loaded := _LOADED.get((f"{kind}.{name}", None))) is not None:
        return loaded  # shipped: no part of a user's own may have its name
    files = available(kind)
    if name not in files:
        place = f"{where}: " if where else ""
        raise SpecError(f"{place}no {kind}.{name}; {nearest(name, files)}")
    path = files[name]
    shipped = path.parent == _shipped(kind)
    key = (f"{kind}.{name}", None if shipped else _fingerprint(path))
    if key not in _LOADED:
        _LOADED[key] = _load(kind, name, path, shipped)
    return _LOADED[key]


def _fingerprint(path: Path) -> str:
    return f"{path.resolve()}:{hashlib.sha256(path.read_bytes()).hexdigest()}"


class AsItIs(importlib.machinery.SourceFileLoader):
    """Runs what a user's file holds now, and keeps no bytecode beside it: Python takes bytecode
    for that of its source by second and size alone, so it can run the file of before an edit."""

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _load(kind: str, name: str, path: Path, shipped: bool) -> type[Part]:
    if shipped:
        module = importlib.import_module(f"paribus.{FOLDERS[kind]}.{name}")
    else:
        digest = hashlib.sha256(_fingerprint(path).encode()).hexdigest()[:12]
        full = f"paribus_local_{digest}.{name}"
        spec = importlib.util.spec_from_file_location(full, path, loader=AsItIs(full, str(path)))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        try:
            spec.loader.exec_module(module)
        except SpecError:
            raise
        except Exception as error:
            raise SpecError(f"{path}: {type(error).__name__}: {error}") from error
    found = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, Part) and c.__module__ == module.__name__
    ]
    found = [c for c in found if c.kind == kind]
    if len(found) != 1:
        raise SpecError(f"{path}: a part file defines one {kind} part; found {len(found)}")
    cls = found[0]
    taken = {"name", "kind", "revision", "stackable", "identity"} & set(cls.__struct_fields__)
    if taken:
        raise SpecError(f"{path}: a part may not have a field named {sorted(taken)[0]!r}")
    if not cls.__struct_config__.frozen:
        raise SpecError(f"{path}: {cls.__name__} must be frozen=True, kw_only=True")
    cls.__part__ = name
    cls.__source__ = None if shipped else str(path)
    return cls


def scan(kind: str) -> Iterator[type[Part]]:
    """Every part of a kind, in order of name."""
    for name in available(kind):
        yield get(kind, name)


def scan_all() -> list[type[Part]]:
    """Every part of every kind; loads no torch."""
    return [cls for kind in FOLDERS for cls in scan(kind)]


def local_files() -> list[tuple[str, str, Path]]:
    """(kind, name, file) of a user's own parts, those beside the study; loads none of them."""
    folder = _local
    if folder is None:
        return []
    return [
        (kind, name, path)
        for kind in FOLDERS
        for name, path in _files(folder / "parts" / kind).items()
    ]


def build(kind: str, data: Mapping[str, Any], where: str) -> Any:
    """A part from its dump: ``{"part": name, **fields}``."""
    cls = get(kind, str(data["part"]), where)
    return construct(cls, {k: v for k, v in data.items() if k != "part"}, where)


class Namespace:
    """``positions.rope(base=1e6)``: the parts of a kind by name, built strictly."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        cls = get(self._kind, name)

        def factory(**fields: Any) -> Any:
            return construct(cls, fields, f"{self._kind}.{name}")

        factory.__name__ = name
        factory.__doc__ = cls.__doc__
        return factory

    def __dir__(self) -> list[str]:
        return list(available(self._kind))

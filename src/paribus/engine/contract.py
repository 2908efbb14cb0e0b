"""The tests that a part gets by being there, shipped or beside a study: what its kind promises.

Here are the frame and the tests of every kind; ``contract_nn`` and ``contract_places`` have those
of what plugs into the model, ``contract_train`` those of optimizers and schedules,
``contract_data`` those of tasks and text.  All run on the CPU with one thread, where a stack and a
trial alone are bit-equal.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import json
import random
import sys
import tempfile
import traceback
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paribus import parts, rng
from paribus.errors import ParibusError, SpecError
from paribus.parts import Part, construct, defaults, dump, hints, raw, replace
from paribus.text.data import Data


@dataclass(frozen=True)
class Result:
    """What one test found; ``skipped`` has the reason of one that could not run."""

    name: str
    failed: bool
    text: str
    skipped: str | None = None


class Broken(Exception):
    """A promise that is not kept, and what to do."""


class Skip(Exception):
    """A test that cannot run here, and why."""


class Bench:
    """What tests work on: text, ids and a cache in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def data(self) -> Data:
        return Data(self.folder / "cache")

    @cached_property
    def text(self) -> Part:
        """A corpus of 60 short documents, drawn from a keyed stream."""
        words = [f"w{i}" for i in range(40)]
        place = self.folder / "text"
        place.mkdir()
        for i in range(60):
            drawn = rng.Stream(0, "contract", "text", i).integers(120, len(words))
            (place / f"{i:02}.txt").write_text(" ".join(words[j] for j in drawn) + ".\n")
        return parts.get("corpora", "files")(path=str(place), fractions=(0.6, 0.2, 0.2))

    @cached_property
    def ids(self) -> Part:
        """A corpus of uint16 ids below 4."""
        place = self.folder / "ids.bin"
        rng.Stream(0, "contract", "ids").integers(4000, 4).astype("<u2").tofile(place)
        return parts.get("corpora", "files")(path=str(place), fractions=(0.6, 0.2, 0.2))

    @cached_property
    def labelled(self) -> str:
        """Files of short texts of three classes, as a path with ``{split}`` in it."""
        for split, n in {"train": 60, "test": 30}.items():
            lines = []
            for i in range(n):
                drawn = rng.Stream(0, "contract", "labelled", split, i).integers(2 + i % 9, 30)
                words = " ".join(f"w{j}" for j in [i % 3, *drawn])
                lines.append(json.dumps({"text": words, "label": f"c{i % 3}"}) + "\n")
            (self.folder / f"labelled-{split}.jsonl").write_text("".join(lines))
        return str(self.folder / "labelled-{split}.jsonl")

    @cached_property
    def vocabulary(self) -> str:
        """The path of a tokenizer.json."""
        bpe = parts.get("tokenizers", "bpe")(vocab=300)
        bpe.open(self.text, self.folder / "cache")  # type: ignore[attr-defined]
        return str(next((self.folder / "cache" / "tokenizers").glob("*/tokenizer.json")))


Test = Callable[[Any, Bench], str | None]  # what it says where all is well


def run(cls: type[Part]) -> list[Result]:
    """The results of every test of a part's kind."""
    from paribus.engine import contract_data, contract_nn, contract_places, contract_train

    tests = dict(EVERY)
    for module in (contract_nn, contract_places, contract_train, contract_data):
        tests |= module.KINDS.get(cls.kind, {})
    with calm(), tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        out = [_one(cls, name, test, [cls], bench) for name, test in CLASS.items()]
        try:
            made = examples(cls, bench)
        except Skip as reason:
            return [*out, Result("examples", False, str(reason), str(reason))]
        except (Broken, ParibusError) as error:
            return [*out, Result("examples", True, _line(error))]
        return out + [_one(cls, name, test, made, bench) for name, test in tests.items()]


def _one(cls: Any, name: str, test: Test, made: list[Any], bench: Bench) -> Result:
    said, skipped = "ok", None
    for part in made:
        who = f"{cls.kind}.{cls.__part__}" + ("" if part is cls else _fields(part))
        try:
            said = test(part, bench) or said
        except Skip as reason:
            skipped = str(reason)
        except Broken as error:
            return Result(name, True, f"{who}: {_line(error)}")
        except Exception as error:
            return Result(name, True, f"{who}: {_where(cls, error)}{_line(error)}")
    return Result(name, False, skipped if skipped and said == "ok" else said, skipped)


def _fields(part: Part) -> str:
    shown = {k: v for k, v in dump(part).items() if k != "part" and isinstance(v, int | float)}
    return "(" + ", ".join(f"{k}={v}" for k, v in shown.items()) + ")"


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    ours = isinstance(error, Broken | ParibusError)
    return text if ours else f"{type(error).__name__}: {text}"[:300]


def _where(cls: type, error: Exception) -> str:
    """The innermost line of the part's own file, if the error passed through it."""
    file = sys.modules[cls.__module__].__file__
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f"{Path(file or '').name}:{frames[-1].lineno}: " if frames else ""


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """One thread; the process's own generators and thread count come back afterwards."""
    threads, state = torch.get_num_threads(), generators()
    torch.set_num_threads(1)
    try:
        with torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])


def generators() -> tuple[Any, Any, Tensor]:
    """The states of the global generators."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


# ── examples ────────────────────────────────────────────────────────────────────────────────

# Tried in turn, until the part takes one.
GUESSES: dict[Any, tuple[Any, ...]] = {
    bool: (False,), int: (16, 4, 2, 1, 64, 300, 1024), float: (0.5, 1.0, 0.1, 2.0, 1e-3),
    str: (),
}  # fmt: skip


def examples(cls: type[Part], bench: Bench | None = None) -> list[Any]:
    """Instances to test: those that the part names itself (``examples``, mappings of fields or
    instances; or ``example``, one), else its defaults, else a guess by the types of its fields."""
    for name in ("examples", "example"):
        if name in cls.__struct_fields__ or not hasattr(cls, name):
            continue  # a field of that name is a setting
        given = getattr(cls, name)
        given = given() if callable(given) else given
        given = [given] if isinstance(given, Mapping | Part) else list(given)
        return [g if isinstance(g, Part) else construct(cls, g) for g in given]
    wanted = {f: h for f, h in hints(cls).items() if f not in defaults(cls)}
    if not wanted:
        return [construct(cls, {})]
    tried = {f: _guesses(cls, f, h, bench) for f, h in wanted.items()}
    if all(tried.values()):
        for i in range(max(map(len, tried.values()))):
            with contextlib.suppress(SpecError):
                return [construct(cls, {f: g[min(i, len(g) - 1)] for f, g in tried.items()})]
    fields = ", ".join(wanted)
    if cls.kind in ("corpora", "tokenizers"):
        raise Skip(f"needs data of its own ({fields}); to test it, give the class `examples`")
    raise Broken(
        f"{cls.kind}.{cls.__part__} cannot be built for its tests: {fields} must be given; add to "
        f"the class: examples: ClassVar = [dict({wanted.popitem()[0]}=…)]"
    )


def _guesses(cls: Any, field: str, hint: Any, bench: Bench | None) -> list[Any]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _guesses(cls, field, inner[0], bench)
    if origin is typing.Literal:
        return list(inner)
    if origin in (typing.Union, types.UnionType):
        return [g for h in inner if h is not type(None) for g in _guesses(cls, field, h, bench)]
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        each = [_guesses(cls, field, h, bench) for h in inner]
        return list(zip(*each, strict=False))
    if cls.kind == "tasks" and field == "path":
        return [] if bench is None else [bench.labelled]
    texts = ("corpora", "tokenizers")
    of_text = cls.kind in texts and field == "path"
    if of_text or (isinstance(hint, type) and issubclass(hint, Part) and hint.kind in texts):
        if bench is None:
            return []
        if of_text:
            return [bench.text.path if cls.kind == "corpora" else bench.vocabulary]  # type: ignore[attr-defined]
        return [bench.text if hint.kind == "corpora" else parts.get("tokenizers", "bytes")()]
    if isinstance(hint, type) and issubclass(hint, Part):
        return [examples(c, bench)[0] for c in itertools.islice(parts.scan(hint.kind), 1)]
    if cls.kind == "optim" and field == "lr":
        return [1e-2]
    return list(GUESSES.get(hint, ()))


def levels(part: Any, field: str, n: int) -> list[Any]:
    """The part with ``n`` different values of one field."""
    now, hint = getattr(part, field), hints(type(part))[field]
    if isinstance(now, bool):
        tried: list[Any] = [now, not now]
    elif isinstance(now, int):
        tried = [now, now + 1, now + 2, now + 3, now - 1, now * 2]
    elif isinstance(now, float):
        tried = [now, now * 1.5, now * 3, now * 0.5, now * 0.8, now + 0.1, now + 0.2]
    else:
        tried = [now, *(a for a in typing.get_args(hint) if a != now and isinstance(a, str))]
        for kind in [h.kind for h in typing.get_args(hint) if h in Part.__subclasses__()]:
            tried += [examples(c)[0] for c in parts.scan(kind)]
    out: list[Any] = []
    for value in tried:
        with contextlib.suppress(SpecError):
            new = replace(part, field, value, field)
            if new not in out:
                out.append(new)
    if len(out) < 2:
        raise Broken(f"stackable field {field!r}: no second value of it was found to test")
    return [out[i % len(out)] for i in range(n)]


def stacks(part: Any) -> list[list[Any]]:
    """Stacks to compare with their members alone: equal parts, each stackable field varied, and
    all of them at once."""
    fields = sorted(part.stackable)
    out = [[part] * 2, [part] * 3, *(levels(part, f, 3) for f in fields)]
    if len(fields) > 1:
        varied = {f: [getattr(p, f) for p in levels(part, f, 3)] for f in fields}
        rows = [{f: v[i] for f, v in varied.items()} for i in range(3)]
        out.append([construct(type(part), {**raw(part), **row}) for row in rows])
    return out


# ── every kind ──────────────────────────────────────────────────────────────────────────────


def _light(cls: Any, bench: Bench) -> str:
    """The file imports no torch as it loads."""
    source = sys.modules[cls.__module__].__file__
    assert source is not None

    def visit(node: ast.AST) -> Iterator[tuple[str, int]]:
        if isinstance(node, ast.Import):
            yield from ((a.name, node.lineno) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.lineno
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from visit(other)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for child in ast.iter_child_nodes(node):
                yield from visit(child)

    for module, line in visit(ast.parse(Path(source).read_text(encoding="utf-8"))):
        if module.split(".")[0] == "torch":
            raise Broken(
                f"line {line} imports {module} as the file loads, and planning runs without "
                "torch; write: from paribus.lazy import torch"
            )
    return "imports no torch as it loads"


def _identity(cls: Any, bench: Bench) -> str:
    once = cls.identity()
    local = cls.__source__ is not None
    if not isinstance(cls.revision, int) or cls.revision < 1:
        raise Broken(f"revision = {cls.revision!r}; it counts from 1")
    again = parts.get(cls.kind, cls.__part__)
    if once != again.identity() or local != once.startswith("source:"):
        raise Broken(f"its identity changes from one look to the next: {once}, {again.identity()}")
    return f"identity {once}"


def _schema(part: Any, bench: Bench) -> str:
    cls, data = type(part), dump(part)
    for form in (data, dump(part, full=True)):
        again = parts.build(cls.kind, form, cls.__part__)
        if dump(again) != data or again != part:
            raise Broken(f"written and read back it is another: {data} became {dump(again)}")
    try:
        construct(cls, {**raw(part), "no_such_key": 1})
    except SpecError:
        pass
    else:
        raise Broken("it takes the unknown key 'no_such_key'; fields must be checked")
    if wrong := cls.stackable - set(cls.__struct_fields__):
        raise Broken(f"stackable names {sorted(wrong)[0]!r}, which is no field of it")
    if cls.stackable and cls.kind in ("masks", "init"):
        raise Broken(f"fields of {cls.kind} mark nothing as stackable; leave it empty")
    return "written and read back it is the same"


CLASS: dict[str, Test] = {"light": _light, "identity": _identity}
EVERY: dict[str, Test] = {"schema": _schema}

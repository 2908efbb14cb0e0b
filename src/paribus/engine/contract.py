"""The tests that a part gets by being there, shipped or beside a study: what its kind promises.

Here are the frame, the tests of every kind, and those of optimizers and schedules; ``contract_nn``
has those of what plugs into the model, ``contract_data`` those of tasks and text.  All run on the
CPU with one thread, where a stack and a trial alone are bit-equal.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
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

from paribus import parts, presets, rng
from paribus.contracts import P
from paribus.engine.settings import Settings
from paribus.engine.train import Member, Phase, Trainer
from paribus.errors import ParibusError, SpecError
from paribus.parts import Part, construct, defaults, dump, hints, raw, replace
from paribus.spec import InitScheme, Spec, resolve
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
    def vocabulary(self) -> str:
        """The path of a tokenizer.json."""
        bpe = parts.get("tokenizers", "bpe")(vocab=300)
        bpe.open(self.text, self.folder / "cache")  # type: ignore[attr-defined]
        return str(next((self.folder / "cache" / "tokenizers").glob("*/tokenizer.json")))


Test = Callable[[Any, Bench], str | None]  # what it says where all is well


def run(cls: type[Part]) -> list[Result]:
    """The results of every test of a part's kind."""
    from paribus.engine import contract_data, contract_nn

    tests: dict[str, Test] = {**EVERY, **KINDS.get(cls.kind, {})}
    tests |= contract_nn.KINDS.get(cls.kind, {}) | contract_data.KINDS.get(cls.kind, {})
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


def _one(cls: type, name: str, test: Test, made: list[Any], bench: Bench) -> Result:
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
    bench = bench or Bench(Path(tempfile.mkdtemp()))
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


def _guesses(cls: type, field: str, hint: Any, bench: Bench) -> list[Any]:
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
    if isinstance(hint, type) and issubclass(hint, Part):
        if hint.kind in ("corpora", "tokenizers"):
            return [bench.text if hint.kind == "corpora" else parts.get("tokenizers", "bytes")()]
        return [examples(c, bench)[0] for c in itertools.islice(parts.scan(hint.kind), 1)]
    if cls.kind == "corpora" and field == "path":
        return [bench.text.path]  # type: ignore[attr-defined]
    if cls.kind == "tokenizers" and field == "path":
        return [bench.vocabulary]
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
            for child in node.orelse:
                yield from visit(child)
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
        raise Broken(f"{cls.kind} do not vary inside a stack; leave stackable empty")
    return "written and read back it is the same"


CLASS: dict[str, Test] = {"light": _light, "identity": _identity}
EVERY: dict[str, Test] = {"schema": _schema}


# ── optimizers and schedules ────────────────────────────────────────────────────────────────


def small(**fields: Any) -> Spec:
    """A resolved spec that trains in a blink."""
    lm = parts.get("tasks", "copying")(span=4, symbols=6)
    model = presets.quickstart(width=32, layers=1, heads=2)
    optim, schedule = (parts.get("optim", "adamw")(lr=1e-2), parts.get("schedules", "constant")())
    given = {"model": model, "task": lm, "optim": optim, "schedule": schedule}
    return resolve(Spec(**{**given, "steps": 12, "rows": 4, **fields}))


def trained(specs: list[Spec], seeds: list[int], data: Data) -> Trainer:
    members = [
        Member("contract", str(seed), seed, [Phase("train", spec, "reset")])
        for spec, seed in zip(specs, seeds, strict=True)
    ]
    trainer = Trainer(members, Settings(), data)
    trainer.run()
    return trainer


SHAPES = {"w": (3, 4), "bias": (5,), "table": (2, 3, 2)}
DECLARED = {path: P(shape, decay=path != "bias") for path, shape in SHAPES.items()}


def _normal(E: int, *path: str | int) -> dict[str, Tensor]:
    """One fp32 tensor [E, …] a shape; each trial's from its own stream."""
    out = {}
    for name, shape in SHAPES.items():
        n = int(np.prod(shape))
        each = [rng.Stream(e, "contract", name, *path).normal(n) for e in range(E)]
        out[name] = torch.from_numpy(np.stack(each)).float().view(E, *shape)
    return out


def _vectors(stack: list[Any], lr: list[float] | None = None) -> dict[str, Tensor]:
    """The stackable fields as vectors [E], and lr."""
    fields = sorted(stack[0].stackable | {"lr"})
    v = {f: torch.tensor([float(getattr(p, f)) for p in stack]) for f in fields}
    return v if lr is None else {**v, "lr": torch.tensor(lr)}


def _steps(stack: list[Any], grads: list[dict[str, Tensor]], **how: Any) -> Any:
    """(first weights, last weights, state) after one update a gradient."""
    first = _normal(len(stack), "first")
    w = {k: t.clone() for k, t in first.items()}
    state = stack[0].state(w)
    for step, g in enumerate(grads):
        stack[0].update(_vectors(stack, **how), w, dict(g), state, step, DECLARED)
    return first, w, state


def _optim_state(part: Any, bench: Bench) -> str:
    w = _normal(3, "first")
    for name, tensors in part.state(w).items():
        for path, t in tensors.items():
            if path not in w:
                raise Broken(f"state {name!r} has {path!r}, which is no parameter's path")
            if t.ndim < 1 or t.shape[0] != 3:
                raise Broken(f"state {name!r} of {path!r} has shape {tuple(t.shape)}, not [E, …]")
    half = len(grads := [_normal(3, "grad", i) for i in range(6)]) // 2
    _, whole, _ = _steps([part] * 3, grads)
    _, w, state = _steps([part] * 3, grads[:half])
    state = {n: {k: t.clone() for k, t in s.items()} for n, s in state.items()}
    again = construct(type(part), raw(part))
    for step in range(half, 6):
        again.update(_vectors([again] * 3), w, dict(grads[step]), state, step, DECLARED)
    if any(not torch.equal(w[k], whole[k]) for k in w):
        raise Broken("continued from its state it goes another way; keep all it needs in state()")
    return "state is [E, …] and is all there is"


def _optim_stack(part: Any, bench: Bench) -> str:
    part_of = [[*s] for s in stacks(part)]
    for stack in part_of:
        specs = [small(optim=p) for p in stack]
        whole = trained(specs, list(range(len(stack))), bench.data)
        for e, spec in enumerate(specs):
            alone = trained([spec], [e], bench.data)
            for k, t in alone.params.items():
                if not torch.equal(t[0], whole.params[k][e]):
                    raise Broken(
                        f"in a stack of {len(stack)} {k} of trial {e} is not bit-equal to the "
                        "trial alone; never reduce over the trial axis, read stackable fields from v"
                    )
    return "in a stack as alone, to the bit"


def _optim_still(part: Any, bench: Bench) -> str:
    grads = [_normal(3, "grad", i) for i in range(4)]
    first, w, _ = _steps([part] * 3, grads, lr=[0.0, 0.0, 0.0])
    for k in w:
        if not torch.equal(w[k], first[k]):
            raise Broken(f"with lr 0 {k} moves; every change must be times v['lr']")
    # An ended trial stays in its slot with lr 0 and gradients 0, whatever its numbers are.
    ended = [{k: t * torch.tensor([1.0, 0, 1]).view(3, *[1] * (t.ndim - 1)) for k, t in g.items()}
             for g in grads]  # fmt: skip
    lr = float(part.lr)
    first, w, _ = _steps([part] * 3, ended, lr=[lr, 0.0, lr])
    _, free, _ = _steps([part] * 3, grads)
    for k in w:
        if not torch.equal(w[k][1], first[k][1]):
            raise Broken(f"an ended trial (lr 0, gradients 0) moves: {k}")
        if not torch.equal(w[k][::2], free[k][::2]):
            raise Broken(f"an ended trial changes its neighbours: {k}")
        if torch.equal(w[k][0], first[k][0]):
            raise Broken(f"with lr {lr} and a gradient {k} does not move")
    return "lr 0 changes nothing"


def _optim_quadratic(part: Any, bench: Bench) -> str:
    w, goal = _normal(2, "first"), _normal(2, "goal")
    state, losses = part.state(w), []
    for step in range(40):
        g = {k: w[k] - goal[k] for k in w}
        losses.append(sum(float(t.square().sum()) for t in g.values()))
        part.update(_vectors([part] * 2), w, g, state, step, DECLARED)
    if not losses[-1] < losses[0]:
        raise Broken(f"|w − goal|² goes from {losses[0]:.4g} to {losses[-1]:.4g} in 40 steps")
    return f"|w − goal|² from {losses[0]:.3g} to {losses[-1]:.3g}"


def _optim_decay(part: Any, bench: Bench) -> str:
    if "weight_decay" not in hints(type(part)):
        raise Skip("has no field weight_decay")
    decaying = replace(part, "weight_decay", part.weight_decay or 0.1, "weight_decay")
    still = [{k: torch.zeros_like(t) for k, t in _normal(2).items()}] * 3
    first, w, _ = _steps([decaying] * 2, still)
    for path, p in DECLARED.items():
        same = torch.equal(w[path], first[path])
        if not p.decay and not same and getattr(part, "decay", "") != "all":
            raise Broken("it decays a parameter that is declared with decay=False")
        if p.decay and not (w[path].abs() < first[path].abs()).all():
            raise Broken("with weight_decay and no gradient a declared matrix does not shrink")
    return "decays what is declared to decay"


def _pure(part: Any, bench: Bench) -> str:
    for total in (1, 2, 12, 200):
        once = [part.factor(s, total) for s in range(total)]
        back = [part.factor(s, total) for s in reversed(range(total))][::-1]
        fresh = [construct(type(part), raw(part)).factor(s, total) for s in range(total)]
        if not once == back == fresh:
            raise Broken("factor(step, total) depends on earlier calls; it must be pure")
        for s, f in enumerate(once):
            if not (np.isfinite(f) and 0 <= f <= 1 + 1e-9):
                raise Broken(f"factor({s}, {total}) = {f!r}; it must lie in 0 … 1 (lr is the peak)")
    return "pure, within 0 … 1"


def _warm_up(part: Any, bench: Bench) -> str:
    if "warmup" not in hints(type(part)):
        raise Skip("has no field warmup")
    warm = replace(part, "warmup", 4, "warmup")
    factors = [warm.factor(s, 40) for s in range(4)]
    if not all(a < b for a, b in itertools.pairwise(factors)):
        raise Broken(f"with warmup=4 the first factors are {factors}; they must rise")
    return "warm-up rises"


def _moves(part: Any, bench: Bench) -> str:
    factors = {part.factor(s, 200) for s in range(200)}
    if type(part).flat:
        return "is meant to be flat"
    if len(factors) == 1:
        raise Broken(
            f"factor(step, 200) is {factors.pop():g} at every step: it does not read `step`; one "
            "that is meant to stay the same says `flat: ClassVar[bool] = True`"
        )
    return f"from {max(factors):.3g} to {min(factors):.3g}"


def _trace(part: Any, bench: Bench) -> str:
    spec = small(schedule=part)
    curve = trained([spec], [0], bench.data).curve(0)["lr"]
    wanted = [spec.optim.lr * part.factor(s, 12) for s in range(12)]  # type: ignore[attr-defined]
    for s, (realised, meant) in enumerate(zip(curve, wanted, strict=True)):
        if realised != meant:
            raise Broken(f"step {s} of 12 was trained at lr {realised:g}, not {meant:g}")
    return "trained at lr · factor(step)"


KINDS: dict[str, dict[str, Test]] = {
    "optim": {
        "state": _optim_state, "stack": _optim_stack, "still": _optim_still,
        "quadratic": _optim_quadratic, "decay": _optim_decay,
    },
    "schedules": {"pure": _pure, "warm-up": _warm_up, "moves": _moves, "trace": _trace},
}  # fmt: skip

# Members of a model are drawn with this: large enough for attention to vary.
WIDE = InitScheme(every=parts.get("init", "gpt2")(std=0.2))  # type: ignore[call-arg]

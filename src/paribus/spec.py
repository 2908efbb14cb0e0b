"""The spec of a trial: a model, a task, a recipe, all strict, all plain data.

A spec stores *rules* (``kv_heads=None`` means "as many as heads"); patches apply to rules;
``resolve`` fills in numbers and the identity of a trial is the hash of the resolved spec, the
revisions of its parts and the contents of its data.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from paribus import parts
from paribus.contracts import (
    Dims,
    Init,
    Mask,
    Mlp,
    Norm,
    Optimizer,
    Position,
    Scale,
    Schedule,
    Task,
)
from paribus.errors import BeyondLimit, SpecError, nearest
from paribus.parts import Part, Strict, describe, dump, hints, replace
from paribus.sequence import Memory, Mixer

CORE_REVISION = 1  # transformer, init, streams, training, packing: bumped when numbers change

Positive = Annotated[int, Meta(ge=1)]
Kernel = Literal[
    "auto", "reference", "sdpa", "flex", "short", "sdpa-math", "sdpa-flash", "sdpa-efficient",
    "sdpa-cudnn", "xformers",
]  # fmt: skip
Fraction = Annotated[float, Meta(ge=0, lt=1)]


class Model(Strict, frozen=True, kw_only=True):
    """A decoder-only (or, with a full mask, encoder) Transformer.

    Attributes:
        width, layers, heads: the residual width, blocks and query heads.
        kv_heads: key/value heads (GQA); None: as many as heads.
        head_dim: size of a head, independent of width; None: width / heads.
        vocab: None: the task's vocabulary.
        position: None: no position encoding.
        memory: what is carried between segments of a row; None: rows are read whole.
        mixer: what mixes tokens in the place of softmax attention; None: attention.
        embed_norm: of the embedded inputs, before a position is added to them; None: none.
        temperature: q and k are each multiplied by it after QK-norm (logits by its square).
        read_out: what comes out at each token: logits of the vocabulary, a number, or logits of
            ``classes``.
        softcap: c of the logits of the vocabulary, which are then c · tanh(z / c) in fp32 at least
            (Gemma Team 2024); None: z itself.
        classes: None: the task's.
    """

    width: Positive
    layers: Positive
    heads: Positive
    kv_heads: Positive | None = None
    head_dim: Positive | None = None
    vocab: Positive | None = None
    position: Position | None = None
    mask: Mask | None = None
    memory: Memory | None = None
    mixer: Mixer | None = None
    norm: Norm
    embed_norm: Norm | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    mlp: Mlp
    logit_scale: Scale
    temperature: Annotated[float, Meta(gt=0)] = 1.0
    attn_bias: bool = False
    tied: bool = True
    embed_dropout: Fraction = 0.0
    attn_dropout: Fraction = 0.0
    dropout: Fraction = 0.0
    read_in: Literal["tokens", "vectors"] = "tokens"
    in_dim: Positive | None = None
    read_out: Literal["lm", "scalar", "classes"] = "lm"
    softcap: Annotated[float, Meta(gt=0)] | None = None
    classes: Positive | None = None

    def dims(self) -> Dims:
        """The numbers; only of a resolved model."""
        assert self.kv_heads and self.head_dim, "resolve() comes first"
        return Dims(
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            vocab=self.vocab or 0,
        )


class External(Strict, frozen=True, kw_only=True):
    """A user's own model: an ``nn.Module`` with ``forward(ids_BT) -> logits_BTV``, unstacked.

    Its initialisation draws from torch's generator, seeded by the trial: not paired with other
    arms, which the record says.
    """

    target: str
    arguments: dict[str, Any] = {}
    vocab: Positive | None = None

    tag: ClassVar[str | None] = "external"

    def source(self) -> str:
        """Path of the file that holds the class."""
        module, _, name = self.target.partition(":")
        if not name:
            raise SpecError(f"external: {self.target!r} must read 'package.module:Class'")
        local = parts.local_folder_or_base()
        if local is not None:
            candidate = local.joinpath(*module.split(".")).with_suffix(".py")
            if candidate.is_file():
                return str(candidate)
        try:
            found = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            found = None
        if found is None or found.origin is None:
            raise SpecError(f"external: no module {module!r} beside the study or installed")
        return found.origin

    def validate(self) -> None:
        path, name = self.source(), self.target.partition(":")[2]
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read(), path)
        names = [n.name for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef))]
        if name not in names:
            raise SpecError(f"external: {path} defines no {name!r}; {nearest(name, names)}")


class InitScheme(Strict, frozen=True, kw_only=True):
    """The init scheme of the model and, where given, of groups of its parameters.

    Attributes:
        every: None: init.gpt2().
        qk: queries and keys.
        read: the linear maps that read vectors in, and a scalar or classes out, without their
            biases.
    """

    every: Init | None = None
    qk: Init | None = None
    read: Init | None = None

    def of(self, role: str) -> Init:
        """The scheme of a parameter by its role; only of a resolved spec."""
        own = self.qk if role in ("q", "k") else self.read if role.startswith("read_") else None
        chosen = own if own is not None else self.every
        assert chosen is not None, "resolve() comes first"
        return chosen


class Start(Strict, frozen=True, kw_only=True):
    """A foreign checkpoint to begin from, in place of ``init``; its contents enter the trial's id.

    Attributes:
        path: a file of weights, an attempt's folder, or a folder of Hugging Face; relative to the
            study's folder.
        step: where its training stood, for the record.
    """

    path: str
    step: int = 0


class Spec(Strict, frozen=True, kw_only=True):
    """Everything that decides the numbers of a trial, except its seed.

    Attributes:
        steps: optimizer steps; None: the study's budget decides.
        rows: rows per optimizer step (the effective batch); None: the task's own words decide.
        clip: global gradient-norm limit per trial; None: no clipping.
        precision: compute dtype; parameters and optimizer state stay in fp32 (fp64 for "fp64").
        freeze: patterns of parameter paths that are not trained (``*.attn.q``).
        kernel: of attention, to show that it does not matter; "auto" leaves it to the machine, and
            the record says which ran.
    """

    model: Model | External
    task: Task
    optim: Optimizer
    schedule: Schedule
    steps: Positive | None = None
    rows: Positive | None = None
    clip: Annotated[float, Meta(gt=0)] | None = 1.0
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    init: InitScheme = InitScheme()
    freeze: tuple[str, ...] = ()
    start: Start | None = None
    kernel: Kernel = "auto"

    stackable: ClassVar[frozenset[str]] = frozenset({"schedule", "freeze", "init"})

    def then(self, name: str, patch: Mapping[str, Any]) -> Phased:
        """Continue training in a further phase: ``patch`` maps paths of this spec to values;
        ``"optim": "keep"`` (default), ``"reset"`` or an optimizer."""
        return Phased(self).then(name, patch)


@dataclass(frozen=True)
class Phased:
    """A base spec and its further phases, each a patch of the one before."""

    base: Spec
    phases: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    def then(self, name: str, patch: Mapping[str, Any]) -> Phased:
        if not name.isidentifier() or name == "train" or name in dict(self.phases):
            raise SpecError(f"phase {name!r}: give each phase a name of its own")
        return Phased(self.base, (*self.phases, (name, dict(patch))))


# ── patches ─────────────────────────────────────────────────────────────────────────────────


def at(value: Any, path: str) -> Any:
    """The value at a dotted path; a wrong path names the nearest valid one."""
    done: list[str] = []
    for step in path.split("."):
        if isinstance(value, Mapping):
            if step not in value:
                raise SpecError(f"no {path!r}: {'.'.join(done)} has no {step!r}")
            value = value[step]
        elif isinstance(value, Strict):
            if step not in hints(type(value)):
                here = ".".join(done) or "the spec"
                raise SpecError(
                    f"no path {path!r}: {here} ({describe_short(value)}) has no {step!r}; "
                    f"{nearest(step, hints(type(value)))}"
                )
            value = getattr(value, step)
        else:
            raise SpecError(f"no path {path!r}: {'.'.join(done)} is {value!r}, it has no {step!r}")
        done.append(step)
    return value


def describe_short(value: Any) -> str:
    return describe(value) if isinstance(value, Part) else type(value).__name__


def patch(value: Any, path: str, new: Any, where: str | None = None) -> Any:
    """A copy of a spec with the value at a dotted path replaced, every check made again."""
    where = where or path
    head, _, rest = path.partition(".")
    if isinstance(value, Mapping):
        if rest:
            new = patch(value[head], rest, new, where)
        return {**value, head: new}
    if not isinstance(value, Strict):
        raise SpecError(f"no path {where!r}: {value!r} has no {head!r}")
    if head not in hints(type(value)):
        known = hints(type(value))
        raise SpecError(
            f"no path {where!r}: {describe_short(value)} has no {head!r}; {nearest(head, known)}"
        )
    if rest:
        child = getattr(value, head)
        if child is None:
            raise SpecError(f"{where}: {head} is None here, so it has no {rest!r}")
        new = patch(child, rest, new, where)
    return replace(value, head, new, where)


# ── resolution and identity ─────────────────────────────────────────────────────────────────


def resolve(spec: Spec) -> Spec:
    """Rules filled in with numbers; cross-checks that need the whole spec.  Reads no data."""
    io = spec.task.io()
    rows = spec.task.rows()
    if rows is not None and spec.rows is not None and rows != spec.rows:
        raise SpecError(
            f"rows: {spec.rows} rows a step are given, but the task's own words make {rows}"
        )
    if (rows := rows if rows is not None else spec.rows) is None:
        raise SpecError("rows: give the rows per optimizer step (rows=…)")
    if io.examples is not None and io.examples < rows:
        raise SpecError(
            f"task.examples: {io.examples} examples are fewer than the {rows} rows of a step"
        )
    if spec.steps is None:
        raise SpecError("steps: give the optimizer steps (steps=…), or the study a budget")
    every = spec.init.every or _default_init()
    model = spec.model
    if isinstance(model, Model):
        model = _resolve_model(model, io)
        if spec.task.causal and model.mask is not None and not model.mask.causal:
            raise SpecError(
                f"model.mask: {describe(model.mask)}() shows later tokens, and task "
                f"{spec.task.name} predicts them; use masks.causal()"
            )
    elif io.vocab is not None:
        model = replace(model, "vocab", model.vocab or io.vocab, "model.vocab")
    init = InitScheme(every=every, qk=spec.init.qk, read=spec.init.read)
    resolved: Spec = parts.changed(spec, {"model": model, "rows": rows, "init": init})
    return resolved


@functools.cache
def _default_init() -> Init:
    init: Init = parts.build("init", {"part": "gpt2"}, "init.every")
    return init


def _resolve_model(model: Model, io: Any) -> Model:
    kv = model.kv_heads or model.heads
    if model.head_dim is None and model.width % model.heads:
        raise SpecError(
            f"model.heads: {model.heads} heads do not divide width {model.width}; "
            "change one, or give model.head_dim"
        )
    if model.heads % kv:
        raise SpecError(f"model.kv_heads: {kv} do not divide {model.heads} heads")
    if model.mask is None:
        raise SpecError("model.mask: not set; give masks.causal(), masks.full() or another")
    changes: dict[str, Any] = {
        "kv_heads": kv,
        "head_dim": model.head_dim or model.width // model.heads,
    }
    if model.read_in == "tokens":
        if io.vocab is None:
            raise SpecError("model.read_in: the task gives vectors, the model reads tokens")
        changes["vocab"] = model.vocab or io.vocab
        if changes["vocab"] < io.vocab:
            raise SpecError(
                f"model.vocab: {model.vocab} is smaller than the tokenizer's vocabulary {io.vocab}"
            )
    else:
        if io.in_dim is None:
            raise SpecError("model.read_in: the task gives tokens, the model reads vectors")
        changes["in_dim"] = model.in_dim or io.in_dim
        if changes["in_dim"] != io.in_dim:
            raise SpecError(
                f"model.in_dim: the model reads vectors of {model.in_dim} numbers, the task's have "
                f"{io.in_dim}; leave it out"
            )
    if model.read_in == "vectors" and model.read_out == "lm" and not model.vocab:
        raise SpecError('model.read_out: the task has no vocabulary; give read_out="scalar"')
    if (model.read_out == "classes") != (io.classes is not None):
        asked = f"{io.classes} classes" if io.classes else "no classes"
        raise SpecError(f'model.read_out: "{model.read_out}", but the task asks for {asked}')
    if io.classes is not None:
        changes["classes"] = model.classes or io.classes
        if changes["classes"] != io.classes:
            raise SpecError(
                f"model.classes: the model tells {model.classes} classes apart, the task has "
                f"{io.classes}; leave it out"
            )
    if model.position is not None:
        changes["position"] = model.position.fitted(io.length)
    resolved: Model = parts.changed(model, changes)
    for part in (resolved.memory, resolved.mixer):
        if part is not None:
            part.check(resolved)
    position = resolved.position
    if position is not None:
        position.params(resolved.dims())  # a part may refuse these dimensions
        if (own := position.attention_factor()) != 1 and resolved.temperature != 1:
            raise SpecError(
                f"model.temperature: {resolved.temperature:g}, and {describe(position)} brings "
                f"{own:.6g} of its own, so logits would get both; switch its own off "
                "(temperature=1 in the scaling), or leave the model's at 1"
            )
        limit = position.limit()
        if limit is not None and io.length is not None and io.length > limit:
            raise BeyondLimit(
                f"model.position: {describe(position)} ends at {limit} tokens, "
                f"the task's rows have {io.length}"
            )
    return resolved


def canonical(data: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, integral floats written as integers."""
    return json.dumps(_plain(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(k): _plain(v) for k, v in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(v) for v in data]
    if isinstance(data, float):
        if data != data or data in (float("inf"), float("-inf")):
            raise SpecError(f"{data!r} has no place in a spec")
        return int(data) if data.is_integer() and abs(data) < 2**53 else data
    return data


def digest(data: Any, size: int = 16) -> str:
    """Hexadecimal hash of canonical data; ``size`` digits."""
    return digest_text(canonical(data), size)


def digest_text(text: str, size: int = 16) -> str:
    """``digest`` of data whose canonical JSON is at hand."""
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()[:size]


def joined(texts: Mapping[str, str]) -> str:
    """Canonical JSON of an object from the canonical JSON of its values."""
    return "{" + ",".join(f"{json.dumps(k)}:{texts[k]}" for k in sorted(texts)) + "}"


def used_parts(value: Any) -> dict[str, str]:
    """``kind.name`` -> identity of every part inside a spec."""
    out: dict[str, str] = {}
    if isinstance(value, Part):
        out[f"{value.kind}.{value.name}"] = type(value).identity()
    if isinstance(value, External):
        with open(value.source(), "rb") as file:
            out[f"external.{value.target}"] = hashlib.sha256(file.read()).hexdigest()[:32]
    if isinstance(value, Strict):
        for field in parts.raw(value).values():
            out |= used_parts(field)
    elif isinstance(value, Mapping):
        for v in value.values():
            out |= used_parts(v)
    elif isinstance(value, (list, tuple)):
        for v in value:
            out |= used_parts(v)
    return out


def load(data: Mapping[str, Any]) -> Spec:
    """A spec from its dump; dump(load(dump(spec))) is byte-identical."""
    spec = parts.construct(Spec, dict(data), "spec")
    assert isinstance(spec, Spec)
    return spec


def vectors(spec: Spec) -> dict[str, Any]:
    """Every stackable setting of a spec by path: what may differ inside one stack."""
    out: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if not isinstance(value, Strict):
            return
        stackable: frozenset[str] = getattr(type(value), "stackable", frozenset())
        for f, field in parts.raw(value).items():
            place = f"{path}.{f}" if path else f
            if f in stackable:
                out[place] = dump(field)
            else:
                walk(field, place)

    walk(spec, "")
    return out


def pack_key(spec: Spec) -> str:
    """Trials of equal pack key can be trained as one stack."""
    data = dump(spec)
    for path in vectors(spec):
        *heads, last = path.split(".")
        place = data
        for h in heads:
            place = place.get(h, {})
        place.pop(last, None)
    return digest(data)


def encode(data: Any) -> bytes:
    """Plain data as JSON bytes for a file."""
    return msgspec.json.format(msgspec.json.encode(data, order="sorted"), indent=1)

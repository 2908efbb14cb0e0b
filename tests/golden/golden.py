"""Golden numbers: how they are made, compared and written.

Losses are float64, of ten steps on a generated corpus, so that they are the same on every machine
to 1e-8.  An entry holds the revisions that it was made under: those of all parts of its spec and
of the core.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paribus import parts, rng
from paribus import spec as specs
from paribus.engine import contract
from paribus.engine.contract_train import trained
from paribus.spec import InitScheme, Model, Spec
from paribus.text.data import Data

HERE = Path(__file__).parent
LOSSES, DEFAULTS = HERE / "losses.json", HERE / "defaults.json"
RTOL, STEPS = 1e-8, 10
WRITE = "PARIBUS_GOLDEN=write pytest tests/golden"

# Where a part goes in the spec.
PLACES = {
    "positions": "model.position", "scalings": "model.position.scaling", "masks": "model.mask",
    "memories": "model.memory", "mixers": "model.mixer",
    "norms": "model.norm", "mlps": "model.mlp", "scales": "model.logit_scale",
    "init": "init.every", "tasks": "task", "optim": "optim", "schedules": "schedule",
}  # fmt: skip
# Tasks of the parts that read coordinates which rows of text have not.
WITH = {"masks.schema_blocks": "connectivity", "positions.tiled": "connectivity"}
# Not by their losses: tests/text compares ids, and a trained tokenizer varies with its library.
ELSEWHERE = {"corpora", "tokenizers", "probes"}


# ── losses ──────────────────────────────────────────────────────────────────────────────────


def text() -> list[str]:
    """Documents drawn from keyed streams: words of a small grammar, some more frequent."""
    syllables = ["ka", "lo", "mi", "ru", "ten", "so", "va", "pel"]
    out = []
    for d in range(40):
        u = rng.Stream(0, "golden", d).uniform(360)
        words = [syllables[int(8 * a * b)] + syllables[int(8 * c)] for a, b, c in u.reshape(-1, 3)]
        out.append(" ".join(words) + ".\n")
    return out


@functools.cache
def corpus_hash() -> str:
    return hashlib.sha256("".join(text()).encode()).hexdigest()[:16]


def base(folder: Path) -> Spec:
    """The spec around each part; it is no preset, so that a preset may change."""
    part = lambda kind, name, **f: parts.construct(parts.get(kind, name), f)  # noqa: E731
    place = folder / "text"
    if not place.is_dir():
        place.mkdir(parents=True)
        for i, document in enumerate(text()):
            (place / f"{i:02}.txt").write_text(document)
    corpus = part("corpora", "files", path=str(place), fractions=(0.8, 0.1, 0.1))
    model = Model(
        width=32, layers=2, heads=4, kv_heads=2, position=part("positions", "rope"),
        mask=part("masks", "causal"), norm=part("norms", "rmsnorm"),
        mlp=part("mlps", "gelu", ratio=2.0), logit_scale=part("scales", "sqrt_d"), tied=False,
        attn_bias=True,
    )  # fmt: skip
    lm = part("tasks", "lm", corpus=corpus, tokenizer=part("tokenizers", "bytes"), length=16)
    return Spec(
        model=model, task=lm, optim=part("optim", "adamw", lr=1e-2),
        schedule=part("schedules", "constant"), steps=STEPS, rows=4, precision="fp64",
        init=InitScheme(every=part("init", "gpt2", std=0.1)),
    )  # fmt: skip


@functools.cache
def names() -> list[str]:
    return [f"{kind}.{cls.__part__}" for kind in PLACES for cls in parts.scan(kind)]


def spec_of(name: str, folder: Path) -> Spec:
    """The spec of a part: its defaults, or what it names as its example."""
    kind, _, own = name.partition(".")
    cls = parts.get(kind, own)
    spec = specs.resolve(base(folder))
    if kind == "tasks":
        text = {f: getattr(spec.task, f) for f in ("corpus", "tokenizer", "length")}
        if own == "classes":
            path = contract.Bench(folder).labelled
            fields = {f: text[f] for f in ("tokenizer", "length")}
            new = parts.construct(cls, {"path": path, **fields})
        elif not text.keys() <= parts.hints(cls).keys():
            new = contract.examples(cls)[0]
        else:  # of text: on the golden corpus
            more = {"branches": [1, 3], "offsets": True} if own == "branches" else {}
            new = parts.construct(cls, {**text, **more})
        return specs.resolve(around(base(folder), new))
    if name in WITH:
        task = contract.examples(parts.get("tasks", WITH[name]))[0]
        spec = specs.resolve(around(base(folder), task))
    if name == "masks.document":
        spec = specs.patch(spec, "task.segments", True)
    # After resolve(): it refuses a mask that shows later tokens, whose numbers are kept as well.
    return specs.patch(spec, PLACES[kind], contract.examples(cls)[0])


def around(spec: Spec, task: Any) -> Spec:
    """The spec with another task, whose rows may be vectors, and whose answers one number or one of
    a few classes."""
    spec = specs.patch(spec, "task", task)
    if task.io().vocab is None:
        spec = specs.patch(spec, "model.read_in", "vectors")
        spec = specs.patch(spec, "model.read_out", "scalar")
    elif task.io().classes is not None:
        spec = specs.patch(spec, "model.read_out", "classes")
    return spec


def losses(name: str, folder: Path) -> dict[str, Any]:
    spec = spec_of(name, folder)
    with contract.calm():
        curve = trained([spec], [7], Data(folder / "cache")).curve(0)["loss"]
    return {"revisions": revisions(spec), "losses": curve}


def revisions(spec: Spec) -> dict[str, str]:
    return {**specs.used_parts(spec), "core": str(specs.CORE_REVISION), "corpus": corpus_hash()}


def moved(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """How losses differ, or None."""
    for step, (a, b) in enumerate(zip(old["losses"], new["losses"], strict=True)):
        if not math.isclose(a, b, rel_tol=RTOL):
            return f"loss of step {step} is {b:.12g}, was {a:.12g}"
    return None


# ── defaults ────────────────────────────────────────────────────────────────────────────────


def defaults() -> dict[str, Any]:
    """Every default of every part and of the structs of a spec, with its revision."""
    out = {}
    for cls in (Model, Spec, InitScheme, specs.External, specs.Start):
        out[f"spec.{cls.__name__}"] = _defaults(cls, specs.CORE_REVISION)
    for cls in parts.scan_all():
        out[f"{cls.kind}.{cls.__part__}"] = _defaults(cls, cls.revision)
    return out


def _defaults(cls: type, revision: int) -> dict[str, Any]:
    found = parts.dump(parts.defaults(cls), full=True)
    return {"revisions": {"own": str(revision)}, "defaults": found}


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """How the meaning of old specs changes, or None; a new field changes none."""
    for field, value in old["defaults"].items():
        if field not in new["defaults"]:
            return f"the default of {field} ({value!r}) is gone"
        if not parts.same(value, new["defaults"][field]):
            return f"the default of {field} is {new['defaults'][field]!r}, was {value!r}"
    return None


# ── files ───────────────────────────────────────────────────────────────────────────────────


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def merge(old: Mapping[str, Any], new: Mapping[str, Any], differ: Any) -> tuple[dict, list[str]]:
    """(what to write, what is refused): entries that agree stay to the bit, new ones come in, and
    one that differs under unchanged revisions is refused and stays as it was."""
    out, refused = {}, []
    for name in sorted(new):
        out[name] = new[name]
        if name not in old:
            continue
        how, same = differ(old[name], new[name]), old[name]["revisions"] == new[name]["revisions"]
        if how is not None and same:
            refused.append(f"{name}: {how}, under an unchanged revision; bump its `revision` first")
            out[name] = old[name]
        elif how is None and "losses" in new[name]:
            out[name] = {**new[name], "losses": old[name]["losses"]}
    return out, refused


def write(path: Path, entries: Mapping[str, Any]) -> None:
    lines = [f"{json.dumps(k)}: {json.dumps(v, sort_keys=True)}" for k, v in entries.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

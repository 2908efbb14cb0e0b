"""``paribus evaluate``: one trained model under conditions that nobody declared.

Torch is loaded once the request is known to be right.  Nothing is written into the store.
"""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from paribus import asking, parts
from paribus import spec as specs
from paribus.analysis import unrecorded
from paribus.asked import command, device_of, opened, suffix, value
from paribus.cli import OK, emit
from paribus.errors import SpecError, nearest
from paribus.nn.declare import declare
from paribus.spec import CORE_REVISION, Model, Spec
from paribus.store import Store, StoreError
from paribus.store.attempts import accepted, lost
from paribus.store.files import read
from paribus.study import source
from paribus.study.cells import evaluated
from paribus.study.expand import EVALUATED
from paribus.study.plan import Item, Plan
from paribus.study.registered import reading
from paribus.text import paths


@dataclass(frozen=True)
class Trained:
    """Weights, and what is known of how they came about.

    Attributes:
        told: the trial's spec.json.
        end: of the attempt that they are a result of.
        home: None: the trial's folder lies in none.
    """

    name: str
    trial: str
    told: Mapping[str, Any]
    weights: Path
    end: Mapping[str, Any]
    home: Path | None

    @cached_property
    def spec(self) -> Spec:
        """What it was trained with, of the last phase."""
        return specs.load(self.told["phases"][-1]["spec"])

    @property
    def step(self) -> int | None:
        """Of the best weights, the step that they are of."""
        best = [b for b in self.end.get("best", {}).values() if b["file"] == self.weights.name]
        return best[0]["step"] if best else self.end.get("step")

    @property
    def sha256(self) -> str:
        own = self.weights.name == "weights"
        return str(self.end["weights"] if own else self.end["files"][self.weights.name])

    def data(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "trial": self.trial,
            "seed": self.told["seed"],
            "attempt": None if self.weights.is_dir() else int(self.weights.parent.name),
            "step": self.step,
            "weights": str(self.weights),
            "sha256": self.sha256,
        }


@dataclass(frozen=True)
class Wanted:
    """A condition: what it changes of the trained spec, and what is evaluated, resolved."""

    label: str
    changes: Mapping[str, Any]
    spec: Spec


FORMS = ("csv", "json", "svg", "png", "pdf")  # the last three of a probe that has an axis


def do_evaluate(o: Namespace) -> int:
    form = suffix(o.output, FORMS if o.probe else FORMS[:2])
    if o.output and (not form or Path(o.output).is_dir()):
        raise SpecError(f"-o {o.output}: name a file that ends in .csv or .json")
    if o.examples is not None and o.examples < 1:
        raise SpecError(f"--examples {o.examples}: give at least one")
    device = device_of(o) if o.device else None
    for option in ("data", "against", "dtype", "hf", "size"):
        if getattr(o, option) and not o.probe:
            raise SpecError(f"--{option} goes with --probe")
    if o.hf:
        return _hugging_face(o, form, device)
    model = _of_place(o) if _is_place(o) else _of_study(o)
    probes = asking.probes(o)
    wanted = conditions(o, model.spec)
    if o.dtype:
        wanted = [replace(w, spec=specs.patch(w.spec, "precision", o.dtype)) for w in wanted]
    other = asking.other(o)
    _same_code(model)
    for note in dict.fromkeys(n for w in wanted if not probes for n in _same_data(model, w)):
        print(f"note: {note}", file=sys.stderr)

    from paribus.engine import single

    named = [(w.label, w.spec) for w in wanted]
    how = o.split or "test", o.examples, device, _cache(model), _tell(max(len(wanted), len(probes)))
    if probes:
        asked_ = single.asked(model.weights, named, probes, *how)
        changes = [(w.label, w.changes) for w in wanted]
        return asking.report(o, form, model.data(), probes, changes, asked_, other)
    records = single.evaluated(model.weights, int(model.told["seed"]), named, *how)
    found = unrecorded.data(model.data(), [w.changes for w in wanted], records)
    if o.output:
        content = unrecorded.csv(found) if form == "csv" else json.dumps(found, indent=1) + "\n"
        Path(o.output).parent.mkdir(parents=True, exist_ok=True)
        Path(o.output).write_text(content, encoding="utf-8")
        print(o.output)
    elif o.json:
        emit(found)
    else:
        metrics = {k: m for w in wanted for k, m in w.spec.task.metrics.items()}
        print("\n".join(unrecorded.lines(found, [w.label for w in wanted], metrics)))
    return OK


def _hugging_face(o: Namespace, form: str | None, device: str | None) -> int:
    """A model of the transformers library, asked by probes."""
    own = [t for t in (*o.patches, *o.over) if not t.startswith(asking.PROBE)]
    given = [f"--{k}" for k in ("scale", "seeds", "home") if getattr(o, k) is not None]
    if o.name is not None or own or given:
        what = o.name or [*own, *given][0]
        raise SpecError(f"--hf {o.study}: it is no study and has no conditions; leave out {what}")
    probes, other = asking.probes(o), asking.other(o)

    from paribus.engine import single

    told, found = single.asked_of(o.study, o.dtype, probes, o.examples, device, _tell(len(probes)))
    return asking.report(o, form, told, probes, [("as it is", {})], found, other)


def _cache(model: Trained) -> Path | None:
    """The home's, which is no part of the results; None where it cannot be written to."""
    home = model.home
    return home / "cache" if home is not None and os.access(home, os.W_OK) else None


def _tell(n: int) -> Any:
    """Says at a terminal which of several conditions is evaluated."""
    count = iter(range(1, n + 1))

    def tell(label: str) -> None:
        if sys.stderr.isatty() and n > 1:
            print(f"{next(count)}/{n} {label}", file=sys.stderr, flush=True)

    return tell


# ── which model ─────────────────────────────────────────────────────────────────────────────


def _of_study(o: Namespace) -> Trained:
    """The trial of a study that NAME names."""
    found, store = opened(o)
    item = _item(reading(found.study, store), o.name)
    name, trial, again = item.trial.name, item.trial.id, command(o, item.trial)
    result = store.result(trial)
    if result is None:
        state, reason = item.state.state, item.state.reason
        raise SpecError(f"{name}: {_untrained(state, reason, again)}")
    if why := store.weights_lost(trial):
        raise SpecError(f"{name}: {why}; {again} --force trains it again")
    return Trained(name, trial, store.spec(trial), result.weights, result.end, store.home)


def _item(plan: Plan, name: str | None) -> Item:
    trials = {i.trial.name: i for i in plan.items}
    if name is None and len(trials) == 1:
        return plan.items[0]
    if name is None:
        known = [*trials][:8] + (["…"] if len(trials) > 8 else [])
        raise SpecError(f"evaluate: name one of its trials: {', '.join(known)}")
    if (item := trials.get(name) or plan.unique.get(name)) is not None:
        return item
    mine = [i for i in plan.items if i.trial.variant.name == name]
    if len(mine) == 1:
        return mine[0]
    if mine:
        each = ", ".join(i.trial.name for i in mine)
        raise SpecError(f"{name!r} is a variant of {len(mine)} trials; name one: {each}")
    known = [*trials, *(i.trial.variant.name for i in plan.items)]
    raise SpecError(f"no trial or variant {name!r}; {nearest(name, dict.fromkeys(known))}")


def _untrained(state: str, reason: str, again: str) -> str:
    """Why there are no weights, and what would make some."""
    if state in ("running", "blocked"):
        return f"it is being trained ({reason}); it can be evaluated when that is done"
    if state in ("failed", "out of memory", "refused"):
        retry = {"out of memory": "oom"}.get(state, state)
        return f"it is not trained ({state}: {reason}); {again} --retry {retry} tries again"
    if state == "diverged":
        return f"it diverged ({reason}), so there are no trained weights"
    return f"it is not trained ({state}); {again} does that"


def _is_place(o: Namespace) -> bool:
    """Whether a folder or a file of weights was given in the place of a study."""
    place = Path(o.study).expanduser()
    if o.name is not None:  # a folder beside it may be called as a study is
        if (place / "spec.json").is_file():
            raise SpecError(f"{o.study} says itself which trial it is: leave out {o.name!r}")
        return False
    if place.is_dir():
        return o.study not in source.shipped() or (place / "spec.json").is_file()
    return place.is_file() and place.suffix != ".py"


def _of_place(o: Namespace) -> Trained:
    """The trial whose folder was given, a link to it, or a file of weights in one."""
    for option in ("scale", "seeds", "home"):
        if getattr(o, option) is not None:
            raise SpecError(f"--{option} goes with a study; {o.study} is a trial's own place")
    place = Path(o.study).expanduser()
    if (place / "config.json").is_file() and not (place / "spec.json").is_file():
        parts.use_local(Path.cwd())
        paths.use_base(Path.cwd())
        folder = place.resolve()
        return Trained(folder.name, "-", *asking.hugging_face(folder), None)
    file = place.resolve() if place.is_file() else None
    folder = file.parent.parent.parent if file else place.resolve()
    told = read(folder / "spec.json")
    if told is None or "phases" not in told:
        what = "file of weights in a trial's folder" if file else "trial's folder"
        raise SpecError(f"{place} is no {what} (<home>/trials/<id>, with its spec.json)")
    home = folder.parent.parent if folder.parent.name == "trials" else None
    name, again = _where_from(place, folder.name, home)
    if file is not None:
        weights, end = file, read(file.parent / "end") or {}
        if file.name not in ("weights", *end.get("files", ())) or end.get("state") != "done":
            raise SpecError(f"{place} holds no weights of an attempt that is done")
    elif (result := accepted(folder / "attempts")) is None:
        raise SpecError(f"{name}: it is not trained; {again}")
    else:
        weights, end = folder / "attempts" / str(result[0]) / "weights", result[1]
    if end["weights"] is None:
        raise SpecError(f"{name}: a beginning that trials share, without weights of its own")
    model = Trained(name, folder.name, told, weights, end, home)
    if why := lost(weights, model.sha256):
        raise SpecError(f"{name}: {why}")
    return model


def _where_from(place: Path, trial: str, home: Path | None) -> tuple[str, str]:
    """The trial's name in a study of the home, and what would train it.  Parts and relative paths
    are looked for where the study has them; without a study, in the working directory."""
    given = place.absolute().parents
    store = Store(home) if home is not None else None
    found: tuple[str, str, str] | None = None
    if store is not None:  # of several studies first the one whose link was given
        for instance in sorted(store.studies(), key=lambda s: store.study_dir(s) not in given):
            with suppress(StoreError):  # a damaged one is another verb's matter
                study = store.read_study(instance) or {}
                names = [t["name"] for t in study.get("trials", ()) if t["id"] == trial]
                if names:
                    found = names[0], instance, study.get("file") or ""
                    break
    if found is None or store is None:
        parts.use_local(Path.cwd())
        paths.use_base(Path.cwd())
        return trial, "no study of its home has it"
    name, instance, text = found
    file = Path(text)
    base = Path.cwd() if file.parent == source.SHIPPED else file.parent
    if not text or not file.is_file():  # the home was moved: it lies beside its study
        base = store.home.parent
    kept = store.study_dir(instance) / "source"
    parts.use_local(kept if (kept / "parts").is_dir() else base)
    paths.use_base(base)
    return name, f"paribus run {text or instance.partition('@')[0]} --home {store.home} does that"


# ── which conditions ────────────────────────────────────────────────────────────────────────


def conditions(o: Namespace, trained: Spec) -> list[Wanted]:
    """What ``--set`` changes, under each combination of the levels of ``--over``: the first varies
    slowest."""
    fixed: dict[str, Any] = {}
    levels: dict[str, list[Any]] = {}
    for text in (t for t in o.patches if not t.startswith(asking.PROBE)):
        path, said = _assigned("--set", text, {**fixed, **levels})
        fixed[path] = value(said)
    for text in o.over:
        path, said = _assigned("--over", text, {**fixed, **levels})
        levels[path] = list(_listed(said, f"--over {text}"))
    out: list[Wanted] = []
    for chosen in product(*levels.values()):
        own = dict(zip(levels, chosen, strict=True))
        label = " ".join(f"{k}={unrecorded.value(v)}" for k, v in (own or fixed).items())
        _act(o, {**fixed, **own}, trained)
        out.append(_wanted(label or "own task", {**fixed, **own}, trained))
        if any(w.label == out[-1].label for w in out[:-1]):
            raise SpecError(f"--over: {label} is given twice")
    return out


def _act(o: Namespace, changes: Mapping[str, Any], trained: Spec) -> None:
    """Refuse what would change nothing: settings that training alone reads."""
    for path in changes:
        name = path.removeprefix("task.")
        if name == path or name not in trained.task.training:
            continue
        if (split := o.split or "test") != "train":
            raise SpecError(
                f"{path}: training alone reads it, so no evaluation of the {split} split changes"
            )


def _assigned(option: str, text: str, known: Mapping[str, Any]) -> tuple[str, str]:
    """(path, what is said of it) of ``path=…``; the path is one that a condition may change."""
    path, equals, said = text.partition("=")
    if not equals:
        raise SpecError(f"{option} {text!r}: write {option} path=value")
    if path in known:
        raise SpecError(f"{option} {path}: it is given twice")
    if not path.startswith(EVALUATED):
        raise SpecError(
            f"{option} {path}: no condition of evaluation: trained weights can be evaluated "
            f"under {', '.join(EVALUATED)}"
        )
    return path, said


def _listed(text: str, where: str) -> Iterator[Any]:
    """Values with commas between them: JSON, whose own commas part nothing, or bare words."""
    decoder, at = json.JSONDecoder(), 0
    while at <= len(text):
        at += len(text[at:]) - len(text[at:].lstrip())
        try:
            found, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            found, end = None, at
        rest = text[end:].lstrip()
        if end == at or (rest and rest[0] != ","):
            end = (text + ",").index(",", at)
            found = text[at:end].strip()
            if not found:
                raise SpecError(f"{where}: a value is missing; write path=value,value")
        yield found
        at = (text + ",").index(",", end) + 1


def _wanted(label: str, changes: Mapping[str, Any], trained: Spec) -> Wanted:
    try:
        spec = specs.resolve(evaluated(trained, changes))
    except SpecError as error:
        raise SpecError(f"{label}: {error}") from None
    if isinstance(spec.model, Model) and isinstance(trained.model, Model):
        have, want = declare(trained.model), declare(spec.model)
        for path, p in want.items():
            if path not in have or have[path].shape != p.shape:
                had = have[path].shape if path in have else "nothing"
                raise SpecError(
                    f"{label}: it needs {path} {p.shape}, and what was trained has {had}"
                )
    return Wanted(label, changes, spec)


# ── whether it is still what was trained ────────────────────────────────────────────────────


def _same_code(model: Trained) -> None:
    """Refuse parts that compute something else than when the weights were trained with them."""
    core = model.told["core"]
    if core != CORE_REVISION:
        raise SpecError(
            f"{model.name}: trained by another revision of the core ({core}; this is "
            f"{CORE_REVISION}), which computes other numbers"
        )
    was = model.told["parts"]
    for part, now in specs.used_parts([model.spec.model, model.spec.task]).items():
        if was.get(part, now) != now:
            raise SpecError(
                f"{model.name}: {part} has changed since it was trained ({was[part]} then, {now} "
                "now), so it computes other numbers"
            )


def _same_data(model: Trained, w: Wanted) -> Iterator[str]:
    """Refuse text that has changed under its name, and a tokenizer whose ids mean other tokens;
    yields what a person should know."""
    was, now = model.told["data"], w.spec.task.fingerprints()
    if all(was.get(k, v) == v for k, v in now.items()):
        return
    own: dict[str, str] = {}
    with suppress(SpecError):  # what it was trained on need not be there for other text
        own = model.spec.task.fingerprints()
    for name, mark in own.items():
        if was.get(name, mark) != mark and now.get(name) == mark:
            raise SpecError(
                f"{model.name}: the {name} has changed since it was trained; restore it, or name "
                "another one with --set"
            )
    if was.get("tokenizer") == now.get("tokenizer", was.get("tokenizer")):
        return
    if not any(p == "task" or p.startswith("task.tokenizer") for p in w.changes):
        raise SpecError(
            f"{w.label}: its tokenizer is made from the text, so with other text ids would mean "
            "other tokens; set task.tokenizer to the one that was trained with"
        )
    yield f"{w.label}: the tokenizer is not the one that the weights were trained with"

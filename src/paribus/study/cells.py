"""Variants, trials and conditions: what a study expands into, and their identities."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from paribus import spec as specs
from paribus.contracts import Probe, Task
from paribus.errors import Refused, SpecError
from paribus.parts import defaults, dump
from paribus.spec import CORE_REVISION, Spec, canonical, digest
from paribus.study.study import Eval
from paribus.text import weights

EVALUATOR_REVISION = 1  # bumped when evaluation changes numbers


def prints_key(task: Task) -> tuple[str, str]:
    """Under which the fingerprints of a task's data are remembered (``Variant.looked``)."""
    return "prints", canonical(dump(task))


@dataclass(frozen=True)
class Phase:
    """A stretch of training, resolved.  ``optim`` says what a later phase does with the optimizer
    state: "keep" or "reset"."""

    name: str
    spec: Spec
    optim: str = "reset"


@dataclass(frozen=True)
class Variant:
    """One cell of the factors: tags by factor (None where a factor is absent), values, phases."""

    index: int
    tags: Mapping[str, str | None]
    values: Mapping[str, Any]
    phases: tuple[Phase, ...]
    template: str  # of its trials' names: seed and run are still to be filled in
    looked: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """What was looked up for the variants of one expansion, which share it and their parts."""

    @property
    def name(self) -> str:
        """How the variant prints: its trials' name without seed and run."""
        return re.sub(r"[-_]?(run|seed|s)?\{(run|seed)\}", "", self.template).strip("-_") or "base"

    @property
    def spec(self) -> Spec:
        """The spec of the last phase."""
        return self.phases[-1].spec

    @cached_property
    def plain(self) -> dict[str, Any]:
        """Phases and revisions of parts, as plain data: what its trials have in common."""
        return {
            "phases": [
                {"name": p.name, "optim": p.optim, "spec": dump(p.spec)} for p in self.phases
            ],
            "parts": {k: v for p in self.phases for k, v in specs.used_parts(p.spec).items()},
        }

    @cached_property
    def model_text(self) -> str:
        """The model, canonical: variants with an equal text have an equal one."""
        return canonical(self.plain["phases"][-1]["spec"]["model"])

    @cached_property
    def data(self) -> dict[str, str]:
        """Fingerprints of the data that training reads, and of the checkpoint it begins from."""
        prints = dict(self.begun)
        for p in self.phases:
            prints |= self.prints(p.spec.task)
        return prints

    @cached_property
    def begun(self) -> dict[str, str]:
        """The fingerprint of the foreign checkpoint that training begins from, where there is one;
        read once an expansion."""
        start = self.phases[0].spec.start
        if start is None:
            return {}
        if (key := ("start", start.path)) not in self.looked:
            self.looked[key] = weights.fingerprint(start)
        return {"start": self.looked[key]}

    def prints(self, task: Task) -> dict[str, str]:
        """Fingerprints of a task's data, read once an expansion."""
        key = prints_key(task)
        if key not in self.looked:
            self.looked[key] = task.fingerprints()
        return dict(self.looked[key])

    @cached_property
    def text(self) -> dict[str, str]:
        """What its trials have in common, canonical, by key."""
        return {k: canonical(v) for k, v in {**self.plain, "core": CORE_REVISION}.items()}

    @cached_property
    def _text_with_data(self) -> dict[str, str]:
        return {**self.text, "data": canonical(self.data)}

    def digest(self, seed: int, *, data: bool) -> str:
        """Identity of its trial with a seed, with or without the contents of its data."""
        texts = self._text_with_data if data else self.text
        return specs.digest_text(specs.joined({**texts, "seed": str(seed)}))

    @cached_property
    def pack_key(self) -> str:
        return digest(
            [[p.name, p.optim, specs.pack_key(p.spec), p.spec.steps] for p in self.phases]
        )


@dataclass(frozen=True)
class Trial:
    """A variant and a seed: the unit that is trained."""

    name: str
    variant: Variant
    seed: int
    run: int

    @cached_property
    def spec_id(self) -> str:
        """Hash of the resolved spec alone; needs no data."""
        return self.variant.digest(self.seed, data=False)

    @cached_property
    def data(self) -> dict[str, Any]:
        """Everything that identifies the trial, as plain data; reads the data's fingerprints."""
        v = self.variant
        return {**v.plain, "seed": self.seed, "core": CORE_REVISION, "data": v.data}

    @cached_property
    def id(self) -> str:
        """The trial's identity: hash of spec, part revisions, seed and contents of its data."""
        return self.variant.digest(self.seed, data=True)

    @property
    def pack_key(self) -> str:
        return self.variant.pack_key


@dataclass(frozen=True)
class Condition:
    """An evaluation setting."""

    evaluation: Eval
    tags: Mapping[str, str | None]
    patch: Mapping[str, Any]

    @property
    def key(self) -> str:
        """How it prints: ``lm length=128``."""
        levels = " ".join(f"{k}={v}" for k, v in self.tags.items() if v is not None)
        return f"{self.evaluation.name} {levels}".strip()

    def applies(self, trial: Trial) -> bool:
        when = self.evaluation.when
        return when is None or when.holds(trial.variant.tags)

    def spec(self, trial: Trial) -> Spec:
        """The trial's spec as this condition evaluates it."""
        what = self.evaluation.what
        task = {"task": what} if isinstance(what, Task) else {}
        try:
            return evaluated(trial.variant.spec, {**task, **self.patch})
        except SpecError as error:
            raise SpecError(f"evaluation {self.key!r}, trial {trial.name!r}: {error}") from None

    def alike(self, variant: Variant) -> tuple[Any, ...]:
        """Of variants with an equal key this condition evaluates the same thing: it changes the
        task, and the model where its patch says so, and nothing else of them counts."""
        model = variant.model_text if any(p.startswith("model") for p in self.patch) else ""
        return id(self), id(variant.spec.task), model, variant.spec.precision

    def id(self, trial: Trial) -> str:
        """Identity: evaluator revision, parameters, data, dtype, checkpoint; not its name."""
        key = ("condition", *self.alike(trial.variant))
        if key not in trial.variant.looked:
            trial.variant.looked[key] = self._id(trial)
        found: str = trial.variant.looked[key]
        return found

    def resolved(self, trial: Trial) -> Spec | None:
        """What is evaluated, with numbers filled in; None where that is refused."""
        key = ("resolved", id(self), trial.variant.index)
        if key not in trial.variant.looked:
            try:
                trial.variant.looked[key] = specs.resolve(self.spec(trial))
            except Refused:
                trial.variant.looked[key] = None
            except SpecError as error:
                raise SpecError(f"evaluation {self.key!r}: {error}") from None
        found: Spec | None = trial.variant.looked[key]
        return found

    def refused(self, trial: Trial) -> str | None:
        """Why there can be no evaluation (a length beyond a learned table): an outcome."""
        v = trial.variant
        key = ("refused", id(self), id(v.spec.task), v.model_text, v.spec.rows)
        if key not in v.looked:
            v.looked[key] = None
            if self.resolved(trial) is None:
                try:
                    specs.resolve(self.spec(trial))
                except Refused as error:
                    v.looked[key] = str(error)
        found: str | None = v.looked[key]
        return found

    def shape(self, trial: Trial) -> str:
        """Hash of what is evaluated: conditions of one trial with the same are the same."""
        key = ("shape", *self.alike(trial.variant))
        if key not in trial.variant.looked:
            spec = self.spec(trial)
            told = [dump(spec.task), dump(spec.model), self.evaluation.name]
            trial.variant.looked[key] = digest(told)
        found: str = trial.variant.looked[key]
        return found

    def _asked(self, trial: Trial) -> dict[str, str]:
        """Fingerprints of what a probe asks, read once an expansion."""
        what = self.evaluation.what
        if not isinstance(what, Probe):
            return {}
        key = ("asked", id(what))
        if key not in trial.variant.looked:
            trial.variant.looked[key] = what.fingerprints()
        return dict(trial.variant.looked[key])

    def _id(self, trial: Trial) -> str:
        spec = self.spec(trial)
        what = self.evaluation.what
        changed = dump(spec.model) if any(p.startswith("model") for p in self.patch) else None
        return digest(
            {
                "revision": EVALUATOR_REVISION,
                "task": dump(spec.task),
                "probe": dump(what) if isinstance(what, Probe) else what if _named(what) else None,
                "parts": specs.used_parts([spec.task, what]),
                "data": trial.variant.prints(spec.task) | self._asked(trial),
                "model": changed,
                "split": self.evaluation.split,
                "examples": self.evaluation.examples,
                "by": list(self.evaluation.by),
                "dtype": spec.precision,
                "checkpoint": "last",
            }
        )


def evaluated(spec: Spec, changes: Mapping[str, Any]) -> Spec:
    """A trained spec with the settings of a condition, not resolved.

    Rows act in training alone.  Where the task's own words decide them, those that it was trained
    with must not contradict what they are under the condition; words that make no rows there
    (tokens a step that are no multiple of the length) are left out.
    """
    trained = spec.task
    for path, value in changes.items():
        spec = specs.patch(spec, path, value)
    for name in sorted(trained.fixed) if type(spec.task) is type(trained) else ():
        was, now = getattr(trained, name), getattr(spec.task, name)
        if was != now:
            raise SpecError(
                f"task.{name}: {now!r}, but the weights are trained at {was!r}, and inputs of "
                f"another {name} would mean something else to them"
            )
    try:
        decided = spec.task.rows() is not None
    except SpecError:
        usual = defaults(type(spec.task))
        for name in sorted(spec.task.training & usual.keys()):
            spec = specs.patch(spec, f"task.{name}", usual[name])
        alone: Spec = specs.patch(spec, "rows", 1)
        return alone
    return specs.patch(spec, "rows", None) if decided else spec


def _named(what: Any) -> bool:
    return isinstance(what, str)

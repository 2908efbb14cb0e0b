"""Expansion: a study into variants, trials and conditions, in order of declaration."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from paribus import spec as specs
from paribus.errors import ParibusError, SpecError, nearest
from paribus.nn.declare import declare
from paribus.parts import dump
from paribus.spec import Spec
from paribus.study.cells import Condition as Condition
from paribus.study.cells import Phase as Phase
from paribus.study.cells import Trial as Trial
from paribus.study.cells import Variant as Variant
from paribus.study.factors import Factor
from paribus.study.study import Eval, Study


@dataclass(frozen=True)
class Expansion:
    study: Study
    variants: list[Variant]
    trials: list[Trial]
    conditions: list[Condition]
    skipped: list[dict[str, Any]]

    def evaluations(self) -> Iterator[tuple[Trial, Condition]]:
        """Every cell of the study: trial × condition."""
        for trial in self.trials:
            for condition in self.conditions:
                if condition.applies(trial):
                    yield trial, condition


class _Cell:
    """What a ``skip`` predicate sees: values by factor, ``levels`` (tags) and ``spec``."""

    def __init__(self, values: Mapping[str, Any], tags: Mapping[str, Any], spec: Spec) -> None:
        self.__dict__.update(values)
        self.levels, self.spec = dict(tags), dump(spec, full=True)

    def __getattr__(self, name: str) -> Any:
        raise SpecError(f"skip: a cell has no {name!r}; {nearest(name, self.__dict__)}")


def cells(factors: list[Factor]) -> Iterator[dict[Factor, Any]]:
    """Every combination of levels; a conditional factor exists only under its arm."""
    names = [f.name for f in factors]
    for i, f in enumerate(factors):
        for other in f.when.levels if f.when else ():
            if other not in names[:i]:
                raise SpecError(
                    f"factor {f.name!r}: when= speaks of {other!r}, which must be declared before"
                )

    def walk(i: int, chosen: dict[Factor, Any]) -> Iterator[dict[Factor, Any]]:
        if i == len(factors):
            yield dict(chosen)
            return
        f = factors[i]
        tags = {g.name: lv.tag if lv else None for g, lv in chosen.items()}
        for level in f.levels if f.when is None or f.when.holds(tags) else [None]:
            yield from walk(i + 1, {**chosen, f: level})

    yield from walk(0, {})


def expand(study: Study) -> Expansion:
    """Variants, trials and conditions of a study; every refusal that needs no data."""
    variants: list[Variant] = []
    skipped: list[dict[str, Any]] = []
    looked: dict[Any, Any] = {}
    for cell in cells(list(study.factors)):
        tags = {f.name: lv.tag if lv else None for f, lv in cell.items()}
        values = {f.name: lv.value if lv else None for f, lv in cell.items()}
        if study.skip:
            rules = _phases(study, cell, final=False)
            reason = _skip(study, _Cell(values, tags, rules[-1].spec))
            if reason is not None:
                skipped.append({"reason": reason, "levels": tags})
                continue
        phases = _phases(study, cell, final=True)
        name = _name(study.names or _default_names(study), tags, phases[-1].spec)
        variants.append(Variant(len(variants), tags, values, phases, name, looked))
    if not variants:
        raise SpecError(f"study {study.name!r}: an empty grid: skip= leaves no cell")
    _refuse_without_effect(study, variants)
    trials = _trials(study, variants)
    conditions = [c for e in study.evaluate for c in _conditions(e)]
    expansion = Expansion(study, variants, trials, conditions, skipped)
    _check_conditions(expansion)
    study.check_kept(conditions, variants[0].spec.task)
    return expansion


def _phases(study: Study, cell: Mapping[Factor, Any], *, final: bool) -> tuple[Phase, ...]:
    names = ["train", *(n for n, _ in study.phased.phases)]
    patches: dict[str, list[tuple[str, str, Any]]] = {n: [] for n in names}
    for f, level in cell.items():
        for path, value in level.patch.items() if level else ():
            phase, _, rest = path.rpartition(":")
            if (phase or "train") not in patches:
                raise SpecError(f"factor {f.name!r}: no phase {phase!r}; {nearest(phase, names)}")
            where = f"factor {f.name!r}, level {level.tag!r}"
            patches[phase or "train"].append((where, rest, value))
    out: list[Phase] = []
    current = study.phased.base
    for name in names:
        own = [] if name == "train" else list(dict(study.phased.phases)[name].items())
        optim = "reset" if name == "train" else "keep"
        for where, path, value in [*((f"phase {name!r}", p, v) for p, v in own), *patches[name]]:
            if path == "optim" and value in ("keep", "reset"):
                optim = value
                continue
            try:
                current = specs.patch(current, path, value)
            except SpecError as error:
                also = '; or "keep" or "reset" what there is' if path == "optim" else ""
                raise SpecError(f"{where}: {error}{also}") from None
        if out and current.start != out[0].spec.start:
            raise SpecError(
                f"phase {name!r}: start: a later phase goes on with the weights of the one before"
            )
        if out and type(current.optim) is not type(out[-1].spec.optim):
            optim = "reset"  # another kind has other state
        phase_spec = current
        if final:
            try:
                phase_spec = specs.resolve(_budgeted(study, current))
            except SpecError as error:
                tags = ", ".join(f"{f.name}={lv.tag}" for f, lv in cell.items() if lv)
                raise SpecError(f"{tags or study.name}: {error}") from None
        out.append(Phase(name, phase_spec, optim))
    if final:
        _same_weights(out)
        _refuse_unfelt(study, cell, out)
    return tuple(out)


def _refuse_unfelt(study: Study, cell: Mapping[Factor, Any], phases: list[Phase]) -> None:
    """A setting of a schedule that comes after the last step of every phase that has it."""
    for p in phases:
        alike = [q for q in phases if q.spec.schedule == p.spec.schedule]
        each = [q.spec.schedule.unfelt(q.spec.steps or 1) for q in alike]
        if all(each):
            tags = ", ".join(f"{f.name}={lv.tag}" for f, lv in cell.items() if lv)
            raise SpecError(f"{tags or study.name}: schedules.{p.spec.schedule.name}.{each[0]}")


def _same_weights(phases: list[Phase]) -> None:
    """A later phase goes on with the weights of the one before: refuse what they do not fit."""
    shapes = []
    for p in phases:
        if isinstance(p.spec.model, specs.Model):
            shapes.append({k: d.shape for k, d in declare(p.spec.model).items()})
    for p, before, after in zip(phases[1:], shapes, shapes[1:], strict=False):
        if before != after:
            moved = next(k for k in {**before, **after} if before.get(k) != after.get(k))
            raise SpecError(
                f"phase {p.name!r}: {moved} is {before.get(moved)} before and {after.get(moved)} "
                "in it; a phase goes on with the same weights"
            )


def _budgeted(study: Study, spec: Spec) -> Spec:
    if study.budget is None:
        return spec
    unit, amount = study.budget.unit, study.budget.amount
    if spec.steps is not None:
        raise SpecError(f"steps: {spec.steps} are given, and the budget decides them; give one")
    if unit == "seconds":
        raise SpecError("budget: equal seconds need a measured speed, which is not there yet")
    rows = spec.task.rows() or spec.rows or 1
    if unit == "steps":
        steps = amount
    else:
        io = spec.task.io()
        length = io.length
        if length is None or io.ragged:
            raise SpecError(
                f"budget: {unit} need a task whose rows hold a known number of tokens; give steps"
            )
        per_step = float(rows * io.per_row)
        if unit == "flops":
            from paribus.nn import flops

            resolved = specs.resolve(specs.patch(spec, "steps", 1))
            if not isinstance(resolved.model, specs.Model):
                raise SpecError("budget: the flops of an external model are not known")
            per_step *= flops.training(resolved.model, length, resolved.freeze)
        steps = amount / per_step
    out: Spec = specs.patch(spec, "steps", max(1, round(steps)))
    return out


def _skip(study: Study, cell: _Cell) -> str | None:
    for reason, predicate in study.skip:
        try:
            if predicate(cell):
                return reason
        except ParibusError:
            raise
        except Exception as error:
            raise SpecError(f"skip {reason!r}: {type(error).__name__}: {error}") from None
    return None


def _refuse_without_effect(study: Study, variants: list[Variant]) -> None:
    """Two variants that resolve to equal specs: some factor has no effect there."""
    seen: dict[str, Variant] = {}
    for v in variants:
        h = specs.digest_text(specs.joined(v.text))
        if h in seen:
            other = seen[h]
            moved = [f for f in v.tags if v.tags[f] != other.tags[f]]
            raise SpecError(
                f"factor {', '.join(repr(f) for f in moved)} has no effect: "
                + " and ".join(", ".join(f"{f}={w.tags[f]}" for f in moved) for w in (other, v))
                + " resolve to equal specs; drop a level, or use when= or skip="
            )
        seen[h] = v


# ── names ───────────────────────────────────────────────────────────────────────────────────

_FIELD = re.compile(r"(-?)\{([\w.]+)(\?)?\}")


def _default_names(study: Study) -> str:
    return "-".join(_default_field(f) for f in study.factors) or study.name


def _default_field(f: Factor) -> str:
    """A number alone says little: ``lr0.001``."""
    numeric = all(isinstance(v.value, int | float) for v in f.levels) and f.when is None
    between = "=" if f.name[-1].isdigit() else ""
    return f"{f.name}{between}{{{f.name}}}" if numeric else f"{{{f.name}?}}"


def _name(template: str, tags: Mapping[str, str | None], spec: Spec) -> str:
    """The name without the seed: ``{seed}`` and ``{run}`` stay for the trial to fill."""

    def fill(match: re.Match[str]) -> str:
        hyphen, name, optional = match.groups()
        if name in ("seed", "run"):
            return match.group(0)
        if name in tags:
            if tags[name] is None:
                if not optional:
                    raise SpecError(f"names: {name!r} is absent in some cells; write {{{name}?}}")
                return ""
            return f"{hyphen}{tags[name]}"
        if "." in name:
            return f"{hyphen}{specs.at(spec, name)}"
        raise SpecError(f"names: no factor {name!r}; {nearest(name, [*tags, 'seed', 'run'])}")

    out = _FIELD.sub(fill, template).lstrip("-")
    bad = re.search(r"[^\w./+=@,{}-]", out)
    if bad:
        raise SpecError(f"names: {out!r} holds {bad.group(0)!r}; use tag= for such levels")
    out = out or "base"
    if len(out) > 200 or any(p in ("", ".", "..") or p[0] == "." for p in out.split("/")):
        raise SpecError(f"names: {out[:60]!r} is no file name; use tag= for such levels")
    return out


def _trials(study: Study, variants: list[Variant]) -> list[Trial]:
    out: list[Trial] = []
    owner: dict[str, Variant] = {}
    assert isinstance(study.seeds, list)
    for v in variants:
        for run, seed in enumerate(study.seeds, 1):
            name = v.template.replace("{seed}", str(seed)).replace("{run}", str(run))
            if name == v.template and len(study.seeds) > 1:
                name += f"-s{seed}"
            if name in owner:
                raise SpecError(
                    f"names: {name!r} stands for two trials "
                    f"({_tags(owner[name])} and {_tags(v)}); add the factor to names="
                )
            owner[name] = v
            out.append(Trial(name, v, seed, run))
    for name in owner:
        folder = next((n for n in _folders(name) if n in owner), None)
        if folder is not None:
            raise SpecError(f"names: {folder!r} is a trial and the folder of {name!r}")
    return out


def _folders(name: str) -> Iterator[str]:
    """The folders that a name with '/' lies in."""
    for i, letter in enumerate(name):
        if letter == "/":
            yield name[:i]


def _tags(v: Variant) -> str:
    return ", ".join(f"{k}={t}" for k, t in v.tags.items() if t is not None)


# What a condition may change of a trained model: nothing that decides the shapes of its weights,
# and nothing that acts in training alone.
EVALUATED = ("task", "model.position", "model.mask", "model.temperature", "model.logit_scale")

# ── conditions ──────────────────────────────────────────────────────────────────────────────


def _conditions(evaluation: Eval) -> Iterator[Condition]:
    for levels in product(*(f.levels for f in evaluation.over)):
        patch: dict[str, Any] = {}
        for f, level in zip(evaluation.over, levels, strict=True):
            for path, value in level.patch.items():
                if not path.startswith(EVALUATED):
                    raise SpecError(
                        f"factor {f.name!r}: {path!r} is no condition of evaluation: trained "
                        f"weights can be evaluated under {', '.join(EVALUATED)}"
                    )
                patch[path] = value
        tags = {f.name: lv.tag for f, lv in zip(evaluation.over, levels, strict=True)}
        yield Condition(evaluation, tags, patch)


def _check_conditions(expansion: Expansion) -> None:
    """Every condition's patch fits every trial, and no condition repeats another."""
    firsts = {t.variant.index: t for t in reversed(expansion.trials)}
    for trial in firsts.values():
        seen: dict[str, str] = {}
        for c in expansion.conditions:
            if not c.applies(trial):
                continue
            h = c.shape(trial)
            if h in seen:
                raise SpecError(
                    f"evaluation {c.key!r} equals {seen[h]!r}: its factor has no effect"
                )
            seen[h] = c.key

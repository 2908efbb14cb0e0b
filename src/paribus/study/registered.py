"""Reading a study whose text is another one here, or is gone.

Ids hold the content hashes of data, so with other text the same study has other ids, and its
results would seem not to be there.  study.json tells the hashes that were read when it was
registered.  A plan that takes those in the place of what is read here has the ids of then for all
that is equal but for the text; and for nothing else, since ids are hashes of everything else, too.
So nothing needs to be compared: of the two plans the one that finds more results is read.

Results alone are read so.  What is trained is planned with the text that is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from paribus.contracts import Task
from paribus.errors import ParibusError
from paribus.parts import describe, dump
from paribus.spec import canonical
from paribus.store import Store, StoreError
from paribus.store.scan import Look
from paribus.study.cells import prints_key
from paribus.study.expand import Expansion, expand
from paribus.study.plan import Plan
from paribus.study.study import Study

Record = Mapping[str, Any]


def reading(study: Study, store: Store) -> Plan:
    """The study as its results are read; ``note`` of the plan says whether the text is another one.

    As registered, unless the text that is here has more results; the trials of an unchanged text
    are the same either way.
    """
    expansion = expand(study)
    stored = _stored(study, store)
    try:
        here = Plan(study, store, expansion=expansion)
    except (ParibusError, OSError) as error:  # its text may be gone: reading can do without
        there = None if stored is None else _as_registered(study, store, stored)
        if there is None or not any(results(there)):
            raise
        there.note = (
            f"the text that these trials were trained on cannot be read here ({error}); results "
            "are read as registered"
        )
        return there
    there = None if stored is None else _unlike(here, stored)
    if there is None or not any(results(there)):
        return here
    if results(there) < results(here):
        here.note = _others(here, there) + "; what is shown was trained on the text that is here"
        return here
    what = "evaluated" if there.unique.keys() == here.unique.keys() else "trained"
    there.note = (
        f"the text here is not the one that these trials were {what} on{_differ(here, there)}; "
        "results are read as registered"
    )
    return there


def elsewhere(plan: Plan) -> str:
    """Of a plan that is to be run: what was trained on other text and will not be used; ""."""
    stored = _stored(plan.study, plan.store)
    there = None if stored is None else _unlike(plan, stored)
    if there is None or not _begun(plan, there):
        return ""
    return (
        f"{_others(plan, there)}; with the text here they are other trials, and `run` trains these "
        "anew. What is there stays, but tables and report will be of the new ones"
    )


def results(plan: Plan) -> tuple[int, int, int]:
    """How much of a plan is there: trials with a result, evaluations, trials that were begun."""
    cells = {i.trial.id: {c.id for c in i.cells} for i in plan.items}
    return counted(cells.items(), lambda trial: plan.unique[trial].look)


def counted(
    trials: Iterable[tuple[str, Iterable[str]]], look: Callable[[str], Look]
) -> tuple[int, int, int]:
    """``results`` of trials and the ids of their cells."""
    done = cells = begun = 0
    for trial, conditions in trials:
        seen = look(trial)
        done += seen.result is not None
        cells += len(seen.records.keys() & set(conditions))
        begun += seen.state.state != "planned"
    return done, cells, begun


# ── with the hashes of then ─────────────────────────────────────────────────────────────────


def _stored(study: Study, store: Store) -> Record | None:
    """Its registration; None where there is none, or a damaged one, which those say who need it."""
    with suppress(StoreError):
        return store.read_study(study.instance)
    return None


def _unlike(here: Plan, stored: Record) -> Plan | None:
    """The study with the registered hashes, where this makes other ids; None where it does not."""
    mine = _ids(here)
    if {(t["id"], c) for t in stored["trials"] for c in ("", *t["cells"].values())} <= mine:
        return None
    there = _as_registered(here.study, here.store, stored)
    return None if _ids(there) == mine else there


def _ids(plan: Plan) -> set[tuple[str, str]]:
    """Trials and cells."""
    return {(i.trial.id, cell) for i in plan.items for cell in ("", *(c.id for c in i.cells))}


def _as_registered(study: Study, store: Store, stored: Record) -> Plan:
    expansion = expand(study)
    expansion.variants[0].looked.update(_prints(expansion, stored))
    return Plan(study, store, expansion=expansion)


def _prints(expansion: Expansion, stored: Record) -> dict[Any, dict[str, str]]:
    """Key of a task -> the fingerprints of its data when the study was registered.

    A task that is new since then, or whose evaluation was refused, has those of another one with
    the same corpus and tokenizer.
    """
    known: dict[Any, dict[str, str]] = {}
    earlier: list[tuple[Task, dict[str, str]]] = []
    asked: dict[Any, Task] = {}
    trials = {t["name"]: t for t in stored["trials"]}
    evaluated = stored.get("evaluated") or {}
    seen: set[Any] = set()
    for trial in expansion.trials:
        v = trial.variant
        cells = trials.get(trial.name, {}).get("cells", {})
        phases = [p.spec.task for p in v.phases]
        asked |= {prints_key(task): task for task in phases}
        if (info := stored["variants_info"].get(v.name)) is not None:
            known.setdefault(prints_key(phases[-1]), info["data"])
            earlier += [(task, info["data"]) for task in phases[:-1]]
        for c in expansion.conditions:
            if (mark := (c.alike(v), cells.get(c.key))) in seen or not c.applies(trial):
                continue
            seen.add(mark)
            task = c.spec(trial).task
            asked[prints_key(task)] = task
            if (told := evaluated.get(mark[1])) is not None:
                known.setdefault(prints_key(task), told["data"])
    for task, data in earlier:  # of several phases the last one's fingerprints stand in the record
        known.setdefault(prints_key(task), data)
    alike = {_sources(task): known[key] for key, task in asked.items() if key in known}
    for key, task in asked.items():
        if key not in known and (same := alike.get(_sources(task))) is not None:
            known[key] = same
    return known


def _sources(task: Task) -> str:
    """What the text of a task is made of, canonical; a task without is alike to itself alone."""
    parts = [getattr(task, name, None) for name in ("corpus", "tokenizer")]
    return canonical(dump(parts if any(parts) else task))


# ── in words ────────────────────────────────────────────────────────────────────────────────


def _begun(here: Plan, there: Plan) -> int:
    """Trials of the other text."""
    other = (i for trial, i in there.unique.items() if trial not in here.unique)
    return sum(i.state.state != "planned" for i in other)


def _others(here: Plan, there: Plan) -> str:
    n = _begun(here, there)
    trials = "1 trial of this study was" if n == 1 else f"{n} trials of this study were"
    return f"{trials} trained on other text{_differ(here, there)}"


def _differ(here: Plan, there: Plan) -> str:
    """`` (corpus: stdlib of Python 3.12.3 there, 3.11.7 here)``: what differs, by kind."""
    looked, other = (p.expansion.variants[0].looked for p in (here, there))
    found: dict[str, None] = {}
    for task in _tasks(here):
        key = prints_key(task)
        was, now = other.get(key, {}), looked.get(key, {})
        for kind in (k for k in now if was.get(k, now[k]) != now[k]):
            part = getattr(task, kind, None)
            name = describe(part).partition(".")[2] if part is not None else "its content"
            found[f"{kind}: {name}{_versions(part, here, there)}"] = None
    return f" ({'; '.join(found)})" if found else ""


def _tasks(plan: Plan) -> Iterable[Task]:
    for v in plan.expansion.variants:
        yield from (p.spec.task for p in v.phases)
    for i in plan.items:
        yield from (c.spec.task for c in i.cells if c.spec is not None)


def _versions(part: Any, here: Plan, there: Plan) -> str:
    """Of a text that comes with Python: the versions there and here."""
    import platform

    if not getattr(part, "of_python", False):
        return ""
    ends = [i.look.result.end for i in there.unique.values() if i.look.result is not None]
    versions = {str((e.get("engine") or {}).get("python") or "") for e in ends} - {""}
    if not versions:
        return ""
    return f" of Python {', '.join(sorted(versions))} there, {platform.python_version()} here"

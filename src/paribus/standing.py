"""How a study stands, as plain data: states, what runs where, what failed, how long it will take.

Files are only read.  Clocks (a log's time, a claim's) are used for display alone.  Torch-free.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from paribus.analysis import gaps, listing
from paribus.asked import free_memory
from paribus.store import owners
from paribus.store.files import read
from paribus.study.plan import Item, Plan

STUCK = 300.0
"""Seconds without a step after which a running trial is shown as stuck."""

AT_WORK = ("running", "blocked")
LEFT = ("planned", "running", "interrupted", "blocked")
_TAIL = 8192  # bytes of a log that are looked at
_STEP = re.compile(r"^step (\d+)/\d+", re.M)
_RESUMED = re.compile(r"^resumed at step (\d+)", re.M)


def standing(plan: Plan, device: str) -> dict[str, Any]:
    """Everything that `paribus status` shows.

    Args:
        device: where trials would be trained here; for the memory that is free.
    """
    trials = [_trial(plan, i) for i in plan.items]
    running = [r for i in plan.items for r in _at_work(plan, i)]
    units = _trunks(plan)
    running += [r for t in units for r in t.pop("running")]
    states = [t["state"] for t in trials]
    out: dict[str, Any] = {
        "study": plan.study.instance,
        "question": plan.study.question,
        "home": str(plan.store.home),
        "note": plan.note,
        "factors": [f.name for f in plan.study.factors],
        "conditions": [c.key for c in plan.expansion.conditions],
        "counts": {s: states.count(s) for s in dict.fromkeys(states)},
        "done": sum(i.done for i in plan.unique.values()),
        "total": len(plan.unique),
        "evaluated": sum(t["evaluated"] for t in trials),
        "evaluations": sum(t["evaluations"] for t in trials),
        "trials": trials,
        "trunks": units,
        "running": running,
        "failures": _failures(plan),
        "gaps": _gaps(plan),
        "runs": [
            {"id": r.id, "alive": r.alive, "host": r.identity.get("host"),
             "pid": r.identity.get("pid"), "at": r.identity.get("at"), **r.what}
            for r in plan.store.runs(plan.study.instance)
            if r.alive is not False
        ],
        "eta": _eta(plan, running),
        "disk": None,
        "memory": None,
    }  # fmt: skip
    if plan.to_train():
        out["disk"] = {"needed": plan.disk(), "free": plan.free()}
        out["memory"] = {"needed": plan.memory(), "free": free_memory(device), "device": device}
    return out


# ── trials ──────────────────────────────────────────────────────────────────────────────────


def _trial(plan: Plan, i: Item) -> dict[str, Any]:
    state = i.state
    return {
        "trial": i.trial.name,
        "id": i.trial.id,
        "variant": i.trial.variant.name,
        "levels": dict(i.trial.variant.tags),
        "seed": i.trial.seed,
        "state": state.state,
        "retired": state.retired,
        "attempt": state.attempt,
        "step": _step(plan, i.trial.id, state) if state.state in AT_WORK else state.last_step,
        "steps": i.steps,
        "reason": state.reason,
        "evaluated": sum(c.done for c in i.cells),
        "evaluations": len(i.cells),
        "conditions": {c.condition.key: _cell(plan, i, c) for c in i.cells},
    }


def _cell(plan: Plan, i: Item, c: Any) -> str:
    """done, refused, failed, running or planned."""
    if c.done:
        return str(i.look.records[c.id].get("status") or "done")
    if c.refused:
        return "refused"
    if c.id in i.look.claimed and not plan.store.watch.judge(i.look.claimed[c.id])[0]:
        return "running"
    return "failed" if c.id in i.look.failed else "planned"


def _attempt(plan: Plan, unit: str, number: int) -> Path:
    return plan.store.trial_dir(unit) / "attempts" / str(number)


def _step(plan: Plan, unit: str, state: Any) -> int:
    """The newest step that the log or a checkpoint shows."""
    said = _STEP.findall(tail(_attempt(plan, unit, state.attempt) / "log"))
    return max(int(state.last_step), int(said[-1]) if said else 0)


# ── what runs where ─────────────────────────────────────────────────────────────────────────


def _at_work(plan: Plan, i: Item) -> list[dict[str, Any]]:
    """Rows of a trial: it is trained, or some of its conditions are evaluated."""
    name, out = i.trial.name, []
    if i.state.state in AT_WORK and i.state.claim:
        out.append(_working(plan, i.trial.id, name, i.state, i.steps))
    keys = {c.id: c.condition.key for c in i.cells}
    for condition, claim in i.look.claimed.items():
        if condition in keys and not plan.store.watch.judge(claim)[0]:
            row = {"name": name, "trial": i.trial.id, "condition": keys[condition]}
            out.append({**row, "state": "evaluating", **_who(claim)})
    return out


def _who(claim: Mapping[str, Any]) -> dict[str, Any]:
    return {"worker": claim.get("worker"), "host": claim.get("host"), "pid": claim.get("pid"),
            "since": claim.get("at")}  # fmt: skip


def _working(plan: Plan, unit: str, name: str, state: Any, steps: int) -> dict[str, Any]:
    path = _attempt(plan, unit, state.attempt)
    log = tail(path / "log")
    said = _STEP.findall(log)
    step = max(state.last_step, int(said[-1]) if said else 0)
    started = _RESUMED.findall(head(path / "log"))
    began, wrote = _seconds_of(state.claim.get("at")), _changed(path / "log")
    rate = None
    if said and began and wrote and wrote > began:
        rate = max(0, int(said[-1]) - int(started[0] if started else 0)) / (wrote - began) or None
    last = max(t for t in (began, wrote, 0.0) if t is not None)
    quiet = max(0.0, time.time() - last) if last else None
    if asleep := owners.asleep(state.claim):
        rate = None
    return {
        "name": name,
        "trial": unit,
        "condition": None,
        "state": state.state,
        "reason": "its process is stopped (SIGSTOP)"
        if asleep
        else state.reason
        if state.state == "blocked"
        else "",
        **_who(state.claim),
        "device": _device(path),
        "step": step,
        "steps": steps,
        "steps_per_second": round(rate, 3) if rate else None,
        "quiet_seconds": round(quiet) if quiet is not None else None,
        "stuck": state.state == "running" and quiet is not None and quiet > STUCK,
    }


def _device(attempt: Path) -> str | None:
    """Where the attempt runs, as its provenance says."""
    about: dict[str, Any] = {}
    with suppress(Exception):  # for the eye: a damaged one is passed over
        about = read(attempt / "provenance") or {}
    device = about.get("settings", {}).get("device") or about.get("engine", {}).get("device")
    return str(device) if device else None


def _trunks(plan: Plan) -> list[dict[str, Any]]:
    """Shared beginnings that have begun or are needed."""
    forest = plan.forest
    children: dict[str, int] = {}
    for parent in [*forest.parent.values(), *(t.parent for t in forest.trunks if t.parent)]:
        children[parent] = children.get(parent, 0) + 1
    out = []
    for t in forest.trunks:
        state = plan.store.state(t.id)
        if state.state == "planned" and t.id not in plan.training.trunks:
            continue
        working = state.state in AT_WORK
        out.append(
            {
                "trunk": t.name, "id": t.id, "state": state.state, "reason": state.reason,
                "step": _step(plan, t.id, state) if working else state.last_step,
                "steps": t.until, "children": children.get(t.id, 0),
                "running": [_working(plan, t.id, t.name, state, t.until)] if working else [],
            }
        )  # fmt: skip
    return out


# ── failures ────────────────────────────────────────────────────────────────────────────────


def _failures(plan: Plan) -> list[dict[str, Any]]:
    """Trials and evaluations that failed, in order of declaration, by their human names."""
    out = []
    for i in plan.items:
        told = {"name": i.trial.name, "cells": {c.condition.key: c.id for c in i.cells}}
        for name, state, reason in listing.of_trial(told, i.look):
            whole = name == i.trial.name
            log = tail(_attempt(plan, i.trial.id, i.state.attempt) / "log") if whole else ""
            out.append(
                {"name": name, "trial": i.trial.id, "state": state, "reason": reason,
                 "lines": [x for x in log.splitlines() if x.strip(" ^~")][-3:]}
            )  # fmt: skip
        missing = [c for c in i.cells if not c.done and not c.refused]
        if missing and not i.look.claimed and i.lost:
            reason = f"{i.lost}, and evaluations are missing; run --retry lost"
            out.append({"name": i.trial.name, "trial": i.trial.id, "state": "lost",
                        "reason": reason, "lines": []})  # fmt: skip
    return out


def _gaps(plan: Plan) -> list[str]:
    """Trials of which something was removed after they had ended, a line each."""
    trials = [{"name": i.trial.name, "id": i.trial.id} for i in plan.items]
    study = {"trials": trials, "ended": plan.store.ended(plan.study.instance)}
    return [str(gap) for gap in gaps.gaps(study, {i.trial.id: i.look for i in plan.items})]


# ── how long ────────────────────────────────────────────────────────────────────────────────


def _eta(plan: Plan, running: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Seconds to the end of the study with the workers of now, and what that rests on: finished
    trials of the same shape, else the rates that the logs of running ones show.  None: nothing
    is left, or nothing is known."""
    left = [i for i in plan.unique.values() if i.state.state in LEFT]
    missing = [c for i in plan.unique.values() for c in i.cells
               if not c.done and not c.refused and i.state.state in (*LEFT, "done")]  # fmt: skip
    if not left and not missing:
        return None
    measured = _measured(plan)
    rates = _rates(plan, running)
    steps = {r["trial"]: r["step"] for r in running if r.get("step") is not None}
    total, how = 0.0, set()
    for i in left:
        key = i.trial.pack_key
        known = measured.get(key) or rates.get(key)
        if known is None:
            known = median([*(measured or rates).values()]) if measured or rates else None
            how.add("trials of other shapes")
        else:
            how.add("finished trials of the shape" if key in measured else "the logs' rates")
        if known is None:
            return None
        total += known * max(0, i.steps - steps.get(i.trial.id, i.state.last_step))
    spent = [r["seconds"] for i in plan.items for r in i.look.records.values() if r.get("seconds")]
    if spent:
        total += median(spent) * len(missing)
    elif not left:
        return None
    workers = len({r["worker"] for r in running})
    return {
        "seconds": round(total / max(1, workers)),
        "workers": workers,
        "basis": ", ".join(sorted(how)) or "finished evaluations",
    }


def _measured(plan: Plan) -> dict[str, float]:
    """Pack key -> median seconds a step of a trial, of those that are done."""
    found: dict[str, list[float]] = {}
    for i in plan.unique.values():
        end = i.look.result.end if i.look.result else {}
        if end.get("seconds") and i.steps:
            stack = (end.get("engine") or {}).get("stack") or 1
            found.setdefault(i.trial.pack_key, []).append(end["seconds"] / stack / i.steps)
    return {key: median(values) for key, values in found.items()}


def _rates(plan: Plan, running: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Pack key -> seconds a step of a trial, of those that run; of a stack each counts in part."""
    trained = [r for r in running if r.get("steps_per_second") and r["trial"] in plan.unique]
    mates = [r["worker"] for r in running if r["state"] == "running"]
    found: dict[str, list[float]] = {}
    for r in trained:
        key = plan.unique[r["trial"]].trial.pack_key
        each = 1 / r["steps_per_second"] / max(1, mates.count(r["worker"]))
        found.setdefault(key, []).append(each)
    return {key: median(values) for key, values in found.items()}


# ── files ───────────────────────────────────────────────────────────────────────────────────


def tail(path: Path, size: int = _TAIL) -> str:
    """The end of a log, in whole lines; "" if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            start = max(0, file.tell() - size)
            file.seek(start)
            text = file.read(size).decode(errors="replace")
    except OSError:
        return ""
    return text.partition("\n")[2] if start else text


def head(path: Path, size: int = _TAIL) -> str:
    """The beginning of a log."""
    try:
        with open(path, "rb") as file:
            return file.read(size).decode(errors="replace")
    except OSError:
        return ""


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _seconds_of(at: Any) -> float | None:
    try:
        return datetime.fromisoformat(str(at)).timestamp()
    except ValueError:
        return None

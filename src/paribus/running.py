"""One run: which trials, on which devices, until nothing is left.  Torch-free."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from paribus import parts
from paribus.cli import FAILED, INTERRUPTED, OK, STOPPED
from paribus.errors import SpecError, nearest
from paribus.launch import local
from paribus.store import init_home
from paribus.study import source
from paribus.study.plan import Item, Plan, study_record, work


def unfinished(plan: Plan, item: Item, retry: bool) -> bool:
    if item.lost:
        if retry:
            plan.store.retire(item.trial.id, item.lost)
        return retry
    if item.done:
        return not all(c.done for c in item.cells)
    if item.state.state in ("failed", "out of memory", "diverged", "refused"):
        if retry and item.state.state == "diverged":
            print(f"{item.trial.name} diverged, which is its result", file=sys.stderr)
        elif retry:
            if item.state.state == "refused":
                plan.store.retire(item.trial.id, "asked to try again")
            return True
        return False
    return True


def chosen(plan: Plan, only: list[str]) -> list[Item]:
    """``--only position=rope,seed=1``: the cells that agree with every given level."""
    items = plan.items
    for text in ",".join(only).split(",") if only else []:
        name, _, level = text.partition("=")
        factors = {f.name: f for f in plan.study.factors}
        if name == "seed":
            kept = [i for i in items if str(i.trial.seed) == level]
        elif name == "variant":
            kept = [i for i in items if i.trial.variant.name == level]
        elif name in factors:
            tag = factors[name].level(level).tag if level in [
                lv.tag for lv in factors[name].levels
            ] else factors[name].level(_value(level)).tag  # fmt: skip
            kept = [i for i in items if i.trial.variant.tags[name] == tag]
        else:
            known = ["seed", "variant", *factors]
            raise SpecError(f"--only {text!r}: no factor {name!r}; {nearest(name, known)}")
        items = kept
    if not items:
        raise SpecError(f"--only {','.join(only)}: chooses no trial")
    return items


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def register(found: source.Source, plan: Plan) -> None:
    """Write what is asked: the study, its trials, their names, the sources of local parts."""
    store, instance = plan.store, plan.study.instance
    record = study_record(plan)
    old = store.read_study(instance) or {}
    theirs = Path(old.get("file") or found.path)
    if theirs != found.path and theirs.is_file():
        raise SpecError(
            f"study {instance!r} in {store.home} is that of {theirs}; give one of the two another "
            "name, or a home of its own (--home)"
        )
    init_home(store.home)
    record["file"] = str(found.path)
    seen = sum(i.done for i in plan.items)
    record["registered"] = old.get("registered") or datetime.now(UTC).isoformat(timespec="seconds")
    record["results_seen"] = seen
    for trial_id, item in plan.unique.items():
        store.declare(trial_id, item.trial.data)
    for item in plan.items:
        store.link_name(instance, item.trial.name, item.trial.id)
    sources = {found.path.name: found.path.read_bytes()}
    for kind, _, path in parts.local_files():
        sources[f"parts/{kind}/{path.name}"] = path.read_bytes()
    store.keep_sources(instance, sources)
    store.write_study(instance, record, plan.data())


def work_through(
    found: source.Source, plan: Plan, todo: list[Item], o: Namespace
) -> tuple[int, bool]:
    """(exit code, whether that is the end): preflight, then workers until nothing is left."""
    devices, stack = _slots(plan, todo, o)
    sources = plan.store.study_dir(plan.study.instance) / "source"
    told = work(plan, todo, stack, local=sources, base=found.folder)
    for item in todo:
        told["trials"][item.trial.id]["retry"] = o.retry
    settings = {
        "threads": 1,
        "deterministic": True if o.deterministic else None,
        "compile": o.compile,
        "checkpoint_every": o.checkpoint_every,
        "checkpoint_steps": o.checkpoint_steps,
    }
    marks = plan.store.home / "cache" / "preflight"  # graphs that have passed are not tried again
    graphs = [g for g in plan.graphs(todo) if not (marks / g["id"]).exists()]
    if graphs and not o.no_check:
        about = {**told, "graphs": graphs, "marks": str(marks)}
        if code := local.preflight(about, {**settings, "device": devices[0]}):
            return code, True
    steps = {
        i.trial.id: sum(p.spec.steps or 0 for p in i.trial.variant.phases)
        for i in todo
        if not i.done
    }
    progress = local.Progress(steps)
    outcome = local.run(told, settings, devices, progress.event, progress.draw)
    progress.close()
    for line in outcome.errors:
        print(line, file=sys.stderr)
    if outcome.stopped or STOPPED in outcome.codes:
        print("stopped; the same command goes on", file=sys.stderr)
        return INTERRUPTED if outcome.stopped else STOPPED, True
    return FAILED if outcome.errors else OK, False


def _slots(plan: Plan, todo: list[Item], o: Namespace) -> tuple[list[str], int]:
    """Devices, one a worker, and trials a stack."""
    for name in ("workers", "stack"):
        if getattr(o, name) is not None and getattr(o, name) < 1:
            raise SpecError(f"--{name} {getattr(o, name)}: give at least one")
    if o.gpus and not all(g.strip().isdigit() for g in o.gpus.split(",")):
        raise SpecError(f"--gpus {o.gpus!r}: give device numbers, such as 0,1")
    device = f"cuda:{o.gpus.split(',')[0]}" if o.gpus and not o.device else device_of(o)
    if device.startswith("cuda"):
        devices = [f"cuda:{g}" for g in o.gpus.split(",")] if o.gpus else [device]
        return devices * max(1, (o.workers or len(devices)) // len(devices)), o.stack or 16
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # On the CPU a stack gains little; small ones level the workers.
    stack = o.stack or 1
    packs = len(plan.packs(todo, stack))
    wanted = o.workers or (cores or 1 if device == "cpu" else 1)
    return [device] * max(1, min(wanted, packs)), stack


def device_of(o: Namespace) -> str:
    """The device asked for, else what workers will find, guessed without torch."""
    if o.device:
        if not re.fullmatch(r"cpu|mps|cuda(:[0-9]+)?", o.device):
            raise SpecError(f"--device {o.device!r}: valid: cpu, mps, cuda, cuda:0, cuda:1 …")
        return "cuda:0" if o.device == "cuda" else str(o.device)
    if os.path.exists("/dev/nvidia0") or os.path.exists("/dev/nvidiactl"):
        return "cuda:0"
    return "mps" if (platform.system(), platform.machine()) == ("Darwin", "arm64") else "cpu"

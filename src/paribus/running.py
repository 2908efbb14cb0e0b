"""One run: which cells, on which devices, until nothing is left.  Torch-free."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from paribus import parts
from paribus.asked import Chosen, device_of, retried, seconds
from paribus.cli import FAILED, INTERRUPTED, OK, STOPPED
from paribus.errors import SpecError
from paribus.launch import gpus, local, processes
from paribus.launch.progress import Progress
from paribus.store import DiskError, Store, StoreError, at_once, ended, init_home, provenance
from paribus.study import source, stacks
from paribus.study.plan import Item, Plan, work
from paribus.study.record import registration_hash, results_seen

# ── which cells ─────────────────────────────────────────────────────────────────────────────


@dataclass
class Todo:
    """What a run is to do.

    Attributes:
        items: trials to train or evaluate, in order of declaration.
        anew: trials to retire first, because they are to be trained again, with the reason.
        above: (trial id, condition id) -> number of the record that is to be superseded.
        retry: ids of trials whose failure is to be attempted again.
    """

    items: list[Item] = field(default_factory=list)
    anew: dict[str, str] = field(default_factory=dict)
    above: dict[tuple[str, str], int] = field(default_factory=dict)
    retry: set[str] = field(default_factory=set)


def todo_of(plan: Plan, chosen: Chosen, o: Namespace) -> Todo:
    """The chosen cells that plain `run`, ``--retry`` or ``--force`` attend to."""
    again = retried(o.retry)
    out = Todo()
    for item in chosen.items:
        if o.force:
            _force(plan, chosen, item, out)
        elif _unfinished(plan, chosen, item, again, out):
            out.items.append(item)
    if o.limit is not None:
        if o.limit < 1:
            raise SpecError(f"--limit {o.limit}: give at least one")
        out.items = out.items[: o.limit]
        kept = {i.trial.id for i in out.items}
        out.anew = {k: v for k, v in out.anew.items() if k in kept}
        out.above = {k: v for k, v in out.above.items() if k[0] in kept}
    return out


def _force(plan: Plan, chosen: Chosen, item: Item, out: Todo) -> None:
    trial = item.trial.id
    out.items.append(item)
    if chosen.keys is None:
        if item.state.state in ("running", "blocked"):
            raise SpecError(
                f"--force: {item.trial.name} is running ({item.state.reason}); stop it first, "
                "or leave it out with --only"
            )
        if item.state.end is not None and not item.state.retired:
            out.anew[trial] = "asked to train it again (--force)"
        out.retry.add(trial)
        return
    numbers = plan.store.record_numbers(trial)
    for c in chosen.cells(item):
        out.above[trial, c.id] = numbers.get(c.id, (0, 0))[0]


def _unfinished(plan: Plan, chosen: Chosen, item: Item, again: frozenset[str], out: Todo) -> bool:
    trial, state = item.trial.id, item.state.state
    if item.lost:
        if "lost" in again:
            out.anew[trial] = item.lost
        return "lost" in again
    if item.done:
        missing = [c for c in chosen.cells(item) if not c.done]
        if missing and "failed" not in again:
            numbers = plan.store.record_numbers(trial)
            missing = [c for c in missing if not numbers.get(c.id, (0, 0))[1]]
        return bool(missing)
    if state in ("failed", "out of memory", "refused"):
        if state not in again:
            return False
        if state == "refused":
            out.anew[trial] = "asked to try again (--retry)"
        out.retry.add(trial)
        return True
    return state != "diverged"


def confirm(o: Namespace, todo: Todo) -> bool:
    """Whether ``--force`` is meant: told with --yes, or asked at a terminal."""
    if not o.force or o.yes:
        return True
    names = [i.trial.name for i in todo.items]
    what = f"{len(names)} trials" if len(names) > 1 else names[0]
    if todo.above:
        what = f"{len(todo.above)} evaluations of {what}"
    if not sys.stdin.isatty():
        raise SpecError(f"--force: {what} would be done again; confirm with --yes")
    print(", ".join(names[:8]) + (" …" if len(names) > 8 else ""))
    print("Present results stay until the new ones are there, and are kept.")
    return input(f"Do {what} again? [y/N] ").strip().lower() in ("y", "yes")


def register(found: source.Source, plan: Plan) -> None:
    """Write what is asked: the study, its trials, their names, the sources of local parts."""
    store, instance = plan.store, plan.study.instance
    record = dict(plan.record)
    old = store.read_study(instance) or {}
    theirs = Path(old.get("file") or found.path)
    if theirs != found.path and _other(plan, found, theirs):
        raise SpecError(
            f"study {instance!r} in {store.home} is that of {theirs}; give one of the two another "
            "name, or a home of its own (--home)"
        )
    init_home(store.home)
    record["file"] = str(found.path)
    record["registered"] = old.get("registered") or datetime.now(UTC).isoformat(timespec="seconds")
    record["results_seen"] = results_seen(plan, old)
    record["seen_trials"] = [i for i, item in plan.unique.items() if item.done]
    record["registration_hash"] = registration_hash(record)
    declare = [partial(store.declare, k, item.trial.data) for k, item in plan.unique.items()]
    for declared in at_once(declare):
        declared.result()
    for item in plan.items:
        try:
            store.link_name(instance, item.trial.name, item.trial.id)
        except DiskError:
            raise
        except StoreError as error:  # a name is for the eye: no reason to stop
            print(f"note: {error}", file=sys.stderr)
    sources = {found.path.name: found.path.read_bytes()}
    for kind, _, path in parts.local_files():
        sources[f"parts/{kind}/{path.name}"] = path.read_bytes()
    store.keep_sources(instance, sources)
    picture = {k: v for k, v in plan.data().items() if k != "disk_free_bytes"}  # of this moment
    store.write_study(instance, record, picture)
    _tell_registration(old, store.read_study(instance) or {})
    for trunk in plan.forest.trunks:
        store.declare(trunk.id, trunk.data)
    tell_ended(plan)


def _tell_registration(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Print what was registered now, and what it is worth."""
    if not any(new["registration"][k] for k in ("hypotheses", "criteria", "checks")):
        return
    if old.get("registration_hash") != new.get("registration_hash"):
        mark = new["registration_hash"]
        seen = new.get("seen_at_registration", 0)
        print(f"registered {mark} (alone it proves nothing: publish it, or commit it, now)")
        if seen:
            print(f"note: {seen} of {len(new['trials'])} results were there before it")
    amended = list(new.get("amendments") or ())
    if len(amended) > len(old.get("amendments") or ()):
        last = amended[-1]
        before = amended[-2] if len(amended) > 1 else {"registration": new["registration"]}
        what = [k for k, v in last["registration"].items() if before["registration"].get(k) != v]
        what += list(last.get("definitions") or ())
        shown = ", ".join(what[:4]) + (" …" if len(what) > 4 else "")
        print(
            f"amendment {len(amended)}, {last.get('hash')}: {shown} changed after "
            f"{last['results_seen']} results were seen; verdicts say so",
            flush=True,
        )


def _other(plan: Plan, found: source.Source, theirs: Path) -> bool:
    """Whether another study file of this name is at home here: not a copy of the same one, and
    not one that stayed behind when the home was copied."""
    store, instance = plan.store, plan.study.instance
    kept = store.study_dir(instance) / "source" / theirs.name
    same = kept.is_file() and kept.read_bytes() == found.path.read_bytes()
    try:
        home = (store.read_plan(instance) or {}).get("home", "")
    except StoreError:
        home = ""
    return theirs.is_file() and not same and home == str(store.home)


# ── on which devices ────────────────────────────────────────────────────────────────────────


def slots_of(plan: Plan, items: list[Item], o: Namespace) -> tuple[list[local.Slot], int]:
    """Slots, one a worker, and trials a stack."""
    for name in ("workers", "stack", "per_gpu", "per_trial", "threads"):
        if getattr(o, name) is not None and getattr(o, name) < 1:
            option = {"per_trial": "gpus-per-trial"}.get(name, name.replace("_", "-"))
            raise SpecError(f"--{option} {getattr(o, name)}: give at least one")
    if o.device and o.gpus:
        raise SpecError("--device and --gpus: give one of the two")
    _enough_rows(items, o.per_trial)
    device = "cuda:0" if o.gpus else device_of(o)
    if device.startswith("cuda"):
        return _gpu_slots(plan, device, o)
    if o.gpu_memory or o.share_gpus or o.per_gpu > 1:
        raise SpecError(f"--gpu-memory, --share-gpus and --per-gpu are for GPUs; this is {device}")
    if device != "cpu" and o.per_trial > 1:
        raise SpecError(f"--gpus-per-trial {o.per_trial}: {device} is one device")
    # On the CPU a stack gains little; small ones level the workers.
    stack = o.stack or 1
    packs = len(plan.packs(stack, items))
    each = o.threads * o.per_trial
    wanted = o.workers or (max(1, cores() // each) if device == "cpu" else 1)
    n = max(1, min(wanted, packs))
    others = (device,) * (o.per_trial - 1)
    return [local.Slot(i + 1, device, others) for i in range(n)], stack


def _enough_rows(items: list[Item], ranks: int) -> None:
    """Refuse trials that have fewer rows a step than there are ranks."""
    for item in items:
        rows = min(p.spec.rows or ranks for p in item.trial.variant.phases)
        if rows < ranks:
            raise SpecError(
                f"--gpus-per-trial {ranks}: {item.trial.name} has {rows} rows a step, so at most "
                f"{rows} can share them"
            )


def _gpu_slots(plan: Plan, device: str, o: Namespace) -> tuple[list[local.Slot], int]:
    found = gpus.gpus()
    only_planned = o.verb == "plan" or getattr(o, "dry_run", False)  # perhaps of another machine
    if not (found or only_planned) and not any(
        os.path.exists(p) for p in ("/dev/nvidia0", "/dev/nvidiactl")
    ):
        asked = f"--gpus {o.gpus}" if o.gpus else f"--device {o.device}"
        raise SpecError(
            f"{asked}: this machine shows no NVIDIA GPU (no nvidia-smi, no /dev/nvidia0)"
        )
    alone = device.partition(":")[2] if o.device or not found else ""
    asked = o.gpus or alone or f"auto:{o.per_trial}"
    numbers = gpus.choose(asked, found) if found else _numbers(asked)
    groups = gpus.groups(numbers, o.per_trial, asked)
    each = max(o.per_gpu, -(-(o.workers or 0) // len(groups)))
    if each > 1 and o.per_trial > 1:
        raise SpecError(
            f"--gpus-per-trial {o.per_trial}: its GPUs are one worker's; leave out --per-gpu and "
            f"take at most {len(groups)} --workers"
        )
    slots: list[local.Slot] = []
    for k in range(each):
        for group in groups:
            first, *others = (f"cuda:{n}" for n in group)
            slot = local.Slot(len(slots) + 1, first, tuple(others))
            if found and not o.share_gpus:
                slot.busy = _busy(slots, slot, group)
            slots.append(slot)
        del k
    share = (gpus.share(o.gpu_memory) or 1.0) / each
    # Several GPUs for one trial are there for trials that are large.
    totals = [share * g.total for g in found if g.index in numbers and g.total]
    memory = min(totals) if totals else None
    default = 1 if o.per_trial > 1 else stacks.trials(plan, memory, len(slots))
    return slots, o.stack or default


def _numbers(text: str) -> list[int]:
    if not all(g.strip().isdigit() for g in text.split(",")):
        raise SpecError(f"--gpus {text!r}: nvidia-smi is not here, so give numbers, such as 0,1")
    numbers = [int(g) for g in text.split(",")]
    if len({*numbers}) < len(numbers):
        raise SpecError(f"--gpus {text}: a GPU is named twice; --per-gpu gives it several workers")
    return numbers


def _busy(slots: list[local.Slot], slot: local.Slot, group: list[int]) -> Callable[[], str]:
    """Why GPUs cannot be used now.  While a worker of ours is on them, what it uses is ours."""

    def look() -> str:
        if any(s.process is not None for s in slots if s.device == slot.device and s is not slot):
            return ""
        reasons = (gpus.busy(g) for g in gpus.gpus() if g.index in group)
        return next((r for r in reasons if r), "")

    return look


def cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ── the run ─────────────────────────────────────────────────────────────────────────────────


def work_through(
    found: source.Source, plan: Plan, chosen: Chosen, todo: Todo, o: Namespace
) -> tuple[int, bool]:
    """(exit code, whether that is the end): preflight, then workers until nothing is left."""
    from paribus.analysis import report

    store, instance = plan.store, plan.study.instance
    limits = limits_of(o)
    slots, stack = slots_of(plan, todo.items, o)
    told = told_of(found, plan, chosen, todo, stack, o)
    settings = settings_of(o, slots)
    steps = {
        i.trial.id: sum(p.spec.steps or 0 for p in i.trial.variant.phases)
        for i in todo.items
        if not i.done or i.trial.id in todo.anew
    }
    log = store.study_dir(instance) / "run.log"
    progress = Progress(steps, log)
    command = f"paribus {' '.join(o.arguments)}"
    progress.note(f"{command}: {len(told['packs'])} packs, {len(slots)} workers")
    devices = [d for s in slots for d in s.devices]
    run = store.begin_run(instance, {"command": command, "devices": devices})
    if note := processes.without_bytecode():
        print(f"note: {note}", file=sys.stderr, flush=True)
    try:
        told_user = _events(o, instance, log)
        with local.Crew(store, instance, progress, limits, told_user, lambda: derive(plan)) as crew:
            crew.waits = lambda reason: _say_waits(store, instance, run, reason)
            report.ready()
            marks = store.home / "cache" / "preflight"  # graphs that have passed once
            graphs = [g for g in plan.graphs(todo.items) if not (marks / g["id"]).exists()]
            if graphs and not o.no_check:
                about = {**told, "graphs": graphs, "marks": str(marks)}
                at = local.settings_at(slots[0], settings)
                code = crew.preflight(slots, {"work": about, "settings": at})
                if code and not crew.why:
                    return code, True
            for i in todo.items:  # by number: another run may have asked for it already
                if i.trial.id in todo.anew:
                    store.retire(i.trial.id, todo.anew[i.trial.id], i.state.attempt)
            if not crew.why:
                crew.work(told, settings, slots)
    finally:
        progress.close()
        store.end_run(instance, run)
    if crew.why:
        derive(plan)
        progress.note(f"stopped: {crew.why}")
        print(f"stopped ({crew.why}); the same command goes on", file=sys.stderr)
        return (INTERRUPTED if crew.interrupted else FAILED if crew.failed_fast else STOPPED), True
    return FAILED if crew.errors else OK, False


def _say_waits(store: Store, instance: str, run: str, reason: str) -> None:
    with suppress(DiskError):
        store.tell_run(instance, run, {"waits": reason})


def derive(plan: Plan) -> None:
    """Write results.csv, completed.txt and errors.txt from the records; a disk that refuses stops
    nothing."""
    from paribus import api

    with suppress(DiskError):
        now = plan.again()
        tell_ended(now)
        api.Loaded.of(now).write_lists()


def tell_ended(plan: Plan) -> None:
    """Say which trials have ended for good, so that one whose folder is deleted later is missed."""
    states = ((i.trial.id, i.trial.name, i.state) for i in plan.items)
    ends = ((trial, name, s.attempt, s.end) for trial, name, s in states if not s.retired)
    ended.tell(plan.store.study_dir(plan.study.instance), ends)


def told_of(
    found: source.Source, plan: Plan, chosen: Chosen, todo: Todo, stack: int, o: Namespace
) -> dict[str, Any]:
    """What workers are told: packs, units, conditions; what is to be done again."""
    again = retried(o.retry)
    told = work(
        plan,
        todo.items,
        stack,
        trunks=not o.no_trunks,
        retry=bool(again & {"failed", "out of memory"}),
        local=plan.store.study_dir(plan.study.instance) / "source",
        base=found.folder,
    )
    told["provenance"] = provenance.collect(found.path, ["paribus", *o.arguments])
    for item in todo.items:
        trial = item.trial.id
        unit = told["trials"][trial]
        unit["retry"] = trial in todo.retry
        numbers = plan.store.record_numbers(trial) if item.done else {}
        wanted = {c.id for c in chosen.cells(item)}
        for c in unit["conditions"]:
            c["retry"] = "failed" in again or o.force
            c["failures"] = numbers.get(c["id"], (0, 0))[1]
            c["above"] = todo.above.get((trial, c["id"]), 0)
            c["chosen"] = c["id"] in wanted
    return told


def settings_of(o: Namespace, slots: list[local.Slot]) -> dict[str, Any]:
    """Engine settings of every worker but for its device."""
    each = max(sum(t.device == s.device for t in slots) for s in slots)
    share = gpus.share(o.gpu_memory)
    return {
        "threads": o.threads,
        "deterministic": True if o.deterministic else None,
        "compile": o.compile,
        "memory": share / each if share else None,
        "alone": each == 1 and not o.share_gpus,
        "checkpoint_every": o.checkpoint_every,
        "checkpoint_steps": o.checkpoint_steps,
    }


def limits_of(o: Namespace) -> local.Limits:
    """When to stop; refuses what is no duration."""
    began = time.monotonic()
    timeout = seconds(o.timeout, "--timeout") if o.timeout else None
    if timeout is not None and timeout < 1:
        raise SpecError(f"--timeout {o.timeout!r}: give at least a second")
    if o.checkpoint_every <= 0:
        raise SpecError(f"--checkpoint-every {o.checkpoint_every:g}: give seconds above 0")
    return local.Limits(_deadline(o, began), timeout, o.fail_fast)


def _deadline(o: Namespace, began: float) -> float | None:
    ends = []
    if o.until:
        ends.append(began + seconds(o.until, "--until", clock=True))
    if o.stop_after:
        ends.append(began + seconds(o.stop_after, "--stop-after"))
    return min(ends, default=None)


def _events(o: Namespace, instance: str, log: Path) -> Callable[[str, Mapping[str, Any]], None]:
    """``--on-event``: a command of the user's, told by its environment what happened."""

    def call(kind: str, e: Mapping[str, Any]) -> None:
        if not o.on_event:
            return
        told = {
            "PARIBUS_EVENT": kind,
            "PARIBUS_STUDY": instance,
            "PARIBUS_TRIAL": str(e.get("name", "")),
            "PARIBUS_REASON": str(e.get("reason", "")),
        }
        with open(log, "ab") as out:
            subprocess.Popen(
                o.on_event,
                shell=True,
                env={**os.environ, **told},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    return call


def tell_done(o: Namespace, plan: Plan, code: int) -> None:
    """``--on-event`` at the end of everything."""
    log = plan.store.study_dir(plan.study.instance) / "run.log"
    if code in (OK, FAILED):
        reason = "all done" if code == OK else "some trials failed"
        _events(o, plan.study.instance, log)("done", {"reason": reason})


def detach(o: Namespace, plan: Plan) -> int:
    """The same command without this terminal."""
    folder = plan.store.study_dir(plan.study.instance)
    init_home(plan.store.home)
    folder.mkdir(parents=True, exist_ok=True)
    again = [a for a in o.arguments if a != "--detach"] + (["--yes"] if o.force else [])
    with open(folder / "run.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "paribus.cli", *again],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    time.sleep(0.2)
    if process.poll() not in (None, OK):
        print(f"it ended at once; see {folder / 'run.log'}", file=sys.stderr)
        return FAILED
    print(f"process {process.pid} goes on without this terminal; log: {folder / 'run.log'}")
    return OK

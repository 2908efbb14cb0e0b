"""What each verb of the command line does.  Torch is loaded by workers, check and try alone."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from paribus import parts
from paribus.cli import FAILED, INTERRUPTED, OK, STOPPED, WRONG, emit
from paribus.errors import SpecError, nearest
from paribus.store import Store, find_home
from paribus.study import source
from paribus.study.plan import Item, Plan


def opened(o: Namespace) -> tuple[source.Source, Store]:
    """The study that the options name, and its home."""
    found = source.load(o.study, scale=o.scale, seeds=o.seeds)
    if o.home:
        home = Path(o.home).absolute()
    else:
        home = find_home(None if found.shipped else found.path)
    return found, Store(home)


def planned(o: Namespace) -> tuple[source.Source, Plan]:
    found, store = opened(o)
    return found, checked_plan(found, store)


def checked_plan(found: source.Source, store: Store) -> Plan:
    """The plan, with its hypotheses verified against the grid."""
    from paribus.study import hypotheses
    from paribus.study.plan import study_record

    plan = Plan(found.study, store)
    s = found.study
    hypotheses.verify({**s.hypotheses, **s.criteria, **s.checks}, study_record(plan))
    return plan


def recorded(o: Namespace) -> tuple[Store, dict[str, Any]]:
    """The study as its file says now, laid beside the store: (store, study.json)."""
    from paribus.study.plan import study_record

    found, store = opened(o)
    plan = checked_plan(found, store)
    record = study_record(plan)
    stored = store.read_study(plan.study.instance) or {}
    if "registration" in stored:  # what was registered first stays; changes are amendments
        record["amendments"] = stored.get("amendments", [])
        record["registered"] = stored.get("registered")
        if stored["registration"] != json.loads(json.dumps(record["registration"])):
            record["edited"] = True
    return store, record


# ── before ──────────────────────────────────────────────────────────────────────────────────


def do_new(o: Namespace) -> int:
    path = Path(o.path)
    if path.suffix != ".py":
        raise SpecError(f"{path}: a study file ends in .py")
    if path.exists():
        raise SpecError(f"{path} is there already; choose another name")
    origin, is_shipped = source.find(o.origin)
    text = origin.read_text()
    if is_shipped:  # a study of one's own has a name of its own
        text = text.replace(f'"{o.origin}"', f'"{path.stem.replace("_", "-")}"', 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)
    print(f"{path}\nnext: paribus check {path} · paribus plan {path} · paribus run {path}")
    return OK


def do_plan(o: Namespace) -> int:
    found, plan = planned(o)
    device = o.device or _likely_device()
    data = plan.data()
    seconds = [plan.seconds(i, device) for i in plan.to_train()]
    workers = 1 if device != "cpu" else os.cpu_count() or 1
    data["seconds"] = sum(s for s, _ in seconds) / workers
    data["seconds_basis"] = f"{seconds[0][1]}, {workers} worker(s), {device}" if seconds else ""
    if o.json:
        emit(data)
        return OK
    print(f"{found.study.instance}   {found.study.question}")
    print(f"home      {data['home']}")
    print(
        f"trials    {data['trials']}: {data['to_train']} to train, {data['done']} done, "
        f"{data['shared']} shared with other studies"
    )
    refused = data["evaluations_refused"]
    print(
        f"evaluate  {data['evaluations']} cells, {data['evaluations_missing']} missing"
        + (f", {refused} refused" if refused else "")
    )
    if data["skipped"]:
        print(f"skipped   {data['skipped']} cells")
    if seconds:
        print(f"time      about {_span(data['seconds'])} ({data['seconds_basis']})")
        if data["memory_bytes"]:
            print(f"memory    {_bytes(data['memory_bytes'])} for a step of the largest trial")
        print(f"disk      {_bytes(data['disk_bytes'])} of {_bytes(data['disk_free_bytes'])} free")
    print(f"\n{'variant':32} {'parameters':>12} {'steps':>8} {'tokens':>14}  states")
    for v in data["variants"]:
        states = [t["state"] for t in v["trials"]]
        shown = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
        size = f"{v['parameters']:,}" if v["parameters"] else "external"
        print(f"{v['name']:32} {size:>12} {v['steps']:>8,} {v['tokens']:>14,}  {shown}")
    for reason in dict.fromkeys(s["reason"] for s in plan.expansion.skipped):
        n = sum(s["reason"] == reason for s in plan.expansion.skipped)
        print(f"skipped {n}: {reason}")
    for refusal in dict.fromkeys(c.refused for i in plan.items for c in i.cells if c.refused):
        print(f"refused: {refusal}")
    return OK


def do_check(o: Namespace) -> int:
    from paribus.engine import preflight

    _, plan = planned(o)
    plan.refuse()
    findings = preflight.check(plan, o.device or preflight.pick_device())
    if o.json:
        emit([f.data() for f in findings])
    else:
        for f in findings:
            print(f)
    return WRONG if any(f.failed for f in findings) else OK


def do_try(o: Namespace) -> int:
    from paribus.engine import trial

    _, plan = planned(o)
    names = {i.trial.name: i.trial for i in plan.items}
    names |= {i.trial.variant.name: i.trial for i in reversed(plan.items)}
    if o.name not in names:
        raise SpecError(f"no variant or trial {o.name!r}; {nearest(o.name, names)}")
    return trial.foreground(names[o.name], o, plan.store.home)


# ── run ─────────────────────────────────────────────────────────────────────────────────────


def do_run(o: Namespace) -> int:
    found, plan = planned(o)
    plan.refuse()
    items = _chosen(plan, o.only)
    print(f"{plan.study.instance} in {plan.store.home}")
    code = OK
    todo = [i for i in items if _unfinished(plan, i, o.retry)]
    register(found, plan)
    if todo:
        code, ended = _work(found, plan, todo, o)
        if ended:
            return code
    return max(code, _conclude(Plan(plan.study, plan.store), items, o))


def _unfinished(plan: Plan, item: Item, retry: bool) -> bool:
    if item.done:
        return not all(c.done for c in item.cells)
    if item.state.state in ("failed", "out of memory", "diverged", "refused"):
        if retry and item.state.state != "diverged":
            if item.state.state == "refused":
                plan.store.retire(item.trial.id, "asked to try again")
            return True
        return False
    return True


def _chosen(plan: Plan, only: list[str]) -> list[Item]:
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
    from datetime import UTC, datetime

    from paribus.store import init_home
    from paribus.study.plan import study_record

    store, instance = plan.store, plan.study.instance
    init_home(store.home)
    record = study_record(plan)
    old = store.read_study(instance) or {}
    seen = sum(i.done for i in plan.items)
    record["registered"] = old.get("registered") or datetime.now(UTC).isoformat(timespec="seconds")
    record["results_seen"] = seen
    for trial_id, item in plan.unique.items():
        store.declare(trial_id, item.trial.data)
    for item in plan.items:
        store.link_name(instance, item.trial.name, item.trial.id)
    sources = {found.path.name: found.path.read_bytes()}
    for cls in parts.scan_local():
        assert cls.__source__ is not None
        sources[f"parts/{cls.kind}/{Path(cls.__source__).name}"] = Path(cls.__source__).read_bytes()
    store.keep_sources(instance, sources)
    store.write_study(instance, record, plan.data())


def _work(found: source.Source, plan: Plan, todo: list[Item], o: Namespace) -> tuple[int, bool]:
    """(exit code, whether that is the end): preflight, then workers until nothing is left."""
    from paribus.launch import local
    from paribus.study.plan import work

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
    device = o.device or (f"cuda:{o.gpus.split(',')[0]}" if o.gpus else _likely_device())
    if device.startswith("cuda"):
        devices = [f"cuda:{g}" for g in o.gpus.split(",")] if o.gpus else [device]
        return devices * max(1, (o.workers or len(devices)) // len(devices)), o.stack or 16
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # On the CPU a stack gains little; small ones level the workers.
    stack = o.stack or 1
    packs = len(plan.packs(todo, stack))
    wanted = o.workers or (cores or 1 if device == "cpu" else 1)
    return [device] * max(1, min(wanted, packs)), stack


def _likely_device() -> str:
    """The device that workers will find, guessed without torch."""
    if os.path.exists("/dev/nvidia0") or os.path.exists("/dev/nvidiactl"):
        return "cuda:0"
    return "cpu"


def _conclude(plan: Plan, items: list[Item], o: Namespace) -> int:
    """Table, verdicts and report; the exit code that the trials earn."""
    from paribus import api

    loaded = api.Loaded.of(plan)
    print()
    print(loaded.table())
    print()
    print(loaded.verdict_text())
    path = loaded.write_report(lang=o.lang)
    print(f"\nreport: {path}")
    chosen = {i.trial.id for i in items}
    bad = [
        i
        for i in plan.items
        if i.trial.id in chosen and i.state.state in ("failed", "out of memory")
    ]
    for i in bad:
        print(f"{i.trial.name}: {i.state.state}: {i.state.reason}", file=sys.stderr)
    broken = [i for i in plan.items if plan.store.failed_evaluations(i.trial.id)]
    missing = any(not c.done for i in broken if i.trial.id in chosen for c in i.cells)
    return FAILED if bad or missing else OK


# ── after ───────────────────────────────────────────────────────────────────────────────────


def do_status(o: Namespace) -> int:
    _, plan = planned(o)
    rows = [
        {
            "trial": i.trial.name,
            "id": i.trial.id,
            "state": i.state.state,
            "attempt": i.state.attempt,
            "step": i.state.last_step,
            "steps": sum(p.spec.steps or 0 for p in i.trial.variant.phases),
            "reason": i.state.reason,
            "evaluated": sum(c.done for c in i.cells),
            "evaluations": len(i.cells),
        }
        for i in plan.items
    ]
    if o.json:
        emit({"study": plan.study.instance, "home": str(plan.store.home), "trials": rows})
        return OK
    print(f"{plan.study.instance} in {plan.store.home}")
    for r in rows:
        print(
            f"{r['trial']:36} {r['state']:14} {r['step']:>8,}/{r['steps']:<8,} "
            f"{r['evaluated']}/{r['evaluations']} evaluated  {r['reason']}".rstrip()
        )
    return OK


def do_show(o: Namespace) -> int:
    _, plan = planned(o)
    names = {i.trial.name: i for i in plan.items} | {i.trial.id: i for i in plan.items}
    if o.name not in names:
        raise SpecError(
            f"no trial {o.name!r}; {nearest(o.name, [i.trial.name for i in plan.items])}"
        )
    i = names[o.name]
    data = {
        "trial": i.trial.name,
        "id": i.trial.id,
        "folder": str(plan.store.trial_dir(i.trial.id)),
        "state": i.state.state,
        "attempt": i.state.attempt,
        "reason": i.state.reason,
        "spec": i.trial.data,
        "repeat": f"paribus run {o.study} "
        f"--only variant={i.trial.variant.name},seed={i.trial.seed}",
    }
    if o.json:
        emit(data)
        return OK
    for key in ("trial", "id", "folder", "state", "attempt", "reason", "repeat"):
        print(f"{key:8} {data[key]}")
    print(json.dumps(data["spec"], indent=1, ensure_ascii=False))
    log = plan.store.trial_dir(i.trial.id) / "attempts" / str(i.state.attempt) / "log"
    if log.is_file():
        print("\n".join(["last lines of the log:", *log.read_text().splitlines()[-8:]]))
    return OK


def do_results(o: Namespace) -> int:
    from paribus import api

    _, plan = planned(o)
    loaded = api.Loaded.of(plan)
    text = {
        "text": lambda: loaded.table() + "\n",
        "csv": lambda: loaded.csv(wide=o.wide),
        "json": lambda: loaded.to_json(),
    }[o.format]()
    if o.output:
        Path(o.output).write_text(text, encoding="utf-8")
        print(o.output)
    else:
        print(text, end="")
    return OK


def do_verdicts(o: Namespace) -> int:
    from paribus import api

    _, plan = planned(o)
    loaded = api.Loaded.of(plan)
    if o.json:
        emit([v.data() for v in loaded.verdicts()])
    else:
        print(loaded.verdict_text())
    return OK


def do_report(o: Namespace) -> int:
    from paribus import api

    _, plan = planned(o)
    path = api.Loaded.of(plan).write_report(o.output, lang=o.lang, always=True)
    print(path)
    return OK


def do_list(o: Namespace) -> int:
    studies = {
        name: next((ln for ln in path.read_text().splitlines() if ln), "").strip('"')
        for name, path in source.shipped().items()
    }
    kinds = {kind: list(parts.available(kind)) for kind in parts.FOLDERS}
    if o.json:
        emit({"studies": studies, "parts": kinds})
        return OK
    print("studies")
    for name, line in studies.items():
        print(f"  {name:20} {line}")
    print("parts")
    for kind, names in kinds.items():
        print(f"  {kind:12} {', '.join(names)}")
    return OK


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _bytes(n: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"

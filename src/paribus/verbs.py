"""What each verb of the command line does.  Torch is loaded by workers, check and try alone."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from paribus import parts
from paribus.cli import FAILED, OK, STOPPED, WRONG, emit
from paribus.errors import ParibusError, SpecError, nearest
from paribus.running import chosen, device_of, register, unfinished, work_through
from paribus.spec import at
from paribus.store import Store, find_home
from paribus.study import source
from paribus.study.plan import Item, Plan

# What a plan adds to training: processes and preflight, and each evaluation.
SECONDS_TO_START, SECONDS_AN_EVALUATION = 8.0, 0.7


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
    record = study_record(plan)
    hypotheses.verify({**s.hypotheses, **s.criteria, **s.checks}, record)
    _check_names(record)
    return plan


def _check_names(record: dict[str, Any]) -> None:
    """The primary metric and the columns, before anything runs."""
    metrics = record["metrics"]
    if metrics and record["primary"] not in metrics:
        raise SpecError(
            f"primary: no metric {record['primary']!r}; {nearest(record['primary'], metrics)}"
        )
    from paribus.analysis.records import COLUMNS
    from paribus.spec import load as load_spec

    known = [*COLUMNS, *(f["name"] for f in record["factors"]), *metrics]
    spec = load_spec(next(iter(record["variants_info"].values()))["spec"][-1]["spec"])
    for part in (record["columns"] or "").split(",") if record["columns"] else ():
        name, _, path = (p.strip() for p in part.partition("="))
        if "." in path:
            at(spec, path)
        elif (path or name) not in known:
            raise SpecError(f"columns: no column {path or name!r}; {nearest(path or name, known)}")


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
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", path.stem).strip("-") or "study"
        text = text.replace(f'"{o.origin}"', f'"{name}"', 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)
    print(f"{path}\nnext: paribus check {path} · paribus plan {path} · paribus run {path}")
    return OK


def do_plan(o: Namespace) -> int:
    found, plan = planned(o)
    device = device_of(o)
    data = plan.data()
    seconds = [plan.seconds(i, device) for i in plan.to_train()]
    workers = 1 if device != "cpu" else os.cpu_count() or 1
    judging = data["evaluations_missing"] * SECONDS_AN_EVALUATION
    started = SECONDS_TO_START if seconds or judging else 0
    data["seconds"] = (sum(s for s, _ in seconds) + judging) / workers + started
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
    for note in _notes(plan):
        print(f"note: {note}")
    for refusal in dict.fromkeys(c.refused for i in plan.items for c in i.cells if c.refused):
        print(f"refused: {refusal}")
    return OK


def _notes(plan: Plan) -> list[str]:
    """What a person should know before running."""
    out = []
    if not plan.study.evaluate:
        out.append("no evaluations (evaluate=[…]): trials are trained and nothing is measured")
    try:
        plan.refuse()
    except ParibusError as error:
        out.append(f"this study cannot be run yet: {error}")
    return out


def do_check(o: Namespace) -> int:
    from paribus.engine import preflight

    _, plan = planned(o)
    plan.refuse()
    findings = preflight.check(plan, device_of(o))
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
    items = chosen(plan, o.only)
    print(f"{plan.study.instance} in {plan.store.home}")
    code = OK
    todo = [i for i in items if unfinished(plan, i, o.retry)]
    register(found, plan)
    if todo:
        code, ended = work_through(found, plan, todo, o)
        if ended:
            return code
    concluded = _conclude(Plan(plan.study, plan.store), items, o)
    return code or concluded


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
    mine = {i.trial.id for i in items}
    now = [i for i in plan.items if i.trial.id in mine]
    bad = [i for i in now if i.state.state in ("failed", "out of memory", "refused")]
    for i in bad:
        print(f"{i.trial.name}: {i.state.state}: {i.state.reason}", file=sys.stderr)
    for i in now:
        for condition, reasons in plan.store.failed_evaluations(i.trial.id).items():
            keys = [c.condition.key for c in i.cells if c.id == condition and not c.done]
            bad += [i] * len(keys)
            for key in keys:
                print(f"{i.trial.name}: {key}: failed: {reasons[-1]}", file=sys.stderr)
    for i in (i for i in now if i.lost):
        bad.append(i)
        print(
            f"{i.trial.name}: {i.lost}, so evaluations are missing; --retry trains it again",
            file=sys.stderr,
        )
    left = [i for i in now if i.state.state in ("planned", "running", "interrupted")]
    if left:
        print(
            f"{len(left)} trials are not finished (another run may be at them); "
            "the same command goes on",
            file=sys.stderr,
        )
    return FAILED if bad else STOPPED if left else OK


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
        "repeat": f"paribus run {o.study}{_same(o)} "
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


def _same(o: Namespace) -> str:
    """The options that name the same study in the same home."""
    given = {"scale": o.scale, "seeds": o.seeds, "home": o.home}
    return "".join(f" --{k} {shlex.quote(str(v))}" for k, v in given.items() if v is not None)


def do_results(o: Namespace) -> int:
    from paribus import api

    suffix = Path(o.output or "").suffix[1:]
    o.format = o.format or (suffix if suffix in ("csv", "json") else "text")
    if o.wide and o.format != "csv":
        raise SpecError("--wide goes with --format csv")
    _, plan = planned(o)
    loaded = api.Loaded.of(plan)
    text = {
        "text": lambda: loaded.table() + "\n",
        "csv": lambda: loaded.csv(wide=o.wide),
        "json": lambda: loaded.to_json(),
    }[o.format]()
    if o.output:
        Path(o.output).parent.mkdir(parents=True, exist_ok=True)
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
    parts.use_local(Path.cwd())
    if o.part:
        return _part(o)
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


def _part(o: Namespace) -> int:
    """The fields, metrics and text of one part: ``paribus list tasks.lm``."""
    kind, _, name = o.part.partition(".")
    if kind not in parts.FOLDERS:
        raise SpecError(f"no kind of part {kind!r}; {nearest(kind, parts.FOLDERS)}")
    cls = parts.get(kind, name)
    default = parts.defaults(cls)
    fields = {
        f: {"type": str(hint).replace("typing.", ""), "default": default.get(f, "required")}
        for f, hint in parts.hints(cls).items()
    }
    metrics = {
        k: f"{m.unit} ({m.better} is better)" for k, m in getattr(cls, "metrics", {}).items()
    }
    if o.json:
        emit({"part": o.part, "text": cls.__doc__, "fields": fields, "metrics": metrics})
        return OK
    print(f"{o.part}\n\n    {(cls.__doc__ or '').strip()}\n")
    for f, about in fields.items():
        given = "must be given" if about["default"] == "required" else f"= {about['default']!r}"
        print(f"  {f} {given}")
    for k, text in metrics.items():
        print(f"  metric {k}: {text}")
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

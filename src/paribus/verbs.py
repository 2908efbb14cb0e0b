"""What each verb of the command line does.  Torch is loaded by workers, check and try alone."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paribus import parts
from paribus.analysis import power
from paribus.asked import a_file, chosen, device_of, free_memory, planned, suffix, to_read
from paribus.cli import FAILED, OK, STOPPED, WRONG, emit
from paribus.comparing import audited, refuse_unfair, told
from paribus.errors import ParibusError, SpecError, nearest
from paribus.grid import size, span
from paribus.launch.progress import kept
from paribus.running import (
    confirm,
    detach,
    limits_of,
    register,
    slots_of,
    tell_done,
    tell_ended,
    todo_of,
    work_through,
)
from paribus.study import source
from paribus.study.plan import Item, Plan
from paribus.study.registered import elsewhere
from paribus.study.shares import Share, shares

SECONDS_TO_START = 8.0  # what a plan adds to training and evaluations: processes and preflight


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
    data = plan.data()
    mine = {i.trial.id for i in chosen(plan, getattr(o, "only", [])).items}
    left = [i for i in plan.left() if i.trial.id in mine]
    slots, stack = slots_of(plan, left, o)
    device, workers = slots[0].device, len(slots)
    basis = plan.time(device)[1]
    who = shares(plan, left, [s.devices for s in slots], stack)
    longest = max(s.seconds for s in who)
    data["seconds"] = longest + (SECONDS_TO_START if longest else 0)
    on = f"{workers} worker(s), {' + '.join(slots[0].devices)}"
    data["seconds_basis"] = f"{basis}, {on}" if basis else ""
    data["memory_bytes"] = plan.memory(len(slots[0].devices))
    data["workers"] = [s.data() for s in who]
    data["memory_free_bytes"] = free_memory(device) if basis else None
    outlook = _outlook(plan)
    data["power"] = [o.data() for o in outlook]
    data["findings"] = told(audited(plan))
    data["notes"] = _notes(plan)
    if device.startswith("cuda") and data["memory_free_bytes"] is None and basis:
        data["notes"].append("no GPU is seen here: this is a plan for another machine")
    if getattr(o, "others", None):
        data["together"] = _together(o, plan)
    if o.json:
        emit(data)
        return OK
    print(f"{found.study.instance}   {found.study.question}")
    print(f"home      {data['home']}")
    print(
        f"trials    {data['trials']}: {data['to_train']} to train, {data['done']} done, "
        f"{data['shared']} shared with other studies"
    )
    if (both := data.get("together")) is not None:
        print(
            f"together  {both['trials']} trials in {_counted(both['studies'])}, with "
            f"{both['names']} distinct names and {both['trainings']} distinct trainings"
        )
        for line in both["inside"]:
            print(f"          {line}")
    refused = data["evaluations_refused"]
    print(
        f"evaluate  {data['evaluations']} cells, {data['evaluations_missing']} missing"
        + (f", {refused} refused" if refused else "")
    )
    if data["skipped"]:
        print(f"skipped   {data['skipped']} cells")
    if data["steps_saved"]:
        print(
            f"trunks    {data['trunks']} shared beginnings save {_spaced(data['steps_saved'])} of "
            f"{_spaced(data['steps'] + data['steps_saved'])} steps"
        )
    if texts := _texts(plan):
        print(f"text      {texts}")
    if basis:
        ragged = any(v["tokens_at_most"] for v in data["variants"])
        about = "at most about" if ragged else "about"
        print(f"time      {about} {span(data['seconds'])} ({data['seconds_basis']})")
        if data["memory_bytes"]:
            free = data["memory_free_bytes"]
            print(
                f"memory    {size(data['memory_bytes'])} for a step of the largest trial"
                + (f"; {size(free)} free on {device}" if free is not None else "")
            )
        for line in _where(who):
            print(line)
        print(f"disk      {size(data['disk_bytes'])} of {size(data['disk_free_bytes'])} free")
    print(f"\n{'variant':32} {'parameters':>12} {'steps':>8} {'tokens':>14}  states")
    for v in data["variants"]:
        states = [t["state"] for t in v["trials"]]
        shown = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
        large = f"{v['parameters']:,}" if v["parameters"] else "external"
        read = f"{'≤ ' if v['tokens_at_most'] else ''}{v['tokens']:,}"
        print(f"{v['name']:32} {large:>12} {v['steps']:>8,} {read:>14}  {shown}")
    for reason in dict.fromkeys(s["reason"] for s in plan.expansion.skipped):
        n = sum(s["reason"] == reason for s in plan.expansion.skipped)
        print(f"skipped {n}: {reason}")
    seeds = max(1, len(plan.record["seeds"]))
    world = len(slots[0].devices)
    alone = (plan.seconds(i, device, world=world)[0] for i in plan.unique.values())
    whole = sum(alone) / workers
    for line in power.lines(outlook, len(plan.unique) // seeds, whole / seeds):
        print(f"power: {line}")
    for finding in data["findings"]:
        print(finding["text"])
    for note in data["notes"]:
        print(f"note: {note}")
    for refusal in dict.fromkeys(c.refused for i in plan.items for c in i.cells if c.refused):
        print(f"refused: {refusal}")
    return OK


def _where(who: Sequence[Share]) -> list[str]:
    """Lines that say who trains what, and for how long."""
    out = []
    for s in who[:8]:
        names = ", ".join(s.names[:3]) + (f" and {len(s.names) - 3} more" * (len(s.names) > 3))
        head = "where" if s is who[0] else ""
        about = f"about {span(s.seconds)}: {names}" if s.names else "nothing"
        out.append(f"{head:9} worker {s.worker} on {' + '.join(s.devices)}: {about}")
    if len(who) > 8:
        out.append(f"{'':9} and {len(who) - 8} more workers")
    return out


def _counted(studies: Sequence[str]) -> str:
    return f"{len(studies)} studies" if len(studies) > 1 else "one study"


def _together(o: Namespace, plan: Plan) -> dict[str, Any]:
    """Trials, names and trainings of a study and the others that it is planned with."""
    others = [planned(Namespace(**{**vars(o), "study": other}))[1] for other in o.others]
    plans = list({p.study.instance: p for p in (plan, *others)}.values())
    ids = {p.study.instance: set(p.unique) for p in plans}
    return {
        "studies": list(ids),
        "trials": sum(len(p.items) for p in plans),
        "evaluations": sum(len(i.cells) for p in plans for i in p.items),
        "names": len({i.trial.name for p in plans for i in p.items}),
        "trainings": len(set().union(*ids.values())),
        "inside": [
            f"{a} is inside {b}" for a in ids for b in ids if a != b and ids[a] and ids[a] <= ids[b]
        ],
    }


def _texts(plan: Plan) -> str:
    """The corpora and tokenizers of a study by name; "" where its tasks have none."""
    found: dict[str, None] = {}
    for v in plan.expansion.variants:
        task = v.spec.task
        if (corpus := getattr(task, "corpus", None)) is not None:
            where = getattr(corpus, "path", "")
            found[f"{parts.describe(corpus)}{f' ({where})' if where else ''}, "
                  f"{parts.describe(getattr(task, 'tokenizer', None))}"] = None  # fmt: skip
    return "; ".join(found)


def _outlook(plan: Plan) -> list[power.Outlook]:
    """What its hypotheses can be shown of with the planned seeds."""
    from paribus import api

    if not plan.study.hypotheses:
        return []
    return power.outlook(api.Loaded.of(plan).study, api.pilots(plan))


def _notes(plan: Plan) -> list[str]:
    """What a person should know before running."""
    out = [text] if (text := elsewhere(plan)) else []
    if plan.study.best:
        out.append("trials that keep the weights of their best step share no beginnings")
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
    unfair = told(audited(plan))
    refused = any(f["level"] == "refuse" for f in unfair)
    for audit in unfair if not o.json else ():
        if audit["level"] != "note" or audit["accepted"]:  # the plan has the other notes
            print(audit["text"], flush=True)
    findings = preflight.check(plan, device_of(o))
    if o.json:
        emit([*({"name": "audit", "failed": f["level"] == "refuse", **f} for f in unfair),
              *(f.data() for f in findings)])  # fmt: skip
    else:
        for f in findings:
            print(f)
    return WRONG if refused or any(f.failed for f in findings) else OK


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
    if o.dry_run:
        return _dry_run(o)
    found, plan = planned(o)
    with kept(plan.store.study_dir(plan.study.instance) / "run.log"):
        return _run(found, plan, o)


def _run(found: source.Source, plan: Plan, o: Namespace) -> int:
    plan.refuse()
    refuse_unfair(plan)
    what = chosen(plan, o.only)
    todo = todo_of(plan, what, o)
    slots_of(plan, todo.items, o)  # a wrong option is said before anything is written
    limits_of(o)
    _refuse_outputs(plan, o)
    where = f"{plan.study.instance} in {plan.store.home}"
    print(where, *filter(None, [_texts(plan)]), sep="; text: ", flush=True)
    if text := elsewhere(plan):
        print(f"note: {text}", file=sys.stderr, flush=True)
    for line in (line for i in what.items for line in i.look.damaged):
        print(f"{line}; evaluated again, the file is kept", file=sys.stderr)
    if not confirm(o, todo):
        return STOPPED
    if o.detach and todo.items:
        return detach(o, plan)
    code = OK
    register(found, plan)
    if todo.items:
        code, ended = work_through(found, plan, what, todo, o)
        if ended:
            return code
    concluded = _conclude(plan.again() if todo.items else plan, what.items, o)
    code = code or concluded
    tell_done(o, plan, code)
    return code


def _dry_run(o: Namespace) -> int:
    """The plan, then what this very command would do; writes nothing."""
    plan = planned(o)[1]
    todo = todo_of(plan, chosen(plan, o.only), o)
    slots_of(plan, todo.items, o)
    limits_of(o)
    _refuse_outputs(plan, o)
    code = do_plan(Namespace(**{**vars(o), "json": False}))
    refuse_unfair(plan)
    train = [i.trial.name for i in todo.items if not i.done or i.trial.id in todo.anew]
    judge = [i.trial.name for i in todo.items if i.trial.name not in train]
    print()
    for what, names in (("train", train), ("evaluate", judge)):
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        if names:
            print(f"this command would {what} {len(names)}: {', '.join(names[:12])}{more}")
    if not todo.items:
        print("this command would find nothing to do")
    return code


def _refuse_outputs(plan: Plan, o: Namespace) -> None:
    """Say beforehand that --output would write over something."""
    from paribus import api

    if o.output:
        api.Loaded.of(plan).check_outputs(o.output)


def _conclude(plan: Plan, items: list[Item], o: Namespace) -> int:
    """Table, verdicts and report; the exit code that the trials earn."""
    from paribus import api

    tell_ended(plan)
    loaded = api.Loaded.of(plan)
    print(f"\n{loaded.text()}", flush=True)
    try:
        print(f"\nreport: {loaded.write_report(lang=o.lang)}")
    except SpecError as error:  # meanwhile another run registered the study with other text
        print(f"\nno report: {error}", file=sys.stderr)
    if o.output:
        try:
            print(*(f"output: {file}" for file in loaded.write_outputs(o.output, lang=o.lang)),
                  sep="\n")  # fmt: skip
        except SpecError as error:
            print(f"no output: {error}", file=sys.stderr)
    mine = {i.trial.id for i in items}
    now = [i for i in plan.items if i.trial.id in mine]
    bad = [i for i in now if i.state.state in ("failed", "out of memory", "refused")]
    for i in bad:
        print(f"{i.trial.name}: {i.state.state}: {i.state.reason}", file=sys.stderr)
    for i in now:
        for condition, reasons in i.look.failed.items():
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
    left = [i for i in now if i.state.state in ("planned", "running", "interrupted", "blocked")]
    if left:
        others = any(i.state.state in ("running", "blocked") for i in left)
        print(
            f"not finished: {len(left)} of {len(now)} trials"
            + (" (another run is at some of them)" if others else "")
            + "; the same command goes on",
            file=sys.stderr,
        )
    return FAILED if bad else STOPPED if left else OK


# ── after ───────────────────────────────────────────────────────────────────────────────────


SUFFIXES = {"txt": "text", "csv": "csv", "json": "json", "md": "markdown", "tex": "latex",
            "parquet": "parquet"}  # fmt: skip


def do_results(o: Namespace) -> int:
    from paribus import api

    if o.wide and not o.format and not o.output:
        o.format = "csv"
    a_file(o.output, o.study)
    o.format = o.format or SUFFIXES.get(suffix(o.output, SUFFIXES, " (or --format)"), "text")
    alone = o.wide or o.format == "recipe"
    if (o.wide and o.format != "csv") or (alone and (o.metric or o.differences)):
        raise SpecError("--wide goes with csv; it and recipe without --metric, --differences")
    if o.format == "parquet" and not o.output:
        raise SpecError("--format parquet needs a file: -o results.parquet")
    if o.slices and (o.wide or o.format not in ("text", "markdown", "latex")):
        raise SpecError("--slices goes with text, markdown and latex; others have a row a slice")
    _, plan = to_read(o)
    loaded = api.Loaded.of(plan)
    how = {"metric": o.metric, "differences": o.differences}
    if o.format == "parquet":
        content = loaded.parquet(**how)
    elif o.format == "csv":
        content = loaded.csv(wide=o.wide, **how).encode()
    elif o.format in ("json", "recipe"):
        content = (loaded.recipe() if o.format == "recipe" else loaded.to_json(**how)).encode()
    else:
        content = f"{loaded.table(form=o.format, slices=o.slices, **how)}\n".encode()
    if o.output:
        Path(o.output).parent.mkdir(parents=True, exist_ok=True)
        Path(o.output).write_bytes(content)
        print(o.output)
    else:
        print(content.decode(), end="")
    return OK


def do_verdicts(o: Namespace) -> int:
    from paribus import api

    _, plan = to_read(o)
    loaded = api.Loaded.of(plan)
    if o.json:
        emit([v.data() for v in loaded.verdicts()])
    else:
        print("\n\n".join(filter(None, [loaded.verdict_text(), loaded.learned_text()])))
    return OK


def do_report(o: Namespace) -> int:
    from paribus import api

    folder = o.output and (Path(o.output).is_dir() or not Path(o.output).suffix)
    if not folder:
        suffix(o.output, ("html", "md"))
    _, plan = to_read(o)
    loaded = api.Loaded.of(plan)
    if folder:
        for file in loaded.write_outputs(o.output, lang=o.lang):
            print(file)
        return OK
    path = loaded.write_report(o.output, lang=o.lang, always=True, everything=not o.output,
                               paper=o.paper)  # fmt: skip
    print(path)
    for line in loaded.report_notes(everything=not o.output, paper=o.paper):
        print(line, file=sys.stderr)
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
        emit({"part": o.part, "text": _text(cls), "fields": fields, "metrics": metrics})
        return OK
    print(f"{o.part}\n\n{textwrap.indent(_text(cls), '    ')}\n")
    for f, about in fields.items():
        given = "must be given" if about["default"] == "required" else f"= {about['default']!r}"
        print(f"  {f} {given}")
    for k, text in metrics.items():
        print(f"  metric {k}: {text}")
    return OK


def _text(cls: type) -> str:
    """What a part says of itself, and of the fields that it shares with others of its folder."""
    shared = [c for c in cls.__mro__[1:] if c.__module__.rpartition(".")[2].startswith("_")]
    texts = [inspect.cleandoc(c.__doc__ or "") for c in (cls, *shared)]
    own, *more = texts
    return "\n".join([own, *(t[t.index("Attributes:") + 12 :] for t in more if "Attributes:" in t)])


def _spaced(n: int) -> str:
    """18 000."""
    return f"{n:,}".replace(",", " ")

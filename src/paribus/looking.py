"""Looking at a study while it runs and after: the grid, one trial, its log.  Torch-free."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paribus import grid
from paribus import spec as specs
from paribus.asked import command, device_of, opened, suffix
from paribus.cli import OK, emit
from paribus.errors import SpecError, nearest
from paribus.standing import AT_WORK, standing, tail
from paribus.store.files import read
from paribus.study import registered
from paribus.study.plan import Item, Plan

EVERY = 2.0  # seconds between two looks
ALTERNATE, NORMAL = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


def do_status(o: Namespace) -> int:
    plan = _plan(o)
    device = device_of(Namespace(device=None))
    if o.json:
        emit(standing(plan, device))
        return OK
    _readable()
    if not o.watch:
        print(grid.text(standing(plan, device), grid.Style.of(sys.stdout)), end="")
        return OK
    if not sys.stdout.isatty():
        print(grid.text(standing(plan, device), grid.Style.of(sys.stdout)), end="")
        print("--watch redraws in a terminal; this is none, so it was printed once")
        return OK
    _watch(plan, device)
    return OK


def _plan(o: Namespace) -> Plan:
    found, store = opened(o)
    return registered.reading(found.study, store)


def _readable() -> None:
    """A name that the terminal cannot show must not end the page."""
    with suppress(AttributeError):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]


def _watch(plan: Plan, device: str) -> None:
    """Redraw on the terminal's second screen until Ctrl-C; the last page is left on the first."""
    page = ""
    sys.stdout.write(ALTERNATE)
    try:
        while True:
            data = standing(plan, device)
            style = grid.Style.of(sys.stdout)
            page = grid.text(data, style)
            _draw(f"{page}\n{_ends(data)}", style.width)
            time.sleep(EVERY)
            plan = plan.again()
    except KeyboardInterrupt:
        pass
    finally:
        sys.stdout.write(NORMAL + page)
        sys.stdout.flush()


def _ends(data: dict[str, Any]) -> str:
    clock = time.strftime("%H:%M:%S")
    left = [n for s, n in data["counts"].items() if s in ("planned", "interrupted", *AT_WORK)]
    if not left and not data["running"]:
        return f"{clock}   nothing is left to do; Ctrl-C ends this view"
    return f"{clock}   Ctrl-C ends this view; the runs go on"


def _draw(page: str, width: int) -> None:
    """Overwrite line by line from the top, so that nothing flickers; what does not fit is cut."""
    import shutil

    room = shutil.get_terminal_size().lines
    lines = page.split("\n")
    if len(lines) > room:
        cut = len(lines) - room + 2
        lines = [
            *lines[: room - 2],
            f"… {cut} more lines (a larger terminal shows them)",
            lines[-1],
        ]
    body = "\n".join(f"{line}\x1b[K" for line in lines)
    sys.stdout.write(f"\x1b[H{body}\x1b[J")
    sys.stdout.flush()


# ── one trial ───────────────────────────────────────────────────────────────────────────────


def do_show(o: Namespace) -> int:
    plan = _plan(o)
    if o.mask:
        return _mask(plan, o)
    names = {i.trial.name: i for i in plan.items} | {i.trial.id: i for i in plan.items}
    if o.name not in names:
        raise SpecError(
            f"no trial {o.name!r}; {nearest(o.name, [i.trial.name for i in plan.items])}"
        )
    i = names[o.name]
    _readable()
    if plan.note:
        print(f"note: {plan.note}", file=sys.stderr, flush=True)
    if o.follow:
        return _follow(plan, i)
    data = _about(plan, i, o)
    if o.json:
        emit(data)
        return OK
    for key in ("trial", "id", "folder", "state", "attempt", "reason", "trunk", "repeat"):
        if data[key] not in (None, ""):
            print(f"{key:8} {data[key]}")
    if data["parameters"]:
        print(f"params   {_counted(data['parameters'])}")
    if data["reach"]:
        print(f"reach    {_reach(data['reach'])}")
    for line in began(data["continuity"]):
        print(line)
    if data["decisions"]:
        print(f"schedule {decided(data['decisions'])}")
    print("\nattempts" if data["attempts"] else "\nno attempts yet")
    for a in data["attempts"]:
        print(f"  {_attempt_line(a)}")
    if data["evaluations"]:
        print("\nevaluations")
    for key, e in data["evaluations"].items():
        print(f"  {key:32} {e['state']:10} {e['text']}".rstrip())
    if data["provenance"]:
        print("\nprovenance")
    for key, text in data["provenance"].items():
        print(f"  {key:10} {text}")
    print("\nspec")
    print(json.dumps(data["spec"], indent=1, ensure_ascii=False))
    if data["log"]:
        print("\n".join(["", "last lines of the log", *(f"  {x}" for x in data["log"])]))
    return OK


def _mask(plan: Plan, o: Namespace) -> int:
    """What each token may read in each layer, as a picture.  The model is built for it: torch."""
    form = suffix(o.mask, ("png", "svg", "pdf"))
    if not form or Path(o.mask).is_dir():
        raise SpecError(f"--mask {o.mask}: name a file that ends in .png, .svg or .pdf")
    named = {i.trial.variant.name: i.trial for i in reversed(plan.items)}
    named |= {n: i.trial for i in plan.items for n in (i.trial.name, i.trial.id)}
    if o.name not in named:
        variants = dict.fromkeys(i.trial.variant.name for i in plan.items)
        raise SpecError(f"no trial or variant {o.name!r}; {nearest(o.name, variants)}")
    spec = specs.load(named[o.name].data["phases"][-1]["spec"])

    from paribus.analysis.plots import reading as plots
    from paribus.engine.reading import reading

    cache = plan.store.home / "cache"
    read = reading(spec, cache if cache.is_dir() and os.access(cache, os.W_OK) else None)
    canvas = plots.draw(read)
    Path(o.mask).parent.mkdir(parents=True, exist_ok=True)
    if form == "svg":
        Path(o.mask).write_text(canvas.svg(o.lang), encoding="utf-8")
    else:
        Path(o.mask).write_bytes((canvas.png if form == "png" else canvas.pdf)(o.lang))
    tokens, panels = len(read["names"]), [(p["layers"], *plots.counts(p)) for p in read["panels"]]
    if o.json:
        each = [{"layers": [n + 1 for n in of], "pairs": k, "of": n} for of, k, n in panels]
        emit({"file": o.mask, "tokens": tokens, "panels": each})
        return OK
    for of, ones, pairs in panels:
        told = f"{ones:,} of {pairs:,} pairs, {plots.share(ones, pairs)}"
        print(f"layer{'s' * (len(of) > 1)} {plots.layers(of)}: {told}")
    if (side := plots.coarse(tokens)) > 1:
        print(f"{tokens:,} tokens: a cell of the picture stands for {side} × {side} pairs")
    print(o.mask)
    return OK


def _about(plan: Plan, i: Item, o: Namespace) -> dict[str, Any]:
    folder = plan.store.trial_dir(i.trial.id)
    views = plan.store.attempts(i.trial.id)
    result = i.look.result  # a finished trial says itself what it was forked from
    trunk = result.end.get("parent") if result else plan.forest.parent.get(i.trial.id)
    names = {t.id: t.name for t in plan.forest.trunks}
    last = folder / "attempts" / str(i.state.attempt)
    return {
        "trial": i.trial.name,
        "id": i.trial.id,
        "folder": str(folder),
        "state": i.state.state,
        "attempt": i.state.attempt,
        "reason": i.state.reason,
        "trunk": f"{names.get(trunk, 'a trunk')} ({trunk})" if trunk else None,
        "attempts": [_view(a) for a in views],
        "evaluations": {c.condition.key: _evaluation(i, c) for c in i.cells},
        "parameters": _parameters(i, views),
        "reach": _reached(i),
        "continuity": next((c for a in reversed(views) if (c := _continuity(a))), []),
        "decisions": next(
            (d for a in reversed(views) if (d := (a.end or {}).get("decisions"))), []
        ),
        "provenance": _provenance(last / "provenance"),
        "spec": i.trial.data,
        "repeat": command(o, i.trial),
        "log": tail(last / "log").splitlines()[-8:],
    }


def _parameters(i: Item, views: Sequence[Any]) -> dict[str, Any]:
    """The audit of the parameters: as recorded, else of the spec."""
    for a in reversed(views):
        if found := (a.end or {}).get("parameters"):
            return dict(found)
    spec = i.trial.variant.spec
    if not isinstance(spec.model, specs.Model):
        return {}
    from paribus.nn.declare import declare
    from paribus.nn.freeze import audit

    try:
        return audit(declare(spec.model), spec.freeze)
    except SpecError:  # a pattern that matches nothing: training says so
        return {}


def _reached(i: Item) -> dict[str, Any]:
    """How far back a model with a memory, a mixer or a window sees; {} of one that reads all."""
    from paribus.nn.reach import reach

    spec = i.trial.variant.spec
    length = spec.task.io().length
    if not isinstance(spec.model, specs.Model) or length is None:
        return {}
    model = spec.model
    if model.memory is None and model.mixer is None and getattr(model.mask, "window", None) is None:
        return {}
    return asdict(reach(model, length))


def _reach(found: Mapping[str, Any]) -> str:
    """The same in words."""
    near, far = found["direct"], found["theoretical"]
    text = f"{near} tokens in a layer" if near else "all of the row in a layer"
    text += f", {far} through all layers" if far else ", all of the row through all layers"
    return f"{text}; {grid.size(found['state_bytes'])} carried"


def _continuity(a: Any) -> list[dict[str, Any]]:
    """How far later phases were from the ones before as they began, as recorded."""
    return list((a.end or {}).get("continuity") or ())


def began(continuity: Sequence[Mapping[str, Any]]) -> list[str]:
    """The same in words, a line for each phase and batch."""
    out = []
    for phase in continuity:
        for b in phase["batches"]:
            a, z = (f"{b[k]:.4f}" if b[k] is not None else "none" for k in ("before", "after"))
            text = f"phase    {phase['phase']} from step {phase['step']} on, rows of {b['of']}"
            text += f" ({b['length']} tokens): loss {a} before the change, {z} after"
            if b["largest"] is not None:
                text += f"; outputs {'equal' if not b['largest'] else 'differ by up to'}"
                text += f" {b['largest']:.3g}" if b["largest"] else ""
            out.append(text)
    return out


def decided(decisions: Sequence[Mapping[str, Any]]) -> str:
    """What a schedule that looks at losses decided, in a line."""
    better = sum(d["improved"] for d in decisions)
    before = [1.0, *(d["factor"] for d in decisions)]
    falls = [d for d, had in zip(decisions, before, strict=False) if d["factor"] < had]
    text = f"{len(decisions)} looks at the loss, {better} of them better; "
    if not falls:
        return text + "the rate never fell"
    last = falls[-1]
    each = "once" if len(falls) == 1 else f"{len(falls)} times, last"
    return text + f"the rate fell {each} at step {last['step']}, to {last['factor']:g} of its peak"


def _counted(found: Mapping[str, Any]) -> str:
    """Totals of an audit in a line."""
    text = f"{found['total']:,}"
    if found["frozen"]:
        text += f": {found['trained']:,} trained, {found['frozen']:,} frozen"
    if "optimizer_bytes" in found:
        text += f"; optimizer state {grid.size(found['optimizer_bytes'])}"
    return text


def _view(a: Any) -> dict[str, Any]:
    """An attempt as plain data."""
    claim, end = a.claim or {}, a.end or {}
    resumed = [
        line.removeprefix("resumed at step ")
        for line in _first_lines(a.path / "log")
        if line.startswith("resumed at step ")
    ]
    return {
        "number": a.number,
        "state": end.get("state", "open"),
        "reason": end.get("reason", ""),
        "retired": (a.retired or {}).get("reason"),
        "began": claim.get("at"),
        "ended": end.get("at"),
        "resumed_at": resumed[0] if resumed else None,
        "step": end.get("step"),
        "checkpoints": list(a.steps),
        "host": claim.get("host"),
        "pid": claim.get("pid"),
        "worker": claim.get("worker"),
        "device": _provenance(a.path / "provenance").get("device"),
        "folder": str(a.path),
    }


def _attempt_line(a: dict[str, Any]) -> str:
    parts = [
        f"{a['number']}  {a['state']}",
        a["reason"],
        f"retired: {a['retired']}" if a["retired"] else "",
        f"{a['began'] or '?'} – {a['ended'] or 'now'}",
        f"from step {a['resumed_at']}" if a["resumed_at"] else "",
        f"to step {a['step']}" if a["step"] else "",
        f"checkpoints {', '.join(map(str, a['checkpoints']))}" if a["checkpoints"] else "",
        f"{a['host']}, process {a['pid']}" if a["pid"] else "",
        a["device"] or "",
    ]
    return "; ".join(p for p in parts if p)


def _evaluation(i: Item, c: Any) -> dict[str, Any]:
    """state and a line: the metrics, or why there are none."""
    record = i.look.records.get(c.id)
    if record is not None:
        metrics = record.get("metrics") or {}
        shown = "  ".join(
            f"{k} {v['value']:.4g}" for k, v in metrics.items() if v["value"] is not None
        )
        return {"id": c.id, "state": record["status"], "text": shown or record.get("reason", "")}
    if c.refused:
        return {"id": c.id, "state": "refused", "text": c.refused}
    if c.id in i.look.failed:
        return {"id": c.id, "state": "failed", "text": i.look.failed[c.id][-1]}
    return {"id": c.id, "state": "planned", "text": ""}


def _provenance(path: Path) -> dict[str, str]:
    """What a person asks first: commit, versions, machine, command."""
    about: dict[str, Any] = {}
    with suppress(Exception):  # for the eye: a damaged one is passed over
        about = read(path) or {}
    if not about:
        return {}
    source, packages = about.get("repository") or {}, about.get("packages") or {}
    engine, settings = about.get("engine") or {}, about.get("settings") or {}
    commit = str(source.get("commit") or source.get("reason") or "")
    if source.get("dirty"):
        commit += f", with changes ({source.get('diff_bytes') or '?'} bytes)"
    device = " ".join(
        dict.fromkeys(str(x) for x in (settings.get("device"), engine.get("device")) if x)
    )
    found = {
        "commit": commit,
        "paribus": (about.get("paribus") or {}).get("version"),
        "torch": packages.get("torch") or engine.get("torch"),
        "python": (about.get("python") or {}).get("version"),
        "host": about.get("host"),
        "device": device,
        "driver": (about.get("gpus") or {}).get("driver"),
        "kernel": engine.get("kernel"),
        "command": " ".join(map(str, about.get("command") or ())),
    }
    return {key: str(value) for key, value in found.items() if value}


def _first_lines(path: Path) -> list[str]:
    from paribus.standing import head

    return head(path).splitlines()


def _follow(plan: Plan, i: Item, sleep: Callable[[float], None] = time.sleep) -> int:
    """Print the log as it grows, from attempt to attempt, until the trial has ended or Ctrl-C."""
    number, at = max(1, i.state.attempt), 0
    root = plan.store.trial_dir(i.trial.id) / "attempts"
    said = ""
    with suppress(KeyboardInterrupt):
        while True:
            state = plan.store.state(i.trial.id)  # before the log is read: nothing is missed
            at = _more(root / str(number) / "log", at)
            if number < state.attempt:
                number, at = number + 1, 0
                print(f"── attempt {number} ──", flush=True)
                continue
            if state.state not in ("planned", "interrupted", *AT_WORK):
                print(
                    f"{i.trial.name}: {state.state}" + (f": {state.reason}" if state.reason else "")
                )
                break
            waiting = f"{i.trial.name}: {state.state}"
            if state.state not in AT_WORK and waiting != said:
                print(f"{waiting}; waiting for it to run (Ctrl-C ends this view)", flush=True)
                said = waiting
            sleep(0.5)
    return OK


def _more(path: Path, at: int) -> int:
    """Print what a log holds beyond a byte; the new end."""
    try:
        with open(path, "rb") as file:
            file.seek(at)
            new = file.read()
    except OSError:
        return at
    if new:
        sys.stdout.write(new.decode(errors="replace"))
        sys.stdout.flush()
    return at + len(new)

"""A worker's training: claims the free trials of a pack, trains them as a stack, ends each."""

from __future__ import annotations

import errno
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from paribus.engine import checkpoint, resuming
from paribus.engine.budget import OutOfMemory
from paribus.engine.evaluate import Setting
from paribus.engine.hooks import Hooks
from paribus.engine.intervals import checker, every, intervals
from paribus.engine.members import Member, Stopped, member, weights_of
from paribus.engine.settings import describe, taken_by_others
from paribus.engine.train import Trainer
from paribus.errors import Refused, SpecError
from paribus.nn.declare import declare
from paribus.nn.freeze import trained_paths
from paribus.spec import Model, digest
from paribus.store import Attempt, DiskError, Fenced, at_once

if TYPE_CHECKING:
    from paribus.engine.worker import Worker

FRESH, BUSY = 76, 77  # exit codes: start me again; start me when the GPU is free
FINISH = 8  # results of a stack that are published, and held, side by side
PATIENCE = 3  # losses without a new checkpoint after which a trial waits for the others
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)


class Leave(Exception):
    """The process is to end, and its trials were given back."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def train(w: Worker, units: Sequence[str]) -> bool:
    """Train those units of a pack that are free; whether any was.

    Raises Stopped, and Leave where a fresh process has to go on.
    """
    members = _claimed(w, units)
    cap = _cap(w, units)
    waiting: list[list[Member]] = []
    by_step: dict[int, list[Member]] = {}
    for m in members:  # after a crash members may stand at different steps
        by_step.setdefault(m.step, []).append(m)
    for group in sorted(by_step.values(), key=len, reverse=True):
        size = max(1, cap["stack"]) if cap["stack"] else len(group)
        waiting += [group[i : i + size] for i in range(0, len(group), size)]
    try:
        while waiting:
            _train(w, waiting.pop(0), cap)
    except (Stopped, Leave) as reason:
        for m in (m for group in waiting for m in group):
            _give_back(w, m, str(reason) or "stopped")
        raise
    return bool(members)


# ── claims ──────────────────────────────────────────────────────────────────────────────────


def _claimed(w: Worker, units: Sequence[str]) -> list[Member]:
    """Members of those units that could be claimed.  The first is claimed alone: who has it has
    the pack, and others leave it to them."""
    calls = [partial(w.store.open, unit, w.id) for unit in units]
    first: Attempt | None = w.write(calls[0])
    if first is None:
        return []
    tried = at_once(calls[1:])
    out: list[Member] = []
    at = 0
    try:
        for at, (unit, call) in enumerate(zip(units, calls, strict=True)):
            attempt: Attempt | None = w.result(tried[at - 1], call) if at else first
            m = None if attempt is None else _member(w, unit, attempt)
            if m is not None:
                out.append(m)
    except Stopped:
        held = [f.result() for f in tried[at:] if f.exception() is None]
        out += [Member(a.trial, a.trial, 0, [], attempt=a) for a in held if a is not None]
        for m in out:
            _give_back(w, m, "stopped")
        raise
    return out


def _member(w: Worker, unit: str, attempt: Attempt) -> Member | None:
    told = w.work["trials"][unit]
    try:
        w.describe(attempt)
        data = w.store.spec(told["like"] or unit)
        m = member(data, unit, told["name"], told["until"])
        m.attempt = attempt
        for p in m.phases:  # a pattern without a parameter ends this trial, not the whole stack
            if isinstance(p.spec.model, Model):
                trained_paths(declare(p.spec.model), p.spec.freeze)
        w.check_data(m, data["data"])
        found = w.write(partial(attempt.resume, told["trunk"]))
        if found is not None:
            m.state, m.files = checkpoint.decode(found.files), found.files
            notes = m.state[1]
            origin = found.info.get("trial", unit)
            m.parent = notes["parent"] if origin == unit else origin
            w.log(attempt, f"resumed at step {m.step}" + (f" of {origin}" if m.parent else ""))
            for name, (_, step) in list(notes["best"].items()):
                if step != m.step and w.write(partial(attempt.adopt_step, step)) is None:
                    w.log(attempt, f"the best step of {name}, {step}, is gone: it is sought anew")
                    del notes["best"][name]
        return m
    except (Fenced, Stopped):
        _give_back(w, Member(unit, told["name"], 0, [], attempt=attempt), "stopped")
        if w.stop():
            raise Stopped from None
        return None
    except Exception as error:
        w.log(attempt, traceback.format_exc())
        broken = Member(unit, told["name"], 0, [], attempt=attempt)
        w.beat(0)
        _end(w, [broken], "failed", f"{type(error).__name__}: {error}")
        return None


def _cap(w: Worker, units: Sequence[str]) -> dict[str, Any]:
    """How much less to try: what trials of this shape ran out of memory with on such a device,
    and half a stack for every few losses in a row."""
    key = w.work["trials"][units[0]]["key"]
    cap: dict[str, Any] = {"stack": None, "micro": None, "halvings": 0}
    here = describe(w.settings)["device"]
    for unit in (u for u, told in w.work["trials"].items() if told["key"] == key):
        oom = w.store.history(unit).oom
        if oom is None or oom.get("device") != here:
            continue
        cap["stack"] = min(cap["stack"] or oom["stack"], oom["stack"])
        if oom["stack"] == 1 and oom["halvings"] > cap["halvings"]:
            cap["micro"], cap["halvings"] = oom["micro"], oom["halvings"]
    losses = max(w.store.history(u).losses for u in units)
    if losses >= PATIENCE:
        stack = max(1, len(units) >> (losses // PATIENCE))
        cap["stack"] = min(cap["stack"] or stack, stack)
    return cap


# ── a stack ─────────────────────────────────────────────────────────────────────────────────


def _train(w: Worker, group: list[Member], cap: Mapping[str, Any]) -> None:
    try:
        less = cap["micro"], cap["halvings"]
        w.beat(group[0].step)
        trainer = Trainer(group, w.settings, w.data, _hooks(w, group), *less, w.ranks)
        w.say(
            event="start", trials=[m.trial for m in group], name=group[0].name, step=trainer.step,
            total=trainer.total,
            micro=cap["micro"] or len(w.ranks.part(group[0].phases[0].spec.rows or 1)),
            halvings=cap["halvings"], device=describe(w.settings)["device"],
        )  # fmt: skip
        about = {"members": [(m.trial, m.files) for m in group], "less": less}
        with w.ranks.job("train", about):
            trainer.run()
        _finish(w, trainer, group)
    except Stopped:
        for m in group:
            _give_back(w, m, "stopped")
        raise
    except OutOfMemory as error:
        _out_of_memory(w, group, error)
    except Refused as error:
        _end(w, group, "refused", str(error))
    except (DiskError, OSError) as error:
        if not isinstance(error, DiskError) and error.errno not in DISK:
            _failed(w, group, error)
            return
        for m in group:  # not of a checkpoint: a cache, or a file that is read
            _give_back(w, m, f"disk: {error}")
        w.wait_for_disk(error)
    except (Exception, SystemExit) as error:
        _failed(w, group, error)


def _failed(w: Worker, group: list[Member], error: BaseException) -> None:
    text = traceback.format_exc()
    places = [line.strip() for line in text.splitlines() if line.lstrip().startswith("File ")]
    for m in group:
        if m.attempt is not None:
            w.log(m.attempt, text)
    same = digest([type(error).__name__, places])  # the same error, whatever its numbers
    _end(w, group, "failed", f"{type(error).__name__}: {error}", same=same)


def _out_of_memory(w: Worker, group: list[Member], error: OutOfMemory) -> None:
    if others := taken_by_others(w.settings):
        for m in group:
            _give_back(w, m, others)
        raise Leave(BUSY, others)
    less = error.less()
    if less is None:
        _end(w, group, "out of memory", f"{error}: nothing is left to halve")
        raise Leave(FRESH, str(error))
    less["device"] = describe(w.settings)["device"]
    again = f"{error}; going on with " + (
        f"a stack of {less['stack']}" if error.stack > 1 else f"{less['micro']} rows a pass"
    )
    for m in group:
        if m.attempt is not None:
            w.log(m.attempt, again)
        _give_back(w, m, again, oom=less)
    w.say(event="less", name=group[0].name, reason=again)
    raise Leave(FRESH, again)


def _end(w: Worker, group: Sequence[Member], state: str, reason: str, same: str = "") -> None:
    """End attempts that came to nothing, at the step that the worker said last."""
    reason = " ".join(reason.split())[:500]
    for m in group:
        if m.attempt is not None:
            w.log(m.attempt, f"{state}: {reason}")
            w.write(partial(m.attempt.end, state, reason, step=w.me.step))
            w.say(event="end", trial=m.trial, name=m.name, state=state, reason=reason, same=same)
            m.attempt = None


def _give_back(w: Worker, m: Member, reason: str, **info: Any) -> None:
    """End an attempt unfinished.  On a full disk that cannot be said: then the process's end
    says it."""
    if m.attempt is not None and m.reason is None:
        with suppress(DiskError):
            m.attempt.end("released", reason[:500], **info)
        m.attempt = None


def _finish(w: Worker, trainer: Trainer, group: list[Member]) -> None:
    """Publish what a stack came to, some members side by side."""
    if "state" in w.work.get("keep", ()) or any(m.until is not None for m in group):
        trainer.save()
    for i in range(0, len(group), FINISH):
        calls = {
            e: call
            for e, m in enumerate(group)
            if i <= e < i + FINISH and (call := _result(w, trainer, e, m)) is not None
        }
        for (e, call), done in zip(calls.items(), at_once([*calls.values()]), strict=True):
            m = group[e]
            try:
                w.result(done, call)
                w.say(event="end", trial=m.trial, name=m.name, state="done")
            except Fenced as error:
                w.say(event="fenced", trial=m.trial, name=m.name, reason=str(error))
            m.attempt = None


def _result(w: Worker, trainer: Trainer, e: int, m: Member) -> Callable[[], Any] | None:
    """The call that publishes the result of member ``e``; None if it has none."""
    if m.attempt is None or m.reason is not None:
        return None
    trunk, info = m.until is not None, trainer.summary(e) | {"data": w.prints(m)}
    rates = trainer.curve(e)["lr"]
    info["lr"] = [min(rates), max(rates)] if rates else None
    info["engine"]["code"] = w.code
    if trunk:
        return partial(m.attempt.finish, None, info, keep=1)
    if found := realised(trainer, e):
        info["realised"] = found
    keep = int("state" in w.work.get("keep", ()))
    weights = checkpoint.weights(resuming.kept(trainer, e))
    try:
        extra = _best(w, trainer, e, m.attempt, info)
    except Fenced as error:
        w.say(event="fenced", trial=m.trial, name=m.name, reason=str(error))
        m.attempt = None
        return None
    return partial(m.attempt.finish, weights, info, keep=keep, extra=extra)


def realised(trainer: Trainer, e: int) -> dict[str, Any]:
    """Phase -> what the rows of a member held, where the task can tell."""
    out = {}
    for index, phase in enumerate(trainer.members[e].phases):
        source, seed = (trainer.sources if index == trainer.phase else trainer.open(index))[e]
        if found := source.realised(seed, range(phase.steps * (phase.spec.rows or 0))):
            out[phase.name] = found
    return out


def _best(
    w: Worker, trainer: Trainer, e: int, attempt: Attempt, info: dict[str, Any]
) -> dict[str, bytes]:
    """The weights of the best step of each value that is watched, as further files."""
    out: dict[str, bytes] = {}
    info["best"] = {}
    for name, (value, step) in trainer.best[e].items():
        found = w.write(partial(attempt.adopt_step, step))
        if found is None:
            w.log(attempt, f"the best step of {name}, {step}, is gone")
            continue
        file = f"best-{re.sub(r'[^A-Za-z0-9]+', '-', name)}.safetensors"
        state, optim = checkpoint.decode(found.files)[0], trainer.members[e].at(step).spec.optim
        out[file] = checkpoint.weights(weights_of(state, optim))
        info["best"][name] = {"value": value, "step": step, "file": file}
    return out


# ── what happens between steps ──────────────────────────────────────────────────────────────


def _hooks(w: Worker, group: list[Member]) -> Hooks:
    watched = intervals(w, group)
    return Hooks(
        stop=w.stop,
        progress=_progress(w, group),
        diverged=lambda m: w.say(
            event="end", trial=m.trial, name=m.name, state="diverged", reason=m.reason
        ),
        write=w.write,
        every=every(watched),
        evaluate=checker(w, group, watched),
        best=_watched(w, watched),
    )


def _watched(w: Worker, settings: Sequence[Setting]) -> dict[str, str]:
    """``best:<condition key>/<metric>`` as the name of an interval value and what is better."""
    out = {}
    for text in w.work.get("keep", ()):
        kind, _, rest = text.partition(":")
        key, _, metric = rest.rpartition("/")
        for s in settings:
            if kind == "best" and s.key == key:
                metrics = (s.probe or s.spec.task).metrics
                if metric not in metrics:
                    raise SpecError(f"keep: {text!r}: {key!r} has no metric {metric!r}")
                out[f"{key} {metric}"] = metrics[metric].better
    return out


def _progress(w: Worker, group: list[Member]) -> Callable[[Trainer], None]:
    said = 0.0

    def progress(trainer: Trainer) -> None:
        nonlocal said
        w.beat(trainer.step)
        now = time.monotonic()
        if now - said < 1.0 and trainer.step < trainer.total:
            return
        said = now
        loss = trainer.curves.last("loss")
        w.say(
            event="step", trials=[m.trial for m in group], name=group[0].name, step=trainer.step,
            total=trainer.total, loss=[x if x == x else None for x in loss],
        )  # fmt: skip
        for e, m in enumerate(group):
            if m.attempt is not None:
                w.log(m.attempt, f"step {trainer.step}/{trainer.total} loss {loss[e]:.4f}")

    return progress

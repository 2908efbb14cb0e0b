"""Workers as processes of this machine, one a slot.

The crew starts and stops workers and shows what they say; the store holds all truth.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from paribus.errors import ParibusError
from paribus.launch import deaths, processes
from paribus.launch.processes import Process
from paribus.launch.progress import Progress
from paribus.launch.ranks import Group
from paribus.store import Store

WORKER, PREFLIGHT = "paribus.engine.worker", "paribus.engine.preflight"
STOPPED, FRESH, BUSY = 75, 76, 77  # exit codes of workers
LOOK = 1.0  # seconds between looks at the stop flag and the GPUs
STUCK = 600.0  # seconds without a step after which a worker is called stuck
DERIVE = 60.0  # seconds between writings of what is derived from records
QUICK = 3  # deaths in a row without any work done after which a slot is given up


@dataclass
class Slot:
    """A place where one worker runs.

    Attributes:
        device: "cpu", "cuda:0", "mps".
        others: the devices of the ranks that follow, where several train one trial.
        busy: why the device cannot be used now; "" if it can.
        over: nothing is left for it; its process may still end.
        waiting: whether its process has passed the preflight, or was started beside it, and is to
            be told its work.
    """

    number: int
    device: str
    others: tuple[str, ...] = ()
    busy: Callable[[], str] = lambda: ""
    process: Process | Group | None = None
    running: dict[str, Any] | None = None
    moved: float = 0.0
    worked: bool = False
    waiting: bool = False
    deaths: int = 0
    waits: str = ""
    over: bool = False
    called_stuck: bool = False
    looked: float = -LOOK
    noise: list[str] = field(default_factory=list)

    @property
    def devices(self) -> tuple[str, ...]:
        """Of all ranks, the leader's first."""
        return (self.device, *self.others)


@dataclass
class Limits:
    """When to stop.

    Attributes:
        deadline: on the monotonic clock.
        timeout: seconds without a step after which a trial fails.
        fail_fast: stop when the same error came in two trials.
    """

    deadline: float | None = None
    timeout: float | None = None
    fail_fast: bool = False


class Crew:
    """Follows workers to their end.

    Attributes:
        waits: told what GPUs are waited for, "" when none is.
        why: why it was stopped; "" while nothing stopped it.
        interrupted: by Ctrl-C.
        errors: last words of workers that broke.
    """

    def __init__(
        self,
        store: Store,
        instance: str,
        progress: Progress,
        limits: Limits,
        on_event: Callable[[str, Mapping[str, Any]], None] = lambda kind, e: None,
        derive: Callable[[], None] = lambda: None,
    ) -> None:
        self.store, self.instance = store, instance
        self.progress, self.limits = progress, limits
        self.on_event, self._derive = on_event, derive
        self._derived, self._ends = time.monotonic(), 0
        self.why, self.interrupted, self.failed_fast = "", False, False
        self.errors: list[str] = []
        self.slots: list[Slot] = []
        self.waits: Callable[[str], None] = lambda reasons: None
        self._selector = selectors.DefaultSelector()
        self._kills = deaths.oom_kills()
        self._same: dict[str, set[tuple[int, str]]] = {}
        self._flag = store.stop_asked(instance)
        self._looked = time.monotonic()
        self._before: dict[int, Any] = {}

    # ── signals ──

    def __enter__(self) -> Crew:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                self._before[number] = signal.signal(number, self._signalled)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for slot in self.slots:
            running = slot.process is not None and slot.process.poll() is None
            if running and isinstance(slot.process, Process) and slot.over:
                slot.process.leave()
            elif running and slot.process is not None:
                slot.process.terminate()
            if isinstance(slot.process, Process):
                slot.process.no_more()

    def _signalled(self, number: int, _: Any) -> None:
        self.interrupted |= number == signal.SIGINT
        self.stop(signal.Signals(number).name, now=number == signal.SIGINT and bool(self.why))

    def stop(self, why: str, *, now: bool = False) -> None:
        """Ask every worker to checkpoint and end; `now`: without a checkpoint."""
        self.why = self.why or why
        for slot in self.slots:
            if slot.process is not None and slot.process.poll() is None:
                slot.process.send_signal(signal.SIGKILL if now else signal.SIGTERM)

    # ── workers ──

    def preflight(self, slots: Sequence[Slot], about: Mapping[str, Any]) -> int:
        """Two steps of each distinct graph, in the first slot: 0, or 2 with the reasons said; 1 if
        it broke; STOPPED.

        A process that passes waits in its slot to be told its work: torch is loaded once for both.
        Those of the other slots load it meanwhile.
        """
        slot, *rest = slots
        failed: list[str] = []
        while not self._ready(slot):
            self._look()
            if self.why:
                return STOPPED
            time.sleep(0.2)

        def found(_: Slot, line: bytes) -> None:
            finding = json.loads(line)
            slot.waiting |= bool(finding.get("passed")) and not slot.others
            if finding.get("failed"):
                failed.append(f"preflight: {finding['name']}: {finding['text']}")

        self.slots = list(slots)  # what a signal stops
        self._spawn(slot, PREFLIGHT, about)
        home = {"home": about["work"]["home"]}
        for other in rest:
            if not other.others:
                self._spawn(other, WORKER, {**about, "work": home, "wait": True})
                other.waiting = True
        process = slot.process
        assert isinstance(process, Process)
        while process.poll() is None and not slot.waiting:
            for key, _ in self._selector.select(timeout=0.5):
                self._read(key, found)
            self._look()
        for key in [k for k in self._selector.get_map().values() if k.data[0] is slot]:
            if not slot.waiting:
                self._read(key, found, to_the_end=True)
        if self.why:
            return STOPPED
        if slot.waiting:
            return 0
        for each in slots:
            if isinstance(each.process, Process):
                each.process.no_more()
        code = process.wait()
        slot.process = None
        for line in failed:
            self.progress.line(line)
        if code:
            last = [s for s in slot.noise if s.strip()][-1:] or ["no last words"]
            self.progress.line(f"preflight ended with code {code}: {last[0]}")
            return 2 if code > 0 else 1
        return 2 if failed else 0

    def work(
        self, work: Mapping[str, Any], settings: Mapping[str, Any], slots: Sequence[Slot]
    ) -> None:
        """Keep a worker in every slot until nothing is left, or until it is stopped."""
        self.slots = list(slots)
        told = [
            {"work": _rotated(work, i, len(slots)), "settings": settings_at(s, settings)}
            for i, s in enumerate(slots)
        ]
        self._fill(told)
        while not all(s.over or (self.why and s.process is None) for s in self.slots):
            if self._selector.get_map():
                for key, _ in self._selector.select(timeout=0.3):
                    self._read(key, self._event)
            else:
                time.sleep(0.1)
            for slot in self.slots:
                if slot.process is not None and slot.process.poll() is not None:
                    self._ended(slot)
            self._look()
            self.progress.draw()
            self._fill(told)

    def _fill(self, told: Sequence[Mapping[str, Any]]) -> None:
        """A worker in every slot that is free and not over."""
        for slot, about in zip(self.slots, told, strict=True):
            # That of the preflight is itself what fills its device.
            ready = slot.waiting and (slot is self.slots[0] or self._ready(slot))
            if ready and isinstance(slot.process, Process):
                slot.waiting, slot.moved = False, time.monotonic()
                slot.process.tell(about)
            if slot.process is None and not slot.over and not self.why and self._ready(slot):
                self._spawn(slot, WORKER, about)

    def _ready(self, slot: Slot) -> bool:
        """Whether the device can be used; says why it is waited for."""
        if slot.waits and time.monotonic() - slot.looked < LOOK:
            return False
        slot.looked = time.monotonic()
        reason = slot.busy()
        if reason and reason != slot.waits:
            event = {"event": "waiting", "worker": slot.number, "reason": reason}
            self.progress.event(event)
        if reason != slot.waits:
            slot.waits = reason
            self.waits("; ".join(dict.fromkeys(s.waits for s in self.slots or [slot] if s.waits)))
        return not reason

    def _spawn(self, slot: Slot, module: str, told: Mapping[str, Any]) -> None:
        more = (module == PREFLIGHT or "wait" in told) and not slot.others
        start = partial(processes.start, module, more=more)
        process: Process | Group
        if slot.others and module == WORKER:
            process = Group(len(slot.devices), start, told)
            streams = process.streams
        else:
            process = start(told)
            assert process.stdout and process.stderr
            streams = [(process.stdout, True), (process.stderr, False)]
        slot.process, slot.running, slot.noise = process, None, []
        if self.why:  # a signal that came while it was started had nobody to tell
            process.terminate()
        slot.moved, slot.worked, slot.called_stuck = time.monotonic(), False, False
        for stream, is_events in streams:
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ, (slot, is_events, [b""]))

    def _ended(self, slot: Slot) -> None:
        process = slot.process
        assert process is not None
        for key in [k for k in self._selector.get_map().values() if k.data[0] is slot]:
            self._read(key, self._event, to_the_end=True)
        slot.process = None
        code, kills = process.wait(), deaths.oom_kills()
        oom, self._kills = kills > self._kills, kills
        if slot.over:
            return
        slot.deaths = 0 if slot.worked or code in (FRESH, BUSY) else slot.deaths + 1
        early = code == -signal.SIGTERM and self.why and slot.running is None
        if code in (FRESH, BUSY) or early:  # it was stopped before it had begun
            return
        if code == STOPPED:
            if slot.deaths >= QUICK and not self.why:
                self._give_up(slot, f"worker {slot.number} was stopped {slot.deaths} times at once")
            return
        try:
            said, ends = deaths.charge(self.store, process.pid, code, slot.running, oom)
        except ParibusError as error:
            said, ends = f"worker {process.pid} ended with {code}; {error}", []
        if code == 0 and not ends:
            slot.over = True
            return
        last = [line for line in slot.noise if line.strip()][-1:]
        said = ": ".join([said, *(s.strip()[:300] for s in last)])
        for end in ends:
            self._tell(end)
        if (code > 0 and not ends) or slot.deaths >= QUICK:
            self._give_up(slot, said)
        else:
            self.progress.line(said)

    def _give_up(self, slot: Slot, why: str) -> None:
        slot.over = True
        self.errors.append(why)
        self.progress.line(why)

    def _tell(self, e: Mapping[str, Any]) -> None:
        """Show an event, and tell the user's command of what went wrong."""
        self.progress.event(e)
        wrong = e["event"] == "end" and e["state"] in ("failed", "out of memory", "diverged")
        if wrong or e["event"] == "failed":
            self.on_event("failed", e)
        if e["event"] == "blocked":
            self.on_event("stuck", e)

    # ── what they say, and what else is looked at ──

    def _read(
        self,
        key: selectors.SelectorKey,
        on_line: Callable[[Slot, bytes], None],
        *,
        to_the_end: bool = False,
    ) -> None:
        slot, is_events, rest = key.data
        while True:
            try:
                chunk = os.read(key.fd, 1 << 16)
            except BlockingIOError:
                chunk = b""
                if not to_the_end:
                    return
            if not chunk:
                self._selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
                return
            *lines, rest[0] = (rest[0] + chunk).split(b"\n")
            for line in lines:
                if is_events and line.startswith(b"{"):
                    with suppress(json.JSONDecodeError):
                        on_line(slot, line)
                        continue
                text = line.decode(errors="replace")
                slot.noise = [*slot.noise[-40:], text]
                self.progress.note(f"worker {slot.number}: {text}")
            if not to_the_end:
                return

    def _event(self, slot: Slot, line: bytes) -> None:
        e = {**json.loads(line), "worker": slot.number}
        slot.moved, slot.called_stuck = time.monotonic(), False
        kind = e["event"]
        if kind == "over" and not slot.others:  # however its process ends, or does not
            slot.over, slot.running = True, None
        slot.worked |= kind in ("step", "end", "evaluated", "idle", "blocked")
        if kind == "start":
            slot.running = e
        self._tell(e)
        self._ends += kind in ("end", "evaluated")
        if kind == "end" and e.get("same"):
            stack = slot.running["trials"][0] if slot.running else e["trial"]
            seen = self._same.setdefault(e["same"], set())
            seen.add((slot.number, stack))
            if len(seen) == 2:
                self._repeated(e)

    def _repeated(self, e: Mapping[str, Any]) -> None:
        if self.limits.fail_fast:
            self.failed_fast = True
            self.progress.line(f"the same error came twice ({e['reason']}): stopping")
            self.stop("the same error came in two trials (--fail-fast)")
        else:
            self.progress.line("the same error came twice; --fail-fast would stop here")

    def _look(self) -> None:
        """The clock, the stop flag, workers without a step."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        if self.limits.deadline is not None and now > self.limits.deadline and not self.why:
            self.stop("the time is over")
        with suppress(ParibusError):
            flag = self.store.stop_asked(self.instance)
            if flag is not None and flag != self._flag:
                self._flag = flag
                self.stop("asked to stop", now=bool(flag.get("now")))
        if self._ends and now - self._derived > DERIVE:
            self._derived, self._ends = now, 0
            self._derive()
        for slot in self.slots:
            still = now - slot.moved
            if slot.process is None or slot.running is None:
                continue
            if still > STUCK and not slot.called_stuck:
                slot.called_stuck = True
                self.progress.line(f"{slot.running['name']}: no step for {still / 60:.0f} min")
                self.on_event("stuck", slot.running)
            if self.limits.timeout is not None and still > self.limits.timeout:
                self._time_out(slot, still)

    def _time_out(self, slot: Slot, still: float) -> None:
        assert slot.process is not None and slot.running is not None
        slot.process.kill()
        slot.process.wait()
        for trial in slot.running["trials"]:
            reason = f"timed out: no step for {still:.0f} s (--timeout)"
            if self.store.end_for_dead(trial, slot.process.pid, "failed", reason):
                end = {"event": "end", "trial": trial, "name": slot.running["name"]}
                self._tell({**end, "state": "failed", "reason": reason})


def settings_at(slot: Slot, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Engine settings of a slot's processes.  A process of one GPU sees that one alone: compiled
    code is kept by the device's number, and so what was compiled on one serves on all."""
    if slot.others:
        return {**settings, "device": slot.device, "devices": slot.devices}
    kind, _, number = slot.device.partition(":")
    if kind != "cuda":
        return {**settings, "device": slot.device}
    return {**settings, "device": "cuda:0", "gpu": int(number or 0)}


def _rotated(work: Mapping[str, Any], i: int, n: int) -> dict[str, Any]:
    """The packs from worker i's share on, so that workers do not all knock at the same door."""
    packs = list(work["packs"])
    return {**work, "packs": packs[i::n] + [p for j, p in enumerate(packs) if j % n != i]}

"""A resident worker: looks for work, claims it, trains and evaluates, until nothing is left.

All truth is in the store; what is printed (one JSON object a line) is for the eye.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from paribus._version import __version__
from paribus.engine import compiled
from paribus.engine.follower import Follower
from paribus.engine.judging import judge, missing
from paribus.engine.members import Member, Stopped
from paribus.engine.ranks import LOST, Gone, Ranks, join
from paribus.engine.resident import Resident
from paribus.engine.settings import Settings, apply, describe, flags
from paribus.engine.training import PATIENCE, Leave, train
from paribus.errors import ParibusError
from paribus.parts import dump
from paribus.spec import canonical
from paribus.store import Attempt, DiskError, settled
from paribus.store.workers import DISK, IDLE, WORKING
from paribus.text import weights

STOPPED = 75
LOOK = (0.2, 2.0)  # seconds between looks at work that others hold: at least, at most
LATE = 0.05  # of the time that was waited: looks are so far apart
PARK = (0.2, 5.0)  # seconds between tries while a disk refuses
SETTLED = ("diverged", "refused")


class Worker(Resident):
    """Args:
    meet: the folder in which the ranks of a trial meet; None: this process trains alone.
    """

    def __init__(
        self, work: Mapping[str, Any], settings: Settings, meet: Path | None = None
    ) -> None:
        super().__init__(work, settings)
        self.stopping = False
        self._meet = meet
        self.parent = os.getppid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._stop)
        self.me = self.write(self.store.new_worker)
        self.id = self.me.id
        self.settled: set[str] = set()
        self._described: Path | None = None
        self._lost: dict[str, str] = {}
        self._prints: dict[str, dict[str, str]] = {}
        self.code = code(work.get("provenance") or {})

    # ── the process ──

    def _stop(self, *_: Any) -> None:
        self.stopping = True

    def stop(self) -> bool:
        """Whether to end cleanly: asked to, or the controller is gone."""
        return self.stopping or os.getppid() != self.parent

    def say(self, **event: Any) -> None:
        """An event for whoever started this worker.  One that does not read loses it: a stopped
        reader must not stop the work."""
        line = json.dumps(event).encode()[:4000] + b"\n"
        try:
            out = sys.stdout.fileno()
            if stat.S_ISFIFO(os.fstat(out).st_mode):
                os.set_blocking(out, False)
            os.write(out, line)
        except (BrokenPipeError, ValueError):
            self.stopping = True
        except OSError:
            pass  # full, or refused

    def beat(self, step: int) -> None:
        """Where training stands, for those who look."""
        self.me.step = step

    def log(self, attempt: Attempt, text: str) -> None:
        """A line of the attempt's log, if the disk takes it."""
        with suppress(DiskError):
            attempt.log(text)

    def write(self, call: Callable[[], Any]) -> Any:
        """Do a write that may be repeated.  While the disk refuses, wait: what is sealed is whole,
        and what is not stays in memory.  Raises Stopped when asked to stop meanwhile."""
        pause = PARK[0]
        while True:
            try:
                done = call()
            except DiskError as error:
                self._blocked(error, pause)
                pause = min(PARK[1], 2 * pause)
                continue
            if pause != PARK[0]:
                self._mark(WORKING)
                self.say(event="unblocked")
            return done

    def result(self, tried: Future[Any], call: Callable[[], Any]) -> Any:
        """What one of several writes `at_once` returned; one that the disk refused is done again,
        as by `write`."""
        return settled(tried, call, self.write)

    def wait_for_disk(self, error: OSError | DiskError) -> None:
        """Wait until a file of some size can be written again."""
        self._blocked(error, PARK[0])
        self.write(lambda: self.store.try_disk(1 << 20))

    def _blocked(self, error: OSError | DiskError, pause: float) -> None:
        if pause == PARK[0]:
            self._mark(DISK)
            self.say(event="blocked", reason=f"disk: {error}")
        if self.stop():
            raise Stopped from error
        time.sleep(pause)

    def _mark(self, mark: str) -> None:
        if hasattr(self, "me"):
            self.me.mark = mark

    def describe(self, attempt: Attempt) -> None:
        """Where this attempt runs and from what: written once, linked from every attempt."""
        about = {
            **self.work.get("provenance", {}),
            "engine": describe(self.settings),
            "torch": flags(self.settings),
            "settings": {**self.settings.data(), "device": self.settings.known},
        }
        content = json.dumps(about, indent=1, sort_keys=True).encode()
        self._described = self.write(lambda: attempt.describe(content, self._described))

    def prints(self, m: Member) -> dict[str, str]:
        """Fingerprints of the data that a member trains on and of the checkpoint that it begins
        from, as they are when it is opened."""
        start = m.phases[0].spec.start
        out = {} if start is None else {"start": weights.fingerprint(start)}
        for phase in m.phases:
            task = canonical(dump(phase.spec.task))
            if task not in self._prints:
                self._prints[task] = phase.spec.task.fingerprints()
            out |= self._prints[task]
        return out

    def check_data(self, m: Member, planned: Mapping[str, str]) -> None:
        """Refuse data that are not those of the trial's identity: a file that has changed since."""
        for name, found in self.prints(m).items():
            if found != planned.get(name, found):
                raise ParibusError(
                    f"{name}: the data have changed since this trial was planned (fingerprint "
                    f"{found[:12]}, planned {planned[name][:12]}); restore them, or run the study "
                    "again: with other data it is another trial"
                )

    # ── the loop ──

    def run(self) -> int:
        apply(self.settings)
        if self._meet is not None:
            self.ranks = together(self.settings, self._meet, 0)
        try:
            code = self._run()
        except Stopped:
            code = STOPPED
        except Leave as reason:
            self.say(event="leaves", code=reason.code, reason=str(reason))
            code = reason.code
        finally:
            self.me.close()
        self.ranks.close()
        return code

    def _run(self) -> int:
        since = time.monotonic()
        while True:
            moved, busy, weary = False, False, []
            for pack in self.work["packs"]:
                if self.stop():
                    return STOPPED
                free, held = self._sorted(pack)
                busy |= held
                if any(self.store.history(u).losses >= PATIENCE for u in free):
                    weary.append(free)
                    continue
                moved |= self._attend(pack, free)
            for free in weary if not moved else ():
                # What was lost again and again waits until nothing else is free.
                moved |= self._attend(free, free)
                if moved:
                    break
            if not moved:
                if not busy and not weary:
                    return 0
                waited = time.monotonic() - since
                self._wait(min(LOOK[1], max(LOOK[0], LATE * waited)))
            else:
                since = time.monotonic()

    def _wait(self, pause: float) -> None:
        """Others hold what is left: look again soon, in case they are lost."""
        if self.me.mark != IDLE:
            self._mark(IDLE)
            self.say(event="idle", reason="what is left runs elsewhere")
        if self.settings.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()
        time.sleep(pause)

    def _attend(self, pack: Sequence[str], free: Sequence[str]) -> bool:
        """Train what is free of a pack, then evaluate what is finished; whether anything was."""
        moved = False
        if free:
            self._mark(WORKING)
            moved = train(self, free)
        finished = [
            unit
            for unit in pack
            if unit not in self.settled
            and self.work["trials"][unit]["until"] is None
            and self.store.result(unit) is not None
            and missing(self, unit)
        ]
        if finished:
            self._mark(WORKING)
            moved |= judge(self, finished)
        return moved

    def _sorted(self, pack: Sequence[str]) -> tuple[list[str], bool]:
        """(units that are free to be trained, whether others hold some or some wait)."""
        free, held = [], False
        for unit in pack:
            if unit in self.settled:
                continue
            told = self.work["trials"][unit]
            state = self.store.state(unit)
            if state.state == "done":
                if told["until"] is not None or self._judged(unit):
                    self.settled.add(unit)
                else:
                    held = True  # evaluated below, by this worker or by those who hold it
            elif state.state in SETTLED:
                self.settled.add(unit)
            elif state.state in ("failed", "out of memory"):
                if told["retry"] and state.attempt <= told["attempts"]:
                    free.append(unit)
                else:
                    self.settled.add(unit)
            elif state.state in ("running", "blocked") or self._waits_for_trunk(told["trunk"]):
                held = True
            else:
                free.append(unit)
        return free, held

    def _judged(self, trial: str) -> bool:
        return not missing(self, trial) or bool(self.lost(trial))

    def lost(self, trial: str) -> str:
        """Why a result's weights cannot be used; looked at once, for it reads them all."""
        if trial not in self._lost:
            self._lost[trial] = self.store.weights_lost(trial)
        return self._lost[trial]

    def _waits_for_trunk(self, trunk: str | None) -> bool:
        """A trunk that cannot be had (failed, say) is not waited for: the trial trains alone."""
        if trunk is None or trunk not in self.work["trials"] or trunk in self.settled:
            return False
        return self.store.state(trunk).state in ("planned", "running", "interrupted", "blocked")


def code(provenance: Mapping[str, Any]) -> str:
    """The code that runs, in a word: the version, the commit, a mark of uncommitted changes."""
    paribus = provenance.get("paribus") or {}
    source = paribus.get("repository") or {}
    commit = source.get("commit") or paribus.get("commit")
    diff = source.get("diff_sha256") or (provenance.get("repository") or {}).get("diff_sha256")
    dirty = source.get("dirty") and (diff or "dirty")[:6]
    return "".join((__version__, f" {commit[:10]}" if commit else "", f"+{dirty}" if dirty else ""))


def together(settings: Settings, meet: Path, rank: int) -> Ranks:
    """The ranks of a trial, of which this process is one."""
    device = settings.devices[rank]
    return join(meet, rank, settings.world, device, settings.patience)


def main() -> int:
    """A worker's process; work and settings come as JSON on standard input."""
    told = json.loads(sys.stdin.readline())
    if "wait" in told:  # started beside the preflight, to have loaded what takes long by its end
        if compiled.compiles(Settings(**told["settings"])):
            compiled.load()
        line = sys.stdin.readline()
        return work(json.loads(line)) if line else 0
    return work(told)


def work(told: Mapping[str, Any]) -> int:
    """What this process was started for; its exit code."""
    settings, meet = Settings(**told["settings"]), told.get("meet")
    try:
        if rank := told.get("rank"):
            own = replace(settings, device=settings.devices[rank])
            apply(own)
            return Follower(told["work"], own).run(together(settings, Path(told["meet"]), rank))
        worker = Worker(told["work"], settings, meet and Path(meet))
        if (code := worker.run()) == 0:
            worker.say(event="over")  # nothing is left; to end takes torch most of a second
        return code
    except Stopped:
        return STOPPED
    except ParibusError as error:
        print(json.dumps({"event": "error", "reason": str(error)}), flush=True)
        return 1
    except Gone as error:
        print(f"another rank is gone: {error}", file=sys.stderr, flush=True)
        os._exit(LOST)  # what the libraries would still say to each other may never be heard

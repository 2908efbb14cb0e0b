"""Simulated workers on simulated hosts, one at a time on real files, switched at any operation.

Each worker is a thread that runs only while it has the baton; a policy decides before every file
operation whether it goes on, hands over, crashes, is suspended, meets a fault, or the power fails.
Time is simulated: it passes with every operation, and faster when somebody waits.
"""

from __future__ import annotations

import os
import random
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from paribus.store import Store, owners
from paribus.store.workers import Worker
from tests.crash.disk import Disk, Fault

PATIENCE = 10.0
SECONDS_AN_OPERATION = 0.02
MOST_OPERATIONS = 60_000


class Crash(BaseException):
    """The process is dead: nothing of it may catch this."""


class Policy(Protocol):
    def __call__(self, world: World, me: Actor, op: str, path: str) -> Fault | None: ...


class Actor:
    """A process of the simulation."""

    def __init__(self, world: World, host: str, script: Callable[[Actor], None]) -> None:
        self.world, self.host, self.script = world, host, script
        self.pid = next(world.pids)
        self.boot = world.boots[host]
        self.alive, self.suspended, self.finished = True, False, False
        self.was_suspended = False
        self.wake_at = 0.0
        self.beats_at = 0.0
        self.worker: Worker | None = None
        self.baton = threading.Semaphore(0)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.baton.acquire()
        try:
            if self.alive:
                self.script(self)
        except Crash:
            pass
        except BaseException:
            self.world.wrong.append(f"process {self.pid}: {traceback.format_exc(limit=-8)}")
        self.finished, self.alive = True, False
        self.world.hand_over()

    # ── what a process does with its store ──

    def store(self, home: Path) -> Store:
        store = Store(home, patience=PATIENCE)
        store.watch.clock = lambda: self.world.now
        return store

    def register(self, store: Store) -> str:
        self.worker = Worker(store.home / "workers", PATIENCE)
        return self.worker.id


class World:
    def __init__(self, root: Path, policy: Policy, seed: int) -> None:
        root.mkdir()
        self.dice = random.Random(seed)
        self.policy: Policy = policy
        self.disk = Disk(root, self.step)
        self.root = root
        self.home = root / "home"
        self.boots = {"one": "one-1", "two": "two-1"}
        self.pids = iter(range(100, 10**6))
        self.actors: list[Actor] = []
        self.current: Actor | None = None
        self.quiet = False
        self.now, self.operations, self.cuts = 0.0, 0, 0
        self.power_fails = False
        self.rates = {"stop": 0.0, "fail": 0.0}
        self.wrong: list[str] = self.disk.wrong
        self.idle = threading.Semaphore(0)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        self.disk.install(patch)
        real_pid = os.getpid
        patch.setattr(os, "getpid", lambda: self.current.pid if self.current else real_pid())
        patch.setattr(owners, "place", self._place)
        patch.setattr(owners, "_look", self._look)

    def _place(self) -> dict[str, str]:
        host = self.current.host if self.current else "one"
        boot = self.current.boot if self.current else self.boots["one"]
        return {"host": host, "machine": host, "boot": boot, "pidns": "1"}

    def _look(self, pid: int) -> tuple[str, str] | None:
        alive = any(actor.pid == pid and actor.alive for actor in self.actors)
        return (str(pid), "S") if alive else None

    # ── time and the baton ──

    def start(self, host: str, script: Callable[[Actor], None]) -> Actor:
        actor = Actor(self, host, script)
        self.actors.append(actor)
        return actor

    def run(self, first: Actor | None = None) -> None:
        """Until every process has finished or crashed."""
        if (first or self._pick()) is not None:
            self.hand_over(first)
            if not self.idle.acquire(timeout=120):
                raise AssertionError("the simulation hangs")
        self.current = None

    def runnable(self) -> list[Actor]:
        for actor in self.actors:
            if actor.suspended and (not actor.alive or self.now >= actor.wake_at):
                actor.suspended = False
        return [a for a in self.actors if not a.finished and not a.suspended]

    def _pick(self) -> Actor | None:
        found = self.runnable()
        if not found:
            asleep = [a for a in self.actors if a.suspended and not a.finished]
            if not asleep:
                return None
            first = min(asleep, key=lambda a: a.wake_at)
            self.now, first.suspended = max(self.now, first.wake_at), False
            return first
        return self.dice.choice(found)

    def hand_over(self, to: Actor | None = None) -> None:
        """Give the baton to somebody (a finished process does not wait for it again)."""
        me, to = self.current, to or self._pick()
        if to is me and me is not None and not me.finished:
            return
        self.current = to
        if to is None:
            self.idle.release()
        else:
            to.baton.release()
        if me is not None and not me.finished:
            me.baton.acquire()

    def switch(self, me: Actor, to: Actor | None = None) -> None:
        self.hand_over(to)
        if not me.alive:
            raise Crash

    def sleep(self, me: Actor) -> None:
        """A process waits: time passes, and others run."""
        self._pass(PATIENCE / 20)
        self.switch(me)

    def _pass(self, seconds: float) -> None:
        self.now += seconds
        for actor in self.actors:
            if actor.alive and not actor.suspended and actor.worker and self.now >= actor.beats_at:
                actor.beats_at = self.now + PATIENCE / 10
                before, self.quiet = self.quiet, True
                actor.worker.beat()
                self.quiet = before

    def step(self, op: str, path: str) -> Fault | None:
        """Before every file operation."""
        me = self.current
        if me is None or self.quiet:
            return None
        if not me.alive:
            raise Crash
        self.operations += 1
        if self.operations > MOST_OPERATIONS:
            self.wrong.append("it does not come to an end")
            self.kill_all()
            raise Crash
        self._pass(SECONDS_AN_OPERATION)
        fault = self.policy(self, me, op, path)
        if not me.alive:
            raise Crash
        return fault

    # ── what befalls processes ──

    def kill_all(self) -> None:
        for actor in self.actors:
            actor.alive = False

    def suspend(self, me: Actor, seconds: float) -> None:
        me.suspended = me.was_suspended = True
        me.wake_at = self.now + seconds
        self.switch(me)

    def cut_power(self) -> None:
        """Everybody is dead; the disk forgets what was not durable; the hosts come up again."""
        self.kill_all()
        self.run()
        self.power_fails = False
        self.cuts += 1
        self.disk.inner = True
        self.disk.tree = self.disk.after_cut(self.dice, self.root)
        self.disk.inner = False
        self.disk.open.clear()
        self.boots = {host: f"{host}-{self.cuts + 1}" for host in self.boots}

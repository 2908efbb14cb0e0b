"""Calm = chaos: the results of a study whose workers and schedulers are killed, stopped, woken and
terminated at random equal those of a calm run byte for byte, timing apart.

    python -m tests.crash.chaos [--kills 100] [--schedulers 8] [--seed 1]

Where it may (root on Linux) some schedulers run in process-id namespaces of their own: to the
others they are another host, whose owners are found lost by their beats alone.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from paribus.store import Store
from paribus.study import source
from paribus.study.plan import Plan
from tests.command import paribus

STUDY = """
from paribus import *
levels = {"none": None, "rope": positions.rope(), "alibi": positions.alibi()}
position = Factor("position", levels, "model.position")
lr = Factor("lr", [1e-3, 3e-3], "optim.lr")
span = Factor("span", [4, 5, 6, 8], "task.span")
study = Study("chaos", "Which one copies?",
    base=Spec(model=presets.quickstart(width=32), task=tasks.copying(span=8, examples=32),
              optim=optim.adamw(lr=1e-3), schedule=schedules.cosine(warmup=2), rows=8, steps=STEPS),
    factors=[position, lr], seeds=4, evaluate=[Eval("copy", over=[span])])
"""
TRIALS, CONDITIONS = 24, 4
TIMING = ("seconds",)
PATIENCE = "1.5"  # seconds after which an owner that shows no sign is lost


@dataclass
class Chaos:
    """What happened, for the report."""

    kills: int = 0
    rounds: int = 0
    attempts: int = 0
    seconds: float = 0.0
    others: int = 0
    signals: dict[str, int] = field(default_factory=dict)


def write(folder: Path, steps: int) -> Path:
    path = folder / "chaos.py"
    path.write_text(STUDY.replace("STEPS", str(steps)))
    return path


def options(study: Path, home: Path, workers: int) -> list[str]:
    return [
        "run", str(study), "--home", str(home), "--no-check", "--workers", str(workers),
        "--checkpoint-steps", "10",
    ]  # fmt: skip


def command(study: Path, home: Path, workers: int) -> list[str]:
    return [sys.executable, "-m", "paribus.cli", *options(study, home, workers)]


def environment() -> dict[str, str]:
    return {**os.environ, "PARIBUS_PATIENCE": PATIENCE, "OMP_NUM_THREADS": "1"}


def results(home: Path) -> str:
    """results.csv without the columns that tell time."""
    text = (home / "studies" / "chaos@main" / "results.csv").read_text()
    rows = list(csv.reader(io.StringIO(text)))
    keep = [i for i, name in enumerate(rows[0]) if name not in TIMING]
    return "\n".join(",".join(row[i] for i in keep) for row in rows)


def calm(folder: Path, steps: int) -> str:
    home = folder / "calm"
    done = paribus(*options(write(folder, steps), home, 2), report=False)
    assert done.returncode == 0, done.stderr
    return results(home)


def children(pid: int) -> list[int]:
    """The processes below one, of every depth."""
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(p) for p in (task / "children").read_text().split()]
    return found + [p for child in found for p in children(child)]


def working(pid: int) -> bool:
    """Whether a process is a worker that has been at it for a while."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    ticks = int(fields[11]) + int(fields[12])  # user and system time, in hundredths of a second
    begun = b"paribus.engine.worker" in line or b"paribus.engine.preflight" in line
    return begun and ticks > 250  # what importing torch takes


def foreign() -> list[str]:
    """What starts a process as on another host: [] where that is not allowed."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    try:
        able = subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return []
    return unshare if able else []


def round_of(
    study: Path, home: Path, wanted: int, schedulers: int, workers: int, luck: random.Random,
    seen: Chaos, pause: float,
) -> None:  # fmt: skip
    """One study from nothing to its end, with up to `wanted` kills."""
    elsewhere = foreign()
    running: dict[int, subprocess.Popen[bytes]] = {}
    asleep: list[tuple[float, int]] = []
    hosts: set[int] = set()
    log = open(home.parent / f"{home.name}.log", "ab")  # noqa: SIM115
    kills = 0

    def start(other: bool) -> None:
        before = elsewhere if other else []
        p = subprocess.Popen(
            [*before, *command(study, home, workers)], env=environment(), start_new_session=True,
            stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        running[p.pid] = p
        if before:
            hosts.add(p.pid)

    def wake(everybody: bool = False) -> None:
        now = time.monotonic()
        for at, pid in list(asleep):
            if everybody or at <= now:
                asleep.remove((at, pid))
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    deadline = time.monotonic() + 600
    try:
        finished = False
        while not finished:
            assert time.monotonic() < deadline, "the chaos run does not come to its end"
            for pid, p in list(running.items()):
                if p.poll() is not None:
                    del running[pid]
                    known = p.returncode in (0, 75, -9, -15, 137, 143)
                    known |= pid in hosts and p.returncode == 1  # unshare's child was killed
                    assert known, f"exit code {p.returncode}\n{Path(log.name).read_text()}"
                    finished |= p.returncode == 0
            while not finished and len(running) < schedulers and (kills < wanted or not running):
                other = bool(elsewhere) and luck.random() < 0.3
                seen.others += other
                start(other)
            wake()
            time.sleep(luck.expovariate(1 / pause))
            if kills >= wanted:
                wake(everybody=True)
                continue
            targets = [q for pid in running for q in [pid, *children(pid)]]
            if not targets:
                continue
            if busy := [q for q in targets if working(q)]:  # most kills meet work, some a start
                targets = busy if luck.random() < 0.7 else targets
            victim = luck.choice(targets)
            what = luck.choice(["KILL", "KILL", "KILL", "TERM", "STOP", "STOP"])
            if victim in hosts:
                what = "KILL"  # a whole host
            with suppress(ProcessLookupError):
                os.kill(victim, getattr(signal, f"SIG{what}"))
                kills += 1
                seen.signals[what] = seen.signals.get(what, 0) + 1
                if what == "STOP":
                    asleep.append((time.monotonic() + luck.uniform(0.2, 4), victim))
    finally:
        wake(everybody=True)
        for pid, p in running.items():
            for q in [*children(pid), pid]:
                with suppress(ProcessLookupError):
                    os.kill(q, signal.SIGKILL)
            p.wait()
        log.close()
    seen.kills += kills
    seen.rounds += 1


def check(study: Path, home: Path, seen: Chaos) -> None:
    """One accepted result a trial, every condition sealed; then a last calm look."""
    subprocess.run(command(study, home, 1), env=environment(), check=True, capture_output=True)
    store = Store(home)
    plan = Plan(source.load(str(study)).study, store)
    assert len(plan.items) == TRIALS
    for item in plan.items:
        views = store.attempts(item.trial.id)
        done = [v.number for v in views if v.end and v.end["state"] == "done"]
        assert len(done) == 1, (item.trial.name, done)
        assert done[0] == len(views), "an attempt was begun after the result"
        assert all(c.done for c in item.cells)
        assert not store.weights_lost(item.trial.id)
        seen.attempts += len(views)


def chaos(
    folder: Path, kills: int, schedulers: int, *, steps: int = 150, workers: int = 1, seed: int = 1,
    pause: float = 1.0,
) -> Chaos:  # fmt: skip
    """Rounds of chaos until `kills` signals were sent; raises AssertionError where calm differs."""
    began, seen, luck = time.monotonic(), Chaos(), random.Random(seed)
    expected = calm(folder, steps)
    assert expected.count("\n") >= TRIALS * CONDITIONS
    while seen.kills < kills:
        home = folder / f"chaos{seen.rounds}"
        study = write(folder, steps)
        round_of(study, home, kills - seen.kills, schedulers, workers, luck, seen, pause)
        check(study, home, seen)
        assert results(home) == expected
        shutil.rmtree(home)
    seen.seconds = time.monotonic() - began
    return seen


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--kills", type=int, default=100)
    p.add_argument("--schedulers", type=int, default=8)
    p.add_argument("--workers", type=int, default=1, help="of each scheduler")
    p.add_argument("--steps", type=int, default=150)
    p.add_argument("--seed", type=int, default=1)
    o = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(chaos(Path(folder), o.kills, o.schedulers, steps=o.steps, workers=o.workers,
                    seed=o.seed))  # fmt: skip


if __name__ == "__main__":
    main()

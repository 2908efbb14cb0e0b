"""What the controller and the store cost: seconds until the first claim, the controller's share of
a core while workers train, the gap between two trials of a worker, milliseconds of claims.

    python bench/controller.py [--sizes 100,1000] [--workers 2] [--seconds 90] [--idle 30]
        [--repeat 3] [--stacks 1,12,60] [--folder FOLDER] [--tiny] [--write [FOLDER]]

Runs are real: `paribus run` in fresh processes, on CPU workers of one thread, in homes under
--folder (the file system that is measured; default: that of temporary files), of studies of so many
tiny trials.  Times are those that the file system notes of claims, ends and records, so nothing
looks on meanwhile; it notes them to some 4 ms.

start   from the command to the first claim: with the preflight, without (--no-check), and again in
        a home where all is declared; beside a process that imports torch
work    for at most --seconds: processor seconds of the controller from the first claim on, a
        minute; seconds from a trial's end to the same worker's next claim, evaluation included, and
        from its last record to that claim
idle    the same of one long trial: what the controller takes when nothing happens
store   single calls in this process, beside one small file made durable: a claim, sealing a
        checkpoint, retiring the one before, publishing a result
stacks  milliseconds a trial in which a worker claims a stack and reads it, beside the claims alone,
        one after another
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

SRC = Path(__file__).resolve().parents[1] / "src"
STUDY = """
from paribus import *
study = Study("controller", "What does the controller cost?",
    base=Spec(model=presets.quickstart(width=32), task=tasks.copying(span=8, examples=16),
              optim=optim.adamw(lr=1e-3), schedule=schedules.constant(), rows=4, steps={steps}),
    factors=[Factor("lr", [round(1e-3 + 1e-6 * i, 9) for i in range({levels})], "optim.lr")],
    seeds={seeds}, evaluate=[Eval("copy")], names="{{lr}}")
"""
TICKS = os.sysconf("SC_CLK_TCK")


def study(folder: Path, trials: int, steps: int = 5) -> Path:
    seeds = 5 if trials % 5 == 0 else 1
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "controller.py"
    path.write_text(STUDY.format(levels=trials // seeds, seeds=seeds, steps=steps))
    return path


@contextmanager
def running(path: Path, *more: str) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """`paribus run` of a study and the time it was begun; what it says is shown if it breaks."""
    pythonpath = os.pathsep.join([str(SRC), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": pythonpath, "PARIBUS_HOME": str(path.parent / "runs")}
    command = [sys.executable, "-m", "paribus", "run", str(path), "--device", "cpu", *more]
    with tempfile.TemporaryFile() as said:
        began = time.time()
        process = subprocess.Popen(command, env=env, stdout=said, stderr=said)
        try:
            yield process, began
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            code = process.wait()
            if code not in (0, 75, -signal.SIGTERM):  # asked to end while it reported
                said.seek(0)
                sys.exit(f"{' '.join(command)}: code {code}\n{said.read().decode()[-2000:]}")


def claims(path: Path) -> list[Path]:
    return list((path.parent / "runs" / "trials").glob("*/attempts/*/claim"))


def first_claim(path: Path, process: subprocess.Popen[bytes], began: float) -> float:
    """Seconds until a worker claimed something; looks on as little as it can."""
    workers = path.parent / "runs" / "workers"
    while process.poll() is None:
        there = workers.exists() and any(workers.iterdir())
        if there and (new := [t for t in map(modified, claims(path)) if t > began]):
            return min(new) - began
        time.sleep(0.1)
    sys.exit("paribus run ended without a claim")


def modified(path: Path) -> float:
    return path.stat().st_mtime_ns / 1e9


def processor_seconds(process: subprocess.Popen[bytes]) -> float:
    """Of this process alone, so far; nan where the system does not tell."""
    stat = Path(f"/proc/{process.pid}/stat")
    if not stat.exists():
        return float("nan")
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def start(folder: Path, trials: int, o: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, list[float]] = {"preflight": [], "no check": [], "again": []}
    imported = []
    for i in range(o.repeat):
        for how in found:
            place = folder / f"start-{'check' if how == 'no check' else 'preflight'}-{i}"
            path = study(place, trials)
            more = ["--no-check"] if how == "no check" else []
            with running(path, "--workers", str(o.workers), *more) as (process, began):
                found[how].append(first_claim(path, process, began))
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        imported.append(time.perf_counter() - began)
    return {
        **{how: statistics.median(x) for how, x in found.items()},
        "import torch": statistics.median(imported),
    }


def work(folder: Path, trials: int, o: argparse.Namespace) -> dict[str, Any]:
    path = study(folder / "work", trials)
    samples: list[tuple[float, float]] = []  # when, processor seconds so far
    with running(path, "--no-check", "--workers", str(o.workers)) as (process, began):
        first = began + first_claim(path, process, began)
        while process.poll() is None and time.time() < first + o.seconds:
            samples.append((time.time(), processor_seconds(process)))
            time.sleep(0.1)
    of_worker: dict[str, list[tuple[float, float, float]]] = {}  # claim, end, last record
    for claim in claims(path):
        attempt = claim.parent
        if not (attempt / "weights").exists():  # at work when it was stopped
            continue
        records = [modified(p) for p in attempt.glob("evaluations/*") if p.suffix != ".claim"]
        ended = modified(attempt / "end")
        times = modified(claim), ended, max(records, default=ended)
        of_worker.setdefault(json.loads(claim.read_text())["worker"], []).append(times)
    gaps, after = [], []
    for times_of in of_worker.values():
        in_turn = sorted(times_of)
        for (_, ended, judged), (claimed, _, _) in pairwise(in_turn):
            gaps.append(claimed - ended)
            after.append(claimed - judged)
    last = max(end for times_of in of_worker.values() for _, end, _ in times_of)
    there = [s for s in samples if s[0] <= last]
    (since, before), (until, after_all) = there[0], there[-1]
    return {
        "trials": sum(map(len, of_worker.values())), "seconds": last - first,
        "processor_seconds_a_minute": 60 * (after_all - before) / (until - since),
        "gap_median": statistics.median(gaps), "gap_largest": max(gaps),
        "after_record_median": statistics.median(after), "after_record_largest": max(after),
    }  # fmt: skip


def idle(folder: Path, o: argparse.Namespace) -> dict[str, Any]:
    path = study(folder / "idle", 1, steps=10_000_000)
    with running(path, "--no-check", "--workers", "1") as (process, began):
        first_claim(path, process, began)
        time.sleep(2)
        before = processor_seconds(process)
        time.sleep(o.idle)
        busy = processor_seconds(process) - before
    return {"seconds": o.idle, "processor_seconds_a_minute": 60 * busy / o.idle}


def timed(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Milliseconds of a call, and what it returns."""
    began = time.perf_counter()
    out = call(*arguments)
    return 1e3 * (time.perf_counter() - began), out


def store(folder: Path, count: int) -> dict[str, Any]:
    """Median and largest milliseconds of single calls."""
    from paribus.store import Store, init_home
    from paribus.store.files import write

    home = Store(folder / "store")
    init_home(home.home)
    worker = home.new_worker()
    found: dict[str, list[float]] = {}

    def note(what: str, call: Callable[..., Any], *arguments: Any) -> Any:
        ms, out = timed(call, *arguments)
        found.setdefault(what, []).append(ms)
        return out

    files = {"state.safetensors": os.urandom(100_000), "notes.json": b"{}"}
    for i in range(count):
        trial = f"t{i}"
        home.declare(trial, {"number": i})
        note("a small file", write, folder / f"plain-{i}", bytes(1000))
        attempt = note("claim", home.open, trial, worker.id)
        attempt.seal(1, files, {})
        note("seal", attempt.seal, 2, files, {})
        note("retire", attempt.retain, 1)
        note("finish", attempt.finish, files["state.safetensors"], {"step": 2})
    worker.close()
    return {what: [statistics.median(x), max(x)] for what, x in found.items()}


def stacks(folder: Path, size: int, o: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a trial of a worker's claims, and of claims alone, in turns."""
    from paribus.engine import training
    from paribus.engine.settings import Settings, apply
    from paribus.engine.worker import Worker
    from paribus.store import Store, init_home
    from paribus.study import source
    from paribus.study.plan import Plan
    from paribus.study.plan import work as told

    turns = 2 if o.tiny else max(5, 60 // size)
    path = study(folder / f"stacks-{size}", 2 * turns * size)
    plan = Plan(source.load(str(path)).study, Store(path.parent / "runs"))
    init_home(plan.store.home)
    for trial, item in plan.unique.items():
        plan.store.declare(trial, item.trial.data)
    worker = Worker(told(plan, plan.items, size, base=path.parent), Settings(device="cpu"))
    apply(worker.settings)
    packs, ours, alone = worker.work["packs"], [], []
    for mine, plain in zip(packs[::2], packs[1::2], strict=True):
        ours.append(timed(training._claimed, worker, mine)[0] / size)
        alone.append(timed(lambda p: [worker.store.open(u, worker.id) for u in p], plain)[0] / size)
    worker.me.close()
    return {"size": size, "worker": statistics.median(ours), "alone": statistics.median(alone)}


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    p.add_argument("--sizes", default="100,1000", help="trials of a home")
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--seconds", type=float, default=90, help="of work, at most")
    p.add_argument("--idle", type=float, default=30, help="seconds of one long trial")
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--stacks", default="1,12,60", help="trials of a stack")
    p.add_argument("--folder", type=Path, help="where homes are made, and removed again")
    p.add_argument("--tiny", action="store_true", help="few and short, to try the script")
    p.add_argument("--write", type=Path, nargs="?", const=Path(__file__).parent / "results")
    o = p.parse_args()
    if o.tiny:
        o.sizes, o.idle, o.repeat, o.stacks = "10", 3.0, 1, "1,4"
    import torch

    head = {
        "date": datetime.now(UTC).date().isoformat(), "device": platform.machine(),
        "cores": os.cpu_count(), "torch": torch.__version__, "python": platform.python_version(),
        "system": platform.platform(), "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    tell(json.dumps(head))
    found: dict[str, Any] = {"start": {}, "work": {}, "stacks": []}
    with tempfile.TemporaryDirectory(dir=o.folder) as scratch:
        for trials in map(int, o.sizes.split(",")):
            folder = Path(scratch) / str(trials)
            s = found["start"][trials] = start(folder, trials, o)
            tell(f"{trials} trials: " + ", ".join(f"{k} {x:.2f} s" for k, x in s.items()))
            r = found["work"][trials] = work(folder, trials, o)
            tell(
                f"{r['trials']} of {trials} trials in {r['seconds']:.1f} s: the controller takes "
                f"{r['processor_seconds_a_minute']:.2f} s a minute; next claim "
                f"{r['gap_median']:.3f} s (at most {r['gap_largest']:.3f}) after an end, "
                f"{r['after_record_median']:.3f} ({r['after_record_largest']:.3f}) after a record"
            )
        found["idle"] = idle(Path(scratch), o)
        share = found["idle"]["processor_seconds_a_minute"]
        tell(f"one long trial: the controller takes {share:.2f} s a minute, {share / 0.6:.2f} %")
        found["store"] = store(Path(scratch), 5 if o.tiny else 50)
        for what, (median, largest) in found["store"].items():
            tell(f"{what:16} {median:8.2f} ms, at most {largest:.2f}")
        for size in map(int, o.stacks.split(",")):
            r = stacks(Path(scratch), size, o)
            found["stacks"].append(r)
            tell(f"a stack of {size}: {r['worker']:.2f} ms a trial, claims alone {r['alone']:.2f}")
    if o.write:
        stem = f"{head['date']}-controller-cpu"
        text = "\n".join(["# python bench/controller.py " + " ".join(sys.argv[1:]), *lines])
        (o.write / f"{stem}.txt").write_text(text + "\n")
        (o.write / f"{stem}.json").write_text(json.dumps({**head, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

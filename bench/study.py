"""What a study takes besides its steps, and beside one process per run: how long until the first
step of a worker, fresh and warm, and the same trainings on one device, on two, and by a plain
script for one model, one process after another.

    python bench/study.py [--gpus 0,1] [--trials 96] [--stack 12] [--steps 3000] [--out FILE.json]
        [--runs cold,warm,1,2,each] [--each 2] [--peer graphs] [--home FOLDER]
    python bench/study.py --device cpu --trials 4 --stack 2 --steps 40 --width 32      to try it

Trials are small models that copy, in stacks of one shape and size.  Runs, each a `paribus run` of
its own with a learning rate of its own, so that all its trials are new: cold (one stack in an empty
home: everything is compiled), warm (three more, the home's compiled code is there), then on each of
one and two devices --trials trials in a warm home.  each: the plain loop of _plain.py in a process
of its own per trial, with rows that are there already and nothing evaluated or kept; --each of them
are measured in a cache of their own, and multiplied up: the first once, the others' median for all
the rest.  With --runs some of them, in a home that is kept: on a host of several GPUs, copies of
one warm home may go on side by side.  First steps are seen as they stand in the logs, every 10 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
SRC = BENCH.parent / "src"
LAYERS, HEADS, ROWS, SPAN, SYMBOLS = 4, 4, 64, 32, 64
STUDY = """
from paribus import *
study = Study("stacks-{name}", "How long does a study take besides its steps?",
    base=Spec(model=presets.gpt2(width={width}, layers={layers}, heads={heads}),
              task=tasks.copying(span={span}, symbols={symbols}, examples=64),
              optim=optim.adamw(lr={lr}), schedule=schedules.constant(), rows={rows}, steps={steps},
              precision="{precision}"),
    seeds={seeds}, evaluate=[Eval("copy")], names="model")
"""


def run(home: Path, name: str, trials: int, where: list[str], o: argparse.Namespace) -> Any:
    """Train so many new trials; seconds of all, until the first step of all, and of each stack from
    its first claim to its first step."""
    had = {p.name for p in (home / "trials").glob("*")}
    study = home.parent / f"stacks-{name}.py"
    study.write_text(
        STUDY.format(
            name=name, width=o.width, layers=LAYERS, heads=HEADS, rows=ROWS, span=SPAN,
            symbols=SYMBOLS, steps=o.steps, seeds=trials, lr=round(1e-3 + 1e-7 * len(had), 10),
            precision="fp32" if o.device == "cpu" else "bf16",
        )
    )  # fmt: skip
    command = [sys.executable, "-m", "paribus", "run", str(study), "--no-check", "--no-trunks",
               "--checkpoint-every", "900", "--stack", str(o.stack), *where]  # fmt: skip
    env = {**environment(), "PARIBUS_HOME": str(home)}
    claimed: dict[str, tuple[float, str]] = {}  # trial -> when, by which worker
    stepped: dict[str, float] = {}
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env=env, stdout=said, stderr=said)
        while process.poll() is None:
            now = time.perf_counter() - began
            for attempt in (home / "trials").glob("*/attempts/1"):
                trial = attempt.parents[1].name
                if trial in had or trial in stepped:
                    continue
                if trial not in claimed and (attempt / "claim").exists():
                    claimed[trial] = now, json.loads((attempt / "claim").read_text())["worker"]
                log = attempt / "log"
                if trial in claimed and log.exists() and "step 1/" in log.read_text():
                    stepped[trial] = now
            time.sleep(0.01)
        whole = time.perf_counter() - began
        if process.returncode:
            said.seek(0)
            sys.exit(said.read().decode()[-2000:])
    of_worker: dict[str, list[str]] = {}
    for trial in sorted(stepped, key=lambda x: stepped[x]):
        of_worker.setdefault(claimed[trial][1], []).append(trial)
    starts: list[tuple[float, float]] = []
    for trials_in_turn in of_worker.values():
        for i in range(0, len(trials_in_turn), o.stack):  # a stack's make their first step together
            stack = trials_in_turn[i : i + o.stack]
            at = min(stepped[t] for t in stack)
            starts.append((at, at - min(claimed[t][0] for t in stack)))
    return {"seconds": whole, "first_step": min(stepped.values()), "trials": len(stepped),
            "starts": [seconds for _, seconds in sorted(starts)]}  # fmt: skip


def each(folder: Path, o: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the same trainings with one process each: some measured, multiplied up."""
    sizes = {"layers": LAYERS, "width": o.width, "heads": HEADS}
    shape = {**sizes, "length": 2 * SPAN, "rows": ROWS, "vocab": SYMBOLS + 1}
    device = "cpu" if o.device == "cpu" else f"cuda:{o.gpus.split(',')[0]}"
    command = [sys.executable, str(BENCH / "_plain.py"), json.dumps(shape), device, o.peer]
    env = {**environment(), "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
    measured = []
    for _ in range(o.each):
        began = time.perf_counter()
        subprocess.run([*command, str(o.steps)], env=env, check=True)
        measured.append(time.perf_counter() - began)
    later = statistics.median(measured[1:] or measured)
    return {"seconds": measured[0] + (o.trials - 1) * later, "trials": o.trials, "how": o.peer,
            "measured": measured}  # fmt: skip


def environment() -> dict[str, str]:
    """As a worker has it: on the CPU one thread, GPUs numbered as nvidia-smi numbers them."""
    path = os.pathsep.join([str(SRC), *filter(None, [os.environ.get("PYTHONPATH")])])
    usual = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {**usual, **os.environ, "PYTHONPATH": path}


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    p.add_argument("--gpus", default="0,1")
    p.add_argument("--trials", type=int, default=96)
    p.add_argument("--stack", type=int, default=12)
    p.add_argument("--steps", type=int, default=3000)
    p.add_argument("--width", type=int, default=256)
    p.add_argument("--out", type=Path)
    p.add_argument("--runs", default="cold,warm,1,2,each")
    p.add_argument("--each", type=int, default=2, help="processes of one run that are measured")
    p.add_argument(
        "--peer", choices=("graphs", "compiled", "eager"), help="default: graphs; eager on the CPU"
    )
    p.add_argument("--home", type=Path, help="where trials are kept; default: thrown away")
    o = p.parse_args()
    o.peer = o.peer or ("eager" if o.device == "cpu" else "graphs")
    if o.trials % o.stack:
        p.error(f"--trials {o.trials}: give a multiple of --stack {o.stack}: stacks of one size")
    if o.each < 1:
        p.error("--each: measure at least one")
    import torch

    gpus = o.gpus.split(",")

    def on(n: int) -> list[str]:
        if o.device == "cpu":
            return ["--device", "cpu", "--workers", str(n)]
        return ["--gpus", ",".join(gpus[:n])]

    several = o.device == "cpu" or len(gpus) > 1
    wanted = [x for x in o.runs.split(",") if x != "2" or several]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = (o.home or Path(folder)) / "runs"
        home.parent.mkdir(parents=True, exist_ok=True)
        for what in wanted:
            if what == "each":
                found["each"] = each(Path(folder), o)
                continue
            more = {"cold": o.stack, "warm": 3 * o.stack}.get(what, o.trials)
            name = what if what in ("cold", "warm") else f"on {what}"
            devices = on(int(what) if what in "12" else 1)
            found[name] = run(home, name.replace(" ", "-"), more, devices, o)
    head = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(0) if o.device == "cuda" else platform.machine(),
        "torch": torch.__version__, "python": platform.python_version(),
        "system": platform.platform(),
        **{k: getattr(o, k) for k in ("trials", "stack", "steps", "width")},
    }  # fmt: skip
    print(json.dumps(head))
    print(
        f"{'run':8} {'trials':>6} {'seconds':>8} {'first step':>11} {'starts of later stacks':>24}"
    )
    for name, r in found.items():
        later = r.get("starts", ())[1:]
        said = f"{statistics.median(later):.2f} … {max(later):.2f}" if later else "–"
        first = f"{r['first_step']:11.2f}" if "first_step" in r else f"{'–':>11}"
        print(f"{name:8} {r['trials']:6} {r['seconds']:8.1f} {first} {said:>24}")
    if "each" in found:
        measured = " ".join(f"{x:.1f}" for x in found["each"]["measured"])
        print(
            f"each: {o.trials} plain processes ({o.peer}), one after another, multiplied up from "
            f"{o.each} measured: {measured} s; nothing evaluated, nothing kept"
        )
    for name in ("on 1", "on 2"):
        if {name, "each"} <= found.keys():
            times = found["each"]["seconds"] / found[name]["seconds"]
            print(f"{name}: {times:.2f} times as fast as one process per run")
    if {"on 1", "on 2"} <= found.keys():
        print(
            f"two devices: {found['on 1']['seconds'] / found['on 2']['seconds']:.2f} times as fast"
        )
    if o.out:
        o.out.write_text(json.dumps({**head, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What a study takes besides its steps, and what a second GPU gives: how long until the first
step of a worker, fresh and warm, and the same trainings on one device and on two.

    python bench/study.py [--gpus 0,1] [--trials 96] [--stack 12] [--steps 3000] [--out FILE.json]
        [--runs cold,warm,1,2] [--home FOLDER]
    python bench/study.py --device cpu --trials 4 --stack 1 --steps 40 --width 32      to try it

Trials are small models that copy, in stacks of one shape.  Runs, each a `paribus run` of its own:
cold (an empty home: everything is compiled), warm (more trials of the shape, the home's compiled
code is there), then on each of one and two devices the same number of new trials in a warm home.
With --runs some of them, in a home that is kept: on a host of several GPUs, copies of one warm home
may go on side by side.  First steps are seen as they stand in the logs, every 10 ms.
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

SRC = Path(__file__).resolve().parents[1] / "src"
STUDY = """
from paribus import *
study = Study("stacks", "How long does a study take besides its steps?",
    base=Spec(model=presets.gpt2(width={width}, layers=4, heads=4),
              task=tasks.copying(span=32, symbols=64, examples=64),
              optim=optim.adamw(lr=1e-3), schedule=schedules.constant(), rows=64, steps={steps},
              precision="{precision}"),
    factors=[Factor("lr", {{"1": 1e-3, "2": 1.1e-3}}, "optim.lr")],
    seeds={seeds}, evaluate=[Eval("copy")], names="lr{{lr}}")
"""


def run(home: Path, seeds: int, where: list[str], o: argparse.Namespace) -> dict[str, Any]:
    """Train what is missing of so many seeds; seconds of all, until the first step of all, and of
    each stack from its claim to its first step."""
    study = home.parent / "stacks.py"
    bf16 = o.device != "cpu"
    study.write_text(
        STUDY.format(
            width=o.width, steps=o.steps, seeds=seeds, precision="bf16" if bf16 else "fp32"
        )
    )
    had = {p.name for p in (home / "trials").glob("*")}
    env = {**os.environ, "PARIBUS_HOME": str(home)}
    env["PYTHONPATH"] = os.pathsep.join([str(SRC), *filter(None, [env.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "paribus", "run", str(study), "--no-check", "--no-trunks",
               "--checkpoint-every", "900", "--stack", str(o.stack), *where]  # fmt: skip
    claimed: dict[str, float] = {}
    stepped: dict[str, float] = {}
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env=env, stdout=said, stderr=said)
        while process.poll() is None:
            now = time.perf_counter() - began
            for attempt in (home / "trials").glob("*/attempts/1"):
                name = attempt.parents[1].name
                if name in had or name in stepped:
                    continue
                if name not in claimed and (attempt / "claim").exists():
                    claimed[name] = now
                log = attempt / "log"
                if log.exists() and "step 1/" in log.read_text():
                    stepped[name] = now
            time.sleep(0.01)
        whole = time.perf_counter() - began
        if process.returncode:
            said.seek(0)
            sys.exit(said.read().decode()[-2000:])
    # Trials of a stack make their first step together.
    starts: list[float] = []
    last = -1.0
    for name, at in sorted(stepped.items(), key=lambda x: x[1]):
        if at - last > 0.1:
            starts.append(at - claimed[name])
        last = at
    return {"seconds": whole, "first_step": min(stepped.values()), "starts": starts,
            "trials": len(stepped)}  # fmt: skip


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
    p.add_argument("--runs", default="cold,warm,1,2")
    p.add_argument("--home", type=Path, help="where trials are kept; default: thrown away")
    o = p.parse_args()
    import torch

    gpus = o.gpus.split(",")

    def on(n: int) -> list[str]:
        if o.device == "cpu":
            return ["--device", "cpu", "--workers", str(n)]
        return ["--gpus", ",".join(gpus[:n])]

    several = o.device == "cpu" or len(gpus) > 1
    wanted = [x for x in o.runs.split(",") if x != "2" or several]
    found: dict[str, Any] = {}
    few = max(1, o.stack // 2)  # seeds of one stack: there are two learning rates
    with tempfile.TemporaryDirectory() as folder:
        home = (o.home or Path(folder)) / "runs"
        home.parent.mkdir(parents=True, exist_ok=True)
        for what in wanted:
            there = len(list((home / "trials").glob("*")))
            more = {"cold": 2 * few, "warm": 4 * few}.get(what, o.trials)
            name = what if what in ("cold", "warm") else f"on {what}"
            found[name] = run(home, (there + more) // 2, on(int(what) if what in "12" else 1), o)
    head = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(0) if o.device == "cuda" else platform.machine(),
        "torch": torch.__version__, "python": platform.python_version(),
        **{k: getattr(o, k) for k in ("trials", "stack", "steps", "width")},
    }  # fmt: skip
    print(json.dumps(head))
    print(
        f"{'run':8} {'trials':>6} {'seconds':>8} {'first step':>11} {'starts of later stacks':>24}"
    )
    for name, r in found.items():
        later = r["starts"][1:]
        said = f"{statistics.median(later):.2f} … {max(later):.2f}" if later else "–"
        print(f"{name:8} {r['trials']:6} {r['seconds']:8.1f} {r['first_step']:11.2f} {said:>24}")
    if {"on 1", "on 2"} <= found.keys():
        print(
            f"two devices: {found['on 1']['seconds'] / found['on 2']['seconds']:.2f} times as fast"
        )
    if o.out:
        o.out.write_text(json.dumps({**head, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Seconds that `run` with nothing to do, `status`, `plan` and `results` take over many finished
trials, in fresh processes.

    python bench/store_scale.py [--write] [--keep FOLDER] [--sizes 432x7,10000x2] [--repeat 3]

Makes a home of finished trials without training anything: ends with curves of 1000 steps, records
with per-item sums of 512 items, random so that they do not compress.  --write keeps the table as
bench/results/<date>-store-scale.txt; --keep leaves the homes in FOLDER and uses them again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from paribus import arrays, parts
from paribus.store import Store, init_home
from paribus.study import source
from paribus.study.expand import expand

# trials x evaluations -> the levels of the second and third factor, seeds, evaluated lengths
SHAPES = {
    "432x7": (4, 6, 3, (32, 64, 96, 128, 256, 384, 512)),
    "10000x2": (20, 20, 5, (128, 512)),
}
POSITIONS = {"432x7": 6, "10000x2": 5}
TARGETS = {
    "432x7": {"run again": 1.0, "status": 1.0},
    "10000x2": {"run again": 10.0, "status": 10.0, "plan": 10.0, "results": 10.0},
}
VERBS = {
    "run again": ("run",),
    "status": ("status",),
    "plan": ("plan",),
    "results": ("results", "--format", "csv"),
}

STUDY = """
from paribus import *
every = {{"none": None, "rope": positions.rope(), "alibi": positions.alibi(),
         "kerple": positions.kerple(), "sinusoidal": positions.sinusoidal(),
         "rope-long": positions.rope(base=1e6)}}
position = Factor("position", dict(list(every.items())[:{positions}]), "model.position")
clip = Factor("clip", [round(.5 + .05 * i, 2) for i in range({clips})], "clip")
lr = Factor("lr", [round(1e-3 * 1.1 ** i, 6) for i in range({lrs})], "optim.lr")
length = Factor("length", {lengths}, "task.length")
loss = metric("loss")
study = Study("scale", "How long does looking take?",
    base=Spec(model=presets.quickstart(width=64),
              task=tasks.lm(corpus=corpora.stdlib(), tokenizer=tokenizers.bytes(), length=128,
                            eval_tokens=32_768),
              optim=optim.adamw(lr=1e-3), schedule=schedules.cosine(warmup=20), rows=8, steps=1000),
    factors=[position, clip, lr], seeds={seeds}, evaluate=[Eval("lm", over=[length])],
    baseline=position["none"],
    hypotheses=dict(helps=better(position["rope"], than=position["none"],
                                 on=loss.at(length[128]).mean("lr").mean("clip"), by=.02)),
    checks=dict(learned=criterion(on=loss.at(length[128]).mean("lr").mean("clip"),
                                  arm=position["rope"], below=baseline("unigram"), by=.3)))
"""


def study_file(folder: Path, shape: str) -> Path:
    clips, lrs, seeds, lengths = SHAPES[shape]
    text = STUDY.format(
        clips=clips, lrs=lrs, seeds=seeds, lengths=list(lengths), positions=POSITIONS[shape]
    )
    (folder / "scale.py").write_text(text)
    return folder / "scale.py"


class Filler:
    """Contents of finished trials.  Numbers are drawn from a pool, packed once."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.random = random.Random(0)
        self.curves = [arrays.pack(2 + draw.normal(size=1000)) for _ in range(16)]
        self.items = [arrays.pack(256 + 9 * draw.normal(size=512)) for _ in range(64)]
        self.ones = arrays.pack(np.full(512, 128.0))
        self.weights = os.urandom(4096)
        self.hash = hashlib.sha256(self.weights).hexdigest()
        self.engine = {
            "engine": "eager", "stack": 1, "micro_batch": 8, "accumulation": 1, "halvings": 0,
            "peak_memory": None, "paired_init": True, "device": "cpu", "threads": 1,
            "deterministic": True, "torch": "2.11.0", "python": "3.12.3", "kernel": "sdpa",
        }  # fmt: skip

    def end(self) -> dict[str, Any]:
        curve = {c: self.random.choice(self.curves) for c in ("loss", "lr", "norm")}
        return {
            "state": "done", "reason": "", "token": "0" * 16, "weights": self.hash,
            "at": "2026-11-22T00:00:00+00:00", "step": 1000, "tokens": 1_024_000,
            "targets": 1_024_000, "seconds": round(60 + self.random.random(), 3),
            "curves": curve, "checks": [], "engine": self.engine,
        }  # fmt: skip

    def record(self, condition: str, key: str) -> dict[str, Any]:
        loss = 2 + self.random.gauss(0, 0.05)
        values = {"loss": loss, "bpb": 1.44 * loss, "ppl": 2.718281828**loss}
        items = {
            m: {"sum": self.random.choice(self.items), "count": self.ones} for m in ("loss", "bpb")
        }
        return {
            "metrics": {k: {"value": v, "count": 32768.0} for k, v in values.items()},
            "items": items, "slices": {}, "status": "done", "condition": condition, "key": key,
            "baselines": {"unigram": {"loss": 3.1}, "bigram": {"loss": 2.6}}, "split": "test",
            "size": 512, "groups": self.ones, "seconds": 0.5, "engine": self.engine,
            "weights": self.hash,
        }  # fmt: skip


def make(folder: Path, shape: str) -> Path:
    """A home in which every trial and evaluation of the study is finished."""
    path = study_file(folder, shape)
    home = folder / "runs"
    init_home(home)
    store = Store(home)
    expansion = expand(source.load(str(path)).study)
    fill = Filler()
    claim = {
        "boot": "0", "host": "bench", "machine": "", "pid": 1, "pidns": "", "start": "0",
        "at": "", "token": "0" * 16, "worker": "bench-1-0",
    }  # fmt: skip
    for trial in expansion.trials:
        place = store.trial_dir(trial.id)
        attempt = place / "attempts" / "1"
        (attempt / "evaluations").mkdir(parents=True)
        (attempt / "checkpoints").mkdir()
        _put(place / "spec.json", trial.data, indent=1)
        _put(attempt / "claim", claim, indent=1)
        (attempt / "log").write_text("step 1000/1000 loss 2.0000\n")
        (attempt / "weights").write_bytes(fill.weights)
        _put(attempt / "end", fill.end())
        for condition in expansion.conditions:
            cid = condition.id(trial)
            _put(attempt / "evaluations" / f"{cid}.1", fill.record(cid, condition.key))
    return path


def _put(path: Path, content: Mapping[str, Any], indent: int | None = None) -> None:
    between = None if indent else (",", ":")
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, indent=indent,
                      separators=between)  # fmt: skip
    path.write_bytes(text.encode() + b"\n")


def timed(arguments: list[str], folder: Path) -> tuple[float, float]:
    """(seconds by the clock, processor seconds) of a fresh process."""
    env = {k: v for k, v in os.environ.items() if k != "PARIBUS_HOME"}
    env["PYTHONDONTWRITEBYTECODE"] = ""  # bytecode is cached, as where it is installed
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "paribus", *arguments], cwd=folder, env=env,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"paribus {' '.join(arguments)}: {done.stderr}")
    busy = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return seconds, busy


def measure(folder: Path, shape: str, repeat: int) -> list[str]:
    files = sum(len(names) for _, _, names in os.walk(folder / "runs"))
    lines = []
    first, _ = timed(["run", "scale.py"], folder)
    lines.append(f"{shape:10} {'run first':12} {first:8.2f} {'':8} {'':>8}  {files:,} files")
    for name, verb in VERBS.items():
        found = [timed([verb[0], "scale.py", *verb[1:]], folder) for _ in range(repeat)]
        seconds, busy = sorted(found)[len(found) // 2]
        target = TARGETS[shape].get(name)
        says = "" if target is None else f"{target:g} s: {'met' if seconds < target else 'MISSED'}"
        lines.append(f"{shape:10} {name:12} {seconds:8.2f} {busy:8.2f}  {says}")
    return lines


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--write", action="store_true", help="keep the table under bench/results/")
    p.add_argument("--keep", type=Path, help="leave the homes here, and use those that are there")
    p.add_argument("--sizes", default=",".join(SHAPES))
    p.add_argument("--repeat", type=int, default=3)
    o = p.parse_args()
    date = datetime.now(UTC).date().isoformat()
    head = {
        "date": date, "processor": _processor(), "cores": os.cpu_count(),
        "python": platform.python_version(), "numpy": np.__version__, "system": platform.platform(),
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    lines = [json.dumps(head), f"{'trials':10} {'verb':12} {'seconds':>8} {'cpu':>8}  target"]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for shape in o.sizes.split(","):
            folder = (o.keep or Path(scratch)) / shape
            if not (folder / "runs").exists():
                folder.mkdir(parents=True, exist_ok=True)
                make(folder, shape)
                parts.use_local(None)
            for line in measure(folder.absolute(), shape, o.repeat):
                lines.append(line)
                print(line, flush=True)
    if o.write:
        place = Path(__file__).parent / "results" / f"{date}-store-scale.txt"
        place.write_text("\n".join(["# python bench/store_scale.py", *lines]) + "\n")
        print(place)


def _processor() -> str:
    """The processor's model name where the system tells it."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()

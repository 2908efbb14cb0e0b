"""What freezing queries and keys saves of a training step: time of the three groups of `qk-freeze`,
measured in turns in one process, beside the ceiling that torch's FLOP counter gives.

    python bench/freeze_step.py --out FILE.json       the study's models at paper (alone) and small
                                                      (alone, and 15 stacked)
    python bench/freeze_step.py --device cpu --rounds 6 --burst 2                      to try it

A: ordinary; B: orthogonal, trained; C: orthogonal, frozen.  B and C differ in freezing alone, A and
B in first values alone, so B / A is the null: what it is away from 1 is the machine.  Each round
times a burst of steps of every group, in an order that rotates; ratios are taken within rounds.
Tokens are random: no text is needed.  The peer is the same engine without freezing.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from paribus import positions, tasks
from paribus.engine.members import Member, Phase
from paribus.engine.settings import Settings, apply, pick_device
from paribus.engine.train import Trainer
from paribus.nn import flops
from paribus.nn.freeze import trained_paths
from paribus.nn.transformer import Transformer
from paribus.spec import Spec, patch, resolve
from paribus.study import source
from paribus.text.data import Data

GROUPS = ("gpt_base", "oelm_no_freeze", "oelm_freeze")
STACKED = 15  # trials of the small study's stacks


def specs(scale: str) -> dict[str, Spec]:
    """The groups' specs, resolved, on random tokens of as many rows and of about the length."""
    out = {}
    for trial in source.load("qk-freeze", scale=scale).study.trials():
        spec = trial.variant.spec
        name = str(trial.variant.tags["group"])
        if name not in GROUPS or name in out:
            continue
        half, vocab = spec.task.length // 2, spec.model.vocab
        given = patch(spec, "task", tasks.copying(span=half, symbols=vocab - 1))
        given = patch(given, "model.position", positions.learned(length=2 * half))
        out[name] = resolve(patch(given, "steps", 10**6))
    return {name: out[name] for name in GROUPS}


def share_saved(free: Spec, frozen: Spec) -> dict[str, float]:
    """Operations of a step of one row, and the share of them that freezing saves: counted by torch
    over the dense attention, on tensors without contents, and by the formula of `plan`, which
    counts the pairs that the mask lets be read."""

    def counted(spec: Spec) -> int:
        core = Transformer(spec.model)  # type: ignore[arg-type]
        T = spec.task.io().length or 1
        trained = trained_paths(core.declared, spec.freeze)
        p = {
            k: torch.empty(1, *d.shape, device="meta", requires_grad=k in trained)
            for k, d in core.declared.items()
        }
        ids = torch.zeros(1, 1, T, dtype=torch.long, device="meta")
        tables = {k: t.to("meta") for k, t in core.tables(core.view(T)).items()}
        with FlopCounterMode(display=False) as counter:
            loss = core(p, ids, tables=tables, kernel="reference").sum()
            torch.autograd.grad(loss, [p[k] for k in trained])
        return int(counter.get_total_flops())

    whole, less = counted(free), counted(frozen)
    T = free.task.io().length or 1
    said, said_less = (flops.training(s.model, T, s.freeze) for s in (free, frozen))  # type: ignore[arg-type]
    return {
        "free": whole,
        "frozen": less,
        "share": 1 - less / whole,
        "formula_share": 1 - said_less / said,
    }


def trainer(spec: Spec, stack: int, settings: Settings) -> Trainer:
    phases = [Phase("train", spec, "reset")]
    members = [Member(f"t{e}", f"t{e}", e, phases) for e in range(stack)]
    out = Trainer(members, settings, Data(Path("unused")))
    out._enter(0)
    return out


def interval(ratios: Sequence[float]) -> dict[str, float]:
    """The mean of ratios, by logarithms, and its 95 % interval (normal)."""
    logs = [math.log(r) for r in ratios]
    mean = statistics.fmean(logs)
    half = 1.96 * statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else 0.0
    return {"ratio": math.exp(mean), "low": math.exp(mean - half), "high": math.exp(mean + half)}


def measured(scale: str, stack: int, o: argparse.Namespace) -> dict[str, Any]:
    """The three groups of a scale in turns."""
    settings = Settings(device=o.device, compile=o.compile)
    cuda = o.device.startswith("cuda")
    found, groups = specs(scale), {}
    peak: dict[str, int] = {}

    def wait() -> None:
        if cuda:
            torch.cuda.synchronize()

    for name, spec in found.items():
        if cuda:
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        groups[name] = trainer(spec, stack, settings)
        for _ in range(o.warm):
            groups[name]._advance()
        wait()
        if cuda:
            peak[name] = torch.cuda.max_memory_allocated() - before
    times: dict[str, list[float]] = {name: [] for name in groups}
    names = list(groups)
    for turn in range(o.rounds):
        k = turn % len(names)
        for name in names[k:] + names[:k]:
            wait()
            began = time.perf_counter()
            for _ in range(o.burst):
                groups[name]._advance()
            wait()
            times[name].append((time.perf_counter() - began) / o.burst)
    a, b, c = (times[name] for name in GROUPS)
    spec = found["oelm_no_freeze"]
    saved = share_saved(spec, found["oelm_freeze"])
    model: Any = spec.model
    return {
        "scale": scale,
        "stack": stack,
        "shape": {"width": model.width, "layers": model.layers, "heads": model.heads,
                  "vocab": model.vocab, "rows": spec.rows, "length": spec.task.io().length,
                  "precision": spec.precision, "dropout": model.dropout},
        "engine": groups[GROUPS[0]].loss_of.engine,
        "kernel": groups[GROUPS[0]].net.kernel,
        "update": type(groups[GROUPS[0]].update).__name__,
        "ms": {name: 1e3 * statistics.median(of) for name, of in times.items()},
        "frozen_to_free": interval([y / x for x, y in zip(b, c, strict=True)]),
        "null": interval([y / x for x, y in zip(a, b, strict=True)]),
        "flops": saved,
        "least_ratio": 1 - saved["share"],
        "peak_bytes": peak,
        "rounds": times,
    }  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--device", default=pick_device())
    p.add_argument("--scales", help="of the study (default: paper,small; on the CPU smoke)")
    p.add_argument("--stacks", help=f"trials stacked (default: 1, and at small {STACKED} too)")
    p.add_argument("--rounds", type=int, default=40, help="of which each times every group")
    p.add_argument("--burst", type=int, default=10, help="steps that are timed as one")
    p.add_argument("--warm", type=int, default=10, help="steps of each group before that")
    p.add_argument("--compile", default="auto", choices=("auto", "on", "off"))
    p.add_argument("--out", type=Path, help="write everything to this JSON file")
    o = p.parse_args()
    apply(Settings(device=o.device))
    runs = []
    scales = o.scales or ("paper,small" if o.device.startswith("cuda") else "smoke")
    for scale in scales.split(","):
        usual = (1, STACKED) if scale == "small" else (1,)
        for stack in [int(k) for k in o.stacks.split(",")] if o.stacks else usual:
            runs.append(measured(scale, stack, o))
    name = platform.processor() or platform.machine()
    if o.device.startswith("cuda"):
        name = torch.cuda.get_device_name(o.device)
    head = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "rounds": o.rounds,
        "burst": o.burst,
    }
    print(json.dumps(head))
    titles = ("C / B, 95 % interval", "at best", "B / A (null)", "MiB less")
    print(f"{'scale':>6} {'stack':>5} {'A ms':>8} {'B ms':>8} {'C ms':>8}  "
          "{:<26} {:>7}  {:<26} {:>8}".format(*titles))  # fmt: skip
    for r in runs:
        ms = "".join(f"{r['ms'][name]:9.3f}" for name in GROUPS)
        said = [
            f"{x['ratio']:.4f} [{x['low']:.4f}, {x['high']:.4f}]"
            for x in (r["frozen_to_free"], r["null"])
        ]
        peak = r["peak_bytes"]
        less = f"{(peak[GROUPS[1]] - peak[GROUPS[2]]) / 2**20:8.1f}" if peak else f"{'–':>8}"
        print(f"{r['scale']:>6} {r['stack']:5}{ms}  {said[0]:<26} {r['least_ratio']:7.4f}  "
              f"{said[1]:<26} {less}")  # fmt: skip
    for scale, f in {r["scale"]: r["flops"] for r in runs}.items():
        print(
            f"{scale}: {f['free'] / 1e9:.3f} GF a row and step; frozen "
            f"{(f['free'] - f['frozen']) / 1e9:.3f} GF less, {100 * f['share']:.2f} % as torch "
            f"counts, {100 * f['formula_share']:.2f} % of what a mask lets be read"
        )
    if o.out:
        o.out.parent.mkdir(parents=True, exist_ok=True)
        o.out.write_text(json.dumps({**head, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()

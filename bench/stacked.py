"""A training step of many small models: paribus's stack beside one model after another, as one
writes it for one run, eager and compiled with CUDA graphs, in the same run.

    python bench/stacked.py [--device cuda:0] [--cases t23,t83,lm] [--sizes 15,60] [--steps 8]
        [--peers eager,graphs] [--deterministic] [--kernels N] [--tiny] [--write FOLDER]

Milliseconds of a step and model: of ours the mean of many steps, for it draws its rows, some steps'
at a time; of the peers, each in a process of its own and with rows that are there already, the
median.  Both sides: the same shape, GPT-2's blocks, bf16 on CUDA, Adam.  Ratios are against the
best of our stacks.  --deterministic: ours alone, equal to the bit after a resume.  --kernels: the
N that take longest of a step of each of our stacks, in milliseconds and calls.  On CUDA the
gradients of a compiled stack of three are compared with those of its operations one by one.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from _plain import Shape, alone, kernels, timed

from paribus import corpora, init, optim, positions, presets, schedules, tasks, tokenizers
from paribus.engine.members import Member, Phase
from paribus.engine.settings import Settings, apply, pick_device
from paribus.engine.train import Trainer
from paribus.spec import Spec, resolve
from paribus.text.data import Data

CASES = {
    "t23": Shape(12, 256, 8, 23, 64),
    "t83": Shape(12, 256, 8, 83, 64),
    "lm": Shape(8, 512, 8, 512, 8, vocab=6400),
}
TINY = {
    "t23": Shape(2, 32, 4, 23, 4),
    "t83": Shape(2, 32, 4, 83, 4),
    "lm": Shape(2, 32, 4, 32, 2, vocab=300),
}
FAR = 3e-2  # of gradients in bf16, relative: more than rounding, which came to 5e-3 to 7e-3
SIZES = {"t23": [15, 60], "t83": [15, 60], "lm": [6, 18]}


def spec(s: Shape, device: str) -> Spec:
    """The same shape for paribus."""
    sizes: dict[str, Any] = {"width": s.width, "layers": s.layers, "heads": s.heads}
    how: dict[str, Any] = {
        "optim": optim.adam(lr=1e-4),
        "schedule": schedules.constant(),
        "init": {"every": init.gpt2()},
        "precision": "bf16" if device.startswith("cuda") else "fp32",
        "steps": 100_000,
    }
    if s.vocab:
        task = tasks.lm(corpus=corpora.stdlib(), tokenizer=tokenizers.bytes(), length=s.length)
        model = presets.gpt2(position=positions.learned(length=s.length), vocab=s.vocab, **sizes)
        return resolve(Spec(model=model, task=task, rows=s.rows, **how))
    V = (s.length - 3) // 4
    task = tasks.connectivity(V=V, dims=s.dims, batch=s.rows)
    model = presets.gpt2(
        position=positions.learned(length=None), read_in="vectors", read_out="scalar", **sizes
    )
    return resolve(Spec(model=model, task=task, **how))


def stack(s: Shape, models: int, device: str, folder: str, **how: Any) -> Trainer:
    members = [
        Member(f"t{i}", f"t{i}", i, [Phase("train", spec(s, device), "reset")])
        for i in range(models)
    ]
    trainer = Trainer(members, Settings(device=device, **how), Data(Path(folder)))
    trainer._enter(0)
    return trainer


def ours(
    s: Shape, models: int, device: str, steps: int, folder: str, most: int = 0, **how: Any
) -> dict[str, Any]:
    gpu = device.startswith("cuda")
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer = stack(s, models, device, folder, **how)
    timed(trainer._advance, device, 1)  # compiled, recorded
    ms = timed(trainer._advance, device, 1, warm=0, at_once=16 * steps)
    longest = kernels(trainer._advance, device, most) if most else []
    trainer._settle()
    memory = torch.cuda.max_memory_allocated() / 1e9 if gpu else float("nan")
    engine = f"{trainer.engine}, {trainer.net.kernel}"
    return {
        "who": f"paribus, {models} stacked",
        "ms": ms / models,
        "GB": memory,
        "engine": engine,
        "kernels": longest,
    }


def apart(s: Shape, device: str, folder: str) -> float:
    """How far the gradients of three models' compiled step are from those of its operations one by
    one: of the worst model, relative to all its gradients; nan where nothing is compiled."""
    trainer = stack(s, 3, device, folder)
    for _ in range(3):
        trainer._advance()
    if trainer.loss_of.fast is None:
        return float("nan")
    piece = next(iter(trainer.budget.pieces()))
    batch, ready = trainer._drawn(trainer.step, piece)
    fast, plain = (
        trainer._pass(loss_of, batch, None, ready)[0]
        for loss_of in (trainer.loss_of.fast, trainer.loss_of.plain)
    )
    pairs = list(zip(fast, plain, strict=True))
    return max(
        length([a[e].double() - b[e] for a, b in pairs]) / length([b[e] for _, b in pairs])
        for e in range(3)
    )


def length(tensors: list[torch.Tensor]) -> float:
    return math.sqrt(sum(float(x.double().square().sum()) for x in tensors))


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--device", default=pick_device())
    p.add_argument("--cases", default="t23,t83,lm")
    p.add_argument("--sizes", help="numbers of models; default: some for each case")
    p.add_argument("--peers", default="eager,graphs")
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--deterministic", action="store_true", help="ours alone, with that setting")
    p.add_argument("--kernels", type=int, default=0, metavar="N")
    p.add_argument("--tiny", action="store_true", help="small shapes, to try the script")
    p.add_argument("--write", type=Path)
    o = p.parse_args()
    for given, known in ((o.cases, CASES), (o.peers, ("eager", "graphs"))):
        if unknown := set(filter(None, given.split(","))) - set(known):
            p.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    how = {"deterministic": True} if o.deterministic else {}
    apply(Settings(device=o.device, **how))
    gpu = o.device.startswith("cuda")
    head = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(o.device) if gpu else platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    lines = [json.dumps(head)]
    lines.append(f"{'case':6} {'who':24} {'ms/model':>9} {'times':>7} {'GB':>6}  engine")
    print("\n".join(lines), flush=True)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in o.cases.split(","):
            shape = (TINY if o.tiny else CASES)[case]
            sizes = [int(n) for n in o.sizes.split(",")] if o.sizes else SIZES[case]
            rows = []
            for models in sizes:
                if gpu:
                    torch.compiler.reset()
                rows.append(ours(shape, models, o.device, o.steps, folder, o.kernels, **how))
            best = min(r["ms"] for r in rows)
            if gpu and not how:
                torch.compiler.reset()
                gap = apart(shape, o.device, folder)
                said = f"{case:6} gradients of three stacked, compiled: {gap:.1e} from eager ones"
                print(said, flush=True)
                lines.append(said)
                results.append({"case": case, "apart": gap})
                if gap > FAR:
                    raise SystemExit(f"{case}: that is not rounding ({FAR:g})")
            for peer in filter(None, [] if how else o.peers.split(",")):
                if gpu:
                    torch.cuda.empty_cache()
                ms = alone(shape, o.device, peer, o.steps)
                rows.append({"who": f"plain, {peer}", "ms": ms, "GB": float("nan"), "engine": ""})
            for r in rows:
                line = f"{case:6} {r['who']:24} {r['ms']:9.3f} {r['ms'] / best:7.1f} {r['GB']:6.1f}"
                said = [f"{line}  {r['engine']}", *r.pop("kernels", ())]
                print(*said, sep="\n", flush=True)
                lines += said
                results.append({"case": case, **r})
    if o.write:
        stem = f"{head['date']}-stacked"
        (o.write / f"{stem}.txt").write_text("\n".join(lines) + "\n")
        (o.write / f"{stem}.json").write_text(json.dumps({**head, "results": results}, indent=1))


if __name__ == "__main__":
    main()

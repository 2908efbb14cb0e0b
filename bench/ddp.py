"""One trial on one device beside the same trial on several: losses step by step, tokens a second,
scaling efficiency; what the sums and the agreements between ranks cost.

    python bench/ddp.py --out FILE.json                 GPT-2 (124 M), 1 GPU and 2, bf16, compiled
    python bench/ddp.py --device cpu --tiny             two processes on the CPU: only to try it

Rows of a step, dropout, learning rate and seed are the same for every number of ranks; each rank
has its own part of the rows.  Text: Python's standard library as bytes, so nothing is fetched.
The peer is the same engine on one device.  All files are temporary but the one of ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
SRC = HERE.parents[1] / "src"


def options() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--device", choices=("cuda", "cpu"), help="default: what is here")
    p.add_argument("--worlds", default="1,2", help="numbers of ranks, one after another")
    p.add_argument("--rows", type=int, default=64, help="rows of a step, of all ranks together")
    p.add_argument("--micro", type=int, help="rows a pass at most (default: 32; all on the CPU)")
    p.add_argument("--length", type=int, default=1024)
    p.add_argument("--width", type=int, default=768)
    p.add_argument("--layers", type=int, default=12)
    p.add_argument("--heads", type=int, default=12)
    p.add_argument("--vocab", type=int, default=50257)
    p.add_argument("--steps", type=int, default=100)
    p.add_argument("--warm", type=int, default=10, help="steps that are not timed")
    p.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    p.add_argument("--dropout", type=float, default=0.0)
    p.add_argument("--compile", choices=("auto", "on", "off"), default="auto")
    p.add_argument("--deterministic", action="store_true")
    p.add_argument("--tiny", action="store_true", help="a small model, a few steps, fp32")
    p.add_argument("--limit", type=float, default=540, help="seconds for all of it")
    p.add_argument("--out", type=Path, help="write everything to this JSON file")
    p.add_argument("--child", help=argparse.SUPPRESS)
    o = p.parse_args()
    if o.tiny:
        tiny = {"rows": 6, "length": 64, "width": 64, "layers": 2, "heads": 2, "vocab": 257,
                "steps": 12, "warm": 3, "precision": "fp32"}  # fmt: skip
        vars(o).update(tiny)
    return o


# ── a rank ──────────────────────────────────────────────────────────────────────────────────


def child(o: argparse.Namespace) -> None:
    """Train on one rank; the leader prints what it saw as one line of JSON."""
    told = json.loads(o.child)
    rank, world, folder = told["rank"], told["world"], Path(told["folder"])
    import torch

    from paribus import corpora, init, optim, positions, presets, schedules, tasks, tokenizers
    from paribus.engine.hooks import Hooks
    from paribus.engine.members import Member, Phase
    from paribus.engine.ranks import ALONE, Gone, join
    from paribus.engine.settings import Settings, apply, describe
    from paribus.engine.train import Trainer
    from paribus.spec import Spec, resolve
    from paribus.text.data import Data

    cuda = o.device == "cuda"
    devices = tuple(f"cuda:{r}" if cuda else "cpu" for r in range(world))
    settings = Settings(
        device=devices[rank],
        devices=devices if world > 1 else (),
        patience=o.limit,
        compile=o.compile,
        deterministic=True if o.deterministic else None,
        micro=o.micro or (32 if cuda else None),
    )
    apply(settings)
    spec = resolve(
        Spec(
            model=presets.gpt2(
                width=o.width, layers=o.layers, heads=o.heads, vocab=o.vocab, dropout=o.dropout,
                position=positions.learned(length=o.length),
            ),
            task=tasks.lm(
                corpus=corpora.stdlib(), tokenizer=tokenizers.bytes(), length=o.length
            ),
            optim=optim.adamw(lr=6e-4),
            schedule=schedules.cosine(warmup=max(1, o.steps // 10)),
            init={"every": init.gpt2()},
            rows=o.rows,
            steps=o.steps,
            precision=o.precision,
        )
    )  # fmt: skip

    def wait() -> None:
        if cuda:
            torch.cuda.synchronize()

    times: list[float] = []
    last = [time.perf_counter()]

    def progress(trainer: Trainer) -> None:
        wait()
        now = time.perf_counter()
        times.append(now - last[0])
        last[0] = now
        if rank == 0 and trainer.step % 10 == 0:
            loss = trainer.curves.last("loss")[0]
            print(f"{world} rank(s): step {trainer.step} loss {loss:.4f}", file=sys.stderr)

    try:
        ranks = join(folder / "meet", rank, world, devices[rank], o.limit) if world > 1 else ALONE
        member = Member("gpt2", "gpt2", 1, [Phase("train", spec, "reset")])
        # A cache for each rank: they are to be compared, not to wait for each other's files.
        data = Data(folder / f"cache-{rank}")
        trainer = Trainer([member], settings, data, Hooks(progress=progress), ranks=ranks)
        trainer.run()
        costs = {}
        if world > 1:
            grads = [torch.zeros_like(p) for p in trainer.params.values()]
            for name, call in (
                ("sum", lambda: ranks.sum(grads)),
                ("agreement", lambda: ranks.agree(False, [True])),
            ):
                call()
                wait()
                began = time.perf_counter()
                for _ in range(10):
                    call()
                wait()
                costs[name] = 1e3 * (time.perf_counter() - began) / 10
        if rank == 0:
            summary = trainer.summary(0)
            took = statistics.median(times[min(o.warm, len(times) - 1) :])
            found = {
                "world": world,
                "engine": summary["engine"],
                "described": describe(settings),
                "parameters": sum(t[0].numel() for t in trainer.params.values()),
                "seconds_a_step": took,
                "tokens_a_second": o.rows * o.length / took,
                "sum_ms": costs.get("sum"),
                "agreement_ms": costs.get("agreement"),
                "loss": trainer.curve(0)["loss"],
                "norm": trainer.curve(0)["norm"],
                "step_seconds": times,
            }
            print(json.dumps(found), flush=True)
        if world > 1:
            ranks.same(trainer.params)
            if rank:
                ranks.follow({})
            ranks.close()
    except Gone as error:
        print(f"rank {rank}: another rank is gone: {error}", file=sys.stderr, flush=True)
        os._exit(78)


# ── the comparison ──────────────────────────────────────────────────────────────────────────


def ran(o: argparse.Namespace, world: int, deadline: float) -> dict[str, Any]:
    """What the leader of so many ranks saw.  All of them have ended when this returns."""
    folder = Path(tempfile.mkdtemp(prefix="paribus-ddp-"))
    (folder / "meet").mkdir()
    env = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "OMP_NUM_THREADS": "1"}
    # NVLink multicast needs rights that containers often lack, and is nothing for so few GPUs.
    env |= {"NCCL_NVLS_ENABLE": "0", **os.environ}
    env["PYTHONPATH"] = os.pathsep.join([str(SRC), *filter(None, [env.get("PYTHONPATH")])])
    given = [a for a in sys.argv[1:] if a != "--child"]
    processes, logs = [], []
    try:
        for rank in range(world):
            told = json.dumps({"rank": rank, "world": world, "folder": str(folder)})
            log = open(folder / f"{rank}.log", "wb")  # noqa: SIM115
            logs.append(log)
            processes.append(
                subprocess.Popen(
                    [sys.executable, str(HERE), *given, "--device", o.device, "--child", told],
                    stdout=subprocess.PIPE if rank == 0 else log, stderr=log, env=env,
                )
            )  # fmt: skip
        try:
            text = processes[0].communicate(timeout=max(1.0, deadline - time.monotonic()))[0]
            for p in processes[1:]:
                p.wait(timeout=30)
        except subprocess.TimeoutExpired:
            text = b""
        lines = [line for line in text.splitlines() if line.startswith(b"{")]
        if not lines:
            for rank in range(world):
                said = (folder / f"{rank}.log").read_text(errors="replace").splitlines()[-25:]
                print(f"--- rank {rank} of {world}", *said, sep="\n", file=sys.stderr)
            sys.exit(f"{world} rank(s) gave no result; their last words stand above")
        return dict(json.loads(lines[-1]))
    finally:
        for p in processes:
            if p.poll() is None:
                p.kill()
            p.wait()
        for log in logs:
            log.close()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    o = options()
    if o.child:
        child(o)
        return
    import torch

    o.device = o.device or ("cuda" if torch.cuda.is_available() else "cpu")
    worlds = [int(w) for w in o.worlds.split(",")]
    if o.device == "cuda" and max(worlds) > torch.cuda.device_count():
        sys.exit(f"--worlds {o.worlds}: {torch.cuda.device_count()} GPU(s) are visible here")
    deadline = time.monotonic() + o.limit
    found = [ran(o, world, deadline) for world in worlds]
    first = found[0]
    head = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": first["described"]["device"],
        "torch": first["described"]["torch"],
        "python": platform.python_version(),
        "parameters": first["parameters"],
        "shape": {k: getattr(o, k) for k in ("rows", "length", "width", "layers", "heads", "vocab",
                                             "steps", "precision", "dropout")},
    }  # fmt: skip
    print(json.dumps(head))
    print(f"{'ranks':>5} {'engine':>9} {'micro':>6} {'passes':>6} {'ms/step':>9} {'tokens/s':>11} "
          f"{'speed-up':>8} {'efficiency':>10} {'sum ms':>7} {'agree ms':>8}")  # fmt: skip
    for r in found:
        r["speed_up"] = r["tokens_a_second"] / first["tokens_a_second"]
        r["efficiency"] = r["speed_up"] * first["world"] / r["world"]
        costs = "".join(
            f" {x:{w}.2f}" if x is not None else f" {'':{w}}"
            for x, w in ((r["sum_ms"], 7), (r["agreement_ms"], 8))
        )
        e = r["engine"]
        print(f"{r['world']:5} {e['engine'][:9]:>9} {e['micro_batch']:6} {e['accumulation']:6} "
              f"{1e3 * r['seconds_a_step']:9.2f} {r['tokens_a_second']:11,.0f} "
              f"{r['speed_up']:7.2f}x {100 * r['efficiency']:9.1f}%{costs}")  # fmt: skip
    shown = sorted({0, 1, 2, 4, 9, 19, *range(-1, o.steps, 25), o.steps - 1} & set(range(o.steps)))
    titles = [f"loss, {r['world']}" for r in found]
    print(f"\n{'step':>5}" + "".join(f"{title:>12}" for title in titles))
    for step in shown:
        print(f"{step + 1:5}" + "".join(f"{r['loss'][step]:12.6f}" for r in found))
    for r in found[1:]:
        pairs = list(zip(first["loss"], r["loss"], strict=True))
        r["largest_difference"] = max(abs(b / a - 1) for a, b in pairs)
        print(f"largest difference of a loss, {r['world']} ranks against {first['world']}: "
              f"{r['largest_difference']:.1e} (relative)")  # fmt: skip
    if o.out:
        o.out.parent.mkdir(parents=True, exist_ok=True)
        o.out.write_text(json.dumps({**head, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

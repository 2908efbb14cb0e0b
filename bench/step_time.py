"""Seconds a training step: paribus, one trial and stacks, beside Hugging Face's GPT-2 trained one
model after another, in the same run.

    python bench/step_time.py [--device cuda:0] [--width 256 --layers 4 --heads 8 --length 128]

Both sides: the same shape, random tokens, AdamW, clipping, fp32 parameters, eager kernels.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch

from paribus import init, optim, positions, presets, schedules, tasks
from paribus.engine.members import Member, Phase
from paribus.engine.settings import Settings, apply, pick_device
from paribus.engine.train import Trainer
from paribus.spec import Spec, resolve
from paribus.text.data import Data


def timed(step: Callable[[], None], device: str, seconds: float = 3.0) -> float:
    """Median seconds of a call, after a warm-up."""

    def once() -> float:
        began = time.perf_counter()
        step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - began

    for _ in range(5):
        once()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 5:
        times.append(once())
    return sorted(times)[len(times) // 2]


def spec(o: argparse.Namespace) -> Spec:
    return resolve(
        Spec(
            model=presets.gpt2(
                width=o.width,
                layers=o.layers,
                heads=o.heads,
                position=positions.learned(length=o.length),
            ),
            task=tasks.copying(span=o.length // 2, symbols=o.vocab - 1),
            optim=optim.adamw(lr=1e-3),
            schedule=schedules.constant(),
            init={"every": init.gpt2()},
            rows=o.rows,
            steps=10**6,
            precision=o.precision,
        )
    )


def ours(o: argparse.Namespace, trials: int, compiled: str) -> float:
    settings = Settings(device=o.device, compile=compiled)
    phases = [Phase("train", spec(o), "reset")]
    members = [Member(f"t{e}", f"t{e}", e, phases) for e in range(trials)]
    trainer = Trainer(members, settings, Data(Path("unused")))
    trainer._enter(0)
    return timed(trainer._advance, o.device)


def peer(o: argparse.Namespace) -> float:
    """One step of transformers' GPT-2 with torch's AdamW."""
    import transformers

    config = transformers.GPT2Config(
        n_embd=o.width, n_layer=o.layers, n_head=o.heads, n_positions=o.length, vocab_size=o.vocab,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="sdpa",
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).to(o.device)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    ids = torch.randint(0, o.vocab, (o.rows, o.length), device=o.device)
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(o.precision)

    def step() -> None:
        kind = o.device.partition(":")[0]
        with torch.autocast(kind, dtype=low, enabled=low is not None):
            loss = model(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad(set_to_none=True)

    return timed(step, o.device)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--device", default=pick_device())
    for name, value in dict(width=256, layers=4, heads=8, length=128, rows=8, vocab=512).items():
        p.add_argument(f"--{name}", type=int, default=value)
    p.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    p.add_argument("--stacks", default="1,4")
    p.add_argument("--compile", default="off", choices=("on", "off"))
    o = p.parse_args()
    apply(Settings(device=o.device))
    alone = peer(o)
    rows = [{"who": "transformers GPT-2, eager", "trials": 1, "ms": 1e3 * alone, "times": 1.0}]
    for compiled in ("off", "on") if o.compile == "on" else ("off",):
        for trials in map(int, o.stacks.split(",")):
            seconds = ours(o, trials, compiled)
            who = f"paribus, {'compiled' if compiled == 'on' else 'eager'}"
            row = {"who": who, "trials": trials, "ms": 1e3 * seconds}
            rows.append({**row, "times": alone * trials / seconds})
    name = platform.processor() or platform.machine()
    if o.device.startswith("cuda"):
        name = torch.cuda.get_device_name(o.device)
    head = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "shape": {k: v for k, v in vars(o).items() if k not in ("device", "stacks")},
    }
    print(json.dumps(head))
    print(f"{'':28} {'trials':>6} {'ms/step':>9} {'ms/trial':>9} {'vs peer':>8}")
    for r in rows:
        each = r["ms"] / r["trials"]
        print(f"{r['who']:28} {r['trials']:6} {r['ms']:9.2f} {each:9.2f} {r['times']:7.2f}x")


if __name__ == "__main__":
    main()

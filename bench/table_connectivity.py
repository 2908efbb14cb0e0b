"""What the sixty trainings of `table-connectivity` take at paper scale: paribus, stacked and one at
a time, beside transformers' GPT-2 trained eagerly, one model after another, in the same run.

    python bench/table_connectivity.py [--device cuda:0] [--tables 5,20] [--models standard,lowrank]
        [--stack 15] [--kernels auto,reference] [--eager] [--peer] [--steps 20]

Milliseconds of one training step, a median after a warm-up, and what a thousand and one steps of
fifteen trainings of each kind take.  The peer reads ready batches: what the original spends on
making them in Python (0.2 s a step at 5 tables, 0.9 s at 20) is not counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from paribus.engine.members import Member, Phase
from paribus.engine.settings import Settings, apply, pick_device
from paribus.engine.train import Trainer
from paribus.study import source
from paribus.text.data import Data

STEPS = 1001


def timed(step: Callable[[], Any], device: str, steps: int) -> float:
    """Median milliseconds of a call, after a warm-up."""
    times = []
    for n in range(steps + 5):
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        began = time.perf_counter()
        step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        if n >= 5:
            times.append(1e3 * (time.perf_counter() - began))
    return sorted(times)[len(times) // 2]


def trainer(trials: list[Any], settings: Settings, folder: str) -> Trainer:
    members = [
        Member(t.id, t.name, t.seed, [Phase("train", t.variant.spec, "reset")]) for t in trials
    ]
    out = Trainer(members, settings, Data(Path(folder)))
    out._enter(0)
    return out


def peer(spec: Any, device: str, steps: int, low: bool) -> float:
    """The original's model and step: read-in, GPT-2's blocks, read-out, BCE, Adam."""
    import transformers

    model, task = spec.model, spec.task
    T = task.io().length
    config = transformers.GPT2Config(
        n_embd=model.width, n_layer=model.layers, n_head=model.heads, n_positions=T, vocab_size=1,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
    )  # fmt: skip
    blocks = transformers.GPT2Model(config).to(device)
    first, last = torch.nn.Linear(20, model.width), torch.nn.Linear(model.width, 1)
    every = torch.nn.ModuleList([blocks, first, last]).to(device)
    adam = torch.optim.Adam(every.parameters(), lr=1e-4)
    x = torch.randn(spec.rows, T, 20, device=device)
    y = torch.randint(0, 2, (spec.rows,), device=device).float()

    def step() -> None:
        kind = device.partition(":")[0]
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=low):
            out = last(blocks(inputs_embeds=first(x)).last_hidden_state)[:, -1, 0]
        F.binary_cross_entropy_with_logits(out.float(), y).backward()
        adam.step()
        adam.zero_grad()

    return timed(step, device, steps)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--device", default=pick_device())
    p.add_argument("--scale", default="paper")
    p.add_argument("--tables", default="5,20")
    p.add_argument("--models", default="standard,lowrank")
    p.add_argument("--stack", type=int, default=15)
    p.add_argument("--kernels", default="auto")
    p.add_argument("--eager", action="store_true", help="paribus eager and alone, too")
    p.add_argument("--peer", action="store_true")
    p.add_argument("--steps", type=int, default=20)
    o = p.parse_args()
    apply(Settings(device=o.device))
    name = platform.processor() or platform.machine()
    if o.device.startswith("cuda"):
        name = torch.cuda.get_device_name(o.device)
    head = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "stack": o.stack,
    }
    print(json.dumps(head))
    columns = ("ms/step", "ms/trial", "15 trainings, s")
    print(f"{'V':>3} {'model':10} {'who':34} {columns[0]:>9} {columns[1]:>9} {columns[2]:>16}")

    def say(V: str, model: str, who: str, ms: float, trials: int = 1) -> None:
        each = ms / trials
        whole = each * STEPS * 15 / 1e3
        print(f"{V:>3} {model:10} {who:34} {ms:9.2f} {each:9.2f} {whole:16.0f}", flush=True)

    every = source.load("table-connectivity", scale=o.scale).study.trials()
    with tempfile.TemporaryDirectory() as folder:
        for V in o.tables.split(","):
            for model in o.models.split(","):
                tags = {"V": V, "model": model}
                these = [t for t in every if tags.items() <= t.variant.tags.items()]
                for kernel in filter(None, o.kernels.split(",")):
                    settings = Settings(device=o.device, kernel=kernel)
                    ours = trainer(these[: o.stack], settings, folder)
                    ms = timed(ours._advance, o.device, o.steps)
                    ran = f"{ours.loss_of.engine}, {ours.net.kernel}"
                    say(V, model, f"paribus, {ours.e} stacked, {ran}", ms, ours.e)
                    del ours
                    torch.compiler.reset()
                if o.eager:
                    settings = Settings(device=o.device, compile="off")
                    alone = trainer(these[:1], settings, folder)
                    say(V, model, "paribus, alone, eager", timed(alone._advance, o.device, o.steps))
                if o.peer:
                    for low in (True, False):
                        who = f"transformers, {'bf16 autocast' if low else 'fp32'}, eager"
                        ms = peer(these[0].variant.spec, o.device, o.steps, low)
                        say(V, model, who, ms)


if __name__ == "__main__":
    main()

"""Tokens a second of one model: paribus beside a plain loop and Hugging Face's GPT-2, all compiled,
in the same run; and what a mask by predicate costs beside the causal one.

    python bench/single.py [--device cuda:0] [--cases 124m,d20,d20-8k] [--masks window]
        [--peers plain,hf] [--steps 5] [--kernels N] [--tiny] [--write FOLDER]

124m: GPT-2 small (vocabulary 50,304 on all sides: multiples of 64 are what a careful peer takes),
rows of 1,024, 32 rows a step.  d20: nanochat's model of depth 20 (561 M), rows of 2,048 or 8,192,
32,768 tokens a step.  bf16, AdamW.  MFU: operations of the model
(3 x forward, causal scores counted by what is read) over 989 TFLOP/s; on other devices of no use.
--kernels: the N that take longest of our step, in milliseconds and calls.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from _plain import Shape, batches, kernels, plain_step, timed

from paribus import (
    corpora,
    init,
    masks,
    optim,
    positions,
    presets,
    schedules,
    tasks,
    tokenizers,
)
from paribus.engine.members import Member, Phase
from paribus.engine.settings import Settings, apply, pick_device
from paribus.engine.train import Trainer
from paribus.nn import flops
from paribus.spec import Spec, resolve
from paribus.text.data import Data

PEAK = 989e12  # FLOP/s of an H100 or H200 in bf16, dense


@dataclass(frozen=True)
class Case:
    shape: Shape
    gpt2: bool  # what the peers are; else only we run


CASES = {
    "124m": Case(Shape(12, 768, 12, 1024, 32, vocab=50304), True),
    "d20": Case(Shape(20, 1280, 10, 2048, 16, vocab=65536), False),
    "d20-8k": Case(Shape(20, 1280, 10, 8192, 4, vocab=65536), False),
}
TINY = {
    "124m": Case(Shape(2, 32, 2, 64, 2, vocab=320), True),
    "d20": Case(Shape(2, 64, 2, 64, 2, vocab=320), False),
    "d20-8k": Case(Shape(2, 64, 2, 128, 1, vocab=320), False),
}


def spec(case: Case, device: str, mask: Any) -> Spec:
    s = case.shape
    sizes: dict[str, Any] = {"width": s.width, "layers": s.layers, "heads": s.heads}
    if case.gpt2:
        position = positions.learned(length=s.length)
        model = presets.gpt2(position=position, vocab=s.vocab, mask=mask, **sizes)
    else:
        model = presets.nanochat(s.layers, vocab=s.vocab, mask=mask, **sizes)
    task = tasks.lm(corpus=corpora.stdlib(), tokenizer=tokenizers.bytes(), length=s.length)
    return resolve(
        Spec(
            model=model,
            task=task,
            rows=s.rows,
            optim=optim.adamw(lr=3e-4),
            schedule=schedules.constant(),
            init={"every": init.gpt2()},
            precision="bf16" if device.startswith("cuda") else "fp32",
            steps=100_000,
        )
    )


def ours(case: Case, device: str, mask: Any, folder: str) -> tuple[Callable[[], Any], Any, Trainer]:
    wanted = spec(case, device, mask)
    member = Member("t", "t", 1, [Phase("train", wanted, "reset")])
    trainer = Trainer([member], Settings(device=device), Data(Path(folder)))
    trainer._enter(0)
    return trainer._advance, wanted.model, trainer


def hugging_face(s: Shape, device: str) -> Callable[[], Any]:
    import transformers

    config = transformers.GPT2Config(
        n_embd=s.width, n_layer=s.layers, n_head=s.heads, n_positions=s.length, vocab_size=s.vocab,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    gpu = device.startswith("cuda")
    model = transformers.GPT2LMHeadModel(config).to(device)
    adam = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=gpu or None)
    fast = torch.compile(model) if gpu else model
    rows, at = batches(s, device), 0

    def step() -> None:
        nonlocal at
        ids = rows[at % len(rows)][0]
        with torch.autocast(device.partition(":")[0], dtype=torch.bfloat16, enabled=gpu):
            loss = fast(input_ids=ids, labels=ids).loss
        loss.backward()
        adam.step()
        adam.zero_grad(set_to_none=True)
        at += 1

    return step


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--device", default=pick_device())
    p.add_argument("--cases", default="124m,d20,d20-8k")
    p.add_argument("--masks", default="causal", help="of ours: causal, window; the first is causal")
    p.add_argument("--peers", default="plain,hf")
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--kernels", type=int, default=0, metavar="N")
    p.add_argument("--tiny", action="store_true", help="small shapes, to try the script")
    p.add_argument("--write", type=Path)
    o = p.parse_args()
    if unknown := set(o.cases.split(",")) - set(CASES):
        p.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    apply(Settings(device=o.device))
    gpu = o.device.startswith("cuda")
    head = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(o.device) if gpu else platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    lines = [json.dumps(head)]
    lines.append(
        f"{'case':8} {'who':28} {'ms/step':>9} {'k tok/s':>9} {'MFU':>6} {'GB':>6}  engine"
    )
    print("\n".join(lines), flush=True)
    results: list[dict[str, Any]] = []

    def say(name: str, case: Case, who: str, ms: float, model: Any, engine: str = "") -> None:
        tokens = case.shape.rows * case.shape.length
        mfu = flops.training(model, case.shape.length) * tokens / (ms / 1e3) / PEAK
        memory = torch.cuda.max_memory_allocated() / 1e9 if gpu else float("nan")
        line = f"{name:8} {who:28} {ms:9.2f} {tokens / ms:9.1f} {mfu:6.3f} {memory:6.1f}  {engine}"
        lines.append(line)
        print(line, flush=True)
        results.append({"case": name, "who": who, "ms": ms, "tok/s": 1e3 * tokens / ms, "mfu": mfu})

    def fresh() -> None:
        if gpu:
            torch.compiler.reset()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    with tempfile.TemporaryDirectory() as folder:
        for name in o.cases.split(","):
            case = (TINY if o.tiny else CASES)[name]
            window = masks.sliding_window(size=max(8, case.shape.length // 4))
            for mask in o.masks.split(","):
                fresh()
                part = {"causal": masks.causal(), "window": window}[mask]
                step, model, trainer = ours(case, o.device, part, folder)
                ms = timed(step, o.device, o.steps)
                engine = f"{trainer.engine}, {trainer.net.kernel}"
                say(name, case, f"paribus, {mask}", ms, model, engine)
                if o.kernels:
                    lines += (found := kernels(step, o.device, o.kernels))
                    print(*found, sep="\n", flush=True)
                del step, trainer
            whole = spec(case, o.device, masks.causal()).model
            for peer in filter(None, o.peers.split(",") if case.gpt2 else []):
                fresh()
                if peer == "plain":
                    how = "compiled" if gpu else "eager"
                    step = plain_step(case.shape, o.device, how, "adamw")
                else:
                    step = hugging_face(case.shape, o.device)
                ms = timed(step, o.device, o.steps)
                say(name, case, f"{peer}, {'compiled' if gpu else 'eager'}", ms, whole)
                del step
    if o.write:
        stem = f"{head['date']}-single"
        (o.write / f"{stem}.txt").write_text("\n".join(lines) + "\n")
        (o.write / f"{stem}.json").write_text(json.dumps({**head, "results": results}, indent=1))


if __name__ == "__main__":
    main()

"""The peers of stacked.py, single.py and study.py: a Transformer as one writes it for one run, its
best settings, and clocks.

    python bench/_plain.py SHAPE DEVICE HOW STEPS            one training as a script (SHAPE: JSON)
    python bench/_plain.py SHAPE DEVICE HOW STEPS timed      milliseconds of its step
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """A GPT-2-shaped model and its rows; without a vocabulary it reads vectors of ``dims`` numbers
    and says one number at the last token."""

    layers: int
    width: int
    heads: int
    length: int
    rows: int
    vocab: int | None = None
    dims: int = 5


class Block(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.heads = s.heads
        self.norm1, self.norm2 = nn.LayerNorm(s.width), nn.LayerNorm(s.width)
        self.qkv, self.out = nn.Linear(s.width, 3 * s.width), nn.Linear(s.width, s.width)
        self.up, self.down = nn.Linear(s.width, 4 * s.width), nn.Linear(4 * s.width, s.width)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        q, k, v = (
            y.view(B, T, self.heads, D // self.heads).transpose(1, 2)
            for y in self.qkv(self.norm1(x)).split(D, 2)
        )
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(o.transpose(1, 2).reshape(B, T, D))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Plain(nn.Module):
    """Token or vector inputs, learned positions, blocks, a final norm, a tied or scalar head."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.shape = s
        width = s.width
        self.embed: nn.Module = (
            nn.Embedding(s.vocab, width) if s.vocab else nn.Linear(s.dims, width)
        )
        self.place = nn.Parameter(0.02 * torch.randn(s.length, width))
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.layers))
        self.norm = nn.LayerNorm(width)
        self.head = None if s.vocab else nn.Linear(width, 1)
        for m in self.modules():
            if isinstance(m, nn.Linear | nn.Embedding):
                nn.init.normal_(m.weight, std=0.02)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        x = self.embed(inputs) + self.place
        for block in self.blocks:
            x = block(x)
        if self.head is not None:  # one output: the last token's
            logits = self.head(self.norm(x[:, -1]))[:, 0]
            return F.binary_cross_entropy_with_logits(logits.float(), targets)
        logits = self.norm(x) @ self.embed.weight.T
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def batches(s: Shape, device: str, count: int = 8) -> list[tuple[Tensor, Tensor]]:
    """Rows that are there already: nothing but the step is timed."""
    made = torch.Generator(device).manual_seed(0)
    out = []
    for _ in range(count):
        if s.vocab:
            ids = torch.randint(s.vocab, (s.rows, s.length + 1), generator=made, device=device)
            out.append((ids[:, :-1].contiguous(), ids[:, 1:].contiguous()))
        else:
            x = torch.randn(s.rows, s.length, s.dims, generator=made, device=device)
            out.append((x, (x[:, 0, 0] > 0).float()))
    return out


def plain_step(s: Shape, device: str, how: str, optimizer: str = "adam") -> Callable[[], Any]:
    """A training step of one model: "eager", "compiled", or "graphs" (compiled, with CUDA graphs);
    bf16 autocast on CUDA, a fused optimizer."""
    gpu = device.startswith("cuda")
    model = Plain(s).to(device)
    kind: Any = torch.optim.Adam if optimizer == "adam" else torch.optim.AdamW
    adam = kind(model.parameters(), lr=1e-4, fused=gpu or None, capturable=gpu)
    if how != "eager":
        mode = "reduce-overhead" if how == "graphs" and gpu else "default"
        model = torch.compile(model, mode=mode)  # type: ignore[assignment]
    rows, at = batches(s, device), 0

    def step() -> None:
        nonlocal at
        if how == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(device.partition(":")[0], dtype=torch.bfloat16, enabled=gpu):
            loss = model(*rows[at % len(rows)])
        loss.backward()
        adam.step()
        adam.zero_grad(set_to_none=True)
        at += 1

    return step


def timed(
    step: Callable[[], Any], device: str, steps: int, warm: int = 6, at_once: int = 5
) -> float:
    """Median milliseconds of a step, some steps at a time, so that the processor may run ahead as
    it does in training."""
    for _ in range(warm):
        step()
    times = []
    for _ in range(steps):
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(at_once):
            step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - began) / at_once)
    return sorted(times)[len(times) // 2]


def kernels(step: Callable[[], Any], device: str, most: int, steps: int = 5) -> list[str]:
    """Lines of what takes longest on the device: milliseconds and calls of a step, and its name."""
    from torch.profiler import ProfilerActivity, profile

    gpu = device.startswith("cuda")
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as p:
        for _ in range(steps):
            step()
        if gpu:
            torch.cuda.synchronize()
    found = [
        ((e.self_device_time_total if gpu else e.self_cpu_time_total) / 1e3 / steps, e.count, e.key)
        for e in p.key_averages()
    ]
    total = sum(ms for ms, _, _ in found)
    found = sorted(found, reverse=True)[:most]
    lines = [f"{ms:9.3f} {count / steps:7.1f}  {name[:110]}" for ms, count, name in found]
    return [f"{total:9.3f} {'':7}  all, of which the longest:", *lines]


def alone(s: Shape, device: str, how: str, steps: int) -> float:
    """Milliseconds of a plain step in a process of its own: in one that has made a stack before it,
    a step that waits for the processor takes up to half as long again."""
    command = [sys.executable, __file__, json.dumps(asdict(s)), device, how, str(steps), "timed"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    shape, device, how, steps, *rest = sys.argv[1:]
    step = plain_step(Shape(**json.loads(shape)), device, how)
    if rest == ["timed"]:
        print(timed(step, device, int(steps)))
        return
    for _ in range(int(steps)):
        step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()

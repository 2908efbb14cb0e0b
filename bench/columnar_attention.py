"""Columnar attention of parallel branches: FlexAttention's blocks beside torch's fused kernel with
the mask written out, forward and backward, in the same run.

    python bench/columnar_attention.py [--device cuda:0] [--sizes 8x512,16x512,32x512,4x2048]

One row of branches × tokens, 8 query and 2 key heads of size 64, bf16 on CUDA.  The bar of what is
expected: 1.8× from 8 192 tokens on, never slower below, and no tensor of tokens × tokens.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from paribus import masks
from paribus.contracts import View
from paribus.engine.settings import Settings, apply, pick_device
from paribus.nn import flex
from paribus.nn.attention import Pattern, attend, pattern, settle

HEADS, KEY_HEADS, SIZE = 8, 2, 64


def view(branches: int, tokens: int, device: str) -> View:
    """Coordinates [1,1,T] of branches of equal length."""
    index = torch.arange(branches * tokens, device=device).view(1, 1, -1)
    return View({"index": index, "branch": index % branches, "time": index // branches})


def milliseconds(call: Callable[[], Any], device: str) -> float:
    """Time of a call after a warm-up; on CUDA that of its kernels alone, a mean of twenty calls."""
    if not device.startswith("cuda"):
        began = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - began)
    from torch.profiler import ProfilerActivity, profile

    for _ in range(5):
        call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(20):
            call()
        torch.cuda.synchronize()
    return sum(e.self_device_time_total for e in seen.key_averages()) / 20 / 1e3


def once(call: Callable[[], Any], device: str) -> float:
    """Median time of a call by the clock: masks are made outside of what is captured."""
    times = []
    for _ in range(10):
        began = time.perf_counter()
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - began))
    return sorted(times)[5]


def peak(call: Callable[[], Any], device: str) -> float:
    """MB that a call takes beyond what is there before."""
    if not device.startswith("cuda"):
        return float("nan")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def measure(branches: int, tokens: int, device: str) -> dict[str, Any]:
    T = branches * tokens
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    torch.compiler.reset()  # compiled for this size alone
    made = torch.Generator(device=device).manual_seed(T)

    def drawn(heads: int) -> Tensor:
        x = torch.randn(1, 1, heads, T, SIZE, generator=made, device=device, dtype=dtype)
        return x.requires_grad_(device.startswith("cuda"))  # the flex kernel trains on GPUs alone

    q, k, v = drawn(HEADS), drawn(KEY_HEADS), drawn(KEY_HEADS)
    at, mask = view(branches, tokens, device), masks.branch()

    def allowed(q: View, k: View) -> Tensor:
        return mask.allowed(0, q, k)

    def dense() -> Pattern:
        q_view = at.map(lambda c: c[:, :, None, :, None])
        k_view = at.map(lambda c: c[:, :, None, None, :])
        return settle(pattern(mask.allowed(0, q_view, k_view)))

    def blocks() -> Pattern:
        rows = flex.Rows(at, 1, 1, plain=True)
        return Pattern(block=flex.block_mask(allowed, rows, rows))

    # As in a training step, the kernel is compiled for the shape.
    attend_ = torch.compile(attend, dynamic=False) if device.startswith("cuda") else attend

    def both(at: Pattern) -> list[Tensor]:
        o = attend_(q, k, v, at, scale=SIZE**-0.5)
        if not o.requires_grad:
            return [o]
        return [o, *torch.autograd.grad(o.sum(), (q, k, v))]

    def forward(at: Pattern) -> Tensor:
        with torch.no_grad():
            return attend_(q, k, v, at, scale=SIZE**-0.5)

    out: dict[str, Any] = {"size": f"{branches}x{tokens}", "tokens": T}
    ways = {"sdpa": dense, "flex": blocks}
    results = {}
    for name, make in ways.items():
        pattern_ = make()
        results[name] = both(pattern_)
        out[f"{name} forward ms"] = milliseconds(lambda p=pattern_: forward(p), device)
        out[f"{name} both ms"] = milliseconds(lambda p=pattern_: both(p), device)
        out[f"{name} mask ms"] = once(make, device)
        out[f"{name} mask MB"] = peak(make, device)
        out[f"{name} both MB"] = peak(lambda p=pattern_: both(p), device)
        del pattern_
    out["apart"] = max(
        ((a.detach().float() - b.detach().float()).norm() / b.detach().float().norm()).item()
        for a, b in zip(results["flex"], results["sdpa"], strict=True)
    )
    out["times"] = out["sdpa both ms"] / out["flex both ms"]
    out["forward times"] = out["sdpa forward ms"] / out["flex forward ms"]
    return out


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--device", default=pick_device())
    p.add_argument("--sizes", default="8x512,16x512,32x512,4x2048")
    o = p.parse_args()
    apply(Settings(device=o.device, deterministic=False))
    name = platform.processor() or platform.machine()
    if o.device.startswith("cuda"):
        name = torch.cuda.get_device_name(o.device)
    head = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "heads": [HEADS, KEY_HEADS, SIZE],
    }
    print(json.dumps(head))
    print(
        f"{'':8} {'tokens':>7} | forward and backward, ms  | forward, ms               | mask, ms"
        "      | mask, MB       | largest"
    )
    print(
        f"{'':8} {'':>7} | {'sdpa':>8} {'flex':>8} {'times':>6}  | {'sdpa':>8} {'flex':>8} "
        f"{'times':>6}  | {'sdpa':>6} {'flex':>6} | {'sdpa':>6} {'flex':>6}  | difference"
    )
    for size in o.sizes.split(","):
        r = measure(*map(int, size.split("x")), o.device)
        print(
            f"{r['size']:8} {r['tokens']:7,} | {r['sdpa both ms']:8.3f} {r['flex both ms']:8.3f} "
            f"{r['times']:5.2f}x  | {r['sdpa forward ms']:8.3f} {r['flex forward ms']:8.3f} "
            f"{r['forward times']:5.2f}x  | {r['sdpa mask ms']:6.2f} {r['flex mask ms']:6.2f} | "
            f"{r['sdpa mask MB']:6.0f} {r['flex mask MB']:6.0f}  | {r['apart']:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()

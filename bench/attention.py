"""Attention of short sequences, forward and backward: our kernel beside those of torch, and beside
the time in which the memory could have moved the bytes, in the same run.

    python bench/attention.py [--device cuda:0] [--rows 960] [--tokens 15,23,83,128] [--heads 8]
        [--size 32] [--tiles] [--write FOLDER]

Milliseconds of one layer, replayed as a CUDA graph, so that nothing but kernels is timed.  The
floor is what must be read and written (q, k, v, o; then q, k, v, the gradients of four) over the
bandwidth of a copy measured here.  Each kernel's values are held against the naive reference in
float64.  Without a GPU the kernels that work there are timed plainly, to try the script.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from paribus.nn.attention import Pattern, attend, pattern

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
TILES = [(32, 0, 1), (32, 0, 2), (64, 0, 2), (64, 0, 4), *((64, x, 4) for x in (32, 64))]


def milliseconds(call: Callable[[], Any], device: str, times: int = 10) -> float:
    """Median of a call."""
    if not device.startswith("cuda"):
        began = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - began)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            call()
    taken = []
    for _ in range(12):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        graph.replay()
        ended.record()
        torch.cuda.synchronize()
        taken.append(began.elapsed_time(ended) / times)
    return sorted(taken[2:])[5]


def bandwidth(device: str) -> float:
    """Bytes a millisecond of a copy, read and written."""
    size = 1 << 28 if device.startswith("cuda") else 1 << 22
    a = torch.empty(size, dtype=torch.float32, device=device)
    b = torch.empty_like(a)
    return 8 * size / milliseconds(lambda: b.copy_(a), device)


@contextmanager
def tiled(first: int, second: int, warps: int) -> Iterator[None]:
    """Other sizes of the kernel's tiles."""
    from paribus.nn import _short as kernels

    whole = kernels.tiles
    kernels.tiles = lambda T, S, backward: (first, second, first, second, warps)
    try:
        yield
    finally:
        kernels.tiles = whole


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    p.add_argument("--rows", type=int, default=960)
    p.add_argument("--tokens", default="15,23,83,128")
    p.add_argument("--heads", type=int, default=8)
    p.add_argument("--size", type=int, default=32)
    p.add_argument("--patterns", default="causal,mask")
    p.add_argument("--tiles", action="store_true", help="other block sizes and warps, too")
    p.add_argument("--write", type=Path)
    o = p.parse_args()
    gpu = o.device.startswith("cuda")
    dtype = torch.bfloat16 if gpu else torch.float32
    speed = bandwidth(o.device)
    head = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(o.device) if gpu else platform.machine(),
        "torch": torch.__version__,
        "copy TB/s": float(f"{speed / 1e9:.3g}"),
        "rows": o.rows, "heads": o.heads, "size": o.size, "dtype": str(dtype)[6:],
    }  # fmt: skip
    print(json.dumps(head))
    lines = [f"{'T':>4} {'pattern':8} {'kernel':16} {'ms':>8} {'x floor':>8} {'error':>9}"]
    print(lines[0])
    results = []

    def say(T: int, kind: str, name: str, ms: float, floor: float, gap: float) -> None:
        line = f"{T:4} {kind:8} {name:16} {ms:8.3f} {ms / floor:8.1f} {gap:9.1e}"
        lines.append(line)
        print(line, flush=True)
        results.append({"T": T, "pattern": kind, "kernel": name, "ms": ms, "floor": floor})

    for T in map(int, o.tokens.split(",")):
        made = torch.Generator(o.device).manual_seed(T)

        def drawn() -> Tensor:
            shape = (1, o.rows, T, o.heads, o.size)  # noqa: B023
            x = torch.randn(shape, generator=made, device=o.device, dtype=dtype)  # noqa: B023
            return x.transpose(2, 3).requires_grad_()

        q, k, v = drawn(), drawn(), drawn()
        g = drawn().detach()
        floor = 11 * q.numel() * q.element_size() / speed
        keep = torch.ones(T, T, dtype=torch.bool, device=o.device).tril()
        masks = {"causal": pattern(causal=True), "mask": pattern(keep[None, None, None])}
        wide = [x[:, :32].detach().double().requires_grad_() for x in (q, k, v)]
        o_ = attend(*wide, masks["causal"], scale=o.size**-0.5, kernel="reference")
        wanted = [o_.detach(), *torch.autograd.grad(o_, wide, g[:, :32].double())]
        for kind in o.patterns.split(","):
            at: Pattern = masks[kind]

            def both(kernel: str) -> list[Tensor]:
                y = attend(q, k, v, at, scale=o.size**-0.5, kernel=kernel)  # noqa: B023
                return [y.detach(), *torch.autograd.grad(y, (q, k, v), g)]  # noqa: B023

            def measure(name: str, kernel: str, within: Any) -> None:
                try:
                    with within:
                        found = both(kernel)
                        gaps = [
                            float((a[:, :32].double() - b).abs().max() / b.abs().max())
                            for a, b in zip(found, wanted, strict=True)  # noqa: B023
                        ]
                        ms = milliseconds(lambda: both(kernel), o.device)
                    say(T, kind, name, ms, floor, max(gaps))  # noqa: B023
                except RuntimeError as error:
                    print(f"{T:4} {kind:8} {name:16} cannot: {str(error)[:60]!r}", flush=True)  # noqa: B023

            for name, backend in BACKENDS.items() if gpu else []:
                measure(name, "sdpa", sdpa_kernel(backend))
            ours = "short" if gpu else "sdpa"  # which takes the other's place on a CPU
            measure(ours, ours, nullcontext())
            if gpu and o.tiles and kind == "causal":
                for first, second, warps in TILES:
                    if first < T <= first + second or (second == 0 and first >= T):
                        name = f"short {first}+{second}, {warps} w"
                        measure(name, "short", tiled(first, second, warps))
    if o.write:
        stem = f"{head['date']}-attention"
        (o.write / f"{stem}.txt").write_text("\n".join([json.dumps(head), *lines]) + "\n")
        (o.write / f"{stem}.json").write_text(json.dumps({**head, "results": results}, indent=1))


if __name__ == "__main__":
    main()

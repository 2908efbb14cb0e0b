"""How long a large report takes and how large it is: 54 variants × 7 conditions × 3 seeds.

    python bench/report.py

A synthetic study with curves of loss and learning rate (2 000 steps each), evaluations during
training, a hypothesis of three factors, an import and an audit.  Seconds are wall clock in one
process, from rows in memory to the text of the page; libraries are loaded before, as `paribus run`
has loaded most of them by then, and are timed apart.
"""

from __future__ import annotations

import math
import os
import platform
import random
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paribus.study.factors import Factor
from paribus.study.hypotheses import best, better, metric
from tests.analysis.synthetic import rows, study

LIMIT_SECONDS, LIMIT_BYTES = 10.0, 5_000_000
POSITIONS = "rope fire alibi t5 learned none".split()


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(ln.partition(":")[2].strip() for ln in lines if ln.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


def main() -> int:
    position = Factor("position", POSITIONS, "model.position")
    heads, width = Factor("heads", [2, 4, 8], "model.heads"), Factor("width", [64, 128, 256], "w")
    length = Factor("length", [64, 128, 256, 512, 1024, 2048, 4096], "task.length")
    loss = metric("loss")
    claims = {
        "flat": best(position["rope"], on=loss.mean(heads, width).slope(length.log2)),
        "far": better(position["alibi"], than=position["none"],
                      on=loss.mean(heads, width).at(length[4096])),
    }  # fmt: skip
    record = study([position, heads, width], [length], seeds=3, claims=claims,
                   baseline={"position": ["none"]}, trained={"length": 512})  # fmt: skip

    def value(v: dict[str, str], c: dict[str, str]) -> float:
        beyond = max(0.0, math.log2(int(c["length"]) / 512))
        return (3 - 0.15 * math.log2(int(v["width"])) - 0.02 * math.log2(int(v["heads"]))
                + 0.02 * POSITIONS.index(v["position"]) * beyond)  # fmt: skip

    data = rows(record, value)
    for row in data:
        row["flops"] = 1e12 * int(row["width"]) * (1 + int(row["heads"]) / 64)
    draw = random.Random(0)
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {"loss": {}, "lr": {}}
    checks, key = {}, record["conditions"][3]["key"]
    for trial in record["trials"]:
        # As records hand them over: 200 points of 2 000 steps.
        steps = range(10, 2001, 10)
        curves["loss"][trial["name"]] = [(s, 2 + 40 / s + draw.gauss(0, 0.02)) for s in steps]
        curves["lr"][trial["name"]] = [
            (s, 1e-3 * (1 + math.cos(math.pi * s / 2000))) for s in steps
        ]
        checks[trial["name"]] = [
            {"step": s, f"{key} loss": 2 + 40 / s} for s in range(200, 2001, 200)
        ]
    there = {"evaluation": "lm", "slice": "", "metric": "loss", "value": 2.0, "length": "512"}
    arm = {"name": "elsewhere", "source": "a paper", "unknown": ["seed"], "rows": [there]}

    started, before = time.perf_counter(), time.process_time()
    import jinja2  # noqa: F401
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401
    import scipy.special  # noqa: F401

    from paribus.analysis.report import Told
    from paribus.analysis.verdicts import verdicts
    from paribus.study.audit import declared

    loaded, ready = time.perf_counter(), time.process_time()
    judged = verdicts(record, data)
    decided = time.perf_counter()
    told = Told(record, data, judged, curves=curves, checks=checks, imports=[arm],
                findings=declared(record))  # fmt: skip
    page = told.html()
    drawn, done = time.perf_counter(), time.process_time()
    text = told.markdown()
    written = time.perf_counter()
    seconds, size = drawn - loaded, len(page.encode())

    print("report of 54 variants x 7 conditions x 3 seeds (1134 cells, 162 trials)")
    print(
        f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, "
        f"matplotlib {version('matplotlib')}, numpy {version('numpy')}, jinja2 {version('jinja2')}"
    )
    print(f"figures   {', '.join(d.name for d in told.drawn)}")
    print(f"libraries {loaded - started:6.2f} s (not counted; {ready - before:.2f} s of processor)")
    print(f"verdicts  {decided - loaded:6.2f} s")
    print(f"page      {drawn - decided:6.2f} s")
    print(
        f"together  {seconds:6.2f} s, limit {LIMIT_SECONDS:g} s ({done - ready:.2f} s of processor)"
    )
    print(f"size      {size:,} bytes, limit {LIMIT_BYTES:,}")
    print(f"markdown  {written - drawn:6.2f} s, {len(text.encode()):,} bytes")
    return int(seconds > LIMIT_SECONDS or size > LIMIT_BYTES)


if __name__ == "__main__":
    sys.exit(main())

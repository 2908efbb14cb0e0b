"""What decoding several prompts takes: one after another, as an ordinary batch, and as parallel
branches of one row (columnar), side by side in one run.

    python bench/branch_generation.py [--device cuda:0] [--write [FOLDER]] [--small] [--ragged]
        [--weights FILE --spec FILE]

Greedy, prefill included.  All three have the same weights.  One text alone is the same under the
branch mask as under the causal one, so the peers use the causal mask, which kernels build
themselves.  Without --weights they are random, and there is no loss; with them (a trial's `weights`
and `spec.json`) it is that of its task: of columnar at so many branches, of the peers at one.
--ragged spreads the prompts over half to all of --prompt tokens.

keys read     earlier tokens (and itself) that the query of a new token may read, mean
KV            what the cache takes at the end: in all, and a token that it holds; of the sequential
              way that of one prompt
as alone      share of new tokens equal to those of the same prompt decoded alone: rounding for the
              batch; columnar branches read each other, they are not meant to be equal
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paribus import init, masks, positions, presets
from paribus import spec as specs
from paribus.contracts import View
from paribus.engine.checkpoint import read_weights
from paribus.engine.evaluate import Setting, evaluate
from paribus.engine.generation import Columns, Rows, generate_branches, generate_rows
from paribus.engine.net import PRECISION
from paribus.engine.settings import Settings, apply, pick_device
from paribus.nn.cache import generate
from paribus.nn.initialise import initialise
from paribus.nn.transformer import Transformer
from paribus.rng import Stream
from paribus.spec import InitScheme, Spec, patch
from paribus.text.columns import columns
from paribus.text.data import Data

SMALL = dict(width=64, layers=2, heads=4, vocab=256, prompt=16, new=16, branches="1,2,4", repeat=2)
USUAL = dict(
    width=512, layers=8, heads=8, vocab=6400, prompt=128, new=128, branches="1,2,4,8,16,32",
    repeat=3,
)  # fmt: skip
OFTEN = (
    4  # prompts that are decoded alone as often as batches are; the others average by themselves
)
COLUMNS = {
    "branches": "B",
    "way": "way",
    "tokens_per_second": "tokens/s",
    "seconds": "last token, s",
    "speedup": "× sequential",
    "keys": "keys read",
    "kv_bytes": "KV, MB",
    "kv_bytes_per_token": "KV a token, B",
    "as_alone": "as alone",
    "loss": "loss",
}


def timed(call: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds and result of a call, with the device's work done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    began = time.perf_counter()
    out = call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began, out


def median(call: Callable[[], Any], o: argparse.Namespace) -> tuple[float, Any]:
    """Of ``repeat`` calls after a warm-up."""
    call()
    runs = [timed(call, o.device) for _ in range(o.repeat)]
    return sorted(s for s, _ in runs)[(len(runs) - 1) // 2], runs[0][1]


def keys_read(core: Transformer, lengths: list[int], new: int) -> float:
    """Mean over the queries that new tokens come from, by the mask itself, of the finished row."""
    sizes = np.array([lengths])
    at = columns(sizes + new - 1, offsets_Bn=sizes.max() - sizes)
    view = {"branch": at["text"], "time": at["time"], "main": at["text"] * 0}
    view |= {"index": at["index"], "token": at["index"]}
    k = View({name: torch.from_numpy(c) for name, c in view.items()})
    asks = torch.from_numpy(at["order"] >= np.array(lengths)[at["text"]] - 1)
    total = 0
    for part in asks.nonzero()[:, 0].split(256):  # never all pairs at once
        q = k.map(lambda c, part=part: c[part, None])
        total += int(core.mask.allowed(0, q, k.map(lambda c: c[None])).sum())
    return total / int(asks.sum())


def trained(o: argparse.Namespace) -> Spec:
    """The spec of a trial: its last phase's, or a spec itself."""
    data = json.loads(Path(o.spec).read_text())
    return specs.load(data["phases"][-1]["spec"] if "phases" in data else data)


def losses(spec: Spec, p: dict[str, torch.Tensor], o: argparse.Namespace) -> dict[int, float]:
    """Loss of the task by number of branches, on the same texts of the test split."""
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Data(Path(o.cache or folder))
        for n in sorted({1, *o.counts}):
            at = patch(patch(spec, "task.texts_per_step", None), "task.branches", n)
            setting = Setting(f"b{n}", f"branches={n}", at, "test", None, ())
            (record,) = evaluate(p, [at], setting, data, Settings(device=o.device))
            out[n] = record["metrics"]["loss"]["value"]
    return out


def measure(o: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str], dict[str, Any]]:
    """Rows of the table, notes, and the model in words."""
    notes = []
    if o.weights:
        spec = trained(o)
        model: Any = spec.model
        p = {k: t[None].to(o.device) for k, t in read_weights(Path(o.weights)).items()}
        is_branches = spec.task.name == "branches"
        loss = losses(spec, p, o) if is_branches else {}
        notes += [] if is_branches else [f"no loss: the task is {spec.task.name}, not branches"]
    else:
        model = presets.minimind_512(
            width=o.width, layers=o.layers, heads=o.heads, vocab=o.vocab,
            position=positions.rope2d(), mask=masks.branch(),
        )  # fmt: skip
        p = initialise(model, InitScheme(every=init.torch_default()), [0])
        p, loss = {k: t.to(o.device) for k, t in p.items()}, {}
        notes.append("no loss: the weights are random")
    causal = patch(model, "mask", masks.causal()) if model.mask.name == "branch" else model
    core, alone = Transformer(model), Transformer(causal)
    dtype = PRECISION[o.precision]
    most = max(o.counts)
    span = np.linspace(o.prompt // 2, o.prompt, most) if o.ragged else np.full(most, o.prompt)
    lengths = [int(n) for n in span.round()]
    prompts = [
        Stream(0, "bench", b).integers(n, core.dims.vocab).tolist() for b, n in enumerate(lengths)
    ]

    def one(b: int) -> list[int]:
        ids = torch.tensor(prompts[b], device=o.device)[None, None]
        return generate(alone, p, ids, o.new, dtype=dtype)[0, 0].tolist()

    every = [median(partial(one, b), o) for b in range(min(most, OFTEN))]
    every += [timed(partial(one, b), o.device) for b in range(len(every), most)]
    rows = []
    for B in o.counts:
        own = prompts[:B]
        singly = float(np.mean(lengths[:B])) + (o.new - 1) / 2
        batch = median(partial(generate_rows, alone, p, own, o.new, dtype=dtype), o)
        branches = median(partial(generate_branches, core, p, own, o.new, dtype=dtype), o)
        ways = {
            "sequential": (sum(s for s, _ in every[:B]), [ids for _, ids in every[:B]], singly),
            "batched": (batch[0], batch[1][0], singly),
            "columnar": (branches[0], branches[1][0], keys_read(core, lengths[:B], o.new)),
        }
        for way, (seconds, ids, keys) in ways.items():
            texts = own[-1:] if way == "sequential" else own  # prompts whose tokens are held
            kind, net = (Columns, core) if way == "columnar" else (Rows, alone)
            taken = kind(net, p, texts, o.new - 1, dtype=dtype).cache.bytes
            pairs = [(x, y) for b in range(B) for x, y in zip(ids[b], every[b][1], strict=True)]
            same = sum(x == y for x, y in pairs) / len(pairs)
            rows.append(
                {
                    "branches": B,
                    "way": way,
                    "tokens_per_second": B * o.new / seconds,
                    "seconds": seconds,
                    "speedup": ways["sequential"][0] / seconds,
                    "keys": keys,
                    "kv_bytes": taken,
                    "kv_bytes_per_token": taken / sum(len(t) + o.new - 1 for t in texts),
                    "as_alone": same,
                    "loss": loss.get(B if way == "columnar" else 1),
                }
            )
    about = {"parameters": sum(t.numel() for t in p.values()), "model": asdict(core.dims)}
    return rows, notes, about


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    shown = {
        "tokens_per_second": lambda x: f"{x:,.0f}",
        "seconds": lambda x: f"{x:.3f}",
        "speedup": lambda x: f"{x:.2f}",
        "keys": lambda x: f"{x:,.1f}",
        "kv_bytes": lambda x: f"{x / 1e6:.2f}",
        "kv_bytes_per_token": lambda x: f"{x:,.0f}",
        "as_alone": lambda x: f"{math.floor(1000 * x) / 10:g} %",  # 100 % is all of them
        "loss": lambda x: f"{x:.4f}",
    }
    lines = [list(COLUMNS.values()), ["---:" if c != "way" else "---" for c in COLUMNS]]
    for row in rows:
        cells = ((c, row[c]) for c in COLUMNS)
        lines.append(["–" if x is None else shown.get(c, str)(x) for c, x in cells])
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    out = []
    for line in lines:
        pad = "-" if line is lines[1] else " "
        cells = (x.rjust(w, pad) if c != "way" else x.ljust(w, pad)
                 for x, w, c in zip(line, widths, COLUMNS, strict=True))  # fmt: skip
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out)


def options() -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--device", default=pick_device())
    p.add_argument("--small", action="store_true", help="for a try: seconds on a CPU")
    for name, value in USUAL.items():
        p.add_argument(f"--{name}", type=type(value), help=f"{value}; small: {SMALL[name]}")
    p.add_argument("--ragged", action="store_true")
    p.add_argument("--precision", choices=("fp32", "bf16"), help="bf16 on CUDA, else fp32")
    p.add_argument("--weights", help="of a trial; with --spec")
    p.add_argument("--spec", help="the trial's spec.json")
    p.add_argument("--cache", help="where tokens of its corpus are kept, as <home>/cache")
    here = Path(__file__).parent / "results"
    p.add_argument("--write", nargs="?", const=str(here), help="keep the table, in bench/results")
    o = p.parse_args()
    if bool(o.weights) != bool(o.spec):
        p.error("--weights and --spec belong together")
    for name, value in (SMALL if o.small else USUAL).items():
        if getattr(o, name) is None:
            setattr(o, name, value)
    o.precision = o.precision or ("bf16" if o.device.startswith("cuda") else "fp32")
    o.counts = [int(n) for n in o.branches.split(",")]
    return o


def main() -> None:
    o = options()
    apply(Settings(device=o.device))
    began = time.perf_counter()
    rows, notes, about = measure(o)
    name = platform.processor() or platform.machine()
    if o.device.startswith("cuda"):
        name = torch.cuda.get_device_name(o.device)
    head = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "precision": o.precision,
        **{k: getattr(o, k) for k in ("prompt", "new", "repeat", "ragged")},
        **about,
        "weights": "trained" if o.weights else "random",
        "took_seconds": round(time.perf_counter() - began, 1),
    }
    notes.append(
        f"seconds: the median of {o.repeat} runs after a warm-up; sequential: their sum over the "
        f"prompts, with one run of every prompt after the first {OFTEN}"
    )
    text = "\n".join([json.dumps(head), "", table(rows), "", *notes])
    print(text)
    if o.write:
        slug = re.sub(r"[^a-z0-9]+", "-", head["device"].lower().replace("nvidia", "")).strip("-")
        if o.device == "cpu":
            slug = "cpu"
        folder = Path(o.write)
        folder.mkdir(parents=True, exist_ok=True)
        words = (Path(w).name if "/" in w else w for w in sys.argv[1:])  # no folder of this machine
        command = " ".join(["python bench/branch_generation.py", *words])
        path = folder / f"{head['date']}-branch-generation-{slug}"
        path.with_suffix(".md").write_text(f"# {command}\n\n{text}\n")
        data = json.dumps({**head, "rows": rows, "notes": notes}, indent=1)
        path.with_suffix(".json").write_text(data + "\n")
        print(f"wrote {path}.md and .json")


if __name__ == "__main__":
    main()

"""Seconds of the suite of probes of working memory on a model of 124 million parameters, and of a
part of it asked one row at a time, as a loop over items does, in the same run.

    python bench/probes.py [--device cuda:0] [--size quick --size full] [--dtype bf16]

The model is GPT-2's smallest with RoPE and a window of 1,024 tokens, untrained: what it answers
does not change how long it takes.  Items are of its 50,257 ids, texts of the standard library's
sources, whose words stand for ids.  What passkeys read is not among the tokens.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paribus import corpora, init, optim, positions, presets, schedules, tasks, tokenizers
from paribus.engine.net import make_net
from paribus.engine.probing import Trained
from paribus.engine.settings import Settings, apply, pick_device
from paribus.errors import Refused
from paribus.readers import Answers, Rows
from paribus.spec import Spec, resolve
from paribus.study import suites
from paribus.text.data import Data

V = 50_257


class Wide(Trained):
    """A model of many ids behind a tokenizer of words."""

    one = False  # whether rows are asked one at a time
    tokens = 0

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[V - 1, *(zlib.crc32(w.encode()) % (V - 1) for w in t.split())] for t in texts]

    def ordinary(self) -> Any:
        return np.arange(V - 1)

    def follow(self, asked: Sequence[Rows]) -> list[Answers]:
        self.tokens += sum(r.ids.size for r in asked)
        if not self.one:
            return super().follow(asked)
        out = []
        for rows in asked:
            each = []
            for i in range(len(rows.ids)):
                at = rows.at if np.ndim(rows.at) == 1 else rows.at[i : i + 1]
                among = None if rows.among is None else rows.among[i : i + 1]
                each += super().follow([Rows(rows.ids[i : i + 1], at, among)])
            right, nats = (np.concatenate([getattr(a, k) for a in each]) for k in ("right", "nats"))
            chosen = None if rows.among is None else np.concatenate([a.chosen for a in each])
            out.append(Answers(right, nats, chosen))
        return out


def model(o: argparse.Namespace, folder: Path) -> Wide:
    spec = resolve(
        Spec(
            model=presets.gpt2_small(
                position=positions.rope(),
                vocab=V,
                **({"width": 64, "layers": 2, "heads": 2} if o.tiny else {}),
            ),
            task=tasks.lm(
                corpus=corpora.stdlib(),
                tokenizer=tokenizers.bytes(),
                length=64 if o.tiny else 1024,
            ),
            optim=optim.adamw(lr=1e-3),
            schedule=schedules.constant(),
            init={"every": init.gpt2()},
            rows=1,
            steps=1,
            precision=o.dtype,
        )
    )
    settings = Settings(device=o.device)
    params = make_net([spec], o.device, "sdpa").initial([0])
    found = Wide(params, spec, Data(folder), settings)
    found.begin = V - 1
    return found


def synchronised(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def suite(o: argparse.Namespace, reader: Wide, size: str) -> list[dict[str, Any]]:
    rows = []
    for e in suites.memory(size):  # type: ignore[arg-type]
        reader.tokens, began, note = 0, synchronised(o.device), ""
        try:
            e.what.measure(reader)  # type: ignore[union-attr]
        except Refused as why:
            note = str(why)
        rows.append({"probe": e.name, "seconds": synchronised(o.device) - began,
                     "tokens": reader.tokens, "note": note})  # fmt: skip
    return rows


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--device", default=pick_device())
    p.add_argument("--size", action="append", choices=suites.SIZES)
    p.add_argument("--dtype", default=None, choices=("fp32", "bf16"))
    p.add_argument("--tiny", action="store_true", help="a model of two layers: whether it runs")
    p.add_argument("--peer", default="smoke", choices=("none", *suites.SIZES),
                   help="the size that is also asked one row at a time")  # fmt: skip
    o = p.parse_args()
    cuda = o.device.startswith("cuda")
    o.dtype = o.dtype or ("bf16" if cuda else "fp32")
    sizes = o.size or (["smoke", "quick", "full"] if cuda else ["smoke"])
    apply(Settings(device=o.device))
    name = torch.cuda.get_device_name(o.device) if cuda else platform.processor()
    print(json.dumps({
        "date": datetime.now(UTC).date().isoformat(), "device": name or platform.machine(),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "dtype": o.dtype,
        "python": platform.python_version(),
    }))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        reader = model(o, Path(folder))
        reader.follow([Rows(np.zeros((2, 64), np.int64), np.arange(1, 64))])  # warm
        for size in sizes:
            rows = suite(o, reader, size)
            for r in rows:
                print(f"{size:6} {r['probe']:22} {r['seconds']:8.2f} s {r['tokens']:12,} tokens "
                      f"{r['tokens'] / r['seconds']:12,.0f} /s  {r['note']}")  # fmt: skip
            total, tokens = (sum(r[k] for r in rows) for k in ("seconds", "tokens"))
            print(f"{size:6} {'all':22} {total:8.2f} s {tokens:12,} tokens")
        if o.peer != "none":
            began = synchronised(o.device)
            reader.one = True
            suite(o, reader, o.peer)
            print(f"{o.peer:6} {'one row at a time':22} {synchronised(o.device) - began:8.2f} s")


if __name__ == "__main__":
    main()

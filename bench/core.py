"""What scoring CORE takes: beginnings read once and questions together, beside one prompt at a
time.

    python bench/core.py --data FOLDER [--device cuda:0] [--precision fp32] [--small]
        [--alone N] [--examples N]

The model has the shape of GPT-2 small (--small: two layers of width 64) with RoPE and random
weights: what is measured does not depend on them.  The tokenizer is trained on the standard
library, so prompts have other lengths than with GPT-2's.  One prompt at a time is measured on N
questions of each task (--alone, in the order in which they are asked) and told for all of them by
their number; both answer the same questions, and answers are compared.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from paribus import corpora, init, optim, positions, presets, schedules, tasks, tokenizers
from paribus.engine.probing import Trained
from paribus.engine.settings import Settings, apply, pick_device
from paribus.nn.initialise import initialise
from paribus.nn.questions import cropped
from paribus.nn.spans import Whole, scores
from paribus.probes import _core, _icl
from paribus.spec import InitScheme, Spec, resolve
from paribus.text.data import Data

USUAL = {"width": 768, "layers": 12, "heads": 12}
SMALL = {"width": 64, "layers": 2, "heads": 2}


def model_of(o: Any, folder: str) -> Trained:
    """The model as probes see it."""
    vocab = 2048 if o.small else 32768
    spec = resolve(
        Spec(
            model=presets.gpt2(**(SMALL if o.small else USUAL), position=positions.rope()),
            task=tasks.lm(
                corpus=corpora.stdlib(), tokenizer=tokenizers.bpe(vocab=vocab), length=64
            ),
            optim=optim.adamw(lr=1e-3), schedule=schedules.constant(), rows=1, steps=1,
            precision=o.precision, init=InitScheme(every=init.gpt2()),
        )
    )  # fmt: skip
    p = initialise(spec.model, spec.init, [0])  # type: ignore[arg-type]
    p = {k: t.to(o.device) for k, t in p.items()}
    return Trained(p, spec, Data(Path(folder)), Settings(device=o.device))


def clock(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--data", required=True)
    p.add_argument("--device", default=pick_device())
    p.add_argument("--precision", help="default: bf16 on CUDA, else fp32")
    p.add_argument("--small", action="store_true")
    p.add_argument("--alone", type=int, default=8)
    p.add_argument("--examples", type=int)
    o = p.parse_args()
    o.precision = o.precision or ("bf16" if o.device.startswith("cuda") else "fp32")
    apply(Settings(device=o.device))
    name = platform.processor() or platform.machine()
    if o.device.startswith("cuda"):
        name = torch.cuda.get_device_name(o.device)
    head = {"date": datetime.now(UTC).date().isoformat(), "device": name,
            "torch": torch.__version__, "precision": o.precision}  # fmt: skip
    print(json.dumps(head))
    print(
        f"{'task':34} {'questions':>9} {'tokens':>11} {'ids, s':>7} {'ours, s':>8} {'alone, s':>9}"
    )
    total = [0.0, 0.0, 0.0]
    with tempfile.TemporaryDirectory() as folder:
        model = model_of(o, folder)
        reads: Any = model.reads
        alone = Whole(lambda ids: reads.core(reads.p, ids[None], dtype=reads.dtype)[0], o.device)
        for task in _core.tasks(Path(o.data)):
            path = _core.located(Path(o.data), task.file)
            if path is None:
                continue
            rows = _icl.drawn(_core.rows(path), o.examples)
            began = clock(o.device)
            asked = _icl.questions(task.kind, rows, task.shots, task.delimiter, model.encode)
            spelt = clock(o.device) - began
            spans = [[cropped(s, model.limit) for s in a.spans] for a in asked]
            scores(model.reads, spans[:2], 64)  # warm
            began = clock(o.device)
            found = model.scores(spans)
            ours = clock(o.device) - began
            few = spans[: o.alone]
            began = clock(o.device)
            one = [scores(alone, [[s]], 1)[0][0] for q in few for s in q]
            each = (clock(o.device) - began) / len(few) * len(spans)
            gap = max(
                abs(a.mean - b.mean)
                for a, b in zip(one, [x for q in found[: o.alone] for x in q], strict=True)
            )
            tokens = sum(len(s.ids) for q in spans for s in q)
            total = [a + b for a, b in zip(total, (spelt, ours, each), strict=True)]
            print(f"{task.label:34} {len(rows):9,} {tokens:11,} {spelt:7.1f} {ours:8.1f} "
                  f"{each:9.1f}   {gap:.1g}", flush=True)  # fmt: skip
    print(f"{'all':34} {'':9} {'':11} {total[0]:7.1f} {total[1]:8.1f} {total[2]:9.1f}"
          f"   {total[2] / total[1]:.1f} times")  # fmt: skip


if __name__ == "__main__":
    main()

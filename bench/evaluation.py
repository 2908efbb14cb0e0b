"""What the seven conditions of `parallelmind-branches` cost beside its training: trials of a pack
evaluated together, one by one, and the training of its arms, in the same run.

    python bench/evaluation.py [--device cuda:0] [--scale small] [--stack 18] [--steps 10]
        [--texts 960] [--trained fixed1,1-31] [--judged 1,32]
        [--width 512 --layers 8 --heads 8 --length 512 --rows 64] [--write FOLDER]

Seconds a million tokens and trial, as texts are read in evaluation and in training, and what the
conditions take of the whole study at paper scale, where 32,736 texts are judged under each of the
seven after 32,000 steps of 64; its nine numbers of training branches read more or less of each
other, so all of them are trained here (or those asked for: shares are then of these).  Model and
texts are those of the scale, or as given: sizes of the paper's with bytes of the standard library
in the place of its tokens.  Evaluations are compiled, as they are where there is as much to
evaluate as there.  One by one: under one of the conditions.
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

from paribus.engine import evaluate as judging
from paribus.engine.evaluate import Setting
from paribus.engine.members import Member, Phase
from paribus.engine.settings import Settings, apply, pick_device
from paribus.engine.train import Trainer
from paribus.spec import Spec, patch, resolve
from paribus.studies._parallelmind import JUDGED, TRAINED
from paribus.study import source
from paribus.text.data import Data

PAPER = {"steps": 32_000, "texts a step": 64, "judged": 32_736}
BRANCHES = JUDGED["paper"]
ARMS = TRAINED["paper"]
ALONE = 8  # branches of the condition under which trials are evaluated one by one


def sized(spec: Spec, o: argparse.Namespace) -> Spec:
    """The spec at the sizes that are asked for."""
    asked = {
        "model.width": o.width, "model.layers": o.layers, "model.heads": o.heads,
        "task.length": o.length, "task.texts_per_step": o.rows, "task.eval_texts": o.texts,
    }  # fmt: skip
    spec = patch(spec, "rows", None)  # as many as the task's own words make
    for path, value in asked.items():
        if value is not None:
            spec = patch(spec, path, value)
    return resolve(spec)


def training(trainer: Trainer, device: str, steps: int) -> tuple[float, float]:
    """Milliseconds of a step of the stack, and seconds a million tokens and trial; steps in which
    something was compiled or recorded are left out."""
    trainer._enter(0)
    gpu = device.startswith("cuda")
    graphs = torch._dynamo.utils.counters["stats"] if gpu else {}
    taken, read = [], 0.0
    for step in range(6 + 2 * steps):
        seen, had = graphs.get("unique_graphs"), trainer.tokens.clone()
        began = clock(gpu)
        trainer._advance()
        trainer._settle()
        seconds = clock(gpu) - began
        if step >= 6 and seen == graphs.get("unique_graphs"):
            taken.append(seconds)
            read += float((trainer.tokens - had).sum())
    return 1e3 * sum(taken) / len(taken), 1e6 * sum(taken) / read


def clock(gpu: bool) -> float:
    if gpu:
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--device", default=pick_device())
    p.add_argument("--scale", default="small")
    p.add_argument("--stack", type=int, default=18)
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--texts", type=int)
    p.add_argument("--trained", default=",".join(ARMS), help=f"of {', '.join(ARMS)}")
    p.add_argument("--judged", default=",".join(map(str, BRANCHES)), help="numbers of branches")
    for name in ("width", "layers", "heads", "length", "rows"):
        p.add_argument(f"--{name}", type=int)
    p.add_argument("--write", type=Path)
    o = p.parse_args()
    apply(Settings(device=o.device))
    gpu = o.device.startswith("cuda")
    head = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(o.device) if gpu else platform.machine(),
        "torch": torch.__version__, "python": platform.python_version(), "stack": o.stack,
    }  # fmt: skip
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    say(json.dumps(head))
    every = source.load("parallelmind-branches", scale=o.scale).study.trials()
    key = every[0].pack_key
    trials = [t for t in every if t.pack_key == key][: o.stack]
    specs = [sized(t.variant.spec, o) for t in trials]
    seeds = [t.seed for t in trials]
    settings = Settings(device=o.device)
    arms, judged = o.trained.split(","), [int(k) for k in o.judged.split(",") if k]
    results: dict[str, Any] = {"training": {}}

    with tempfile.TemporaryDirectory() as folder:
        data = Data(Path(folder))
        for arm in arms:
            own = [patch(s, "rows", None) for s in specs]
            own = [resolve(patch(s, "task.branches", ARMS[arm])) for s in own]
            named = zip(trials, own, strict=True)
            members = [Member(t.id, t.name, t.seed, [Phase("train", s, "reset")]) for t, s in named]
            trainer = Trainer(members, settings, data)
            ms, each = training(trainer, o.device, o.steps)
            results["training"][arm] = each
            engine = f"{trainer.engine}, {trainer.net.kernel}" + ", packed" * bool(trainer._packs)
            say(f"trained {arm:8} {ms:8.1f} ms a step of {len(trials)}, {each:.3f} s a million "
                f"tokens and trial  {engine}")  # fmt: skip
            params = {k: t.detach() for k, t in trainer.params.items()}
            del trainer
        opened: dict[str, Any] = {}
        judging.WORTH = 0.0
        taken = {"together": 0.0, "one by one": 0.0}
        read = dict.fromkeys(taken, 0.0)
        for branches in judged:
            own = [resolve(patch(patch(s, "rows", None), "task.branches", branches)) for s in specs]
            setting = Setting("c", "c", own[0], "test", None, ())
            one = {k: t[:1] for k, t in params.items()}
            ways: dict[str, Any] = {"together": (params, own, seeds)}
            if branches == ALONE:
                ways["one by one"] = one, own[:1], seeds[:1]
            for how, given in ways.items():
                for warm in (True, False):
                    began = clock(gpu)
                    records = judging.evaluate(*given, setting, data, settings, opened)
                    if not warm:
                        now = (clock(gpu) - began) / len(given[1])
                        taken[how] += now
                count = records[0]["metrics"]["loss"]["count"]
                read[how] += count
                engine = "{engine}, {kernel}".format(**records[0]["engine"])
                say(f"judged {branches:2}, {how:10} {1e6 * now / count:.3f} s a million tokens and "
                    f"trial  {engine}")  # fmt: skip
    share_of_tokens = len(BRANCHES) * PAPER["judged"] / (PAPER["steps"] * PAPER["texts a step"])
    trained = sum(results["training"].values()) / len(arms)
    say(f"training, mean of {len(arms)} arms: {trained:.3f} s a million tokens and trial")
    for how, seconds in taken.items():
        if read[how]:
            each = seconds / read[how] * 1e6
            share = share_of_tokens * each / trained
            say(f"{how}: {each:.3f} s a million tokens and trial; at paper scale "
                f"{100 * share:.1f} %")  # fmt: skip
            results[how] = {"s/Mtok": each, "share at paper scale": share}
    if o.write:
        stem = f"{head['date']}-evaluation"
        (o.write / f"{stem}.txt").write_text("\n".join(lines) + "\n")
        (o.write / f"{stem}.json").write_text(json.dumps({**head, **results}, indent=1))


if __name__ == "__main__":
    main()

"""What the seven conditions of `parallelmind-branches` cost beside its training: trials of a pack
evaluated together, one by one, and the training of the same pack, in the same run.

    python bench/evaluation.py [--device cuda:0] [--scale small] [--stack 18] [--steps 10]
        [--texts 960] [--width 512 --layers 8 --heads 8 --length 512 --rows 64] [--write FOLDER]

Seconds a million tokens and trial, as texts are read in evaluation and in training, and what the
conditions take of the whole at paper scale, where 32,736 texts are judged under each of the seven
after 32,000 steps of 64.  Model and texts are those of the scale, or as given: sizes of the paper's
with bytes of the standard library in the place of its tokens.  Evaluations are compiled, as they
are where there is as much to evaluate as there.  One by one: under one of the conditions.
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
from _plain import timed

from paribus.engine import evaluate as judging
from paribus.engine.evaluate import Setting
from paribus.engine.members import Member, Phase
from paribus.engine.settings import Settings, apply, pick_device
from paribus.engine.train import Trainer
from paribus.spec import Spec, patch, resolve
from paribus.study import source
from paribus.text.data import Data

PAPER = {"steps": 32_000, "texts a step": 64, "judged": 32_736}
BRANCHES = (1, 2, 4, 8, 16, 24, 31)
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


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--device", default=pick_device())
    p.add_argument("--scale", default="small")
    p.add_argument("--stack", type=int, default=18)
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--texts", type=int)
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
    lines = [json.dumps(head)]
    every = source.load("parallelmind-branches", scale=o.scale).study.trials()
    key = every[0].pack_key
    trials = [t for t in every if t.pack_key == key][: o.stack]
    specs = [sized(t.variant.spec, o) for t in trials]
    seeds = [t.seed for t in trials]
    settings = Settings(device=o.device)

    def clock() -> float:
        if gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        data = Data(Path(folder))
        named = zip(trials, specs, strict=True)
        members = [Member(t.id, t.name, t.seed, [Phase("train", s, "reset")]) for t, s in named]
        trainer = Trainer(members, settings, data)
        trainer._enter(0)
        ms = timed(trainer._advance, o.device, o.steps, at_once=2)
        trainer._settle()
        tokens = float(trainer.tokens[0]) / trainer.step  # of a trial and step
        trained = ms / len(trials) / tokens * 1e3  # seconds a million tokens and trial
        params = {k: t.detach() for k, t in trainer.params.items()}
        opened: dict[str, Any] = {}
        judging.WORTH = 0.0
        taken = {"together": 0.0, "one by one": 0.0}
        read = dict.fromkeys(taken, 0.0)
        for branches in BRANCHES:
            own = [resolve(patch(patch(s, "rows", None), "task.branches", branches)) for s in specs]
            setting = Setting("c", "c", own[0], "test", None, ())
            one = {k: t[:1] for k, t in params.items()}
            ways: dict[str, Any] = {"together": (params, own, seeds)}
            if branches == ALONE:
                ways["one by one"] = one, own[:1], seeds[:1]
            for how, given in ways.items():
                for warm in (True, False):
                    began = clock()
                    records = judging.evaluate(*given, setting, data, settings, opened)
                    if not warm:
                        taken[how] += (clock() - began) / len(given[1])
                read[how] += records[0]["metrics"]["loss"]["count"]
    say = lines.append
    say(
        f"training: {ms:.1f} ms a step of {len(trials)}, {trained:.3f} s a million tokens and trial"
    )
    results: dict[str, Any] = {"training": trained}
    share_of_tokens = len(BRANCHES) * PAPER["judged"] / (PAPER["steps"] * PAPER["texts a step"])
    say(f"evaluated: {records[0]['engine']['engine']}, {records[0]['engine']['kernel']}")
    for how, seconds in taken.items():
        each = seconds / read[how] * 1e6
        share = share_of_tokens * each / trained
        say(f"{how}: {each:.3f} s a million tokens and trial; at paper scale {100 * share:.1f} %")
        results[how] = {"s/Mtok": each, "share at paper scale": share}
    print("\n".join(lines))
    if o.write:
        stem = f"{head['date']}-evaluation"
        (o.write / f"{stem}.txt").write_text("\n".join(lines) + "\n")
        (o.write / f"{stem}.json").write_text(json.dumps({**head, **results}, indent=1))


if __name__ == "__main__":
    main()

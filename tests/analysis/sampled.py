"""A study of sample efficiency as plain data: factors V, N and model, judged on a test split by
slices and on the split that was trained on, with trivial baselines that depend on V."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

from paribus.study.factors import Factor

from .synthetic import Row
from .synthetic import study as plain

V = Factor("V", [5, 20], "task.tables")
N = Factor("N", [256, 512, 1024, 2048, 4096], "task.examples")
MODEL = Factor("model", ["standard", "lowrank"], "model.position")
SHARES = ("accuracy", "balanced_accuracy", "auc", "recall", "specificity", "agreement")
HOPS = ("0", "1", "2", "3", "unconnected", "absent")
ITEMS = {"hops": dict(zip(HOPS, (1300, 950, 270, 40, 140, 7300), strict=True)),
         "present": {"both": 2700, "absent": 7300}}  # fmt: skip
LIKELY = {"5": 0.733, "20": 0.935}  # accuracy of the majority
RULE = {"5": 0.987, "20": 0.9994}  # of the membership rule


def study(
    variant: list[Factor] | None = None, *, seeds: int = 3, sliced: bool = True, **more: Any
) -> dict[str, Any]:
    """``sliced``: with slices of the trivial baselines."""
    record = plain([V, N, MODEL] if variant is None else variant, [], seeds=seeds, **more)
    record |= {
        "question": "Does structure improve sample efficiency?",
        "conditions": [
            {"evaluation": "test", "key": "test", "levels": {}, "split": "test",
             "by": ["hops", "present"]},
            {"evaluation": "train", "key": "train", "levels": {}, "split": "train", "by": []},
        ],
        "metrics": {
            "loss": {"unit": "nats", "better": "lower"},
            **{m: {"unit": "", "better": "higher"} for m in SHARES},
        },
        "primary": more.get("primary", "accuracy"),
        "baselines": {}, "baseline_slices": {},
    }  # fmt: skip
    for m in record["metrics"].values():
        m |= {"of": None, "transform": None, "evaluations": ["test", "train"]}
    for trial in record["trials"]:
        levels = record["variants"][trial["variant"]]["levels"]
        v, n = levels.get("V", "5"), levels.get("N", "256")
        trial["cells"] = {"test": f"test{v}", "train": f"train{v}-{n}"}
        shift = random.Random(f"{v} {n}").gauss(0, 0.3) / math.sqrt(int(n))
        for cid, move in ((f"test{v}", 0.0), (f"train{v}-{n}", shift)):
            record["baselines"][cid] = {
                "majority": {"accuracy": LIKELY[v] + move, "balanced_accuracy": 0.5},
                "membership": {"accuracy": RULE[v], "balanced_accuracy": 0.99},
            }
        if sliced:
            record["baseline_slices"][f"test{v}"] = {
                name: {level: {"accuracy": x} for level, x in of.items()}
                for name, of in trivial().items()
            }
    return record


def trivial() -> Mapping[str, Mapping[str, float]]:
    """Trivial baseline -> slice -> its accuracy: the majority says no, the rule whether both are
    there."""
    no = {"unconnected", "absent"}
    return {
        "majority": {**{f"hops={h}": float(h in no) for h in HOPS},
                     "present=both": 0.05, "present=absent": 1.0},
        "membership": {**{f"hops={h}": float(h != "unconnected") for h in HOPS},
                       "present=both": 0.95, "present=absent": 1.0},
    }  # fmt: skip


def learned(levels: Mapping[str, Any], split: str, slice: str) -> float:
    """Accuracy: from the majority's to the membership rule's as N grows, the low-rank model
    sooner; in slices it says no to what it has not learned, and connects what is not."""
    v, n = str(levels.get("V", "5")), int(levels.get("N", 4096))
    sooner = 1.0 if levels.get("model") == "lowrank" else 0.0
    much = 1 / (1 + math.exp(-2 * (math.log2(n) - 9.5 + sooner)))
    if split == "train":
        return min(1.0, LIKELY[v] + (1 - LIKELY[v]) * (0.6 + 0.4 * much))
    if not slice:
        return LIKELY[v] + (RULE[v] - LIKELY[v]) * much
    by, _, level = slice.partition("=")
    if level in ("absent", "unconnected"):
        return 0.999 if level == "absent" else 1 - 0.97 * much
    far = int(level) if by == "hops" else 0
    return much ** (1 + far / 2)


def rows(
    record: dict[str, Any],
    value: Callable[[Mapping[str, Any], str, str], float] = learned,
    *,
    noise: float = 0.004,
    lost: Mapping[str, str] | None = None,
) -> list[Row]:
    """A row for each trial, split, slice and share, every share the same number."""
    out = []
    for trial in record["trials"]:
        variant = record["variants"][trial["variant"]]
        status = (lost or {}).get(trial["name"], "done")
        for c in record["conditions"]:
            slices = [f"{by}={x}" for by in c["by"] for x in ITEMS[by]]
            for slice in ["", *slices] if status == "done" else [""]:
                draw = random.Random(f"{trial['name']} {c['key']} {slice}").gauss(0, noise)
                y = min(1.0, max(0.0, value(variant["levels"], c["split"], slice) + draw))
                by, _, level = slice.partition("=")
                n = ITEMS[by][level] if slice else 10_000
                base = {
                    "study": record["instance"], "variant": variant["name"],
                    "trial": trial["name"], "id": trial["id"], "seed": trial["seed"],
                    **variant["levels"], "evaluation": c["evaluation"], "slice": slice,
                    "n": float(n), "status": status, "step": 1001, "tokens": 5_893_888,
                    "reason": "" if status == "done" else "loss was nan at step 120",
                    "flops": 3e13, "seconds": 61.5, "engine": "eager", "kernel": "sdpa",
                    "device": "cpu", "dtype": "fp32", "threads": 1, "micro_batch": 256,
                    "torch": "2.11.0", "parent": "", "unit": "",
                }  # fmt: skip
                if status != "done":
                    out.append({**base, "metric": record["primary"], "value": None, "n": None})
                    continue
                out += [{**base, "metric": m, "value": y} for m in SHARES]
                out.append({**base, "metric": "loss", "value": 1.2 * (1 - y) + 0.05})
    return out

"""A small bundle in the form of CORE's, and nanochat's scoring written down a second time: one
prompt at a time, in plain loops.  Nothing of the scoring is taken from paribus."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

YAML = """icl_tasks:
-
  label: copa
  dataset_uri: commonsense_reasoning/copa.jsonl
  num_fewshot: [0]
  icl_task_type: multiple_choice
-
  label: arc_easy
  dataset_uri: world_knowledge/arc_easy.jsonl
  num_fewshot: [3]
  icl_task_type: multiple_choice
  continuation_delimiter: "\\nAnswer: "
-
  label: winograd
  dataset_uri: language_understanding/winograd_wsc.jsonl
  num_fewshot: [2]
  icl_task_type: schema
-
  label: jeopardy
  dataset_uri: world_knowledge/jeopardy_all.jsonl
  num_fewshot: [2]
  icl_task_type: language_modeling
  continuation_delimiter: "\\nAnswer: "
  has_categories: true
-
  label: squad
  dataset_uri: reading_comprehension/squad.jsonl
  num_fewshot: [10]
  icl_task_type: language_modeling
"""
KINDS = {
    "copa": ("multiple_choice", 0, " "),
    "arc_easy": ("multiple_choice", 3, "\nAnswer: "),
    "winograd": ("schema", 2, " "),
    "jeopardy": ("language_modeling", 2, "\nAnswer: "),
}
FILES = {
    "copa": "commonsense_reasoning/copa.jsonl",
    "arc_easy": "world_knowledge/arc_easy.jsonl",
    "winograd": "language_understanding/winograd_wsc.jsonl",
    "jeopardy": "world_knowledge/jeopardy_all.jsonl",
}
WORDS = "the cat sat on a mat and saw one red dog run over to them by night".split()


def rows(label: str, n: int = 14) -> list[dict[str, Any]]:
    """Questions of words drawn from Python's generator; the answers are of unequal length."""
    rng = random.Random(label)

    def say(least: int, most: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))

    out: list[dict[str, Any]] = []
    for _ in range(n):
        kind = KINDS[label][0]
        if kind == "multiple_choice":
            k = 2 if label == "copa" else 4
            choices = [say(1, 4) + "." for _ in range(k)]
            while len(set(choices)) < k:  # of equal ones nanochat scores nothing
                choices = [say(1, 4) + "." for _ in range(k)]
            out.append({"query": say(3, 9), "choices": choices, "gold": rng.randrange(k)})
        elif kind == "schema":
            before = say(3, 6)
            out.append({"context_options": [f"{before} {w}" for w in rng.sample(WORDS, 2)],
                        "continuation": say(2, 4) + ".", "gold": rng.randrange(2)})  # fmt: skip
        else:
            out.append({"context": say(3, 8) + " ", "continuation": say(1, 2)})
    return out


def write(folder: Path, yaml: bool = True) -> Path:
    """The bundle: three kinds of task; squad is in the list and its file is not there."""
    for label, file in FILES.items():
        place = folder / ("eval_data" if yaml else "") / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("".join(json.dumps(r) + "\n" for r in rows(label)))
    if yaml:
        (folder / "core.yaml").write_text(YAML)
    return folder


# ── nanochat's scoring ──────────────────────────────────────────────────────────────────────

Logits = Callable[[torch.Tensor], torch.Tensor]  # [B,T] -> [B,T,V]


def asked(label: str, most: int | None = None) -> list[dict[str, Any]]:
    data = rows(label)
    random.Random(1337).shuffle(data)
    return data[:most] if most else data


def prompts_of(label: str, data: Sequence[Any], i: int) -> list[str]:
    kind, k, delimiter = KINDS[label]
    others = [j for j in range(len(data)) if j != i]
    worked = [data[j] for j in random.Random(1234 + i).sample(others, k)] if k else []
    item, text = data[i], ""
    for x in worked:
        if kind == "multiple_choice":
            text += x["query"] + delimiter + x["choices"][x["gold"]] + "\n\n"
        elif kind == "schema":
            text += x["context_options"][x["gold"]] + delimiter + x["continuation"] + "\n\n"
        else:
            text += x["context"].strip() + delimiter + x["continuation"] + "\n\n"
    if kind == "multiple_choice":
        return [text + item["query"] + delimiter + c for c in item["choices"]]
    if kind == "schema":
        return [text + c + delimiter + item["continuation"] for c in item["context_options"]]
    bare = text + item["context"].strip() + delimiter
    return [bare.strip(), bare + item["continuation"]]


def right(
    label: str, data: Sequence[Any], i: int, logits: Logits, encode: Any, limit: int | None = None
) -> bool:
    """Whether question i is answered rightly."""
    kind = KINDS[label][0]
    tokens = [encode(p) for p in prompts_of(label, data, i)]
    if kind == "multiple_choice":
        start = next(j for j in range(99999) if len({tuple(t[j : j + 1]) for t in tokens}) > 1)
        starts = [start] * len(tokens)
    elif kind == "schema":
        same = next(j for j in range(1, 99999) if len({t[-j] for t in tokens}) > 1) - 1
        starts = [len(t) - same for t in tokens]
    else:
        starts, tokens = [len(tokens[0])], tokens[1:]
    means = []
    for t, s in zip(tokens, starts, strict=True):
        gone = max(0, len(t) - limit) if limit else 0
        t, s = t[gone:], s - gone
        with torch.no_grad():
            logp = logits(torch.tensor([t]))[0].double().log_softmax(-1)
        if kind == "language_modeling":
            return all(int(logp[j - 1].argmax()) == t[j] for j in range(s, len(t)))
        means.append(sum(-float(logp[j - 1, t[j]]) for j in range(s, len(t))) / (len(t) - s))
    return means.index(min(means)) == data[i]["gold"]

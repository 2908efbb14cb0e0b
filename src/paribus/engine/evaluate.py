"""Evaluation of trained weights under a condition: per-item sums, totals, slices."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paribus import arrays
from paribus.contracts import Probe, Source, Task
from paribus.engine import probing
from paribus.engine.compiled import Either
from paribus.engine.net import ExternalNet, Net, make_net
from paribus.engine.ranks import ALONE, Ranks
from paribus.engine.settings import Settings, describe
from paribus.engine.totals import measured, values
from paribus.errors import SpecError, nearest
from paribus.nn import flops
from paribus.parts import dump
from paribus.spec import Model, Spec, canonical
from paribus.text.data import Data

TOKENS = 8192  # tokens of a forward pass; fixed, so that a record does not depend on free memory
WORTH = 5e15  # operations from which on an evaluation is compiled: a minute of a GPU, one by one


@dataclass(frozen=True)
class Setting:
    """A condition, resolved for a trial: what a worker needs to evaluate it."""

    id: str
    key: str
    spec: Spec
    split: str
    examples: int | None
    by: tuple[str, ...]
    every: int | None = None
    shown: int = 0  # up to so many items the record says what each asks and what is answered
    probe: Probe | None = None  # in place of the task


def evaluate(
    params: Mapping[str, Tensor],
    specs: Sequence[Spec],
    seeds: Sequence[int],
    setting: Setting,
    data: Data,
    settings: Settings,
    opened: dict[str, Any] | None = None,
    ranks: Ranks = ALONE,
) -> list[dict[str, Any]]:
    """A record for each trial of a stack: totals, per-item sums and slices of every metric.

    Args:
        params: stacked parameters [E, …].
        specs: each trial's spec as the condition evaluates it; they have one task.
        seeds: each trial's, for what its examples owe to it.
        opened: sources that are open already, by task and split; filled.
        ranks: the processes among which the passes are divided; the leader alone gets records.
    """
    if setting.probe is not None:
        return [] if ranks.rank else probing.records(params, specs, setting, data, settings)
    began = time.monotonic()
    spec = specs[0]
    opened = {} if opened is None else opened
    task = canonical([dump(spec.task), setting.split])
    if task not in opened:
        opened[task] = spec.task.open(data.bind(setting.split), settings.device)
    source = opened[task]
    size = min(source.size, setting.examples or source.size)
    length = spec.task.io().length or 1
    batch_rows = max(1, TOKENS // length)
    net, score = _scorer(specs, settings, length * size, task, opened)
    while True:
        try:
            items = _scores(net, score, params, source, seeds, size, batch_rows, ranks)
            break
        except torch.OutOfMemoryError:  # fewer rows a pass; training's batch is another matter
            if batch_rows == 1:
                raise
            batch_rows = (batch_rows + 1) // 2
            torch.cuda.empty_cache()
    if ranks.rank:
        return []
    items = {**items, **spec.task.whole(items)}
    n = size * source.parts
    slices = _slices(spec.task, source, setting, n)
    trivial = f"baselines of {task} by {setting.by}"
    if trivial not in opened:
        held = data.bind(setting.split)
        opened[trivial] = spec.task.baselines(held), spec.task.baseline_slices(held, setting.by)
    baselines, by_slice = opened[trivial]
    out = []
    for e in range(len(specs)):
        every = {name: (s[e], c[e]) for name, (s, c) in items.items()}
        own = {name: pair for name, pair in every.items() if not name.startswith("_")}
        record = measured(own, spec.task.metrics, slices)
        _within(record, every, spec.task, slices)
        if size <= setting.shown:
            record["shown"] = _shown(source.titles(0, size), spec.task.answers(every))
        record["baselines"], record["baseline_slices"] = baselines, by_slice
        groups = source.groups()
        record |= {
            "status": "done",
            "condition": setting.id,
            "key": setting.key,
            "split": setting.split,
            "size": size,
            "realised": source.realised(None, range(size)),
            "groups": arrays.pack(groups[:n]) if groups is not None else None,
            "seconds": round(time.monotonic() - began, 3),
            "engine": {
                "engine": score.engine,
                "stack": len(specs),
                "micro_batch": batch_rows,
                **describe(settings),
                "kernel": net.kernel,
            },
        }
        out.append(record)
    return out


def _scorer(
    specs: Sequence[Spec], settings: Settings, tokens: int, name: str, opened: dict[str, Any]
) -> tuple[Net | ExternalNet, Either]:
    """The stack's net, and what gives (sums, counts) of a pass by name.  Where the work is worth it
    that is compiled, and kept for further evaluations of these models under this condition; the
    work decides, not a clock, so that the same trials are always evaluated alike.

    Args:
        tokens: that are evaluated of each trial.
        name: the condition's task.
    """
    spec = specs[0]
    model, task = spec.model, spec.task
    work = 0.0
    if isinstance(model, Model):
        work = len(specs) * tokens * flops.forward(model, task.io().length or 1)["total"]
    how = spec.precision, spec.kernel
    key = canonical(["scorer", name, how, [dump(s.model) for s in specs]])
    if key in opened:
        return opened[key]  # type: ignore[no-any-return]
    net = make_net(specs, settings.device, settings.attention)

    def score(params: Any, batch: Any, ready: Any) -> dict[str, tuple[Tensor, Tensor]]:
        found = task.score(net(params, batch, ready=ready), batch)
        return {k: (sums.double(), counts.double()) for k, (sums, counts) in found.items()}

    able = work >= WORTH and isinstance(net, Net) and not net.core.looped
    made = net, Either(score, settings, able=able, dynamic=False)
    if able:
        opened[key] = made
    return made


def _scores(
    net: Net | ExternalNet,
    score: Either,
    params: Mapping[str, Tensor],
    source: Source,
    seeds: Sequence[int],
    size: int,
    rows: int,
    ranks: Ranks,
) -> dict[str, tuple[Tensor, Tensor]]:
    """(sums, counts) of each metric, and of what is called _…, [E, items], on the CPU; nothing on
    a follower.  Ranks divide the passes, each of which is what it is in one process."""
    mine: dict[str, list[tuple[Tensor, Tensor]]] = {}
    e = len(next(iter(params.values())))
    starts = range(0, size, rows)
    share = ranks.part(len(starts))
    with ranks.together(), torch.inference_mode():
        for i in starts[share.start : share.stop]:
            end = min(i + rows, size)
            batch = source.examples(i, end)
            own = {seed: source.for_trial(batch, seed) for seed in dict.fromkeys(seeds)}
            stacked = {
                k: t[None].expand(e, *t.shape)
                if all(b[k] is t for b in own.values())
                else torch.stack([own[seed][k] for seed in seeds])
                for k, t in batch.items()
            }
            ready = net.prepare(stacked, [0] * e)
            run = score if end - i == rows else score.plain  # a last, shorter pass: as it is
            for metric, pair in run(params, stacked, ready).items():
                mine.setdefault(metric, []).append(pair)
        # Brought over at the end: in each pass the processor would wait for it.
        mine = {name: [_joined(pairs)] for name, pairs in mine.items()}
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for of in ranks.gather(mine):
        for name, pairs in of.items():
            found.setdefault(name, []).extend(pairs)
    if ranks.rank:
        return {}
    return {name: _joined(pairs) for name, pairs in found.items()}


def _joined(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(sums, counts) of passes as of one, on the CPU."""
    return torch.cat([s for s, _ in pairs], 1).cpu(), torch.cat([c for _, c in pairs], 1).cpu()


def _shown(titles: list[dict[str, str]], answers: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """A row for each item: what it asks and what is answered."""
    if not titles:
        return []
    rows = zip(titles, *answers.values(), strict=True)
    return [{**title, **dict(zip(answers, map(_plain, row), strict=True))} for title, *row in rows]


def _plain(x: Any) -> Any:
    return None if isinstance(x, float) and not math.isfinite(x) else x


def _slices(
    task: Task, source: Source, setting: Setting, size: int
) -> dict[str, np.ndarray[Any, Any]]:
    known = source.slices()
    for name in setting.by:
        if name not in known:
            raise SpecError(
                f"evaluation {setting.key!r}: task {task.name} has no slice {name!r}; "
                f"{nearest(name, known)}"
            )
    return {name: known[name][:size] for name in setting.by}


def _within(
    record: dict[str, Any],
    items: Mapping[str, tuple[Tensor, Tensor]],
    task: Task,
    slices: Mapping[str, np.ndarray[Any, Any]],
) -> None:
    """Give each slice the metrics that its own items decide; a slice may have none."""
    metrics = {name: m for name, m in task.metrics.items() if m.within}
    for by, labels in slices.items() if metrics else ():
        for level in sorted(set(labels.tolist())):
            at = torch.from_numpy(labels == level)
            part = {k: (s[None, at], c[None, at]) for k, (s, c) in items.items()}
            found = {
                k: {"sum": float(s.sum()), "count": float(c.sum())}
                for k, (s, c) in task.whole(part).items()
            }
            told = record["slices"].get(f"{by}={level}", {})
            record["slices"][f"{by}={level}"] = {
                **{k: v for k, v in told.items() if k not in metrics},
                **values(found, metrics),
            }

"""Paths between columns: the same as networkx finds, and what a score of them means."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

from paribus import masks, optim, positions, presets, schedules, tasks
from paribus.contracts import IGNORE, Source
from paribus.engine.net import make_net
from paribus.errors import SpecError
from paribus.spec import Spec, resolve
from paribus.tasks import _paths
from paribus.text.data import Data


def opened(split: str = "test", **settings: Any) -> tuple[Any, Source]:
    task = tasks.join_paths(**settings)
    return task, task.open(Data(Path("nowhere")).bind(split), "cpu")


def tables_of(ids: list[int], V: int, C: int) -> list[list[int]]:
    blocks = [ids[t * (C + 1) : (t + 1) * (C + 1)] for t in range(V)]
    assert [b[0] for b in blocks] == [V * C + t for t in range(V)]
    return [b[1:] for b in blocks]


def best(tables: list[list[int]], asked: tuple[int, int]) -> list[int] | None:
    """By hand: every shortest chain of tables, every choice of shared columns along it."""
    graph: Any = nx.Graph()
    graph.add_nodes_from(range(len(tables)))
    for u, v in itertools.combinations(graph, 2):
        if set(tables[u]) & set(tables[v]):
            graph.add_edge(u, v)
    ends = [[t for t, cols in enumerate(tables) if q in cols] for q in asked]
    chains = [
        chain
        for u, v in itertools.product(*ends)
        if nx.has_path(graph, u, v)
        for chain in nx.all_shortest_paths(graph, u, v)
    ]
    if not chains:
        return None
    shortest = min(map(len, chains))
    shared = [
        [sorted(set(tables[u]) & set(tables[v])) for u, v in itertools.pairwise(chain)]
        for chain in chains
        if len(chain) == shortest
    ]
    return [*min(min(itertools.product(*each)) for each in shared), asked[1]]


@pytest.mark.parametrize(
    ("V", "C", "mode", "n"),
    [
        (1, 3, "published", 300),
        (3, 3, "published", 500),
        (5, 3, "both", 700),
        (5, 3, "balanced", 600),
        (5, 1, "both", 300),
        (20, 3, "both", 300),
        (20, 3, "balanced", 200),
    ],
)
def test_the_path_is_the_first_of_the_shortest(V: int, C: int, mode: str, n: int) -> None:
    task, source = opened(V=V, C=C, mode=mode, eval_examples=n)
    rows = source.examples(0, n)
    start, end, none = _paths.marks(V, C)
    seen = set()
    for inputs, targets in zip(rows["inputs"].tolist(), rows["targets"].tolist(), strict=True):
        *ids, q1, q2, mark = inputs[: V * (C + 1) + 4]
        assert ids[-1] == V * C + V
        assert mark == start
        path = best(tables_of(ids, V, C), (q1, q2))
        want = [none, end] if path is None else [*path, end]
        at = task.asking()
        assert targets[:at] == [IGNORE] * at
        assert targets[at:] == want + [IGNORE] * (V + 1 - len(want))
        assert inputs[at + 1 :] == (want + [end] * V)[:V]
        seen.add(0 if path is None else len(path))
    assert len(seen) >= (2 if 1 in (V, C) else 3)  # none, none needed, a join or more


def test_hops_of_the_classifier_are_joins_of_the_path() -> None:
    """Both tasks ask the same questions, in training and in evaluation."""
    both = {"V": 5, "mode": "balanced", "examples": 200, "eval_examples": 200}
    task, paths = opened(**both)
    classifier = tasks.connectivity(**both)
    told = classifier.open(Data(Path("nowhere")).bind("test"), "cpu")
    assert torch.equal(
        paths.examples(0, 200)["inputs"][:, : task.asking()].int(), told.examples(0, 200)["ids"]
    )
    length = (paths.examples(0, 200)["targets"] != IGNORE).sum(1)
    hops = told.slices()["hops"]
    assert np.array_equal(hops, paths.slices()["hops"])
    for n, h in zip(length.tolist(), hops.tolist(), strict=True):
        assert n == 2 + (int(h) if h.isdigit() else 0)
    assert paths.realised(None, range(50)) == told.realised(None, range(50))
    for seed in (1, 2):
        mine = opened("train", **both)[1].batch(seed, 3, range(40, 60))["inputs"]
        other = classifier.open(Data(Path("nowhere")).bind("train"), "cpu")
        same = other.batch(seed, 3, range(40, 60))["ids"]
        assert torch.equal(mine[:, : task.asking()].int(), same)


def test_of_an_answer_without_joins_the_goal_is_left() -> None:
    both = {"V": 5, "mode": "balanced", "eval_examples": 100}
    (task, long), (_, short) = opened(**both), opened(**both, answer="label")
    a, b = long.examples(0, 100)["targets"], short.examples(0, 100)["targets"]
    for whole, left in zip(
        a[:, task.asking() :].tolist(), b[:, task.asking() :].tolist(), strict=True
    ):
        path = [t for t in whole if t != IGNORE]
        assert left == path[-2:] + [IGNORE] * 4


def test_training_sets_are_nested() -> None:
    few, many = (opened("train", V=4, examples=n)[1].examples(0, 64)["inputs"] for n in (64, 2000))
    assert torch.equal(few, many)


def spec(**task: Any) -> Spec:
    return resolve(
        Spec(
            model=presets.gpt2(
                width=32, layers=3, heads=4, position=positions.tiled(own=4 + 3),
                mask=masks.schema_blocks(causal=True),
            ),
            task=tasks.join_paths(**{"V": 3, "mode": "balanced", **task}),
            optim=optim.adam(lr=1e-3), schedule=schedules.constant(), rows=16, steps=1,
            precision="fp64",
        )
    )  # fmt: skip


@pytest.mark.parametrize("dense", [True, False])
def test_exact_match_is_what_greedy_decoding_gives(dense: bool) -> None:
    """Of a model that has begun to learn, so that some paths are right and some are not."""
    one = spec()
    if dense:
        model = presets.gpt2(width=32, layers=2, heads=4, position=positions.learned(length=None),
                             mask=masks.causal())  # fmt: skip
        one = resolve(Spec(model=model, task=one.task, optim=one.optim, schedule=one.schedule,
                           rows=16, steps=1, precision="fp64"))  # fmt: skip
    task, (_, train) = one.task, opened("train", V=3, mode="balanced")
    net = make_net([one], "cpu", "sdpa")
    params = {k: t.requires_grad_() for k, t in net.initial([1]).items()}
    adam = torch.optim.Adam(params.values(), 3e-3)

    def run(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        out: torch.Tensor = net(params, {k: t[None] for k, t in batch.items()})
        return out

    for step in range(40):
        batch = train.batch(1, step, range(32 * step, 32 * step + 32))
        loss, count = task.loss(run(batch), {"targets": batch["targets"][None]})
        adam.zero_grad()
        (loss / count).sum().backward()  # type: ignore[no-untyped-call]
        adam.step()
    with torch.inference_mode():
        batch = opened(V=3, mode="balanced", eval_examples=200)[1].examples(0, 200)
        scores = task.score(run(batch), {"targets": batch["targets"][None]})
        at, end = task.asking(), _paths.marks(3, 3)[1]
        mine = batch["inputs"].clone()
        mine[:, at + 1 :] = 0  # nothing of the path is given
        said = torch.full_like(batch["targets"][:, at:], IGNORE)
        ended = torch.zeros(200, dtype=torch.bool)
        for step in range(task.V + 1):
            token = run({**batch, "inputs": mine})[0, :, at + step].argmax(-1)
            said[:, step] = torch.where(ended, IGNORE, token)
            ended |= token == end
            if step < task.V:
                mine[:, at + 1 + step] = token
    right = (said == batch["targets"][:, at:]).all(1)
    assert 0 < right.sum() < 200
    assert torch.equal(right, scores["exact_match"][0][0] > 0)
    none = said[:, 0] == end + 1
    label = none == (batch["targets"][:, at] == end + 1)
    assert torch.equal(label, scores["label_accuracy"][0][0] > 0)


def test_trivial_baselines() -> None:
    task, source = opened(V=5, eval_examples=2000)
    found = task.baselines(Data(Path("nowhere")).bind("test"))
    assert found.keys() == set(task.trivial)
    hops = source.slices()["hops"]
    none = float(np.isin(hops, ["absent", "unconnected"]).mean())
    assert found["none"] == {"exact_match": none, "label_accuracy": none}
    assert found["majority"]["label_accuracy"] == pytest.approx(none)
    missed = float((hops == "unconnected").mean())
    assert found["membership"]["label_accuracy"] == pytest.approx(1 - missed)
    balanced, _ = opened(V=5, mode="balanced", eval_examples=2000)
    trivial = balanced.baselines(Data(Path("nowhere")).bind("test"))
    assert trivial["membership"]["balanced_accuracy"] == trivial["majority"]["auc"] == 0.5


def test_scores_of_the_right_path_and_of_always_none() -> None:
    task, source = opened(V=4, mode="balanced", eval_examples=300)
    batch = source.examples(0, 300)
    right = batch["targets"].clamp(min=0)
    never = torch.full_like(right, _paths.marks(4, 3)[2])
    none = never.clone()
    none[:, task.asking() + 1] = _paths.marks(4, 3)[1]
    out = torch.nn.functional.one_hot(torch.stack([right, none, never]), task.io().vocab) * 50.0
    scores = task.score(out, {"targets": batch["targets"].expand(3, -1, -1)})
    scores |= task.whole(scores)
    value = {k: (s.sum(1) / c.sum(1)).tolist() for k, (s, c) in scores.items()}
    assert value["exact_match"] == [1, 0.5, 0]
    assert value["label_accuracy"] == [1, 0.5, 0.5]
    assert value["balanced_accuracy"] == [1, 0.5, 0.5]
    assert value["auc"] == [1, 0.5, 0.5]
    assert value["loss"][0] < 1e-6


def test_places_serve_tiled_positions_and_masks_along_blocks() -> None:
    task, source = opened(V=5)
    batch = source.examples(0, 2)
    slot, block = batch["pos.slot"], batch["pos.block"]
    assert slot.shape == (1, task.io().length) == batch["inputs"][:1].shape
    assert slot[0, -9:].tolist() == list(range(4, 13))  # the last three, the start, the path
    assert block[0, -9:].tolist() == list(range(5, 14))
    assert batch["pos.summary"][0, -9:].all()


def test_errors_say_which_task() -> None:
    with pytest.raises(SpecError, match=r"join_paths\.V: one table"):
        tasks.join_paths(V=1, mode="balanced")
    with pytest.raises(SpecError, match="shows later tokens"):
        resolve(
            Spec(model=presets.gpt2(width=32, layers=1, heads=4, mask=masks.full()),
                 task=tasks.join_paths(V=3), optim=optim.adam(lr=1e-3),
                 schedule=schedules.constant(), rows=4, steps=1)
        )  # fmt: skip

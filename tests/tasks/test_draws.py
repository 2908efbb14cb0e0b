"""Questions about schemas drawn for several trials together: the same as for each alone, in passes
that do not grow with the trials."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from paribus import masks, optim, positions, presets, rng, schedules
from paribus.engine.train import Trainer
from paribus.tasks import _schemas as drawing
from paribus.tasks._schemas import BLOCK, Block, Law, Schemas, drawn
from tests.engine import tiny
from tests.tasks import joins
from tests.tasks.joins import source

# (V, C, mode, hops, density), the block, and a digest of what an earlier way of drawing made of it.
KNOWN = [
    ((1, 1, "published", None, 0.5), 0, "dcbdf006c78fbf80"),
    ((3, 3, "both", None, 0.5), 3, "155456bb4073c043"),
    ((5, 3, "published", None, 0.5), 3, "340e7a2d39cc95c7"),
    ((5, 3, "both", None, 0.5), 3, "18ebf0d8f770c4a3"),
    ((5, 3, "balanced", None, 0.5), 0, "51a31e73aed6d071"),
    ((5, 3, "balanced", (0.0, 1.0, 1.0), 0.5), 3, "4ec28db5264b5322"),
    ((9, 4, "both", None, 1.0), 0, "a8d2f97a72dc3bc8"),
    ((8, 3, "balanced", None, 0.0), 3, "8076795b97a7e55b"),
    ((20, 3, "published", None, 0.5), 3, "aae0e72eecb5f0f7"),
    ((20, 4, "both", None, 0.3), 0, "48e66ea84ce78b14"),
    ((70, 1, "both", None, 0.01), 3, "79acab92e4f70626"),
]


def digest(found: Schemas) -> str:
    each = (found.cols, found.asked, found.hops)
    whole = b"".join(
        t.contiguous().numpy().tobytes() + str((t.dtype, tuple(t.shape))).encode() for t in each
    )
    return hashlib.blake2b(whole, digest_size=16).hexdigest()[:16]


def fresh(seed: int, number: int) -> Block:
    return Block((seed, "connectivity", "fresh"), number)


@pytest.mark.parametrize(("fields", "number", "known"), KNOWN, ids=str)
def test_examples_are_what_they_have_always_been(fields, number, known):
    """Also between others, of other seeds and numbers."""
    law = Law(*fields, data_seed=0)
    assert digest(drawn(law, [fresh(7, number)], "cpu")) == known
    three = drawn(law, [fresh(1, 5), fresh(7, number), fresh(7, number + 1)], "cpu")
    assert len(three) == 3 * BLOCK
    assert digest(three[BLOCK : 2 * BLOCK]) == known


def as_on_a_gpu(monkeypatch, numbers: int = drawing.ON_GPU) -> None:
    """So many numbers of candidates together, and words that the device draws."""
    monkeypatch.setattr(drawing, "ON_CPU", numbers)
    monkeypatch.setattr(
        drawing, "side_by_side", lambda streams, *how: rng.philox([s.key for s in streams], *how)
    )


@pytest.mark.parametrize(("V", "mode"), [(5, "published"), (5, "both"), (3, "balanced")])
@pytest.mark.parametrize("numbers", [1, 1 << 20, drawing.ON_GPU])
def test_how_many_are_looked_at_together_changes_nothing(V, mode, numbers, monkeypatch):
    law, blocks = Law(V, 3, mode, None, 0.5, 0), [fresh(s, n) for s in (7, 8, 9) for n in (3, 0)]
    want = drawn(law, blocks, "cpu")
    as_on_a_gpu(monkeypatch, numbers)
    assert digest(drawn(law, blocks, "cpu")) == digest(want)


# ── sources ─────────────────────────────────────────────────────────────────────────────────


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[k]) for k, t in a.items())


@pytest.mark.parametrize("mode", ["both", "balanced"])
@pytest.mark.parametrize("V", [3, 5])
def test_rows_of_a_source_that_was_told_beforehand(V, mode):
    """Seeds of which a block is there, or that stand elsewhere; rows of two blocks; told twice, of
    too many, of others."""
    how: dict[str, Any] = {"V": V, "mode": mode}

    def alone(seed: int, rows: range) -> dict[str, torch.Tensor]:
        return source("train", **how).batch(seed, 0, rows)

    found = source("train", **how)
    found.batch(2, 0, range(3 * BLOCK, 3 * BLOCK + 8))  # stands elsewhere
    found.batch(3, 0, range(1000, 1010))  # is there
    two = range(1000, 1060)
    found.expect([1, 2, 3, 2], two)
    found.expect([1, 2, 3, 2], two)
    for seed in (3, 1, 2):
        assert same(found.batch(seed, 0, two), alone(seed, two)), seed
    later = range(2 * BLOCK - 4, 2 * BLOCK)
    found.expect([1], later)
    for seed in (1, 2):
        assert same(found.batch(seed, 0, later), alone(seed, later)), seed
    assert same(found.batch(3, 0, two), alone(3, two)), "of one that was not named they stay"
    assert len(found.batch(1, 0, range(5, 5))["ids"]) == 0


def test_examples_of_a_list_are_drawn_but_once():
    """Where a step draws from a list nothing is to be told."""
    found, other = (source("train", V=3, examples=40) for _ in range(2))
    found.expect([1, 2], range(8))
    assert not found._fresh
    assert same(found.batch(1, 0, range(8)), other.batch(1, 0, range(8)))


class Passes(TorchDispatchMode):
    """Counts what torch is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("V", "mode"), [(5, "published"), (5, "both"), (3, "balanced")])
def test_passes_do_not_grow_with_the_trials(V, mode, monkeypatch):
    """On a GPU, that is: a processor looks at fewer together."""
    as_on_a_gpu(monkeypatch)
    counts = []
    for seeds in (1, 12):
        found = source("train", V=V, mode=mode)
        with Passes() as passes:
            found.expect(range(seeds), range(8))
        counts.append(passes.count)
    assert counts[1] < 1.5 * counts[0], "but for blocks that need a round more"


# ── trainers ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["both", "balanced"])
def test_batches_of_a_stack_are_those_of_its_sources(mode):
    """At the end of a block too; members of two tasks, two of which share a seed."""
    members = []
    for seed, names in ((1, "run"), (2, "run"), (1, "fixed"), (3, "fixed")):
        task = joins.task(V=3, mode=mode, names=names, batch=30)
        model = presets.gpt2(
            width=32, layers=1, heads=2, read_in="vectors", read_out="scalar",
            position=positions.tiled(), mask=masks.schema_blocks(causal=False),
        )  # fmt: skip
        how = {"schedule": schedules.constant(), "clip": None, "rows": None, "steps": 1}
        members.append(
            tiny.member(seed, tiny.spec(model=model, task=task, optim=optim.adam(lr=1e-3), **how))
        )
    trainer = Trainer(members, tiny.Settings(), joins.DATA)
    trainer._enter(0)
    told: list[tuple[list[int], range]] = []
    for found in {id(s): s for s, _ in trainer.sources}.values():
        known = found.expect

        def expect(seeds, rows, known=known):
            told.append((list(seeds), rows))
            known(seeds, rows)

        found.expect = expect
    for local, rows in ((0, range(30)), (34, range(10)), (34, range(10, 30))):
        told.clear()
        batch = trainer._batch(local, rows)
        own = range(30 * local + rows.start, 30 * local + rows.stop)
        assert told[:2] == [([1, 2], own), ([1, 3], own)]
        assert len(told) == 2, "all was drawn at once"
        for e, m in enumerate(members):
            spec = m.phases[0].spec
            alone = spec.task.open(joins.DATA.bind("train"), "cpu").batch(m.seed, local, own)
            assert same({k: t[e] for k, t in batch.items()}, alone), (local, e)

"""Questions about schemas, trained on: what models can learn by heart, stacks, and going on after
an interruption.  (A20), (A21) are acceptance checks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from paribus import masks, optim, positions, presets, schedules
from paribus.engine.checkpoint import decode, encode
from paribus.engine.evaluate import Setting, evaluate
from paribus.engine.members import Stopped
from paribus.engine.train import Hooks, Trainer
from paribus.rng import key
from paribus.spec import Spec, pack_key
from paribus.tasks._questions import Questions
from paribus.tasks._schemas import Schemas
from tests.engine import tiny
from tests.tasks import joins

ARMS: dict[str, dict[str, Any]] = {
    "standard": {"position": positions.learned(length=None), "mask": masks.causal()},
    "structured": {"position": positions.tiled(), "mask": masks.schema_blocks(causal=False)},
    "structured causal": {"position": positions.tiled(), "mask": masks.schema_blocks(causal=True)},
}
every_arm = pytest.mark.parametrize("arm", ARMS)


def spec(arm: str, task: Any, *, width: int = 64, layers: int = 4, **changes: Any) -> Spec:
    model = presets.gpt2(
        width=width, layers=layers, heads=8 if width > 32 else 2, read_in="vectors",
        read_out="scalar", **ARMS[arm],
    )  # fmt: skip
    return tiny.spec(
        model=model, task=task, optim=optim.adam(lr=1e-3), schedule=schedules.constant(),
        clip=None, rows=None, **changes,
    )  # fmt: skip


# ── A20 ─────────────────────────────────────────────────────────────────────────────────────


class ByHeart(type(joins.task())):  # type: ignore[misc]
    """The same questions with answers that are coin flips."""

    def open(self, data: Any, device: str) -> Any:
        return Flipped(self, data.split, device)


class Flipped(Questions):
    def told(self, schemas: Schemas) -> dict[str, torch.Tensor]:
        told = super().told(schemas)
        coins = [key(3, row.tobytes().hex()) % 2 for row in told["ids"].numpy()]
        return {**told, "targets": torch.tensor(coins).float()}


@pytest.mark.parametrize("arm", ["standard", "structured"])
def test_models_learn_by_heart(arm):
    """A20, in small: 12 coin flips."""
    learn(spec(arm, ByHeart(V=3, examples=12, batch=12), width=32, layers=3, steps=600), every=10)


@pytest.mark.full
@every_arm
@pytest.mark.parametrize("truth", [True, False], ids=["", "random"])
def test_every_arm_learns_64_examples_by_heart(arm, truth):
    """A20: width 64, 4 layers, lr 1e-3: all of them right within 5,000 steps, also where answers
    are coin flips."""
    part = joins.task if truth else ByHeart
    learn(spec(arm, part(V=3, examples=64, batch=64), steps=5000), every=20)


def learn(s: Spec, every: int) -> None:
    m = tiny.member(1, s)

    def known() -> bool:
        return trainer.step > 0 and trainer.step % every == 0 and accuracy(trainer) == 1

    trainer = Trainer([m], tiny.Settings(), joins.DATA, Hooks(stop=known))
    with pytest.raises(Stopped):
        trainer.run()
    assert trainer.curve(0)["loss"][0] > 0.5, "nothing was known"
    print(f"after {trainer.step} steps")


def accuracy(trainer: Trainer) -> float:
    """Of what was trained on."""
    (m,) = trainer.members
    s = m.phases[0].spec
    setting = Setting("c", "train", s, "train", s.task.examples, ())
    p = {k: t.detach() for k, t in trainer.params.items()}
    (record,) = evaluate(p, [s], [m.seed], setting, joins.DATA, tiny.Settings())
    assert record["size"] == s.task.examples
    return float(record["metrics"]["accuracy"]["value"])


# ── A21 ─────────────────────────────────────────────────────────────────────────────────────


def small(arm: str = "structured", **of_task: Any) -> Spec:
    task = joins.task(**{"V": 3, "examples": 32, "batch": 8, **of_task})
    return spec(arm, task, width=32, layers=3, steps=7)


@pytest.mark.parametrize("arm", ["standard", "structured"])
@pytest.mark.parametrize("how", [{}, {"names": "prompt"}, {"examples": None}], ids=str)
def test_going_on_after_an_interruption(how, arm, tmp_path):
    """A21: equal seeds give equal losses and weights to the bit, also through a checkpoint; the
    names are those of the beginning."""
    s = small(arm, **how)
    calm, again, torn = (tiny.member(3, s) for _ in range(3))
    tiny.train([calm])
    tiny.train([again])
    assert tiny.equal(calm, again)
    other = tiny.member(4, s)
    tiny.train([other])
    assert not tiny.equal(calm, other)
    trainer = Trainer([torn], tiny.Settings(), joins.DATA, Hooks(stop=lambda: trainer.step == 4))
    with pytest.raises(Stopped):
        trainer.run()
    for name, content in encode(*trainer.snapshot(0)).items():
        (tmp_path / name).write_bytes(content)
    torn.state = decode({n: tmp_path / n for n in ("state.safetensors", "notes.json")})
    tiny.train([torn])
    assert tiny.equal(calm, torn)


@pytest.mark.parametrize("names", ["run", "fixed", "prompt"])
def test_names_stay_in_a_continuation(names):
    """A later phase draws other rows, and its columns are called as in the first and in tests."""
    s = small(names=names)
    m = tiny.member(3, s, s)
    trainer = Trainer([m], tiny.Settings(), joins.DATA)
    trainer.run()
    trainer._enter(1)
    found = trainer._batch(0, range(8))
    ids, inputs = found["ids"][0], found["inputs"][0]
    first = s.task.open(joins.DATA.bind("train"), "cpu").batch(3, 0, range(8))
    assert not torch.equal(ids, first["ids"])
    test = s.task.open(joins.DATA.bind("test"), "cpu")
    tested = test.for_trial(test.examples(0, 40), 3)
    called = dict(zip(tested["ids"].flatten().tolist(), tested["inputs"].flatten(0, 1).tolist(),
                      strict=True))  # fmt: skip
    same = [called[i] == x for i, x in zip(ids.flatten().tolist(), inputs.flatten(0, 1).tolist(),
                                           strict=True) if i in called and i != 12]  # fmt: skip
    assert len(same) > 50
    assert all(same) if names != "prompt" else not all(same)


# ── stacks ──────────────────────────────────────────────────────────────────────────────────

DIFFERENT = {
    "examples": [{"examples": n} for n in (16, 32, None)],
    "names": [{"names": n} for n in ("run", "fixed", "prompt")],
    "mode": [{"mode": n} for n in ("published", "both", "balanced")],
    "data_seed": [{"data_seed": n} for n in (0, 1)],
    "density": [{"density": n} for n in (0.2, 0.5)],
    "hops": [{"mode": "balanced", "hops": h} for h in (None, (1.0, 0.0))],
}


@pytest.mark.parametrize(
    "what",
    ["examples", "names", "mode",
     *(pytest.param(k, marks=pytest.mark.full) for k in ("data_seed", "density", "hops"))],
)  # fmt: skip
def test_trials_that_differ_in_their_questions_are_stacked(what):
    """Each is to the bit what it is alone, with seeds that share rows and others that do not."""
    cases = [(seed, how) for how in DIFFERENT[what] for seed in (1, 2)]
    arm = "standard" if what == "mode" else "structured"
    assert len({pack_key(small(arm, **how)) for _, how in cases}) == 1
    together = [tiny.member(seed, small(arm, **how)) for seed, how in cases]
    tiny.train(together)
    for m, (seed, how) in zip(together, cases, strict=True):
        alone = tiny.member(seed, small(arm, **how))
        tiny.train([alone])
        assert tiny.equal(m, alone), (seed, how)
    losses = [str(tiny.result(m)[1]["loss"]) for m in together]
    assert len(set(losses)) == len(losses)


def test_what_changes_the_shape_is_not_stacked():
    keys = [pack_key(small(**how)) for how in ({}, {"V": 4}, {"dims": 4}, {"batch": 16})]
    assert len(set(keys)) == 4

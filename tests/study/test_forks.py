"""A trial that forks from a trunk has the bits of one that was trained alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from paribus import (
    corpora,
    optim,
    presets,
    schedules,
    tasks,
    tokenizers,
)
from paribus.engine.members import Member, Phase
from paribus.study.expand import Trial
from paribus.study.plan import Plan
from tests.engine import tiny
from tests.study.test_trunks import planned, shape, spec, wsd

TEXT = tasks.lm(corpus=corpora.stdlib(), tokenizer=tokenizers.bytes(), length=16, eval_tokens=64)
FORKED = {
    "the start of the decay": (wsd(10, 6, steps=16), {}),
    "the end of the shorter": ({"a": {"steps": 6}, "b": {"steps": 12}}, {}),
    "dropout, clipping, fp16": (
        wsd(10, 6, steps=16),
        {"model": presets.quickstart(width=32, dropout=0.1), "clip": 0.1, "precision": "fp16"},
    ),
    "momentum": (wsd(10, 6, steps=16), {"optim": optim.sgd(lr=0.1, momentum=0.9)}),
    "text": (wsd(10, 6, steps=16), {"task": TEXT}),
}
PHASED = {
    "a phase's end": {"a": {}, "b": {"more:schedule": schedules.linear()}},
    "a phase's end, reset": {
        "a": {"more:optim": "reset"},
        "b": {"more:optim": "reset", "more:task.span": 4},
    },
    "a phase's end, keep and reset": {"a": {}, "b": {"more:optim": "reset"}},
    "within the second phase": {
        "a": {"more:schedule": schedules.wsd(decay=2)},
        "b": {"more:schedule": schedules.wsd(decay=4)},
    },
    "within the second phase, reset": {
        "a": {"more:optim": "reset", "more:schedule": schedules.wsd(decay=2)},
        "b": {"more:optim": "reset", "more:schedule": schedules.wsd(decay=4)},
    },
    "frozen later": {"a": {"more:freeze": ("*.attn.q",)}, "b": {}},
}


def member(t: Trial, until: int | None = None) -> Member:
    phases = [Phase(p.name, p.spec, p.optim) for p in t.variant.phases]
    return Member(t.id, t.name, t.seed, phases, until)


def forks_bit_equal(plan: Plan, cache: Path) -> None:
    trained = {}
    for trunk in plan.forest.trunks:
        m = member(trunk.like, trunk.until)
        if trunk.parent:
            m.state = trained[trunk.parent].state
        tiny.train([m], cache)
        assert m.step == trunk.until
        trained[trunk.id] = m
    for i in plan.items:
        alone, forked = member(i.trial), member(i.trial)
        tiny.train([alone], cache)
        assert alone.reason is None
        forked.state = trained[plan.forest.parent[i.trial.id]].state
        tiny.train([forked], cache)
        assert tiny.equal(alone, forked), i.trial.name


@pytest.mark.parametrize("case", FORKED)
def test_a_fork_is_bit_equal_to_training_alone(case: str, tmp_path: Path) -> None:
    arms, base = FORKED[case]
    forks_bit_equal(planned(tmp_path, arms, spec(**base)), tmp_path)


@pytest.mark.parametrize("case", PHASED)
def test_a_fork_within_phases_is_bit_equal(case: str, tmp_path: Path) -> None:
    base = spec(schedule=schedules.wsd(decay=3), steps=8).then(
        "more", {"task.span": 16, "steps": 8, "schedule": schedules.constant(warmup=2)}
    )
    plan = planned(tmp_path, PHASED[case], base)
    assert max(shape(plan).values()) == (12 if "within" in case else 8)
    forks_bit_equal(plan, tmp_path)

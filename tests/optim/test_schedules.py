"""Schedules are pure functions; their corners are stated in the parts and held here."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from paribus import parts

schedules = parts.Namespace("schedules")
every = pytest.mark.parametrize("cls", list(parts.scan("schedules")), ids=lambda c: c.__part__)


def trace(part, total):
    return [part.factor(step, total) for step in range(total)]


def build(cls, **fields):
    known = parts.hints(cls)
    return cls(**{**getattr(cls, "example", {}), **{k: v for k, v in fields.items() if k in known}})


@every
@pytest.mark.parametrize("total", [1, 2, 7, 100])
@pytest.mark.parametrize("warmup", [0, 1, 3, 0.1, 0.5, 200])
def test_factors_stay_between_0_and_1(cls, total, warmup):
    part = build(cls, warmup=warmup, floor=0.1)
    factors = trace(part, total)
    assert all(0 < f <= 1 for f in factors)
    assert factors == trace(part, total)


@every
def test_warm_up_rises_by_equal_steps(cls):
    factors = trace(build(cls, warmup=4), 40)
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert trace(build(cls, warmup=0.1), 40)[:4] == factors[:4]
    assert all(a >= b for a, b in pairwise(factors[3:])), "then it never rises"


@every
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_the_last_step_reaches_the_floor(cls, floor):
    if "floor" not in parts.hints(cls):
        pytest.skip("has no floor")
    for total in (1, 2, 50):
        assert trace(build(cls, floor=floor), total)[-1] == pytest.approx(floor, abs=1e-15)


def test_shapes():
    assert trace(schedules.constant(), 5) == [1.0] * 5
    assert trace(schedules.linear(), 4) == [0.75, 0.5, 0.25, 0.0]
    cosine = trace(schedules.cosine(floor=0.2), 10)
    assert cosine[4] == pytest.approx(0.6)
    assert cosine[1] == pytest.approx(0.2 + 0.8 * (0.5 + 0.5 * math.cos(math.pi * 0.2)))
    assert trace(schedules.wsd(decay=0.4), 10) == pytest.approx([1.0] * 6 + [0.75, 0.5, 0.25, 0.0])
    assert trace(schedules.wsd(decay=4), 10) == trace(schedules.wsd(decay=0.4), 10)
    assert trace(schedules.wsd(decay=0.01), 5) == [1.0] * 4 + [0.0], "one step at least"

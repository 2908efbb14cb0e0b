"""Schedules are pure functions; their corners are stated in the parts and held here."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from paribus import optim, parts
from paribus.errors import SpecError
from tests.engine import tiny

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
    part = build(cls, warmup=warmup, floor=0.1, to=0.1)
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


def test_nanochats_warm_down():
    """1 up to 0.8 S, then (S − s) / 0.2 S: a continuation of 5 000 steps from 21 400 on would start
    at 0.94697; the last update is not at 0."""
    part = schedules.wsd(decay=0.2, reach=False)
    S = 26_400
    for s in (0, 10_000, 21_119, 21_120, 21_400, 26_000, S - 1):
        assert part.factor(s, S) == pytest.approx(min(1.0, (S - s) / 5280), rel=1e-12)
    assert part.factor(21_400, S) == pytest.approx(0.946970, abs=5e-7)
    assert part.factor(S, S) == 0
    assert trace(schedules.wsd(warmup=2, decay=4, reach=False), 8) == [
        0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25,
    ]  # fmt: skip


def test_going_on_as_nanochat_does_is_the_end_of_the_longer_warm_down():
    """26 400 steps in place of 21 400: the last 5 000 of them, from 0.94697 on."""
    whole = schedules.wsd(decay=0.2, reach=False)
    again = schedules.rewarm(peak=5000 / 5280, reach=False)
    for s in (0, 1, 2500, 4999):
        assert again.factor(s, 5000) == pytest.approx(whole.factor(21_400 + s, 26_400), rel=1e-12)
    assert trace(schedules.rewarm(warmup=2, peak=0.2, to=0.1), 6) == pytest.approx(
        [0.1, 0.2, 0.175, 0.15, 0.125, 0.1]
    )
    with pytest.raises(SpecError, match="above the peak"):
        schedules.rewarm(peak=0.1, to=0.2)


# ── the rate of MiniMind and ParallelMind ───────────────────────────────────────────────────

# lr/10 + lr/2 · (1 + cos(π s/S)) for update s of S: from 1.1 lr towards 0.1 lr, without warm-up.
DOCUMENTED = schedules.cosine(floor=1 / 11, reach=False)


def documented(lr, s, total):
    return lr / 10 + 0.5 * lr * (1 + math.cos(math.pi * s / total))


@pytest.mark.parametrize("total", [1, 2, 7, 1000, 32_000])
def test_the_documented_formula(total):
    """A17: it is a cosine of floor 1/11 with a peak of 1.1 lr."""
    lr = 5e-4
    for s in {0, 1, total // 3, total // 2, total - 1, total}:
        want = documented(lr, s, total)
        assert 1.1 * lr * DOCUMENTED.factor(s, total) == pytest.approx(want, rel=1e-12)
    assert 1.1 * lr * DOCUMENTED.factor(0, total) == pytest.approx(5.5e-4, rel=1e-12)
    assert 1.1 * lr * DOCUMENTED.factor(total, total) == pytest.approx(5e-5, rel=1e-12)
    last = 1.1 * lr * DOCUMENTED.factor(total - 1, total)
    above = 0.5 * lr * (1 - math.cos(math.pi / total))  # the floor comes one update later
    assert last == pytest.approx(5e-5 + above, rel=1e-9)


def test_progress_that_does_not_reach_the_floor_lags_by_one_update():
    for warmup in (0, 3):
        reach, lag = (schedules.cosine(warmup=warmup, floor=0.1, reach=r) for r in (True, False))
        assert trace(reach, 20)[:warmup] == trace(lag, 20)[:warmup]
        assert lag.factor(warmup, 20) == 1
        assert trace(reach, 20)[warmup:] == [lag.factor(s + 1, 20) for s in range(warmup, 20)]


@pytest.mark.parametrize("micro", [None, 1, 2])
def test_the_rate_that_is_trained_with_is_the_documented_one(micro):
    """A17: by optimizer step, whatever is accumulated; the first and the last are as documented."""
    m = tiny.member(1, optim=optim.adamw(lr=1.1 * 5e-4), schedule=DOCUMENTED, steps=6, rows=4)
    rates = tiny.train([m], micro=micro).curve(0)["lr"]
    assert rates == pytest.approx([documented(5e-4, s, 6) for s in range(6)], rel=1e-12)
    assert rates[0] == pytest.approx(5.5e-4, rel=1e-12)
    assert rates[5] == pytest.approx(5e-5 + 2.5e-4 * (1 - math.cos(math.pi / 6)), rel=1e-12)

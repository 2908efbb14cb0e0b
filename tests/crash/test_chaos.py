"""Calm = chaos, in two sizes; ``python -m tests.crash.chaos`` runs any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.chaos import TRIALS, chaos


def test_a_little_chaos(tmp_path: Path) -> None:
    seen = chaos(tmp_path, kills=12, schedulers=3, steps=60)
    assert seen.kills == 12


@pytest.mark.full
@pytest.mark.parametrize(("schedulers", "workers"), [(8, 1), (3, 3)])
def test_a_hundred_kills(tmp_path: Path, schedulers: int, workers: int) -> None:
    seen = chaos(tmp_path, kills=100, schedulers=schedulers, workers=workers, seed=schedulers)
    assert seen.kills >= 100
    assert seen.attempts > TRIALS, "no kill met an attempt"

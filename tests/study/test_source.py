"""Study files are executed as they are now."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import stubs


def test_an_edit_in_the_same_second_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would take the bytecode of before for that of a file of equal size and second."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for seeds in (2, 3, 4):
        plan = stubs.plan_of(stubs.study_file(tmp_path, seeds=seeds))
        assert len(plan.items) == 2 * seeds
    assert not list(tmp_path.rglob("__pycache__"))

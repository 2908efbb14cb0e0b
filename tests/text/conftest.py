"""Relative paths start in each test's own folder."""

from __future__ import annotations

import pytest

from paribus.text import paths


@pytest.fixture(autouse=True)
def base(tmp_path):
    """Relative paths start in the test's own folder."""
    paths.use_base(tmp_path)
    yield tmp_path
    paths.use_base(None)

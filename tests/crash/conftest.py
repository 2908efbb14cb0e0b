from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from paribus import parts
from paribus.text import paths


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """An empty folder, in memory where there is such a place: thousands of small homes are made."""
    memory = Path("/dev/shm")
    fits = memory.is_dir() and os.access(memory, os.W_OK)
    if not fits or shutil.disk_usage(memory).free < 2**29:
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="paribus-", dir=memory))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    """What a study file sets for its process is put back."""
    yield
    parts.use_local(None)
    paths.use_base(None)

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paribus.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "runs")
    store.declare("t1", {"lr": 0.1})
    return store


@pytest.fixture
def python(store: Store) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a process of its own that has `store` and talks by its standard streams."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        head = "import sys\nfrom pathlib import Path\nfrom paribus.store import *\n"
        head += f"store = Store(Path({str(store.home)!r}))\n"
        process = subprocess.Popen(
            [sys.executable, "-c", head + code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()

"""A corpus of parallel texts, for the tests that ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from paribus.text import paths
from paribus.text.data import Data
from tests.tasks.parallel import documents
from tests.text.helpers import jsonl


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The texts, and what is made of them once for all tests."""
    place = tmp_path_factory.mktemp("branches")
    jsonl(place / "texts.jsonl", documents())
    return place


@pytest.fixture
def texts(folder: Path) -> Iterator[None]:
    paths.use_base(folder)
    yield
    paths.use_base(None)


@pytest.fixture
def data(folder: Path) -> Data:
    return Data(folder / "cache")

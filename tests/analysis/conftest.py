from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from paribus import api, parts
from paribus.text import paths
from tests.analysis import homes
from tests.stubs import Stub, plan_of


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Stub]]:
    """A folder in which all trials of the study `shared.py` are done, `rope` being better by
    0.2 ± 0.01; nothing is to be changed in it."""
    folder = tmp_path_factory.mktemp("shared")
    stub = homes.made(folder)
    for k, name in enumerate(stub.items):
        homes.train(stub, name, 0.5 + 0.2 * name.startswith("rope") + 0.01 * (k % 3))
    homes.told(stub)
    yield folder, stub
    stub.close()


@pytest.fixture
def shared(
    shared_home: tuple[Path, Stub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stub]:
    """A copy of it, in which the test runs; the report is a word."""
    shutil.copytree(shared_home[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    monkeypatch.setattr(api.Loaded, "_html", lambda self, lang: f"<html>{lang}</html>")
    stub = Stub(plan_of(tmp_path / "shared.py"))
    yield stub
    stub.close()
    parts.use_local(None)
    paths.use_base(None)

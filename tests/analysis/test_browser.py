"""The report as a reader opens it: headless Chromium, no console error, nothing fetched."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from paribus import parts
from paribus.api import Loaded
from paribus.engine.settings import Settings
from paribus.engine.worker import Worker
from paribus.store import Store
from paribus.study import source
from paribus.study.plan import Plan, work
from paribus.text import paths

BROWSER = next(
    (b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), ""
)
STUDY = """
from paribus import *
position = Factor("position", {"none": None, "rope": positions.rope()}, "model.position")
span = Factor("span", [4, 8, 16], "task.span")
acc = metric("accuracy")
study = Study("browse", "Does <b>RoPE</b> copy better?",
    base=Spec(model=presets.quickstart(width=32), task=tasks.copying(span=8, examples=8),
              optim=optim.adamw(lr=1e-3), schedule=schedules.cosine(), rows=4, steps=6),
    factors=[position], seeds=3, evaluate=[Eval("copy", over=[span], every=2)],
    baseline=position["none"], names="{position}",
    hypotheses=dict(helps=better(position["rope"], than=position["none"], on=acc.at(span[8]))))
"""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "browse.py").write_text(STUDY)
    plan = Plan(source.load(str(tmp_path / "browse.py")).study, Store(tmp_path / "runs"))
    for trial_id, item in plan.unique.items():
        plan.store.declare(trial_id, item.trial.data)
    worker = Worker(work(plan, plan.items, 3, base=tmp_path), Settings())
    worker.say = lambda **_: None  # type: ignore[method-assign]
    assert worker.run() == 0
    yield Loaded.of(Plan(plan.study, plan.store)).write_report()
    parts.use_local(None)
    paths.use_base(None)


def test_the_report_opens_without_a_console_error(page: Path, tmp_path: Path) -> None:
    if not BROWSER:
        reason = "NO CHROMIUM: the report was not opened in a browser (tools/system-packages.sh)"
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)
    done = subprocess.run(
        [
            BROWSER,
            *"--headless --no-sandbox --disable-gpu --disable-quic --no-first-run".split(),
            *"--disable-background-networking --disable-component-update --disable-sync".split(),
            *"--enable-logging=stderr --window-size=1100,2400 --dump-dom".split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr, re.findall(r".*CONSOLE.*", done.stderr)
    dom = done.stdout
    assert "Does &lt;b&gt;RoPE&lt;/b&gt; copy better?" in dom
    assert dom.count("<svg") >= 2
    assert "helps" in dom
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", dom)

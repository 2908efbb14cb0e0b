"""Odd homes and damaged files: each a clear message, nothing lost, no manual unlock."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import paribus
from tests.crash import planted

ROOT = Path(__file__).parents[2]


def namespace() -> list[str]:
    """What gives a process mounts of its own; skips, loudly, where that is not allowed."""
    for command in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        test = [*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        if subprocess.run(test, capture_output=True, check=False).returncode == 0:
            return command
    pytest.skip("NO MOUNT NAMESPACE HERE: homes on full and read-only disks are not tested")


@pytest.mark.parametrize(
    "what", ["small", pytest.param("goes_on", marks=pytest.mark.full), "read_only"]
)
def test_a_home_in_an_odd_place(what: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*namespace(), sys.executable, "-m", "tests.crash.places", what, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_clock_that_is_days_off(tmp_path: Path) -> None:
    """Begun three days ago by one clock, finished in five days by another."""
    if shutil.which("faketime") is None:
        pytest.skip("NO faketime HERE: skewed clocks are not tested (tools/system-packages.sh)")
    study = planted.make(tmp_path)
    skewed = {**os.environ, "PLANT": "slow:200:"}
    first = subprocess.run(
        ["faketime", "-f", "-3d", *planted.command(study, "--stop-after", "6s")],
        env=skewed, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert first.returncode == 75, first.stderr
    other = {**skewed, "PLANT": ""}
    second = subprocess.run(
        ["faketime", "-f", "+5d", *planted.command(study)],
        env=other, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert second.returncode == 0, second.stderr
    code, text = planted.run(study)
    assert code == 0, text
    plan = planted.plan_of(study)
    ends = [plan.store.attempts(i.trial.id)[-1].end for i in plan.items]
    assert all(e and e["state"] == "done" for e in ends)


def test_a_home_from_a_newer_version(tmp_path: Path) -> None:
    study = planted.make(tmp_path)
    home = tmp_path / "runs"
    home.mkdir()
    (home / ".paribus").write_text("Results of paribus.\nformat 2\n")
    for verb in ("run", "status", "results"):
        done = paribus(verb, str(study))
        assert done.returncode in (1, 2), done
        assert len(done.stderr.strip().splitlines()) == 1
        assert "newer paribus" in done.stderr
        assert "format 2" in done.stderr
    assert sorted(p.name for p in home.iterdir()) == [".paribus"]


def test_damaged_files_are_named_and_nothing_else_is_lost(tmp_path: Path) -> None:
    study = planted.make(tmp_path, seeds=2)
    assert planted.run(study)[0] == 0
    plan = planted.plan_of(study)
    one, two, three, _ = (plan.store.result(i.trial.id) for i in plan.items)
    assert one
    assert two
    assert three
    record = sorted(p for p in one.evaluations.iterdir() if not p.name.endswith(".claim"))[0]
    record.write_bytes(record.read_bytes()[:-40])  # a truncated record
    end = two.path / "end"
    end.write_bytes(end.read_bytes()[:100])
    with open(three.weights, "r+b") as file:
        file.seek(200)
        file.write(b"\0damaged\0")
    shown = paribus("status", str(study))
    assert shown.returncode == 0, shown.stderr
    code, text = planted.run(study, report=True)
    assert code in (0, 1), text
    assert "Traceback" not in text
    assert str(end) in text, "the damaged end is named"
    assert f"{record} is damaged" in text
    spec = plan.store.trial_dir(plan.items[3].trial.id) / "spec.json"
    spec.write_text("{")  # what it held is known
    code, text = planted.run(study, "--retry", "failed")  # or the end is deleted, as is said
    assert code == 0, text
    assert spec.read_text() != "{"
    plan = planted.plan_of(study)
    assert all(i.done and all(c.done for c in i.cells) for i in plan.items)


def test_a_damaged_checkpoint_falls_back(tmp_path: Path) -> None:
    study = planted.make(tmp_path, steps=60)  # 18 s when it is slow
    for seconds in (7, 10, 15):  # a busy machine takes longer to begin
        code, text = planted.run(study, "--stop-after", f"{seconds}s", plant="slow:300:")
        assert code == 75, text
        plan = planted.plan_of(study)
        views = list(plan.store.attempts(plan.items[0].trial.id))
        if views and views[0].steps:
            break
    view = views[0]
    assert view.steps, "no checkpoint yet"
    manifest = view.path / "checkpoints" / str(view.steps[-1]) / "manifest"
    manifest.write_text("{")
    code, text = planted.run(study)
    assert code == 0, text
    again = plan.store.attempts(plan.items[0].trial.id)[-1]
    assert "passed over" in (again.path / "log").read_text()

"""Homes in odd places, inside a mount namespace: ``python -m tests.crash.places WHAT FOLDER``.

Run by test_places.py through ``unshare``; everything that is mounted vanishes with the process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.command import paribus
from tests.crash import planted


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def free(home: Path) -> int:
    found = os.statvfs(home)
    return found.f_bavail * found.f_frsize


def fill(folder: Path, plant: str) -> tuple[subprocess.Popen[str], Path]:
    """A run in a home of 4 MB that is full from the first checkpoint on, and waits."""
    home = folder / "runs"
    home.mkdir()
    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(home))
    study = planted.make(folder)
    process = planted.start(study, plant=plant)
    plan = planted.plan_of(study)
    end = time.monotonic() + 90
    while not any(plan.store.state(i.trial.id).last_step for i in plan.items):
        assert time.monotonic() < end, "no checkpoint"
        time.sleep(0.05)
    with open(home / "ballast", "wb", buffering=0) as file:
        while free(home) > 0:
            file.write(bytes(min(free(home), 1 << 16)))
    blocked(process, study)
    assert process.poll() is None, process.communicate()
    return process, study


def blocked(process: subprocess.Popen[str], study: Path) -> None:
    """Wait until a trial is blocked, or the run has ended."""
    end = time.monotonic() + 90
    while "blocked" not in [i.state.state for i in planted.plan_of(study).items]:
        if process.poll() is not None:
            return
        assert time.monotonic() < end, "not blocked"
        time.sleep(0.1)


def small(folder: Path) -> None:
    """While it waits for the disk: said, stopped, begun again."""
    process, study = fill(folder, "slow:150:")
    shown = paribus("status", str(study))
    assert "blocked" in shown.stdout, shown
    assert "disk" in shown.stdout, shown
    plan = planted.plan_of(study)
    assert max(i.state.last_step for i in plan.items) >= 5, "the old checkpoint is gone"
    process.send_signal(15)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 75, text
    assert "blocked: disk" in text, text
    # Begun on a full disk it waits as well, or says so at once.
    process = planted.start(study)
    assert process.stderr is not None
    text = ""
    for line in process.stderr:  # its worker has nothing yet that could read as blocked
        text += line
        if "blocked: disk" in line:
            process.send_signal(15)
            break
    text += process.communicate(timeout=60)[1]
    assert process.returncode == 75, text
    assert "No space left on device" in text, text
    assert "Traceback" not in text, text
    (folder / "runs" / "ballast").unlink()
    code, text = planted.run(study)
    assert code == 0, text


def goes_on(folder: Path) -> None:
    """A run that waits goes on by itself when space is back."""
    process, _ = fill(folder, "slow:100:")
    (folder / "runs" / "ballast").unlink()
    _, text = process.communicate(timeout=90)
    assert process.returncode == 0, text
    assert "goes on" in text, text


def read_only(folder: Path) -> None:
    """Nothing to do: fine.  Something to do: one line, before anything is trained."""
    study = planted.make(folder)
    code, text = planted.run(study)
    assert code == 0, text
    home = folder / "runs"
    mount("--bind", str(home), str(home))
    mount("-o", "remount,ro,bind", str(home))
    for verb in ("status", "results", "verdicts", "plan"):
        done = paribus(verb, str(study))
        assert done.returncode == 0, done
    done = paribus("run", str(study), "--seeds", "2")
    assert done.returncode in (1, 2), done
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert "Read-only file system" in lines[0] or "read-only" in lines[0], lines
    assert str(home) in lines[0], lines


if __name__ == "__main__":
    {"small": small, "goes_on": goes_on, "read_only": read_only}[sys.argv[1]](Path(sys.argv[2]))

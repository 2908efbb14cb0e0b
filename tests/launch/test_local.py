"""Workers as processes: how they are told their work, and that none is missed by a stop."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paribus.engine.settings import Settings
from paribus.launch import local, processes
from paribus.launch.processes import Process
from paribus.launch.progress import Progress
from paribus.store import Store

SEEN = "CUDA_VISIBLE_DEVICES"
LATE = """
import sys, time
time.sleep(2)  # as one that loads torch
print(len(sys.stdin.readline()), sys.stdin.readline().strip(), repr(sys.stdin.readline()))
"""


def python(code: str) -> Process:
    pipe = subprocess.PIPE
    return Process([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe)


def test_nobody_waits_for_a_process_that_does_not_read_yet() -> None:
    """Its work is longer than a pipe holds: the others were started only when it had read it."""
    process = python(LATE)
    began = time.monotonic()
    process.tell({"work": "x" * 1_000_000}, more=True)
    process.tell({"more": 1})
    assert time.monotonic() - began < 1
    assert process.stdout
    assert process.stdout.read().decode().split() == ["1000013", '{"more":', "1}", "''"]
    assert process.wait(30) == 0


def test_one_that_has_ended_is_told_in_vain() -> None:
    process = python("")
    process.wait(30)
    process.tell({"work": "x" * 1_000_000})
    assert process._telling is not None
    process._telling.join(30)
    process.no_more()


def test_a_stop_while_a_worker_is_started_reaches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = local.Crew(Store(tmp_path), "x@main", Progress({}, None), local.Limits())

    def start(module: str, told: Mapping[str, Any], *, more: bool) -> Process:
        process = python("import time; time.sleep(60)")
        crew.stop("SIGTERM")  # what a signal's handler does, before the slot knows the process
        return process

    monkeypatch.setattr(processes, "start", start)
    slot = local.Slot(1, "cpu")
    crew.slots = [slot]
    crew._spawn(slot, local.WORKER, {})
    assert slot.process is not None
    assert slot.process.wait(timeout=30) == -signal.SIGTERM


OVER = """
import os, sys, time
sys.stdin.readline()
print('{"event": "start", "trials": ["t"], "name": "t", "step": 0, "total": 1}', flush=True)
print('{"event": "over"}', flush=True)
if sys.argv[1] == "talks":
    sys.stderr.write("x" * 1_000_000)  # more than a pipe holds
if sys.argv[1] == "hangs":
    time.sleep(600)
os._exit(3)
"""


@pytest.mark.parametrize("how", ["ends", "talks", "hangs"])
def test_a_worker_with_nothing_left_is_not_waited_for(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process ends while others work, or while the report is made; how it ends says nothing.
    The run's own end waits for it, not for ever."""
    at_end: list[Any] = []
    monkeypatch.setattr(atexit, "register", at_end.append)
    monkeypatch.setattr(processes, "PATIENCE", 10.0 if how == "talks" else 1.0)

    def start(module: str, told: Mapping[str, Any], *, more: bool) -> Process:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", OVER, how if told["settings"]["device"] == "mps" else ""]
        process = Process(command, stdin=pipe, stdout=pipe, stderr=pipe)
        process.tell(told)
        return process

    monkeypatch.setattr(processes, "start", start)
    slots = [local.Slot(1, "cpu"), local.Slot(2, "mps")]
    began = time.monotonic()
    with local.Crew(Store(tmp_path), "x@main", Progress({}, None), local.Limits()) as crew:
        crew.work({"packs": []}, {}, slots)
    for end in at_end:
        end()
    assert time.monotonic() - began < 30
    assert (crew.errors, [s.over for s in slots]) == ([], [True, True])
    codes = [s.process.poll() for s in slots if s.process is not None]
    killed = [code == -signal.SIGKILL for code in codes]
    assert None not in codes and sum(killed) == (how == "hangs")
    assert [s.running for s in slots] == [None, None]  # nobody misses its steps


@pytest.mark.parametrize(
    ("shown", "device", "seen"),
    [(None, "cuda:3", "3"), ("4,6", "cuda:1", "6"), ("GPU-a, GPU-b", "cuda:1", "GPU-b")],
)
def test_a_process_of_one_gpu_sees_it_alone(
    shown: str | None, device: str, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was compiled on one GPU serves on all: torch keeps it by the device's number."""
    monkeypatch.delenv(SEEN, raising=False)
    if shown is not None:
        monkeypatch.setenv(SEEN, shown)
    at = local.settings_at(local.Slot(1, device), {"threads": 2})
    settings = Settings(**at)
    assert (settings.device, settings.known, settings.devices) == ("cuda:0", device, ())
    env = processes.environment(at, Path("home"))
    assert (env[SEEN], env["OMP_NUM_THREADS"]) == (seen, "2")


def test_others_see_what_the_launcher_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SEEN, "4,6")
    for slot in (local.Slot(1, "cpu"), local.Slot(1, "mps"), local.Slot(1, "cuda:0", ("cuda:1",))):
        at = local.settings_at(slot, {})
        assert (at["device"], Settings(**at).known) == (slot.device, slot.device)
        assert processes.environment(at, Path("home"))[SEEN] == "4,6"


@pytest.mark.parametrize(
    ("there", "writes", "may", "said"),
    [
        (False, True, True, False),  # Python keeps it itself
        (False, True, False, True),  # a folder of somebody else
        (False, False, True, True),  # told not to write any
        (True, False, False, False),
    ],
)
def test_a_torch_without_bytecode_is_named(
    there: bool, writes: bool, may: bool, said: bool,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Each process compiles all of it anew, ten seconds with its compiler."""
    torch = tmp_path / "torch"
    torch.mkdir()
    cached = torch / "__pycache__" / "__init__.cpython-311.pyc"
    if there:
        cached.parent.mkdir()
        cached.touch()
    spec = SimpleNamespace(cached=str(cached), origin=str(torch / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", not writes)
    monkeypatch.setattr(os, "access", lambda folder, how: may and Path(folder) == torch)
    note = processes.without_bytecode()
    assert bool(note) == said
    assert not said or f"compileall -q {tmp_path}`" in note

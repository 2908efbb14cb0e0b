"""Processes of the engine: how they are started, in which environment, and told their work."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

PATIENCE = 10.0  # seconds that one has which ends by itself


class Process(subprocess.Popen[bytes]):
    """A process of Python that is told its work on its standard input.

    It is told by a thread: a pipe holds 64 KB, and while one process loads torch and reads nothing
    the others are to be started, and signals heard.
    """

    _telling: threading.Thread | None = None

    def tell(self, told: Mapping[str, Any], *, more: bool = False) -> None:
        """Say a line, the last one unless there may be more."""

        def say(before: threading.Thread | None) -> None:
            if before is not None:
                before.join()
            with suppress(BrokenPipeError, ValueError):  # it has ended; no more was to be said
                assert self.stdin
                self.stdin.write(json.dumps(told).encode() + b"\n")
                self.stdin.flush()
            if not more:
                self.no_more()

        name = f"paribus tells {self.pid}"
        self._telling = threading.Thread(target=say, args=(self._telling,), name=name, daemon=True)
        self._telling.start()

    def leave(self) -> None:
        """Let it end by itself, unheard; at the end of this process it is waited for, so that what
        it took is part of what the run took, and killed after PATIENCE seconds from now on."""
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()  # nobody reads, and a full pipe would hold it
        until = time.monotonic() + PATIENCE

        def end() -> None:
            try:
                self.wait(max(0.0, until - time.monotonic()))
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                self.kill()
                self.wait()

        atexit.register(end)

    def no_more(self) -> None:
        with suppress(BrokenPipeError):
            assert self.stdin
            self.stdin.close()


def start(module: str, told: Mapping[str, Any], *, more: bool = False) -> Process:
    """A process of Python that is told this, and may be told more."""
    process = Process(
        [sys.executable, "-m", "paribus.engine.process", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(told["settings"], Path(told["work"]["home"])),
        start_new_session=True,  # a terminal's Ctrl-C reaches the launcher alone
    )
    process.tell(told, more=more)
    return process


def environment(settings: Mapping[str, Any], home: Path) -> dict[str, str]:
    """Threads, GPUs numbered as nvidia-smi numbers them, the one GPU that a process is to see, and
    where compiled code is kept, so that no worker and no later run compiles again what one has."""
    usual = {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "TORCHINDUCTOR_CACHE_DIR": str(home.absolute() / "cache" / "compiled"),
    }
    threads = str(settings.get("threads", 1))
    own = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if (gpu := settings.get("gpu")) is not None:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        own["CUDA_VISIBLE_DEVICES"] = str(gpu) if shown is None else shown.split(",")[gpu].strip()
    return {**usual, **os.environ, **own}


def without_bytecode() -> str:
    """What to say where Python compiles all of torch and its compiler anew in each process, which
    takes some ten seconds: they were installed without bytecode, and none is or may be written."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.cached or os.path.exists(spec.cached):
        return ""
    place = Path(spec.cached).parent
    while not place.is_dir():
        place = place.parent
    if not sys.dont_write_bytecode and os.access(place, os.W_OK):
        return ""  # Python keeps it from the first import on
    packages = Path(spec.origin or "torch").parents[1]  # what torch imports lacks it as well
    return (
        "torch is installed without Python's bytecode, so every worker compiles it for some ten "
        f"seconds; `python -m compileall -q {packages}` ends that, or PYTHONPYCACHEPREFIX=<folder> "
        "without PYTHONDONTWRITEBYTECODE"
    )

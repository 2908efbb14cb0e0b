"""Processes of the engine: how they are started, in which environment, and told their work."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


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
    if _never_kept():
        own |= {
            "PYTHONPYCACHEPREFIX": str(home.absolute() / "cache" / "bytecode"),
            "PYTHONDONTWRITEBYTECODE": "",
        }
    return {**usual, **os.environ, **own}


def _never_kept() -> bool:
    """Whether Python compiles all of torch and its compiler anew in each process, which takes some
    ten seconds: they were installed without bytecode, where none is or may be written."""
    spec = importlib.util.find_spec("torch")
    if sys.pycache_prefix or spec is None or not spec.cached or os.path.exists(spec.cached):
        return False
    folder = Path(spec.cached).parent
    folder = folder if folder.is_dir() else folder.parent
    return sys.dont_write_bytecode or not os.access(folder, os.W_OK)

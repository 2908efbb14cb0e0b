"""Other programs, asked with a time limit: git, nvidia-smi, a second Python.  Torch-free.

A program that hangs (a GPU driver, a network file system) must not hang paribus: one that does not
answer in time is killed and left behind, not waited for.
"""

from __future__ import annotations

import hashlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Answer:
    """What a program said.

    out: its standard output, at most the asked number of bytes; size: how many bytes it wrote.
    sha256: of everything it wrote; "" if it did not come to its end.
    trouble: one line, "" if it ended with code 0.
    """

    out: bytes
    size: int
    sha256: str
    trouble: str

    @property
    def text(self) -> str:
        return self.out.decode(errors="replace").strip()


def ask(
    command: Sequence[str],
    *,
    seconds: float = 10.0,
    cwd: Path | None = None,
    environment: Mapping[str, str | None] | None = None,
    keep: int = 1 << 20,
) -> Answer:
    """Run `command` without a terminal, for at most `seconds`; the first `keep` bytes are kept.

    `environment` is added to this process's; None takes a variable away.  Nothing is raised: what
    went wrong is `trouble`.
    """
    name = command[0]
    variables = {**os.environ, "LC_ALL": "C", **(environment or {})}
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={name: value for name, value in variables.items() if value is not None},
            start_new_session=True,
        )
    except FileNotFoundError:
        where = "" if cwd is None or cwd.is_dir() else f" (no folder {cwd})"
        return Answer(b"", 0, "", f"{name} is not installed{where}")
    except OSError as error:
        return Answer(b"", 0, "", f"{name} cannot be started: {error.strerror or error}")
    assert process.stdout and process.stderr
    end = time.monotonic() + seconds
    out, said, size, digest = bytearray(), bytearray(), 0, hashlib.sha256()
    with process.stdout, process.stderr, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        while selector.get_map() and time.monotonic() < end:
            for key, _ in selector.select(end - time.monotonic()):
                if not (chunk := os.read(key.fd, 1 << 16)):
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stdout:
                    size += len(chunk)
                    digest.update(chunk)
                    out += chunk[: max(0, keep - len(out))]
                else:
                    said += chunk[: max(0, 4096 - len(said))]
        whole = not selector.get_map()
    if whole:
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(max(0.0, end - time.monotonic()))
            wrong = _trouble(name, code, bytes(said or out))  # some say it on standard output
            return Answer(bytes(out), size, digest.hexdigest(), wrong)
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(0.5)  # one that waits for a device does not even die
    return Answer(bytes(out), size, "", f"{name} did not answer in {seconds:g} s")


def _trouble(name: str, code: int, said: bytes) -> str:
    """One line on a program that ended with `code`."""
    if code == 0:
        return ""
    lines = said.decode(errors="replace").strip().splitlines()
    ended = f"signal {-code}" if code < 0 else f"code {code}"
    return f"{name}: {lines[-1].strip()}" if lines else f"{name} ended with {ended}"

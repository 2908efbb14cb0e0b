"""Who holds a claim, and whether that process is still there.

On one machine this is known at once: the process id together with the process's start time is
never reused within a boot.  A claim from elsewhere (another machine, another container's process
ids) cannot be judged by this; `workers.Watch` judges it by its beat.
"""

from __future__ import annotations

import datetime
import functools
import os
import secrets
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from paribus.store.files import StoreError

_PROC = Path("/proc")


def now() -> str:
    """The time as ISO 8601 with its zone, to the second.  For people; nothing is decided by it."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def identity(worker: str) -> dict[str, Any]:
    """A claim's content: this process, named so that others can tell whether it still lives.

    `token` is fresh each time and makes each claim's bytes its own.
    """
    looked = _look(os.getpid())
    if looked is None or not place()["boot"]:
        raise StoreError("this system does not tell processes apart: no work can be claimed here")
    return {
        **place(),
        "worker": worker,
        "pid": os.getpid(),
        "start": looked[0],
        "at": now(),
        "token": secrets.token_hex(8),
    }


def mine(claim: Mapping[str, Any], worker: str) -> bool:
    """Whether this very process wrote `claim` in the name of `worker`."""
    own = identity(worker)
    return all(claim.get(key) == own[key] for key in ("boot", "pidns", "pid", "start", "worker"))


def judge(claim: Mapping[str, Any]) -> tuple[bool, str]:
    """(lost, reason): whether the process that wrote `claim` is gone for certain."""
    alive, reason = look(claim)
    return alive is False, reason


def look(claim: Mapping[str, Any]) -> tuple[bool | None, str]:
    """(alive, reason) of the process that wrote `claim`; None if it cannot be seen from here."""
    here = place()
    pid, host = claim["pid"], claim["host"]
    who = f"process {pid} on {host} (worker {claim['worker']})"
    if claim["boot"] != here["boot"]:
        # Images are cloned with their machine id, and names are reused: only both together are
        # taken for the same machine.
        if here["machine"] and (claim["machine"], host) == (here["machine"], here["host"]):
            return False, f"{who} ended when the machine was restarted"
        return None, f"{who}: another machine, so it cannot be seen from here whether it lives"
    if claim["pidns"] != here["pidns"]:
        return None, f"{who}: another container, so it cannot be seen from here whether it lives"
    try:
        looked = _look(pid)
    except PermissionError:
        return None, f"{who}: hidden by the system, so it cannot be seen whether it works"
    if looked is None:
        return False, f"{who} is gone"
    start, state = looked
    if start != claim["start"]:
        return False, f"{who} is gone, and its number is another process's now"
    if state in ("Z", "X"):
        return False, f"{who} is dead"
    return True, who


def asleep(claim: Mapping[str, Any]) -> bool:
    """Whether the process that wrote `claim` was stopped (SIGSTOP, Ctrl-Z), as far as is seen."""
    here = place()
    if any(claim.get(key) != here[key] for key in ("boot", "pidns")):
        return False
    with suppress(OSError):
        looked = _look(claim["pid"])
        return looked is not None and looked == (claim["start"], "T")
    return False


@functools.cache
def place() -> Mapping[str, str]:
    """This boot of this machine: host, machine id, boot id and process-id namespace."""
    if (_PROC / "self/stat").exists():
        boot = _first_line(_PROC / "sys/kernel/random/boot_id")
        pidns = os.readlink(_PROC / "self/ns/pid")
    else:  # macOS
        boot, pidns = _output("sysctl", "-n", "kern.bootsessionuuid"), ""
    machine = _first_line(Path("/etc/machine-id"))
    return {"host": socket.gethostname(), "machine": machine, "boot": boot, "pidns": pidns}


def _look(pid: int) -> tuple[str, str] | None:
    """(start time, state letter) of a process, None if there is none.

    A system may hide other users' entries, and a hidden process is not a dead one: that is a
    PermissionError.
    """
    if not _exists(pid):
        return None
    if (_PROC / "self/stat").exists():
        with suppress(FileNotFoundError, ProcessLookupError):
            # The command's name stands in parentheses and may itself hold spaces and parentheses.
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
            return fields[19], fields[0]
    else:  # macOS
        state, _, start = _output("ps", "-o", "stat=,lstart=", "-p", str(pid)).partition(" ")
        if state:
            return start.strip(), state[:1]
    if _exists(pid):
        raise PermissionError(f"process {pid} is hidden")
    return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's
    return True


def _first_line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""

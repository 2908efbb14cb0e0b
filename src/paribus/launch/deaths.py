"""Why a worker died, and what that costs its trials."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paribus.engine.budget import OutOfMemory
from paribus.store import Store

# Signals that a process brings upon itself.  Any other comes from outside and costs nothing.
OWN_FAULT = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)


def oom_kills() -> int:
    """How often the kernel has killed a process of this control group for want of memory."""
    text = ""
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return 0
    for line in groups:
        _, kinds, path = line.split(":", 2)
        root = "/sys/fs/cgroup"
        places = (
            [f"{root}/memory{path}/memory.oom_control", f"{root}/memory/memory.oom_control"]
            if "memory" in kinds.split(",")
            else [f"{root}{path}/memory.events", f"{root}/memory.events"]
            if not kinds
            else []
        )
        for place in places:
            try:
                text += Path(place).read_text()
                break
            except OSError:
                continue
    return sum(int(n) for k, _, n in (x.partition(" ") for x in text.splitlines())
               if k == "oom_kill")  # fmt: skip


def charge(
    store: Store, pid: int, code: int, running: Mapping[str, Any] | None, oom: bool
) -> tuple[str, list[dict[str, Any]]]:
    """Say what a worker's death means to the trials that it held: in words, and the ends that
    were published.

    `code` is negative for a signal; `running` is its last "start" event; `oom`: the kernel has
    killed for want of memory meanwhile.
    """
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    said = f"worker {pid} ended with {name}"
    if running is None:
        return said, []
    state, reason, info = "", "", {}
    if code == -signal.SIGKILL and oom:
        error = OutOfMemory(len(running["trials"]), running["micro"], running["halvings"])
        less = error.less()
        reason = f"host: {error} (killed by the kernel)"
        said = f"{said}: {reason}"
        state = "out of memory" if less is None else "released"
        info = {} if less is None else {"oom": {**less, "device": running["device"]}}
    elif code >= 0 or -code in OWN_FAULT:  # its trials had not ended: their code ended it
        state, reason = "failed", f"its worker {'died of' if code < 0 else 'ended with'} {name}"
    if not state:
        return said, []
    ends = [
        {"event": "end", "trial": t, "name": running["name"], "state": state, "reason": reason}
        for t in running["trials"]
        if store.end_for_dead(t, pid, state, reason, **info)
    ]
    return said, ends if state != "released" else []

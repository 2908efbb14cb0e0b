"""Who runs a study now, and whether somebody has asked for a stop.

studies/<instance>/runs/<id> says who runs it and is removed at the end of the run; what a killed
run leaves is told from a living one by its process.  studies/<instance>/stop holds a token: a run
notes it when it begins and stops when it has changed.  Nothing is decided by a clock.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paribus.store import owners
from paribus.store.files import (
    DiskError,
    StoreError,
    check_id,
    disk,
    encode,
    names,
    publish,
    read,
    replace,
)


@dataclass(frozen=True)
class RunView:
    """A run of a study: `identity` as in a claim (host, pid, at, ...); `alive` is None if that
    cannot be seen from here; `what` is what `begin_run` was told."""

    id: str
    identity: dict[str, Any]
    alive: bool | None
    what: dict[str, Any]


def views(study: Path) -> list[RunView]:
    """The runs of a study that have not said that they ended, oldest first."""
    found = []
    for name in names(study / "runs"):
        try:
            content = read(study / "runs" / name)
        except DiskError:
            raise
        except StoreError:
            continue  # for the eye only: a damaged one is no reason to fail
        if content is not None and "pid" in content.get("identity", {}):
            who = content["identity"]
            found.append(RunView(name, who, owners.look(who)[0], content.get("what", {})))
    return sorted(found, key=lambda run: (str(run.identity.get("at")), run.id))


def begin(study: Path, what: Mapping[str, Any]) -> str:
    """Say that this process runs the study; returns the id for `end`.  What runs that were
    killed have left is removed."""
    run = secrets.token_hex(4)
    folder = study / "runs"
    for old in views(study):
        if old.alive is False:
            with suppress(OSError):
                os.unlink(folder / old.id)
    content = encode({"identity": owners.identity(f"run-{run}"), "what": dict(what)})
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        publish(folder, run, content)
    except DiskError:
        # Called again it takes another id: this one may stand all the same.
        with suppress(OSError):
            os.unlink(folder / run)
        raise
    return run


def tell(study: Path, run: str, what: Mapping[str, Any]) -> None:
    """Change what a run of this process says of itself."""
    path = study / "runs" / check_id("run", run)
    old = read(path) or {}
    replace(path, encode({**old, "what": {**old.get("what", {}), **what}}))


def end(study: Path, run: str) -> None:
    path = study / "runs" / check_id("run", run)
    with disk(path):
        path.unlink(missing_ok=True)


def ask_stop(study: Path, now: bool) -> None:
    content = {"token": secrets.token_hex(8), "now": bool(now), "at": owners.now()}
    with disk(study):
        study.mkdir(parents=True, exist_ok=True)
    replace(study / "stop", encode(content))


def stop_asked(study: Path) -> dict[str, Any] | None:
    return read(study / "stop")

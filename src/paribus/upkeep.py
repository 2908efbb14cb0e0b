"""Keeping a home in order: stop runs, free space.  Torch-free."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paribus.asked import opened
from paribus.cli import FAILED, OK, emit
from paribus.errors import SpecError
from paribus.grid import size
from paribus.store import DiskError, Store, find_home
from paribus.store.attempts import FINAL
from paribus.store.gc import Removal
from paribus.store.runs import RunView

SHOWN = 40  # removals that are listed one by one


# ── stop ────────────────────────────────────────────────────────────────────────────────────


def do_stop(o: Namespace, sleep: Callable[[float], None] = time.sleep) -> int:
    found, store = opened(o)
    instance = found.study.instance
    runs = at_work(store, instance)
    if not runs:
        print(f"nothing runs {instance} in {store.home}")
        return OK
    try:
        store.ask_stop(instance, o.now)
    except DiskError as error:
        print(f"paribus: {error}: the runs cannot be told", file=sys.stderr)
        for r in runs:
            pid, host = r.identity["pid"], r.identity["host"]
            print(f"on {host}: kill -TERM {pid}   ({_who(r)})", file=sys.stderr)
        return FAILED
    how = "without waiting for checkpoints" if o.now else "with checkpoints"
    print(f"asked to stop {how}:")
    for r in runs:
        unseen = "; it cannot be seen from here, so its own word is waited for"
        print(f"  {_who(r)}{unseen if r.alive is None else ''}", flush=True)
    asked = {r.id: r for r in runs}
    while asked:
        left = {r.id for r in at_work(store, instance)}
        for run in [k for k in asked if k not in left]:
            print(f"ended: {_who(asked.pop(run))}", flush=True)
        if asked:
            sleep(0.5)
    return OK


def at_work(store: Store, instance: str) -> list[RunView]:
    """The runs of a study that are not known to be gone."""
    return [r for r in store.runs(instance) if r.alive is not False]


def _who(r: RunView) -> str:
    command = f": {r.what['command']}" if r.what.get("command") else ""
    return f"process {r.identity['pid']} on {r.identity['host']}{command}"


# ── gc ──────────────────────────────────────────────────────────────────────────────────────


def do_gc(o: Namespace) -> int:
    home = Path(o.home).absolute() if o.home else find_home(None)
    if not (home / "trials").is_dir() and not (home / ".paribus").exists():
        raise SpecError(f"gc: {home} is no home of results; name one with --home")
    store = Store(home)
    removals = store.gc(keep_trunks=needed_trunks(store))
    total = sum(r.bytes for r in removals)
    asking = bool(removals) and not (o.dry_run or o.yes)
    if asking and (o.json or not sys.stdin.isatty()):
        raise SpecError(
            f"gc: {len(removals)} things of {size(total)} would go; confirm with --yes, or see "
            "them with --dry-run"
        )
    if not o.json:
        _list(home, removals, total)
    go = bool(removals) and not o.dry_run and (o.yes or _agreed(total))
    freed = store.remove(removals) if go else 0
    if o.json:
        emit(
            {
                "home": str(home),
                "bytes": total,
                "freed": freed,
                "removed": go,
                "removals": [
                    {"path": str(r.path), "bytes": r.bytes, "why": r.why} for r in removals
                ],
            }
        )
    elif go:
        print(f"freed {size(freed)}")
    return OK


def _list(home: Path, removals: Sequence[Removal], total: int) -> None:
    if not removals:
        print(f"{home}: nothing that could go")
        return
    for r in sorted(removals, key=lambda r: (-r.bytes, r.path))[:SHOWN]:
        place = r.path.relative_to(home) if r.path.is_relative_to(home) else r.path
        print(f"{size(r.bytes):>8}  {place}  {r.why}")
    if len(removals) > SHOWN:
        print(f"… {len(removals) - SHOWN:,} more; --json has all of them")
    print(f"{size(total):>8}  in all, of {home}")


def _agreed(total: int) -> bool:
    return input(f"Remove them and free {size(total)}? [y/N] ").strip().lower() in ("y", "yes")


def needed_trunks(store: Store) -> set[str]:
    """Ids of the trunks that an unfinished trial of any study may still fork from: its own, and
    while that is unfinished itself the one that it begins with."""
    trials: dict[str, str] = {}
    parents: dict[str, str] = {}
    for instance in store.studies():
        study: Mapping[str, Any] = store.read_study(instance) or {}
        for trunk in study.get("trunks") or ():
            if trunk.get("parent"):
                parents[trunk["id"]] = trunk["parent"]
        for trial in study.get("trials") or ():
            if trial.get("trunk"):
                trials[trial["id"]] = trial["trunk"]
    needed: set[str] = set()
    for trial, trunk in trials.items():
        unit: str | None = trial
        while unit is not None and not _finished(store, unit):
            unit = trunk if unit == trial else parents.get(unit)
            if unit is None or unit in needed:
                break
            needed.add(unit)
    return needed


def _finished(store: Store, unit: str) -> bool:
    state = store.state(unit)
    return state.end is not None and state.end["state"] in FINAL and not state.retired

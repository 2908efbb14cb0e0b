"""A study's own folder: what was registered, how it was amended, the plan, readable names.

study.json and plan.json are pictures: made anew at every run, replaced by rename.  What must not
change under the reader's eyes is the registration: once results were seen, another one is an
amendment beside the original, which stays.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paribus.store.files import StoreError, disk, encode, names, publish, read, replace
from paribus.store.owners import now


def check_instance(instance: str) -> str:
    """`instance` if it has the form name@scale, else a StoreError."""
    name, at, scale = instance.partition("@")
    if not (name and at and scale) or "/" in instance or "@" in scale or instance.startswith("."):
        raise StoreError(f"study {instance!r}: a study's folder is named name@scale")
    return instance


def write(folder: Path, study: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Write study.json and plan.json; see Store.write_study."""
    momentary = ("results_seen", "seen_trials")
    content = read_back({key: value for key, value in study.items() if key not in momentary})
    seen = int(study.get("results_seen", 0))
    path = folder / "study.json"
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    old = read(path)
    if old is None and seen:
        content |= {"seen_at_registration": seen, "seen_trials": list(study.get("seen_trials", ()))}
    if old is not None:
        content |= {k: old[k] for k in ("seen_at_registration", "seen_trials") if k in old}
        _register(folder, old, content, seen)
    content["amendments"] = amendments(folder)
    volatile = set(content.get("volatile", ()))
    if old is None or any(
        old.get(key) != content.get(key) for key in (old.keys() | content.keys()) - volatile
    ):
        replace(path, encode(content))
    try:
        same = read(folder / "plan.json") == read_back(plan)
    except StoreError:  # a damaged picture is made again
        same = False
    if not same:
        replace(folder / "plan.json", encode(plan))


def _register(folder: Path, old: Mapping[str, Any], content: dict[str, Any], seen: int) -> None:
    """Put the original registration, hash and definitions into the content as soon as results were
    seen; what differs from them, and from the amendments so far, is published as an amendment.

    Definitions say what an arm or a condition was.  One that is new extends the grid; one that
    means something else under its old name is an amendment.
    """
    amended = amendments(folder)
    if not seen and not amended:
        return
    new, was = content.get("registration"), old.get("definitions", {})
    known = dict(was)
    for amendment in amended:
        known |= amendment.get("definitions", {})
    changed = redefined(known, content.get("definitions", {}))
    if new != (amended[-1]["registration"] if amended else old.get("registration")) or changed:
        mark = content.get("registration_hash")
        amendment = {"at": now(), "registration": new, "results_seen": seen, "hash": mark}
        amendment |= {"definitions": changed} if changed else {}
        _publish(folder / "amendments", amendment)
    content["registration"] = old.get("registration")
    if "definitions" in content:
        content["definitions"] = content["definitions"] | was
    if "registration_hash" in old:  # the grid may have grown: it was not that of then
        content["registration_hash"] = old["registration_hash"]


def redefined(known: Mapping[str, str], now_: Mapping[str, str]) -> dict[str, str]:
    """The definitions that are known and mean something else now."""
    return {name: mark for name, mark in now_.items() if known.get(name, mark) != mark}


def _publish(place: Path, amendment: Mapping[str, Any]) -> None:
    with disk(place):
        place.mkdir(exist_ok=True)
    k = max(numbers_of(place), default=0) + 1
    # Another process of the same study may be writing the same amendment: one of it is enough.
    same = ("registration", "definitions")
    while not publish(place, f"{k}.json", encode(dict(amendment))):
        other = read(place / f"{k}.json") or {}
        if all(other.get(key) == amendment.get(key) for key in same):
            break
        k += 1


def amendments(folder: Path) -> list[dict[str, Any]]:
    """The amendments in order: {at, registration, results_seen, hash} each, and the definitions
    that were changed."""
    place = folder / "amendments"
    found = [read(place / f"{k}.json") for k in numbers_of(place)]
    return [amendment for amendment in found if amendment is not None]


def numbers_of(place: Path) -> list[int]:
    """The numbers k of the files k.json, ascending."""
    stems = [name.removesuffix(".json") for name in names(place) if name.endswith(".json")]
    return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit())


def keep(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by relative path, each replaced whole and only where it differs."""
    for name, content in files.items():
        path = folder / name
        with disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file() or path.read_bytes() != content:
                replace(path, content)


def read_back(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` as it will be read from its file: tuples as lists, keys as text."""
    back: dict[str, Any] = json.loads(encode(dict(content), wide=True))
    return back


def link(folder: Path, name: str, target: Path) -> None:
    """Make names/<name> a link to a trial's folder: relative, so that the home can be moved."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or part.startswith(".") for part in parts):
        raise StoreError(f"name {name!r}: parts between '/' may not be empty or begin with a dot")
    path = folder / "names"
    with disk(path / name):
        for part in parts:
            path.mkdir(parents=True, exist_ok=True)
            path = path / part
            if path.is_symlink() and path != folder / "names" / name:
                raise StoreError(f"name {name!r}: {path} is a trial's name already, not a folder")
        if not path.is_symlink() and path.exists():
            raise StoreError(f"name {name!r}: {path} is in the way")
        relative = os.path.relpath(target, path.parent)
        if path.is_symlink() and os.readlink(path) == relative:
            return
        temporary = path.parent / f".{secrets.token_hex(8)}"
        temporary.symlink_to(relative)
        os.replace(temporary, path)

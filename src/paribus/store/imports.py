"""Runs made elsewhere: studies/<instance>/imports/<name>.json, one sealed file an arm.

They are shown beside a study's own arms and are never part of a test.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from paribus.store.files import StoreError, disk, encode, exists, names, publish, read
from paribus.store.owners import now

LONGEST = 200  # bytes of a file's name


def file_of(name: str) -> str:
    """The name of an arm's file; StoreError if an arm cannot be called so."""
    if not name.strip() or not name.isprintable():
        raise StoreError(f"import {name!r}: a name has at least one letter and one line")
    file = quote(name, safe=" +,=()")
    if len(file) > LONGEST:
        raise StoreError(f"import {name[:40]!r}…: a name of at most {LONGEST} bytes, please")
    return f"{file}.json" if file[0] != "." else f"%2E{file[1:]}.json"


def taken(study: Path, name: str) -> bool:
    return exists(study / "imports" / file_of(name))


def add(study: Path, arm: Mapping[str, Any]) -> dict[str, Any]:
    """Seal an arm; `study` is the study's folder.  Returns it with "at" and a "token".

    Raises:
        StoreError: there is an arm of this name.
        DiskError: the arm is not taken, or not known to be durable.
    """
    place = study / "imports"
    with disk(place):
        place.mkdir(parents=True, exist_ok=True)
    full = {**arm, "at": now(), "token": secrets.token_hex(8)}
    if not publish(place, file_of(arm["name"]), encode(full)):
        raise StoreError(f"import {arm['name']!r}: there is one of this name already")
    return full


def imports(study: Path) -> list[dict[str, Any]]:
    """The arms in the order in which they came; Damaged if one cannot be read."""
    place = study / "imports"
    found = [read(place / name) for name in sorted(names(place)) if name.endswith(".json")]
    return sorted((a for a in found if a is not None), key=lambda a: (a["at"], a["name"]))

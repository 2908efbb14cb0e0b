"""A person's remarks: <home>/notes/n1.json, n2.json, …, each sealed, appended and never changed."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paribus.store.files import Damaged, disk, encode, names, publish, read
from paribus.store.owners import now

_NAME = re.compile(r"n([1-9][0-9]*)\.json")


def folder(home: Path) -> Path:
    return home / "notes"


def numbers(home: Path) -> list[int]:
    """The numbers of the notes that are there, ascending."""
    return sorted(int(m[1]) for name in names(folder(home)) if (m := _NAME.fullmatch(name)))


def add(home: Path, note: Mapping[str, Any]) -> dict[str, Any]:
    """Seal a note under the next free number.

    Args:
        note: {"text", "status", "on", "author"}; see `notes`.

    Returns:
        It with "id" (n1, n2, …), "at" (the time with its zone) and "token" (random, so that two
        equal notes are two).
    Raises:
        DiskError: the note is not taken, or not known to be durable.
    """
    place = folder(home)
    with disk(place):
        place.mkdir(parents=True, exist_ok=True)
    k = max(numbers(home), default=0)
    while True:  # whoever comes second takes the next number
        k += 1
        full = {**note, "id": f"n{k}", "at": now(), "token": secrets.token_hex(8)}
        if publish(place, f"n{k}.json", encode(full)):
            return full


def notes(home: Path) -> list[dict[str, Any]]:
    """All notes, in the order of their numbers.

    Each is {"id", "at", "text", "status" (hypothesis, supported, withdrawn or null), "on":
    [{"kind": "trial" | "study" | "note", "id", "name"}], "author", "token"}; a damaged one is
    {"id", "damaged": why}.
    """
    found = []
    for k in numbers(home):
        try:
            note = read(folder(home) / f"n{k}.json")
        except Damaged as error:
            note = {"id": f"n{k}", "damaged": str(error)}
        if note is not None:
            found.append(note)
    return found


def about(found: list[dict[str, Any]], instance: str, trials: set[str]) -> list[dict[str, Any]]:
    """Those of `found` that are about a study: they name it or one of its trials, or a note that
    is; and the notes that point to those."""
    chosen: set[str] = set()
    wanted = {("study", instance), *(("trial", t) for t in trials)}
    while True:
        more = {
            note["id"]
            for note in found
            for on in note.get("on", ())
            if note["id"] not in chosen
            and ((on["kind"], on["id"]) in wanted or (on["kind"] == "note" and on["id"] in chosen))
        }
        if not more:
            return [note for note in found if note["id"] in chosen]
        chosen |= more

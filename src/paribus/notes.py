"""The notebook of a home, and a person's own remarks in it.  Torch-free."""

from __future__ import annotations

import getpass
import os
import re
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from paribus.cli import OK, emit
from paribus.errors import SpecError, nearest
from paribus.store import Store, find_home, notes

NOTE = re.compile(r"n[1-9][0-9]*")


def home_of(given: str | None, verb: str) -> Store:
    """The home that is named or found; SpecError where there is none."""
    home = Path(given).expanduser().absolute() if given else find_home(None)
    if not (home / "trials").is_dir() and not (home / ".paribus").exists():
        raise SpecError(f"{verb}: {home} is no home of results; name one with --home")
    return Store(home)


# ── note ────────────────────────────────────────────────────────────────────────────────────


def do_note(o: Namespace) -> int:
    store = home_of(o.home, "note")
    text = o.text.strip()
    if not text:
        raise SpecError("note: say something")
    known = notes.notes(store.home)
    on = [target for given in o.on for target in resolved(store, given, known)]
    on = list({(t["kind"], t["id"]): t for t in on}.values())
    if o.status == "withdrawn" and not any(t["kind"] == "note" for t in on):
        raise SpecError("note: --status withdrawn: say which note is withdrawn, such as --on n1")
    note = {"text": text, "status": o.status, "on": on, "author": _user()}
    made = notes.add(store.home, note)
    about = ", ".join(t["name"] for t in on)
    print(f"{made['id']}   {made['at']}" + (f"   on {about}" if about else ""))
    return OK


def _user() -> str:
    with suppress(KeyError, OSError):
        return getpass.getuser()
    return str(os.getuid())


def resolved(store: Store, given: str, known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What ``--on`` names: a note, a study (all its scales where none is given), a trial by name,
    ``study:name`` or id; {"kind", "id", "name"} each."""
    ids = [n["id"] for n in known]
    if NOTE.fullmatch(given):
        if given not in ids:
            raise SpecError(f"note: no note {given!r}; " + (f"the last is {ids[-1]}" if ids else
                            "there are none yet"))  # fmt: skip
        return [{"kind": "note", "id": given, "name": given}]
    instances = store.studies()
    found = [i for i in instances if given in (i, i.partition("@")[0])]
    if found:
        return [{"kind": "study", "id": i, "name": i} for i in found]
    within, _, name = given.rpartition(":")
    by_name: dict[str, dict[str, str]] = {}  # name -> trial id -> study
    for instance in instances:
        if within in ("", instance, instance.partition("@")[0]):
            study = store.read_study(instance) or {}
            for unit in [*study.get("trials", ()), *(study.get("trunks") or ())]:
                by_name.setdefault(unit["name"], {})[unit["id"]] = instance
                by_name.setdefault(unit["id"], {})[unit["id"]] = instance
    if name not in by_name:
        near = nearest(given, [*ids, *instances, *(n for n in by_name if not _is_id(n, by_name))])
        raise SpecError(f"note: --on {given!r}: no trial, study or note of this name; {near}")
    ids_of = by_name[name]
    if len(ids_of) > 1:
        which = ", ".join(f"{instance}:{name}" for instance in ids_of.values())
        raise SpecError(f"note: --on {given!r} is a trial of several studies; say which: {which}")
    ((trial, instance),) = ids_of.items()
    human = next(n for n, of in by_name.items() if trial in of and not _is_id(n, by_name))
    return [{"kind": "trial", "id": trial, "name": human, "study": instance}]


def _is_id(name: str, by_name: Mapping[str, Mapping[str, str]]) -> bool:
    return name in by_name[name]


# ── notebook ────────────────────────────────────────────────────────────────────────────────


def do_notebook(o: Namespace) -> int:
    from paribus.analysis.notebook import pages
    from paribus.analysis.notebook.book import book as gather

    store = home_of(o.home, "notebook")
    day = _day(o.day) if o.day else None
    book = gather(store, day)
    if o.json:
        emit(book)
        return OK
    if not o.output:
        print(pages.markdown(book, o.lang), end="")
        return OK
    folder = Path(o.output).expanduser()
    files = pages.files(book, o.lang)
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"notebook: {folder} is a file; name a folder")
    for name in files:
        _check_ours(folder / name)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    print(f"{folder / 'index.html'}   {len(book['days'])} days")
    return OK


def _day(text: str) -> date:
    today = datetime.now().astimezone().date()
    words = {"today": today, "yesterday": today - timedelta(days=1)}
    if text in words:
        return words[text]
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise SpecError(
            f"notebook: --day {text!r}: write a day such as {today}, or today"
        ) from None


def _check_ours(path: Path) -> None:
    """A page may take the place of an older one of the notebook, and of nothing else."""
    from paribus.analysis.notebook import pages

    if os.path.lexists(path):
        try:
            ours = pages.MARK in path.read_text(encoding="utf-8")[:400]
        except (OSError, UnicodeDecodeError):
            ours = False
        if not ours:
            raise SpecError(f"notebook: {path} is there and is no page of a notebook; it is left")

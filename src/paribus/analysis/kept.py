"""What table, verdicts and report were made from, kept so that they are not made again.

<home>/cache/concluded/<study>.json holds a hash of the records, the text that was printed, and the
size and time of each file that was written.  It may be deleted at any time; a file that was
changed or deleted by hand is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from paribus._version import __version__
from paribus.store import Store, StoreError
from paribus.store.scan import Look

_PASSING = ("running", "blocked", "interrupted")  # their reasons name processes


def mark(study: Mapping[str, Any], looks: Mapping[str, Look]) -> str:
    """A hash of everything that tables, verdicts and reports are made from, this code included."""
    seen = []
    for look in looks.values():
        state, result = look.state, look.result
        reason = "" if state.state in _PASSING else state.reason
        end = result.end if result else state.end
        seen.append([state.state, reason, end, look.records, look.failed])
    content = msgspec.json.encode([_code(), study, seen])
    return hashlib.blake2b(content, digest_size=16).hexdigest()


@cache
def _code() -> list[Any]:
    folder = Path(__file__).parent
    files = [p for p in sorted(folder.rglob("*")) if p.suffix in (".py", ".j2", ".css", ".js")]
    return [__version__, *((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files)]


def load(store: Store, instance: str, mark: str) -> dict[str, Any]:
    """What was kept under the mark: {"text", "lang", "files"}; {} if there is nothing."""
    with suppress(OSError, ValueError):
        kept = json.loads(_place(store, instance).read_text(encoding="utf-8"))
        whole = isinstance(kept, dict) and isinstance(kept.get("files"), dict)
        if whole and kept.get("mark") == mark and isinstance(kept.get("text"), str):
            found: dict[str, Any] = kept
            return found
    return {}


def untouched(kept: Mapping[str, Any], folder: Path) -> bool:
    """Whether every file that was written is still there as it was left."""
    return bool(kept) and all(
        _stamp(folder / name) == stamp for name, stamp in kept["files"].items()
    )


def save(
    store: Store, instance: str, mark: str, text: str, lang: str, files: Mapping[str, bytes]
) -> None:
    """Keep it; `files` are the contents that were written, by their path in the study's folder."""
    folder, stamps = store.study_dir(instance), {}
    for name, content in files.items():
        before = _stamp(folder / name)
        try:  # another process may have put its own there
            ours = (folder / name).read_bytes() == content
        except OSError:
            ours = False
        if not ours or before is None or _stamp(folder / name) != before:
            return
        stamps[name] = before
    kept = {"mark": mark, "text": text, "lang": lang, "files": stamps}
    with suppress(StoreError):  # without it everything is only slower
        store.write_derived(_place(store, instance), json.dumps(kept).encode())


def _place(store: Store, instance: str) -> Path:
    return store.home / "cache" / "concluded" / f"{instance}.json"


def _stamp(path: Path) -> list[int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_ino, found.st_size, found.st_mtime_ns]

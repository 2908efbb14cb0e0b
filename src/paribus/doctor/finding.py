"""What a check says."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One line of the doctor.  level: ok, note or FAILED."""

    about: str
    level: str
    text: str


def fine(about: str, text: str) -> Finding:
    return Finding(about, "ok", text)


def note(about: str, text: str) -> Finding:
    return Finding(about, "note", text)


def failed(about: str, text: str) -> Finding:
    return Finding(about, "FAILED", text)


def said(size: float) -> str:
    """Bytes for people: 1.5 GB."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.1f} TB"

"""When a trial was at work: attempts joined into one entry, gaps between them left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from paribus.store import Store
from paribus.store.scan import Look

WAITS = ("released", "fenced")  # ends after which the next attempt goes on


@dataclass(frozen=True)
class Part:
    """An attempt: from when to when, in the reader's zone; `to` of a lost one is its last sign."""

    number: int
    since: datetime
    to: datetime
    worker: str

    def on(self, day: date) -> tuple[datetime, datetime] | None:
        """What of it lies in a day."""
        first = datetime(day.year, day.month, day.day).astimezone()
        last = datetime(day.year, day.month, day.day).astimezone() + timedelta(days=1)
        since, to = max(self.since, first), min(self.to, last)
        return (since, to) if since < to or first <= self.since < last else None


@dataclass(frozen=True)
class Life:
    """Attempts that went on with each other's work, up to how it ended.

    state: done, diverged, refused, failed, out of memory; stopped (work can go on), or running.
    """

    parts: tuple[Part, ...]
    state: str
    reason: str

    @cached_property
    def days(self) -> frozenset[date]:
        found = set()
        for part in self.parts:
            day = part.since.date()
            while day <= part.to.date():
                found.add(day)
                day += timedelta(days=1)
        return frozenset(found)

    @property
    def day(self) -> date:
        """The day on which it ended, or was last at work."""
        return self.parts[-1].to.date()

    def touches(self, when: date) -> bool:
        return when in self.days

    @property
    def gap(self) -> float:
        """Seconds between its parts."""
        pairs = zip(self.parts, self.parts[1:], strict=False)
        return sum(max(0.0, (b.since - a.to).total_seconds()) for a, b in pairs)

    def data(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "reason": self.reason,
            "parts": [[p.since.isoformat(), p.to.isoformat()] for p in self.parts],
            "seconds": round(sum((p.to - p.since).total_seconds() for p in self.parts), 1),
            "gap_seconds": round(self.gap, 1),
        }


def lives(store: Store, unit: str, look: Look) -> list[Life]:
    """What was done for a trial or a trunk, oldest first."""
    state = look.state
    if not state.attempt:
        return []
    root = store.trial_dir(unit) / "attempts"
    if state.attempt == 1:
        pairs = [(1, state.claim, state.end)]
    else:
        views = store.attempts(unit)
        pairs = [(v.number, v.claim, v.end) for v in views]
    out: list[Life] = []
    parts: list[Part] = []
    for number, claim, end in pairs:
        last = number == state.attempt
        running = last and end is None and state.state in ("running", "blocked")
        part = _part(root / str(number), number, claim, end, running)
        if part is None:
            continue
        parts.append(part)
        how = str((end or {}).get("state", ""))
        if running or last or how not in ("", *WAITS):
            ended = "running" if running else "stopped" if how in ("", *WAITS) else how
            reason = str((end or {}).get("reason") or (state.reason if running else ""))
            out.append(Life(tuple(parts), ended, reason))
            parts = []
    if parts:
        out.append(Life(tuple(parts), "stopped", ""))
    return out


def _part(
    place: Path,
    number: int,
    claim: Mapping[str, Any] | None,
    end: Mapping[str, Any] | None,
    running: bool,
) -> Part | None:
    """None where a damaged claim does not tell when it began."""
    since = local((claim or {}).get("at"))
    if since is None:
        return None
    to = local((end or {}).get("at"))
    if running:
        to = datetime.now().astimezone()
    elif to is None or (end or {}).get("state") == "fenced":
        to = min(_last_sign(place, since), to or datetime.max.astimezone())
    return Part(number, since, max(since, to), str((claim or {}).get("worker")))


def _last_sign(place: Path, since: datetime) -> datetime:
    """When a lost attempt last wrote: for show; nothing else tells."""
    seen = [since.timestamp()]
    for path in (place / "log", place / "checkpoints"):
        try:
            seen.append(path.stat().st_mtime)
        except OSError:
            continue
    return datetime.fromtimestamp(max(seen)).astimezone()


def local(at: Any) -> datetime | None:
    """A recorded time in the reader's zone."""
    try:
        return datetime.fromisoformat(str(at)).astimezone()
    except ValueError:
        return None


def day_of(at: Any) -> date | None:
    when = local(at)
    return when.date() if when else None


def seconds(spans: Sequence[tuple[datetime, datetime]]) -> float:
    """The length of the union of spans, sorted by their beginning."""
    total, until = 0.0, None
    for since, to in spans:
        start = since if until is None or since > until else until
        if to > start:
            total += (to - start).total_seconds()
            until = to
    return total

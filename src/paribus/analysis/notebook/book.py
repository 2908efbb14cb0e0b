"""The notebook: what happened in a home, day by day, made from the records and nothing else.

`book` gathers plain data; `pages` puts it into words.  Days are those of the reader's zone.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from paribus.analysis import gaps, listing
from paribus.analysis.notebook.outcome import Study, changes, results, sentences
from paribus.analysis.notebook.work import Life, day_of, lives, local, seconds
from paribus.store import Store, StoreError, notes
from paribus.store.scan import Scan

Row = dict[str, Any]


def book(store: Store, day: date | None = None) -> dict[str, Any]:
    """What happened in a home.

    Args:
        day: this day alone; None: all days.

    Returns:
        {"home", "zone", "made", "days": [day], "nothing": [[first, last]] (days without an entry
        between the first one and today), "broken": [line]}; a day is {"day", "zone",
        "work_seconds", "studies", "notes", "others"}; all plain data.
    """
    gc.disable()  # of ten thousand trials nothing is garbage yet
    try:
        return _Book(store, day).data()
    finally:
        gc.enable()


@dataclass
class _Book:
    store: Store
    only: date | None
    broken: list[str] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        now = datetime.now().astimezone()
        scan = Scan(self.store)
        studies = [s for i in self.store.studies() if (s := self._study(i, scan)) is not None]
        told = notes.notes(self.store.home)
        others = self._others({u for s in studies for u in s.lives}, scan)
        days: dict[date, dict[str, Any]] = {}
        for when in sorted(_days(studies, others, told)):
            days[when] = {
                "day": when.isoformat(),
                "zone": _zone(datetime(when.year, when.month, when.day, 12).astimezone()),
                "work_seconds": _work([s.lives for s in studies] + [others], when),
                "studies": [],
                "notes": [n for n in _linked(told) if day_of(n.get("at")) == when],
                "others": sum(life.touches(when) for of in others.values() for life in of),
            }
        for study in studies:
            self._of_study(study, days)
        first = min(days, default=now.date())
        empty = _empty(set(days), first, now.date())
        shown = [d for when, d in days.items() if self.only in (None, when)]
        if self.only is not None:
            empty = [] if shown else [[self.only.isoformat()] * 2]
        return {
            "home": str(self.store.home),
            "zone": _zone(now),
            "made": now.isoformat(timespec="seconds"),
            "days": shown,
            "nothing": empty,
            "broken": self.broken,
        }

    def _study(self, instance: str, scan: Scan) -> Study | None:
        try:
            record = self.store.read_study(instance) or {}
            record["ended"] = self.store.ended(instance)
            looks = {t["id"]: scan.look(t["id"]) for t in record["trials"]}
        except (StoreError, KeyError) as error:
            self.broken.append(f"{instance}: {error}")
            return None
        record["baselines"] = {
            cid: found["baselines"]
            for look in looks.values()
            for cid, found in look.records.items()
            if found.get("baselines")
        }
        done = {unit: lives(self.store, unit, look) for unit, look in looks.items()}
        for trunk in record.get("trunks") or ():
            done[trunk["id"]] = lives(self.store, trunk["id"], scan.look(trunk["id"]))
        return Study(record, looks, done)

    def _others(self, known: set[str], scan: Scan) -> dict[str, list[Life]]:
        """Trials that no study declares any more."""
        return {
            unit: lives(self.store, unit, scan.look(unit))
            for unit in self.store.trials()
            if unit not in known
        }

    # ── a study's days ──

    def _of_study(self, study: Study, days: Mapping[date, dict[str, Any]]) -> None:
        """Put what happened in a study on its days' pages."""
        judged: dict[date, list[dict[str, Any]]] = {}
        known: dict[str, str] = {}
        for when in self._judged(study):
            judged[when] = list(changes(study, when, known))
        for when, page in days.items():
            if self.only not in (None, when):
                continue
            if touched := [u for u, of in study.lives.items() if any(x.touches(when) for x in of)]:
                entry = _entry(study, when, touched)
                page["studies"].append({**entry, "verdicts": judged.get(when, [])})

    def _judged(self, study: Study) -> list[date]:
        """The days after which claims are judged: those on which a result came; of one day alone
        also the last such day before it, to compare with."""
        days = sorted(set(study.finished.values()))
        if self.only is None:
            return days
        return [
            *[d for d in days if d < self.only][-1:],
            *([self.only] if self.only in days else []),
        ]


def _entry(study: Study, when: date, touched: Sequence[str]) -> dict[str, Any]:
    """What happened in a study on a day."""
    record = study.record
    units = {u["id"]: u for u in [*record["trials"], *(record.get("trunks") or ())]}
    names = [v["name"] for v in record["variants"]]
    ended: dict[str, list[dict[str, Any]]] = {}
    out: dict[str, Any] = {
        "study": record["instance"],
        "question": record["question"],
        "work_seconds": _work([study.lives], when),
        "ended": [],
        "failed": [],
        "stopped": [],
        "running": [],
        "went_on": [],
        "joined": [],
    }
    for unit in touched:
        about = units[unit]
        variant = names[about["variant"]] if "variant" in about else None
        for life in study.lives[unit]:
            if not life.touches(when):
                continue
            told = {"trial": about["name"], "id": unit, **life.data()}
            if life.state == "running":
                out["running"].append(told)
            elif life.day != when:
                out["went_on"].append(told)
            elif life.state == "done":
                ended.setdefault(variant or "shared beginning", []).append(
                    told | {"seed": about.get("seed")}
                )
            elif life.state == "stopped":
                out["stopped"].append(told)
            else:
                out["failed"].append(told)
            if len(life.parts) > 1 and (life.day == when or life.state == "running"):
                out["joined"].append(told)
    out["ended"] = [{"variant": v, "trials": of} for v, of in ended.items()]
    out["cells"] = list(_failed_cells(study, when))
    out["removed"] = [str(g) for g in gaps.gaps(record, study.looks) if day_of(g.at) == when]
    rows = study.until(when)
    out["sentences"] = list(sentences(study, rows, when))
    out["table"] = results(study, rows, when)
    return out


def _failed_cells(study: Study, when: date) -> Iterator[dict[str, str]]:
    """Evaluations without a value, of the trials that ended that day."""
    for trial in study.record["trials"]:
        if study.finished.get(trial["name"]) == when:
            for name, state, reason in listing.of_trial(trial, study.looks[trial["id"]]):
                if name != trial["name"]:
                    yield {"trial": name, "state": state, "reason": reason}


# ── days and notes ──────────────────────────────────────────────────────────────────────────


def _days(
    studies: Sequence[Study], others: Mapping[str, list[Life]], told: Iterable[Mapping[str, Any]]
) -> set[date]:
    found = {d for n in told if (d := day_of(n.get("at"))) is not None}
    for of in [*(s.lives for s in studies), others]:
        for many in of.values():
            for life in many:
                found |= life.days
    return found


def _empty(there: set[date], first: date, last: date) -> list[list[str]]:
    """Days without an entry, as [first, last] of each stretch."""
    out: list[list[str]] = []
    day = first
    while day <= last:
        if day not in there:
            if out and out[-1][1] == (day - timedelta(days=1)).isoformat():
                out[-1][1] = day.isoformat()
            else:
                out.append([day.isoformat()] * 2)
        day += timedelta(days=1)
    return out


def _work(all_of: Iterable[Mapping[str, list[Life]]], when: date) -> float:
    """Seconds that workers were at it on a day; trials of one worker, as in a stack, count once."""
    spans: dict[str, set[tuple[datetime, datetime]]] = {}
    for of in all_of:
        for many in of.values():
            for life in (x for x in many if x.touches(when)):
                for part in life.parts:
                    if (cut := part.on(when)) is not None:
                        spans.setdefault(part.worker, set()).add(cut)
    return round(sum(seconds(sorted(many)) for many in spans.values()), 1)


def _linked(told: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Notes with what later ones say of them: "then": [{"id", "status", "day"}], in order, and
    "withdrawn": whether the last of those that stand takes it back."""
    days = {n["id"]: str(day_of(n.get("at"))) for n in told}
    then: dict[str, list[dict[str, Any]]] = {}
    withdrawn: dict[str, bool] = {}
    for note in reversed(told):  # later ones first: one that was withdrawn withdraws nothing
        said = [t["status"] for t in then.get(note["id"], ()) if not withdrawn[t["id"]]]
        withdrawn[note["id"]] = [s for s in said if s][-1:] == ["withdrawn"]
        for on in note.get("on", ()):
            if on["kind"] == "note":
                about = {"id": note["id"], "status": note["status"], "day": days[note["id"]]}
                then.setdefault(on["id"], []).insert(0, about)
    out = []
    for note in told:
        at = local(note.get("at"))
        out.append(
            {
                **note,
                "on": [{**o, "day": days.get(o["id"])} for o in note.get("on", ())],
                "then": then.get(note["id"], []),
                "withdrawn": withdrawn[note["id"]],
                "clock": at.strftime("%H:%M") if at else "",
            }
        )
    return out


def _zone(when: datetime) -> str:
    """``CEST, UTC+02:00``."""
    offset = when.strftime("%z")
    name = when.tzname() or ""
    text = f"UTC{offset[:3]}:{offset[3:5]}" if offset.strip("+0") else "UTC"
    return text if name in ("", "UTC", text) or name[0] in "+-" else f"{name}, {text}"

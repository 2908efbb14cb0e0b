"""What came out: sentences, tables that name their query, verdicts that changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import Any

from paribus.analysis import records, settings
from paribus.analysis.cells import Results, condition_label
from paribus.analysis.notebook.work import Life, day_of, local
from paribus.analysis.stats import Sample
from paribus.store.scan import Look
from paribus.study.measures import Node

Row = dict[str, Any]
BUDGET = "tokens_realised steps_realised schedule_realised data_realised evaluation_set".split()
"""Rules of the audit that speak of the rows of a table, besides those of how they ran."""


@dataclass
class Study:
    """A study of the home with how its trials stand."""

    record: dict[str, Any]
    looks: dict[str, Look]
    lives: dict[str, list[Life]]  # unit id -> what was done for it

    @cached_property
    def rows(self) -> list[Row]:
        return records.rows(None, self.record, self.looks)  # type: ignore[arg-type]

    @cached_property
    def finished(self) -> dict[str, date]:
        """Trial name -> the day on which its result ended."""
        found = {}
        for trial in self.record["trials"]:
            result = self.looks[trial["id"]].result
            if result is not None and (when := local(result.end.get("at"))) is not None:
                found[trial["name"]] = when.date()
        return found

    @cached_property
    def variants(self) -> dict[str, date]:
        """Variant -> the day on which the last of its trials ended; whole ones alone."""
        out: dict[str, date] = {}
        names = [v["name"] for v in self.record["variants"]]
        open_ = set()
        for trial in self.record["trials"]:
            name = names[trial["variant"]]
            when = self.finished.get(trial["name"])
            if when is None:
                open_.add(name)
            else:
                out[name] = max(when, out.get(name, when))
        return {name: when for name, when in out.items() if name not in open_}

    def until(self, day: date) -> list[Row]:
        """The rows of the trials that had ended by the end of a day."""
        return [r for r in self.rows if self.finished.get(r["trial"], date.max) <= day]


def sentences(study: Study, rows: Sequence[Row], when: date) -> Iterator[dict[str, Any]]:
    """A sentence for each variant that was whole that day: against its baseline, if that is."""
    record = study.record
    metric = record["primary"]
    pairs = settings.references(record) if record.get("baseline") else {}
    base = set(settings.baseline(record))
    unit = record["metrics"].get(metric, {}).get("unit", "")
    alpha = record["registration"].get("alpha", 0.05)
    conditions, where = _place(record, metric)
    values: dict[str, dict[int, float]] = {}
    for variant in record["variants"]:
        values[variant["name"]] = {}
    seen = Results(record, rows)
    names = [v["name"] for v in record["variants"]]
    for trial in record["trials"]:
        if study.finished.get(trial["name"], date.max) <= when:
            found = [seen.row(trial["name"], metric, c) for c in conditions
                     if c["key"] in trial["cells"]]  # fmt: skip
            whole = found and all(r is not None and r["value"] is not None for r in found)
            if whole:
                mean = sum(r["value"] for r in found if r is not None) / len(found)
                values[names[trial["variant"]]][trial["seed"]] = mean
    for name in names:
        against = None if name in base else pairs.get(name)
        ready = study.variants.get(name, date.max)
        there = study.variants.get(against, date.max) if against else ready
        said = max(ready, there) if there != date.max else ready
        if when not in (ready, said) or ready > when or not values[name]:
            continue
        mine = values[name]
        out: dict[str, Any] = {
            "variant": name, "metric": metric, "unit": unit, "where": where, "level": 1 - 2 * alpha,
            "n": len(mine), "mean": Sample(tuple(mine.values())).mean,
            "sd": Sample(tuple(mine.values())).sd, "baseline": None, "is_baseline": name in base,
        }  # fmt: skip
        if against:
            theirs = values[against]
            seeds = [s for s in mine if s in theirs]
            out |= {"baseline": against, "paired": len(seeds)}
            if there > when:
                out["waits"] = True
            elif seeds:
                d = Sample(tuple(mine[s] - theirs[s] for s in seeds))
                low, high = d.interval(alpha) if d.n > 1 else (None, None)
                out |= {"effect": d.mean, "low": low, "high": high}
            elif theirs:
                out["effect"] = out["mean"] - Sample(tuple(theirs.values())).mean
        yield out


def _place(record: Node, metric: str) -> tuple[list[Node], str]:
    """(the conditions that a sentence is about, in words): the trained one where it is known, else
    the mean over all of the metric's."""
    fit = record["metrics"].get(metric, {}).get("evaluations")
    conditions = [c for c in record["conditions"] if not fit or c["evaluation"] in fit]
    trained = record.get("trained") or {}
    values = {
        f["name"]: {level["tag"]: level["value"] for level in f["levels"]}
        for f in record["factors"]
        if f["kind"] == "condition"
    }
    at = [
        c
        for c in conditions
        if trained
        and all(values[f].get(c["levels"].get(f)) == v for f, v in trained.items() if f in values)
    ]
    if len(at) == 1:
        return at, condition_label(at[0])
    many = len(conditions) > 1
    return conditions, "" if not many else f"mean over {len(conditions)} conditions"


def results(study: Study, rows: Sequence[Row], when: date) -> dict[str, Any] | None:
    """The results of the variants of which a trial ended that day, beside the baseline's: a query
    that says what it is made of."""
    from paribus.analysis import tables

    record = study.record
    names = [v["name"] for v in record["variants"]]
    today = {names[t["variant"]] for t in record["trials"] if study.finished.get(t["name"]) == when}
    if not today:
        return None
    shown = today | set(settings.baseline(record))
    mine = [r for r in rows if r["variant"] in shown and r["metric"] == record["primary"]]
    if not any(r["value"] is not None for r in mine):
        return None
    trials = [t for t in record["trials"] if names[t["variant"]] in shown]
    table = tables.table({**record, "trials": trials}, mine)
    table = replace(table, rows=tuple(r for r in table.rows if r[0] in shown), baselines=())
    about = {
        "study": record["instance"],
        "metric": table.metric,
        "ended_by": when.isoformat(),
        "variants": [n for n in names if n in shown],
        "conditions": list(table.columns),
    }
    return {
        "metric": table.metric,
        "unit": table.unit,
        "better": table.better,
        "seeds": table.n,
        "columns": list(table.columns),
        "rows": table.texts(),
        "query": about,
        "records": len(mine),
        "hash": _hash(mine),
        "confounds": _confounds(study, mine),
    }


def _hash(rows: Iterable[Row]) -> str:
    """Of what was measured: the same rows, the same hash, wherever and whenever they were made."""
    keys = "trial id seed evaluation slice metric value n status".split()
    told = [[r.get(k) for k in keys] for r in rows]
    return hashlib.sha256(json.dumps(told, separators=(",", ":")).encode()).hexdigest()[:16]


def _confounds(study: Study, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What differs between the rows of a table and is no factor: how they ran, how far, on what."""
    from paribus.analysis.findings import say
    from paribus.analysis.realised import COLUMNS, realised

    names = {r["trial"] for r in rows if r["value"] is not None}
    ends = {
        trial["name"]: result.end
        for trial in study.record["trials"]
        if trial["name"] in names and (result := study.looks[trial["id"]].result) is not None
    }
    return [
        {"rule": f.rule, "level": f.level, "line": {lang: say(f, lang) for lang in ("en", "zh")}}
        for f in realised(study.record, rows, ends)
        if f.rule in COLUMNS or f.rule in BUDGET
    ]


def changes(study: Study, when: date, before: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Claims whose verdict was another one at the end of the day than the time before."""
    from paribus.analysis import words
    from paribus.analysis.verdicts import verdicts

    record = study.record
    later = [a for a in record.get("amendments") or () if (day_of(a.get("at")) or when) <= when]
    metrics = _metrics(record["registration"]) | _metrics([a["registration"] for a in later])
    rows = [r for r in study.until(when) if r["metric"] in metrics or r["value"] is None]
    if not any(record["registration"].get(k) for k in ("hypotheses", "criteria", "checks")):
        return
    for v in verdicts({**record, "amendments": later}, rows, extras=False):
        was = before.get(v.name, "missing")
        before[v.name] = v.verdict
        if v.verdict != was:
            lines = {lang: words.line(v, lang) for lang in ("en", "zh")}
            yield {"name": v.name, "kind": v.kind, "before": was, "now": v.verdict, "line": lines}


def _metrics(x: Any) -> set[str]:
    """The metrics that claims read."""
    if isinstance(x, Mapping):
        own = {str(x["metric"])} if isinstance(x.get("metric"), str) else set()
        return own.union(*(_metrics(v) for v in x.values()))
    if isinstance(x, list | tuple):
        return set().union(*(_metrics(v) for v in x))
    return set()

"""What a report says of trials, budgets and registration, from the record and the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paribus.analysis.cells import Row
from paribus.study.measures import Node

LANGUAGES = ("en", "zh")
UNREAD = "not evaluated yet"  # the reason of such a cell, as the records say it
ENGINE = ("engine", "kernel", "device", "dtype", "threads", "micro_batch", "torch")
BUDGET = ("tokens", "steps", "rows", "flops", "parameters")
VERSIONS = ("device", "engine", "kernel", "dtype", "threads", "deterministic", "torch", "python")


def fairness(study: Node, rows: Sequence[Row]) -> dict[str, list[tuple[str, str]]]:
    """Budgets and engines by variant, sorted into what is equal and what differs."""
    equal: list[tuple[str, str]] = [("seeds_of", ", ".join(map(str, study["seeds"])))]
    differs: list[tuple[str, str]] = []
    infos = study.get("variants_info", {})
    frozen = any(
        i.get("parameters_trained", i.get("parameters")) != i.get("parameters")
        for i in infos.values()
    )
    for key in (*BUDGET, "parameters_trained") if frozen else BUDGET:
        values = {name: info[key] for name, info in infos.items() if info.get(key) is not None}
        _sort(key, {n: big(v) for n, v in values.items()}, equal, differs)
    for key in ENGINE:
        by_variant: dict[str, set[str]] = {}
        for row in rows:
            if row.get("value") is not None and row.get(key) is not None:
                by_variant.setdefault(row["variant"], set()).add(str(row[key]))
        _sort(key, {n: ", ".join(sorted(v)) for n, v in by_variant.items()}, equal, differs)
    return {"equal": equal, "differs": differs}


def _sort(
    key: str,
    values: Mapping[str, str],
    equal: list[tuple[str, str]],
    differs: list[tuple[str, str]],
) -> None:
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(value, []).append(name)
    if len(groups) == 1:
        equal.append((key, next(iter(groups))))
    elif groups:
        few = [f"{value} ({', '.join(who[:3])}{' …' if len(who) > 3 else ''})"
               for value, who in groups.items()]  # fmt: skip
        differs.append((key, "; ".join(few[:6]) + (" …" if len(few) > 6 else "")))


def trials(study: Node, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A line a trial: its state, what it trained, and how many of its cells have a value."""
    by_trial: dict[str, list[Row]] = {}
    for row in rows:
        by_trial.setdefault(row["trial"], []).append(row)
    conditions = len(study["conditions"])
    out = []
    for trial in study["trials"]:
        mine = by_trial.get(trial["name"], [])
        # A trial is done where one of its cells has a value; another cell may still be refused.
        best = next((r for r in mine if r["status"] == "done"), mine[0] if mine else {})
        lost = {(r["evaluation"], *_place(study, r)) for r in mine if r.get("value") is None}
        cells = len(trial.get("cells", ())) or conditions
        status = best.get("status", "planned")
        there = cells - min(cells, len(lost)) if status == "done" else 0
        keys = ("step", "tokens", "seconds", "device")
        out.append(
            {"trial": trial["name"], "id": trial["id"], "status": status, "seed": trial["seed"],
             "variant": trial["variant"], "cells": f"{there}/{cells}", "whole": there == cells}
            | {k: best.get(k) for k in keys}
        )  # fmt: skip
    return out


def _place(study: Node, row: Row) -> list[Any]:
    return [row.get(f["name"]) for f in study["factors"] if f["kind"] == "condition"]


def outcomes(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Cells that ended without a value, each trial once for the same reason."""
    from paribus.analysis.words import say  # which reads the strings of this package

    seen: dict[tuple[str, str, str], int] = {}
    for row in rows:
        if row.get("value") is None and row["status"] not in ("planned", "running"):
            key = (row["trial"], row["status"], row.get("reason") or "")
            seen[key] = seen.get(key, 0) + 1
    return [
        {
            "where": trial + (f" ({n})" if n > 1 else ""),
            "status": status,
            "reason": reason,
            "said": {g: say("not_evaluated", g) if reason == UNREAD else reason for g in LANGUAGES},
        }
        for (trial, status, reason), n in seen.items()
    ]


def lacking(study: Node, rows: Sequence[Row]) -> dict[str, int]:
    """State -> how many trials are in it, for the states that are not done."""
    out: dict[str, int] = {}
    for trial in trials(study, rows):
        if trial["status"] != "done":
            out[trial["status"]] = out.get(trial["status"], 0) + 1
    return out


def environment(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What the results were computed with: column -> its values, with how many trials each."""
    out = []
    for key in VERSIONS:
        found: dict[str, set[str]] = {}
        for row in rows:
            if row.get("value") is not None and row.get(key) is not None:
                found.setdefault(str(row[key]), set()).add(row["trial"])
        if found:
            said = [f"{v} ({len(t)})" if len(found) > 1 else v for v, t in found.items()]
            out.append((key, ", ".join(said)))
    return out


def amendments(study: Node) -> list[dict[str, Any]]:
    """What each amendment changed: {"at", "seen", "added", "changed", "removed", "seeds"}."""
    before, out = study["registration"], []
    for a in study.get("amendments") or ():
        now = a["registration"]
        entry: dict[str, Any] = {"at": a.get("at") or "", "seen": a.get("results_seen", 0)}
        lists: dict[str, list[str]] = {"added": [], "changed": [], "removed": []}
        for section in ("hypotheses", "checks", "criteria"):
            old, new = before.get(section, {}), now.get(section, {})
            lists["added"] += [n for n in new if n not in old]
            lists["changed"] += [n for n in new if n in old and new[n] != old[n]]
            lists["removed"] += [n for n in old if n not in new and section in now]
        known = before.get("seeds") or []
        entry |= {k: ", ".join(v) for k, v in lists.items()}
        entry["seeds"] = ", ".join(str(s) for s in now.get("seeds") or () if s not in known)
        out.append(entry)
        before = now
    return out


def levels(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in found.items() if v is not None)


def big(x: Any) -> str:
    if x is None:
        return "–"
    return f"{x:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if isinstance(x, int) else f"{x:.4g}"


def flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

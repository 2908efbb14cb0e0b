"""Records: one row for each trial × condition × metric × slice, read from the store.

Where a condition is evaluated during training as well, a row has the best of these values and the
last (``best``) and its step (``best_step``).

Nothing in a row depends on how often a trial was interrupted, but for `seconds`; how many trials
were stacked does (after a crash they may stand at different steps), so that is in the records
alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from paribus.analysis import gaps
from paribus.store import Store
from paribus.store.scan import Look, Scan

_ENGINE = (
    "engine kernel device world dtype threads micro_batch deterministic paired_init torch python "
    "code".split()
)


COLUMNS = (
    *"study variant trial id seed evaluation slice metric value n unit".split(),
    *"status reason step tokens flops seconds parent".split(),
    *_ENGINE,
)


def typed(found: list[dict[str, Any]], study: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows in which levels of a numeric factor are numbers, for files and data frames."""
    numbers = {
        f["name"]: {v["tag"]: v["value"] for v in f["levels"]}
        for f in study["factors"]
        if all(type(v["value"]) in (int, float) for v in f["levels"])
    }
    return [{k: numbers.get(k, {}).get(v, v) for k, v in r.items()} for r in found]


def looks(store: Store, study: dict[str, Any]) -> dict[str, Look]:
    """trial id -> how it stands, of every trial of a study."""
    scan = Scan(store)
    return {t["id"]: scan.look(t["id"]) for t in study["trials"]}


def rows(
    store: Store, study: dict[str, Any], seen: Mapping[str, Look] | None = None
) -> list[dict[str, Any]]:
    """Tidy rows of a study, in order of declaration; a missing cell is a row without a value
    whose status says why.

    Args:
        seen: how its trials stand; None: looked up now.
    """
    return list(_rows(study, looks(store, study) if seen is None else seen))


def _rows(study: dict[str, Any], seen: Mapping[str, Look]) -> Iterator[dict[str, Any]]:
    factors = [f["name"] for f in study["factors"] if f["kind"] == "variant"]
    axes = [f["name"] for f in study["factors"] if f["kind"] == "condition"]
    conditions = {c["key"]: c for c in study["conditions"]}
    for trial in study["trials"]:
        variant = study["variants"][trial["variant"]]
        look = seen[trial["id"]]
        state, result = look.state, look.result
        gap = gaps.of(study, trial, state) if state.attempt == 0 else None
        end = (result.end if result else state.end) or {}
        info = study["variants_info"][variant["name"]]
        engine = end.get("engine") or {}
        base: dict[str, Any] = {
            "study": study["instance"],
            "variant": variant["name"],
            "trial": trial["name"],
            "id": trial["id"],
            "seed": trial["seed"],
            **{f: variant["levels"].get(f) for f in factors},
        }
        tail: dict[str, Any] = {
            "status": "done" if result else gap.what if gap else state.state,
            "reason": "" if result else gap.reason if gap else state.reason,
            "step": end.get("step"),
            "tokens": end.get("tokens"),
            "flops": _flops(end, info),
            "seconds": end.get("seconds"),
            "parent": end.get("parent") or "",
            **{k: engine.get(k) for k in _ENGINE},
            "world": engine.get("world", 1 if engine else None),
            "dtype": info["spec"][-1]["spec"].get("precision", "fp32"),
        }
        for key, cid in trial["cells"].items():
            c = conditions[key]
            where = {a: c["levels"].get(a) for a in axes}
            here = {**base, **where, "evaluation": c["evaluation"]}
            record = look.records.get(cid)
            if record is None or record.get("status") != "done":
                yield {
                    **here,
                    **_absent(study),
                    **tail,
                    **_status(record, look.failed.get(cid), tail),
                }
                continue
            told = record.get("realised") or {}
            here |= {"list": told["list"]} if "list" in told else {}
            for name, slices in _metrics(record):
                for metric, value in slices.items():
                    info = study["metrics"].get(metric, {})
                    looked = c.get("every") and not name
                    last = (value["value"], end.get("step"))
                    yield {
                        **here,
                        "slice": name,
                        "metric": metric,
                        "value": value["value"],
                        "n": value["count"],
                        "unit": info.get("unit", ""),
                        **(_best(end, f"{key} {metric}", info, last) if looked else {}),
                        **tail,
                    }


def _best(end: dict[str, Any], key: str, info: dict[str, Any], last: Any) -> dict[str, Any]:
    """The best value of the evaluations during training and of the last one, and its step; the
    first of several."""
    seen = [(row[key], row["step"]) for row in end.get("checks") or () if key in row]
    known = [(v, step) for v, step in (*seen, last) if v is not None and math.isfinite(v)]
    sign = -1 if info.get("better") == "higher" else 1
    value, step = min(known, key=lambda p: sign * p[0], default=(None, None))
    return {"best": value, "best_step": step}


def _metrics(record: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "", record["metrics"]
    yield from record.get("slices", {}).items()


def _absent(study: dict[str, Any]) -> dict[str, Any]:
    name = study["primary"]
    unit = study["metrics"].get(name, {}).get("unit", "")
    return {"slice": "", "metric": name, "value": None, "n": None, "unit": unit}


def _status(record: Any, failed: Any, tail: dict[str, Any]) -> dict[str, Any]:
    if record is not None:
        return {"status": record["status"], "reason": record.get("reason", "")}
    if failed:
        return {"status": "failed", "reason": failed[-1]}
    if tail["status"] == "done":
        return {"status": "planned", "reason": "not evaluated yet"}
    return {}


def _flops(end: dict[str, Any], info: dict[str, Any]) -> float | None:
    if not end.get("tokens"):
        return None
    if info.get("flops_per_token"):
        return float(info["flops_per_token"] * end["tokens"])
    if not info["tokens"]:
        return None
    return float(info["flops"] * end["tokens"] / info["tokens"])


def checks(study: dict[str, Any], seen: Mapping[str, Look]) -> dict[str, list[dict[str, Any]]]:
    """Interval evaluations of each trial: {"step", "<condition key> <metric>": value, …}."""
    out = {}
    for trial in study["trials"]:
        look = seen[trial["id"]]
        end = (look.result.end if look.result else look.state.end) or {}
        if found := end.get("checks"):
            out[trial["name"]] = found
    return out


def curves(store: Store, study: dict[str, Any]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """ "loss" and "lr" -> trial name -> [(step, value)], at most 200 points each: of the loss the
    mean of its neighbours, of the learning rate the value itself."""
    import numpy as np

    from paribus import arrays

    out: dict[str, dict[str, list[tuple[int, float]]]] = {"loss": {}, "lr": {}}
    for trial in study["trials"]:
        result = store.result(trial["id"])
        end = (result.end if result else store.state(trial["id"]).end) or {}
        for kind, found in out.items():
            if text := end.get("curves", {}).get(kind):
                values = arrays.unpack(text)
                values = np.where(np.abs(values) < 1e300, values, np.nan)  # what was not finite
                cuts = np.arange(0, len(values), -(-len(values) // 200))
                ends = np.append(cuts[1:], len(values))
                means = np.add.reduceat(values, cuts) / (ends - cuts)
                shown = means if kind == "loss" else values[ends - 1]
                found[trial["name"]] = list(zip(ends.tolist(), shown.tolist(), strict=True))
    return out

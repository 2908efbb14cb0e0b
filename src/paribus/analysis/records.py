"""Records: one row for each trial × condition × metric × slice, read from the store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from paribus.store import Store

_ENGINE = (
    "engine kernel device dtype threads stack micro_batch deterministic paired_init torch "
    "python".split()
)


COLUMNS = (
    *"study variant trial id seed evaluation slice metric value n unit".split(),
    *"status reason step tokens flops seconds attempt".split(),
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


def rows(store: Store, study: dict[str, Any]) -> list[dict[str, Any]]:
    """Tidy rows of a study, in order of declaration; a missing cell is a row without a value
    whose status says why."""
    return list(_rows(store, study))


def _rows(store: Store, study: dict[str, Any]) -> Iterator[dict[str, Any]]:
    factors = [f["name"] for f in study["factors"] if f["kind"] == "variant"]
    axes = [f["name"] for f in study["factors"] if f["kind"] == "condition"]
    conditions = {c["key"]: c for c in study["conditions"]}
    for trial in study["trials"]:
        variant = study["variants"][trial["variant"]]
        state, result = store.state(trial["id"]), store.result(trial["id"])
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
            "status": "done" if result else state.state,
            "reason": "" if result else state.reason,
            "step": end.get("step"),
            "tokens": end.get("tokens"),
            "flops": _flops(end, info),
            "seconds": end.get("seconds"),
            "attempt": result.number if result else state.attempt,
            **{k: engine.get(k) for k in _ENGINE},
            "dtype": info["spec"][-1]["spec"].get("precision", "fp32"),
        }
        records = store.evaluations(trial["id"]) if result else {}
        failed = store.failed_evaluations(trial["id"]) if result else {}
        for key, cid in trial["cells"].items():
            c = conditions[key]
            where = {a: c["levels"].get(a) for a in axes}
            here = {**base, **where, "evaluation": c["evaluation"]}
            record = records.get(cid)
            if record is None or record.get("status") != "done":
                yield {**here, **_absent(study), **tail, **_status(record, failed.get(cid), tail)}
                continue
            for name, slices in _metrics(record):
                for metric, value in slices.items():
                    unit = study["metrics"].get(metric, {}).get("unit", "")
                    yield {
                        **here,
                        "slice": name,
                        "metric": metric,
                        "value": value["value"],
                        "n": value["count"],
                        "unit": unit,
                        **tail,
                    }


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
    if not end.get("tokens") or not info["tokens"]:
        return None
    return float(info["flops"] * end["tokens"] / info["tokens"])


def checks(store: Store, study: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Interval evaluations of each trial: {"step", "<condition key> <metric>": value, …}."""
    out = {}
    for trial in study["trials"]:
        found = (store.state(trial["id"]).end or {}).get("checks")
        if found:
            out[trial["name"]] = found
    return out


def curves(store: Store, study: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """Training loss of each trial: (step, loss), thinned to at most 200 points by averaging."""
    import numpy as np

    from paribus import arrays

    out: dict[str, list[tuple[int, float]]] = {}
    for trial in study["trials"]:
        end = store.state(trial["id"]).end or {}
        text = end.get("curves", {}).get("loss")
        if text:
            loss = arrays.unpack(text)
            width = -(-len(loss) // 200)
            cuts = range(0, len(loss), width)
            out[trial["name"]] = [
                (min(i + width, len(loss)), float(np.mean(loss[i : i + width]))) for i in cuts
            ]
    return out

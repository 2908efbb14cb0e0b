"""A table of training recipes with a laboratory diary's own columns, made from records alone.

A row a variant: what was trained, by which schedule, what came out, and what else was not the same
in all rows.  Columns that a row has no use for are empty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from paribus.analysis.cells import Row
from paribus.analysis.realised import COLUMNS
from paribus.analysis.sheets import escaped
from paribus.errors import SpecError
from paribus.study.measures import Node

NAMES = {"constant": "none", "wsd": "WSD", "cosine": "CosineAnnealing", "linear": "Linear",
         "plateau": "ReduceLROnPlateau", "multistep": "MultiStep"}  # fmt: skip
HEAD = (
    *"data_type seg_len seg_num batch_tokens params(emb) lr type warmup_steps stable_ratio".split(),
    *"factor patience valid_ppl test_ppl GPU-hours remark".split(),
)


def told_of(study: Node) -> bool:
    """Whether it trains language models, of which there is such a table."""
    info = study["variants_info"]
    return "ppl" in study["metrics"] and all("spec" in info[v["name"]] for v in study["variants"])


def recipe(study: Node, rows: Sequence[Row]) -> tuple[list[dict[str, Any]], list[str]]:
    """(rows by these columns, after the variant's name; warnings).

    data_type       "shuffle": rows are read in an order drawn for each epoch
    seg_len         tokens of a row, or of a segment where the model has a memory
    seg_num         rows (or segments) of a micro-step on all devices, as realised
    factor          of a fall of the rate
    valid_ppl …     means over seeds, of the evaluations of the validation and of the test split, at
                    the trained length
    GPU-hours       mean over seeds: seconds of training × devices / 3600
    type            with the shape of a decay that is no line, and, in Markdown, norms of q and k
    remark          betas unlike those of most rows, what of the record differs between rows, seeds,
                    states of missing trials
    """
    if not told_of(study):
        raise SpecError(
            f"recipe: {study['instance']} measures no perplexity (ppl); this table is of trainings "
            "of language models; others have --format markdown"
        )
    of: dict[str, list[Row]] = {v["name"]: [] for v in study["variants"]}
    for r in rows:
        if r["variant"] in of:
            of[r["variant"]].append(r)
    differ = _differing(rows)
    out = []
    for name, mine in of.items():
        spec = study["variants_info"][name]["spec"][-1]["spec"]
        realised = _realised(study, mine, spec, differ)
        size = study["variants_info"][name]["parameters"]
        out.append({"variant": name, **_declared(spec), **realised, "_parameters": size})
    _own_betas(out)
    return out, _warnings(differ, out)


def _declared(spec: Mapping[str, Any]) -> dict[str, Any]:
    model, task, schedule = spec["model"], spec["task"], spec["schedule"]
    segment = (model.get("memory") or {}).get("segment")
    steps, warm = spec["steps"], schedule.get("warmup") or 0
    decay = schedule.get("decay")
    if decay is not None and decay >= 1:
        decay = decay / steps
    kind = NAMES.get(schedule["part"], schedule["part"])
    if schedule.get("shape", "linear") != "linear":
        kind += f" {schedule['shape']}"
    if spec["optim"]["part"] == "schedule_free":
        kind, warm = "ScheduleFree", spec["optim"]["warmup"]
    norms = [n for n in ("q_norm", "k_norm") if model.get(n)]
    return {
        "data_type": "shuffle",
        "seg_len": segment or task.get("length"),
        "batch_tokens": (spec["rows"] or 0) * (task.get("length") or 0),
        "lr": spec["optim"].get("lr"),
        "type": kind,
        "warmup_steps": round(warm if warm >= 1 else warm * steps) or None,
        "stable_ratio": None if decay is None else round(1 - decay, 6),
        "factor": schedule.get("by"),
        "patience": schedule.get("patience"),
        "_emb": model.get("vocab", 0) * model.get("width", 0) * (1 if model.get("tied") else 2),
        "_norms": " + ".join(f"{n[0]}: {_norm(model[n])}" for n in norms),
        "_betas": ", ".join(f"{b:.6g}" for b in spec["optim"].get("betas") or ()),
    }


def _norm(norm: Mapping[str, Any]) -> str:
    gain = norm.get("gain")
    said = {"none": "", None: "", True: "", False: ", no gain"}.get(gain, f", gain {gain}")
    return f"{norm['part']}{said}"


def _own_betas(rows: Sequence[dict[str, Any]]) -> None:
    """A remark at each row whose betas are not those of most rows."""
    every = [r["_betas"] for r in rows if r["_betas"]]
    most = max(every, key=every.count, default="")
    for r in rows:
        if r["_betas"] not in ("", most):
            r["remark"] = f"betas {r['_betas']}; {r['remark']}"


def _realised(
    study: Node, mine: Sequence[Row], spec: Mapping[str, Any], differ: Mapping[str, set[str]]
) -> dict[str, Any]:
    first: dict[str, Row] = {}
    for r in mine:
        first.setdefault(r["trial"], r)
    there = [r for r in first.values() if r.get("seconds") is not None]
    hours = [r["seconds"] * (r.get("world") or 1) / 3600 for r in there]
    length, segment = spec["task"].get("length") or 0, (spec["model"].get("memory") or {})
    micro = {(r.get("micro_batch") or 0) * (r.get("world") or 1) for r in there}
    each = -(-length // segment["segment"]) if segment.get("segment") else 1

    def ppl(split: str) -> float | None:
        found = [r["value"] for c in _trained_length(study, split, length) for r in mine
                 if (r["metric"], r["slice"], r["evaluation"]) == ("ppl", "", c["evaluation"])
                 and all(r.get(f) == tag for f, tag in c["levels"].items())
                 and r["value"] is not None]  # fmt: skip
        return math.fsum(found) / len(found) if found else None

    remarks = [f"{c} {r[c]}" for c in differ for r in there[:1] if r.get(c) is not None]
    n = len({r["seed"] for r in mine if r["metric"] == "ppl" and r["value"] is not None})
    remarks.append("n = 1: no claim" if n == 1 else f"n = {n}")
    states = [r["status"] for r in first.values() if r["status"] != "done"]
    remarks += [f"{states.count(s)} {s}" for s in dict.fromkeys(states)]
    return {
        "seg_num": next(iter(micro)) * each if len(micro) == 1 else None,
        "valid_ppl": ppl("validation"),
        "test_ppl": ppl("test"),
        "GPU-hours": math.fsum(hours) / len(hours) if hours else None,
        "remark": "; ".join(remarks),
    }


def _trained_length(study: Node, split: str, length: int) -> list[Node]:
    """The conditions of a split that are as in training: without levels of their own, else at the
    trained length."""
    mine = [c for c in study["conditions"] if c["split"] == split
            and c["evaluation"] in study["metrics"]["ppl"]["evaluations"]]  # fmt: skip
    plain = [c for c in mine if not c["levels"]]
    return plain or [c for c in mine if {*c["levels"].values()} == {str(length)}]


def _differing(rows: Sequence[Row]) -> dict[str, set[str]]:
    """Columns of the records that are not the same in all rows, and their values."""
    out: dict[str, set[str]] = {}
    for column, level in COLUMNS.items():
        values = {str(r[column]) for r in rows if r.get(column) is not None}
        if level == "warn" and len(values) > 1:
            out[column] = values
    return out


def _warnings(differ: Mapping[str, set[str]], found: Sequence[Mapping[str, Any]]) -> list[str]:
    out = [
        f"{'attention kernel' if column == 'kernel' else column} differs across rows "
        f"({', '.join(sorted(values))}): what separates them may be that"
        for column, values in differ.items()
    ]
    empty = [str(r["variant"]) for r in found if r["valid_ppl"] is None and r["test_ppl"] is None]
    if empty:
        out.append(f"declared and not there: {', '.join(empty)}")
    return out


def markdown(study: Node, rows: Sequence[Row]) -> str:
    """The table in Markdown, with its warnings below."""
    found, warned = recipe(study, rows)
    lines = ["| " + " | ".join(("variant", *HEAD)) + " |", "|" + "---|" * (len(HEAD) + 1)]
    for r in found:
        norms = f"{r['type']} ({r['_norms']})" if r["_norms"] else r["type"]
        size = f"{_short(r['_parameters'])}({_short(r['_emb'])})"
        batch = _short(r["batch_tokens"], 1024)
        shown = {**r, "type": norms, "params(emb)": size, "batch_tokens": batch}
        cells = [escaped(_text(k, shown.get(k))) for k in ("variant", *HEAD)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, *(f"\nwarning: {w}" for w in warned)]) + "\n"


def _short(n: int | None, base: int = 1000) -> str:
    """ "83M", "256k"."""
    for unit, size in (("M", base**2), ("k", base)):
        if n is not None and n >= size:
            return f"{n / size:.3g}{unit}"
    return "" if n is None else str(n)


def _text(column: str, x: Any) -> str:
    if x is None:
        return ""
    if isinstance(x, float):
        return f"{x:.2f}" if column.endswith("ppl") or column == "GPU-hours" else f"{x:g}"
    return str(x)

"""A folder of plain files for who wants no page: tables, verdicts and figures, made from records.

comparison_table.txt       a line an arm: its metric at the end and at best, parameters, hours
hypothesis_validation.txt  what came of each claim
analysis_results.json      the same as data, each trial and each claim
*.csv                      results by arm, slices of each, curves of training, spans (csvs.py)
recipe.md                  of language models: what was trained how, and what came out (recipe.py)
val_<metric>_comparison.png, parameter_distribution.png and every other figure of the report
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paribus.analysis import recipe
from paribus.analysis.plots.canvas import styled
from paribus.analysis.report import csvs
from paribus.analysis.stats import Sample
from paribus.analysis.tables import aligned, fixed, judged
from paribus.errors import SpecError

if TYPE_CHECKING:
    from paribus.analysis.report import Told

DATA = "analysis_results.json"
TEXTS = ("comparison_table.txt", "hypothesis_validation.txt", DATA)


def names(metric: str) -> dict[str, str]:
    """Figures whose files have a name of their own here."""
    return {
        "training": f"val_{metric.replace('/', '-')}_comparison",
        "parameters": "parameter_distribution",
    }


def files(told: Told, table: str, verdicts: str, lang: str = "en") -> dict[str, bytes]:
    """File name -> content.

    Args:
        table, verdicts: as the terminal shows them.
        lang: of the words in figures.
    """
    trials = [_trial(told, t) for t in told.study["trials"]]
    out = {
        TEXTS[0]: f"{_comparison(told, trials)}\n\n{table}\n".encode(),
        TEXTS[1]: f"{verdicts}\n".encode(),
    }
    out |= csvs.files(told)
    if recipe.told_of(told.study):
        out["recipe.md"] = recipe.markdown(told.study, told.rows).encode()
    called = names(told.study["primary"])
    shown = {p["panel"].rpartition(": ")[2] for d in told.drawn for p in d.rows
             if d.name == "training"}  # fmt: skip
    if told.study["primary"] not in shown:  # what was looked at on the way is another metric
        del called["training"]
    for d in told.drawn:
        with styled():  # anew: one that was drawn for a page has kept its layout
            canvas = d.draw(d.rows, told.material)
        out[f"{called.get(d.name, d.name)}.png"] = canvas.png(lang)
    data = {
        "study": told.study["instance"],
        "question": told.study["question"],
        "paribus": told.study["paribus"],
        "primary": told.study["primary"],
        "experiments": trials,
        "claims": [v.data() for v in told.verdicts],
        "files": {name: _hash(content) for name, content in out.items()},
    }
    text = json.dumps({**data, "sha256": _mark(data)}, indent=1, ensure_ascii=False)
    return {**out, DATA: f"{text}\n".encode()}


def check(folder: Path, instance: str, wanted: Iterable[str] = TEXTS) -> None:
    """SpecError unless each of these files is absent, or as it was written here for this study."""
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"--output {folder}: it is a file; give a folder")
    above = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise SpecError(f"--output {folder}: nothing can be written in {above}")
    known: dict[str, str] = {}
    try:
        told = json.loads((folder / DATA).read_bytes())
        mark = told.pop("sha256")
        if told["study"] == instance and mark == _mark(told):
            known = {**told["files"], DATA: ""}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    there = [n for n in sorted(wanted) if (folder / n).exists() and not _ours(folder / n, known)]
    if there:
        raise SpecError(
            f"--output {folder}: {', '.join(there[:4])}{' …' if len(there) > 4 else ''} is there, "
            f"and not as written for {instance}; it is left as it is: choose another folder"
        )


def _ours(path: Path, known: Mapping[str, str]) -> bool:
    if path.name not in known:
        return False
    return path.name == DATA or _hash(path.read_bytes()) == known[path.name]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _mark(data: Mapping[str, Any]) -> str:
    return _hash(json.dumps(data, sort_keys=True).encode())


# ── trials and arms ─────────────────────────────────────────────────────────────────────────


def _trial(told: Told, trial: Mapping[str, Any]) -> dict[str, Any]:
    """What the records say of a trial: state, each metric at each condition (at the end, and at
    its best where it was looked at during training), parameters, time."""
    study, results = told.study, told.material.results
    variant = study["variants"][trial["variant"]]
    metrics: dict[str, dict[str, Any]] = {}
    state: Mapping[str, Any] = results.state.get((trial["name"],), {})
    for c in study["conditions"]:
        for metric in study["metrics"]:
            row = results.row(trial["name"], metric, c)
            if row is not None:
                state = row
                found = {"final": row["value"], "best": row.get("best"),
                         "best_step": row.get("best_step")}  # fmt: skip
                metrics.setdefault(c["key"], {})[metric] = found
    info = study["variants_info"].get(variant["name"], {})
    total, trained = info.get("parameters"), info.get("parameters_trained")
    if audit := told.material.audits.get(trial["name"]):
        total, trained = audit["total"], audit["trained"]
    frozen = None if total is None or trained is None else total - trained
    return {
        "trial": trial["name"],
        "variant": variant["name"],
        "levels": variant["levels"],
        "seed": trial["seed"],
        "status": state.get("status", "planned"),
        "reason": state.get("reason", ""),
        "metrics": metrics,
        "parameters": {"total": total, "trained": trained, "frozen": frozen},
        **{k: state.get(k) for k in ("step", "tokens", "flops", "seconds", "device")},
    }


def _comparison(told: Told, trials: Sequence[Mapping[str, Any]]) -> str:
    """A line for each arm that the report shows: means over its seeds, and over the conditions
    that judge."""
    study, metric = told.study, told.study["primary"]
    t = told.material.table()
    keys = [t.conditions[k]["key"] for k in judged(t.conditions)]
    looked = any(
        of.get(metric, {}).get("best") is not None for x in trials for of in x["metrics"].values()
    )
    head = ["experiment", "status", metric, *(["best"] if looked else [])]
    lines = [[*head, "parameters", "trained", "frozen", "hours"]]
    for name in told.material.chosen:
        mine = [x for x in trials if x["variant"] == name]
        states: dict[str, int] = {}
        for x in mine:
            states[x["status"]] = states.get(x["status"], 0) + 1
        line = [name, ", ".join(f"{n} {s}" for s, n in states.items())]
        for which in ("final", "best") if looked else ("final",):
            each = [_mean([x["metrics"].get(k, {}).get(metric, {}).get(which) for k in keys])
                    for x in mine]  # fmt: skip
            line.append(_spread([v for v in each if v is not None], t.decimals))
        counts = mine[0]["parameters"] if mine else {}
        total, frozen = counts.get("total"), counts.get("frozen")
        line += [f"{counts[k]:,}" if counts.get(k) else "–" for k in ("total", "trained")]
        line.append(f"{100 * frozen / total:.2f} %" if total and frozen is not None else "–")
        hours = _mean([x["seconds"] for x in mine if x["seconds"] is not None])
        lines.append([*line, "–" if hours is None else f"{hours / 3600:.3f}"])
    hidden = len(study["variants"]) - len(told.material.chosen)
    note = f"\n({hidden} more variants of the tuning grid were not chosen)" if hidden else ""
    return aligned(lines) + note


def _mean(values: Sequence[Any]) -> float | None:
    """None where one is missing."""
    if not values or any(v is None for v in values):
        return None
    return math.fsum(values) / len(values)


def _spread(values: Sequence[float], decimals: int | None) -> str:
    if not values:
        return "–"
    s = Sample(tuple(values))
    return fixed(s.mean, decimals) + (f" ± {fixed(s.sd, decimals)}" if s.n > 1 else "")

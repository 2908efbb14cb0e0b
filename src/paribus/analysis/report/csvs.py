"""Results of arms as CSV: all conditions in one file, each arm's slices in a file of its own, and
the curves of training.

results.csv          arm × condition × metric: mean over seeds, sd, and per cent of the baseline arm
results_<arm>.csv    the same of one arm, with its slices (the tasks of CORE, places, lengths)
training_curves.csv  trial × step: loss and factor of the learning rate, as far as recorded
spans.csv            of probes with an axis: arm × curve: L50, L90 and effective window
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paribus.analysis.settings import references
from paribus.analysis.slices import levels
from paribus.analysis.stats import Sample
from paribus.analysis.tables import to_csv

if TYPE_CHECKING:
    from paribus.analysis.report import Told

Values = Mapping[int, float]  # by seed
Line = dict[str, Any]


def files(told: Told) -> dict[str, bytes]:
    """File name -> content, of the arms that the report shows."""
    arms = list(told.material.chosen)
    against = references(told.study)
    every = {name: list(_lines(told, name, against.get(name))) for name in arms}
    whole = [line for lines in every.values() for line in lines if not line["slice"]]
    out = {"results.csv": to_csv([{k: v for k, v in x.items() if k != "slice"} for x in whole])}
    for name, lines in every.items():
        out[f"results_{name.replace('/', '_')}.csv"] = to_csv(lines)
    if curves := list(_curves(told)):
        out["training_curves.csv"] = to_csv(curves)
    if told.spans:
        out["spans.csv"] = to_csv([s.data() for s in told.spans])
    return {name: text.encode() for name, text in out.items()}


def _lines(told: Told, name: str, reference: str | None) -> Iterator[Line]:
    """A line for each condition, slice and metric at which the arm has a value."""
    study, results = told.study, told.material.results
    (tags,) = (v["levels"] for v in study["variants"] if v["name"] == name)
    for c in study["conditions"]:
        by = levels(results, c)
        names = ["", *(f"{key}={level}" for key, of in by.items() for level in of)]
        for slice_ in names:
            for metric, info in study["metrics"].items():
                mine = _values(told, name, metric, c, slice_)
                if not mine:
                    continue
                theirs = _values(told, reference, metric, c, slice_) if reference else {}
                sample = Sample(tuple(mine.values()))
                yield {
                    "study": study["instance"],
                    "variant": name,
                    **tags,
                    "condition": c["key"],
                    "slice": slice_,
                    "metric": metric,
                    "unit": info.get("unit", ""),
                    "n": sample.n,
                    "mean": sample.mean,
                    "sd": sample.sd if sample.n > 1 else None,
                    "baseline": reference,
                    "percent": _percent(mine, theirs),
                }


def _values(told: Told, name: str, metric: str, condition: Line, slice_: str) -> Values:
    """The values of an arm by seed; those that there are."""
    study, results = told.study, told.material.results
    out = {}
    for t in study["trials"]:
        if study["variants"][t["variant"]]["name"] == name:
            row = results.row(t["name"], metric, condition, slice_)
            if row is not None:
                out[t["seed"]] = float(row["value"])
    return out


def _percent(mine: Values, theirs: Values) -> float | None:
    """The mean's difference in per cent of the baseline arm's, over the seeds that both have."""
    both: Sequence[int] = [s for s in mine if s in theirs]
    level = math.fsum(theirs[s] for s in both)
    if not both or not level:
        return None
    return 100 * math.fsum(mine[s] - theirs[s] for s in both) / abs(level)


def _curves(told: Told) -> Iterator[Line]:
    """Of each trial that the report shows, the points of its curves, by step."""
    m = told.material
    losses = m.curves.get("loss", {})
    for trial, points in losses.items():
        if m.of.get(trial) not in m.chosen:
            continue
        rates = dict(m.curves.get("lr", {}).get(trial, ()))
        for step, loss in points:
            yield {
                "study": told.study["instance"],
                "trial": trial,
                "step": step,
                "loss": loss,
                "lr": rates.get(step),
            }

"""Records as cells: for each seed, one value or the reason why there is none.

Records are tidy rows.  A cell that should be there and is not becomes ``Missing`` with its state,
so that nothing is ever averaged over what happens to have finished.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any, NamedTuple

from paribus.study.measures import (
    MEASURED,
    Cell,
    Missing,
    Node,
    is_span,
    judging,
    leaves,
    metrics_of,
    number_of,
)

Row = Mapping[str, Any]
CENSORED = "censored"  # the state of a cell whose span lies beyond what was asked


class Lost(NamedTuple):
    """A missing cell, as the reader sees it."""

    trial: str
    condition: str
    status: str
    reason: str

    def __str__(self) -> str:
        place = f"{self.trial} at {self.condition}" if self.condition else self.trial
        return f"{place}: {self.status}" + (f" ({self.reason})" if self.reason else "")


def names(study: Node, kind: str) -> list[str]:
    return [f["name"] for f in study["factors"] if f["kind"] == kind]


def condition_label(condition: Node) -> str:
    levels = [f"{f}={tag}" for f, tag in condition["levels"].items() if tag is not None]
    return ", ".join(levels) or str(condition["evaluation"])


Items = Callable[[str, str, str], Any]
"""(trial id, condition id, metric) -> (sums, counts, groups or None) of the items, or None."""


class Results:
    """A study's records, indexed; reads nothing else.

    Args:
        items: reads the sums of evaluation items, where their standard error is wanted.
    """

    def __init__(self, study: Node, records: Iterable[Row], items: Items | None = None) -> None:
        self.study, self.items, self.rows = study, items, list(records)
        self.seeds: frozenset[int] | None = None  # those whose results choose tuned factors
        self.conditions = names(study, "condition")
        self.best: dict[tuple[Any, ...], Row] = {}
        self.state: dict[tuple[Any, ...], Row] = {}  # of a trial at a condition, or of a trial
        self.seen: dict[str, set[str]] = {}  # metric -> evaluations that gave it
        self._cells: dict[tuple[str, int], list[Cell]] = {}
        self.origin: dict[int, tuple[Node, Node]] = {}  # id of a cell -> its trial and condition
        for row in self.rows:
            place = self.place(row["evaluation"], row)
            if row.get("value") is not None:
                self.seen.setdefault(row["metric"], set()).add(row["evaluation"])
                key = (row["trial"], row["metric"], row.get("slice") or "", place)
                old = self.best.get(key)
                # Evaluations during training leave several rows: the last step is the result.
                if old is None or (row.get("step") or 0) >= (old.get("step") or 0):
                    self.best[key] = row
            else:
                self.state[row["trial"], place] = row
            if not row["evaluation"]:  # a row about the trial as a whole
                self.state[row["trial"],] = row
            self.state.setdefault((row["trial"],), row)

    def over(self, seeds: Iterable[int]) -> Results:
        """The same records; tuned factors are chosen from these seeds alone."""
        if not any(f.get("tuned") for f in self.study["factors"]):
            return self
        out = copy(self)
        out.seeds, out._cells, out.origin = frozenset(seeds), {}, {}
        out.__dict__.pop("chosen", None)
        return out

    def place(self, evaluation: str | None, levels: Row) -> tuple[Any, ...]:
        return (evaluation or "", *(levels.get(f) for f in self.conditions))

    def row(self, trial: str, metric: str, condition: Node, slice: str = "") -> Row | None:
        place = self.place(condition["evaluation"], condition["levels"])
        return self.best.get((trial, metric, slice, place))

    @cached_property
    def slices(self) -> dict[tuple[Any, ...], dict[str, set[str]]]:
        """Evaluation and levels -> slice -> the metrics that have a value there."""
        out: dict[tuple[Any, ...], dict[str, set[str]]] = {}
        for _, metric, name, place in self.best:
            if name:
                out.setdefault(place, {}).setdefault(name, set()).add(metric)
        return out

    def lost(self, trial: str, condition: Node) -> Lost | None:
        """Why a trial has no value at a condition, where a row says so."""
        place = self.place(condition["evaluation"], condition["levels"])
        row = self.state.get((trial, place))
        if row is None:
            row = self.state.get((trial,))
            if row is None:
                return Lost(trial, condition_label(condition), "planned", "")
            if row["evaluation"]:
                return None  # other cells of the trial speak for themselves
        status = str(row.get("status") or "planned")
        return Lost(trial, condition_label(condition), status, str(row.get("reason") or ""))

    def settings(self, metric: str, evaluation: str | None = None) -> list[Node]:
        """The conditions at which a metric judges."""
        if evaluation is not None:
            return [c for c in self.study["conditions"] if c["evaluation"] == evaluation]
        known: Any = self.study["metrics"].get(metric, {}).get("evaluations")
        if is_span(metric, self.study):
            known = metrics_of(self.study)[metric]["evaluations"]
        found = known or sorted(self.seen.get(metric, ()))
        return judging(self.study, found or [None])

    def cells(self, measure: Node, seed: int) -> list[Cell]:
        """Every cell that a measure may read, of one seed."""
        out: dict[tuple[Any, ...], Cell] = {}
        for key in dict.fromkeys(
            (leaf["metric"], leaf["slice"], leaf["evaluation"], leaf.get("best", False))
            for leaf in leaves(measure)
        ):
            memo = (repr(key), seed)
            if memo not in self._cells:
                self._cells[memo] = list(self._of(*key, seed))
            out |= {(c.metric, c.best, *c.tags.items()): c for c in self._cells[memo]}
        return list(out.values())

    def _of(
        self, metric: str, slice: str, evaluation: str | None, best: bool, seed: int
    ) -> Iterable[Cell]:
        study = self.study
        blank = {**{f["name"]: None for f in study["factors"]}, "evaluation": None, "slice": slice}
        tuned = {f["name"]: None for f in study["factors"] if f.get("tuned")}
        for trial in study["trials"]:
            if trial["seed"] != seed or trial["variant"] not in self.chosen:
                continue
            variant = study["variants"][trial["variant"]]
            tags = {**blank, **variant["levels"], **tuned}
            if metric not in study["metrics"] and not is_span(metric, study):
                value = number_of(study["variants_info"].get(variant["name"], {}), metric)
                if metric in MEASURED:
                    value = self.state.get((trial["name"],), {}).get(metric)
                gone = Lost(trial["name"], "", "missing", f"no {metric}")
                yield Cell(metric, tags, Missing(frozenset([gone])) if value is None else value)
                continue
            for condition in self.settings(metric, evaluation):
                if condition.get("key") not in trial.get("cells", [condition.get("key")]):
                    continue
                here = {**tags, **condition["levels"], "evaluation": condition["evaluation"]}
                value = self.value(trial, metric, slice, condition, best=best)
                cell = Cell(metric, here, value, best)
                self.origin[id(cell)] = trial, condition
                yield cell

    def value(
        self,
        trial: Node,
        metric: str,
        slice: str,
        condition: Node,
        chosen: bool = True,
        best: bool = False,
    ) -> float | Missing:
        """The number of a trial at a condition, or why there is none; ``chosen``: under tuned
        factors, only where the choice is made; ``best``: of its evaluations during training."""
        label = condition_label(condition)
        gone = self.chosen.get(trial["variant"]) if chosen else None
        if gone is None and is_span(metric, self.study):
            from paribus.analysis.spanned import of_slice

            span = of_slice(self, condition, metric, slice, trial)
            if span is None:
                gone = self.lost(trial["name"], condition)
            elif span.value is not None:
                return span.value
            else:  # on which side is no number: the cell is missing, and says so
                gone = Lost(trial["name"], label, CENSORED, span.censored)
        elif gone is None:
            row = self.row(trial["name"], metric, condition, slice)
            if row is not None and math.isfinite(row["value"]):
                if not best:
                    return float(row["value"])
                if (value := row.get("best")) is not None:
                    return float(value)
                gone = Lost(trial["name"], label, "missing", f"no {metric} during training")
            elif row is not None:
                gone = Lost(trial["name"], label, "not a number", str(row["value"]))
            else:
                gone = self.lost(trial["name"], condition)
        return Missing(frozenset([gone or Lost(trial["name"], label, "missing", f"no {metric}")]))

    @cached_property
    def chosen(self) -> dict[int, Lost | None]:
        """The variants that judge: all, or under tuned factors the best of each grid on its
        selection split, pooled over seeds.  A value says why the choice is not yet possible."""
        study = self.study
        tuned = [f for f in study["factors"] if f.get("tuned")]
        if not tuned:
            return dict.fromkeys(range(len(study["variants"])))
        grids: dict[tuple[Any, ...], list[int]] = {}
        skip = {f["name"] for f in tuned}
        for i, variant in enumerate(study["variants"]):
            rest = tuple(t for f, t in variant["levels"].items() if f not in skip)
            grids.setdefault(rest, []).append(i)
        out: dict[int, Lost | None] = {}
        for grid in grids.values():
            scores = {i: self.selection(i, tuned[0]["tuned"]) for i in grid}
            if open_ := [s for s in scores.values() if isinstance(s, Lost)]:
                out[grid[0]] = open_[0]
            else:
                out[min(grid, key=lambda i, s=scores: s[i])] = None  # type: ignore[misc]
        return out

    def selection(self, variant: int, rule: str) -> float | Lost:
        """The mean of the selection metric over seeds and its conditions; lower is better."""
        where, _, metric = rule.rpartition("/")
        sign = -1 if self.study["metrics"].get(metric, {}).get("better") == "higher" else 1
        values: list[float] = []
        for trial in self.study["trials"]:
            if trial["variant"] != variant or (self.seeds and trial["seed"] not in self.seeds):
                continue
            for condition in self.study["conditions"]:
                split = str(condition.get("split") or "")
                if where != condition["evaluation"] and not (where and split.startswith(where)):
                    continue
                row = self.row(trial["name"], metric, condition)
                if row is None or not math.isfinite(row["value"]):
                    lost = self.lost(trial["name"], condition)
                    return lost or Lost(trial["name"], where, "missing", "no selection metric")
                values.append(sign * row["value"])
        if not values:
            name = self.study["variants"][variant]["name"]
            return Lost(name, where, "missing", f"no {rule} to choose by")
        return math.fsum(values) / len(values)

    def baseline(self, name: str, cells: Sequence[Cell]) -> list[Cell]:
        """The cells with a trivial baseline's value in place of the trial's."""
        out = []
        for cell in cells:
            value = None
            if id(cell) in self.origin:
                value = self.baselines(*self.origin[id(cell)]).get(name, {}).get(cell.metric)
            gone = Lost("", str(cell.tags["evaluation"]), "missing", f"no baseline {name}")
            new = Missing(frozenset([gone])) if value is None else float(value)
            out.append(Cell(cell.metric, cell.tags, new, cell.best))
        return out

    def baselines(self, trial: Node, condition: Node) -> Mapping[str, Mapping[str, float]]:
        """The trivial baselines of a trial's task at a condition."""
        key = trial.get("cells", {}).get(condition.get("key"), condition.get("id"))
        found: Mapping[str, Mapping[str, float]] = self.study.get("baselines", {}).get(key, {})
        return found


# ── units and directions ────────────────────────────────────────────────────────────────────


def reading(node: Any, study: Node) -> tuple[str, str]:
    """(unit, which direction is better) of a measure; that of a difference is its first's."""
    if not isinstance(node, dict):
        return "", ""
    op = node["op"]
    if op == "metric":
        info = metrics_of(study)[node["metric"]]
        return info["unit"], info["better"]
    if op in "+-*/":
        (a, b), (x, y) = [reading(n, study) for n in node["args"]], node["args"]
        if a[1] and b[1] and op in "*/":
            return _joined(a[0], op, b[0]), a[1]
        unit, better = a if a[1] else b
        if op == "/" and not a[1]:
            unit = _joined("", op, unit)
        turned = op in "-/" and not a[1]
        turned ^= op in "*/" and any(isinstance(n, int | float) and n < 0 for n in (x, y))
        return unit, {"lower": "higher", "higher": "lower"}[better] if turned else better
    unit, better = reading(node["of"], study)
    if op == "prefer":
        return unit, node["better"]
    if op == "slope":
        step = {"log2": "doubling of ", "log": "e-fold of "}.get(node["by"] or "", "")
        return f"{unit} per {step}{node['over'][0]}".strip(), better
    return unit, better


def _joined(a: str, op: str, b: str) -> str:
    """The unit of a product or a quotient; numbers without a unit add nothing to it."""
    if op == "/" and a == b:
        return "ratio" if a else ""
    a, b = (f"({u})" if "/" in u and (op == "/" or i) else u for i, u in enumerate((a, b)))
    if op == "/":
        return f"{a or 1} / {b}" if b else a
    return " × ".join(u for u in (a, b) if u)


def perplexity(node: Any, study: Node, compared: bool) -> bool:
    """Whether an effect is a difference of losses and so a ratio of perplexities: of the loss
    that a perplexity is made of, neither scaled nor multiplied, and subtracted once at least
    (``compared``: by the claim, which takes one arm from another)."""
    return _log_ratio(node, study) in (("level", "difference") if compared else ("difference",))


def _log_ratio(node: Any, study: Node) -> str:
    if not isinstance(node, dict):
        return "number"
    op = node["op"]
    if op == "metric":
        name = node["metric"]
        made = any(
            m.get("of") == name and m.get("transform") == "exp" for m in study["metrics"].values()
        )
        nats = metrics_of(study)[name]["unit"].startswith("nat")
        return "level" if nats and (made or name == "loss") else ""
    if op in "+-*/":
        sides = [_log_ratio(n, study) for n in node["args"]]
        if op == "-" and sides in (["level", "level"], ["difference", "difference"]):
            return "difference"
        shifted = sides[1] == "number" or (op == "+" and sides[0] == "number")
        # A shift cancels between arms, and only there.
        return "level" if op in "+-" and shifted and {"level", "difference"} & {*sides} else ""
    if op == "slope":
        return ""
    of = _log_ratio(node["of"], study)
    return "difference" if op == "span" and of == "level" else of

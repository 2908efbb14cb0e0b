"""The audit over what was realised: what differs between the rows of one table beside the factors,
and what came out in a way that nothing can be concluded from.

After running nothing is refused: a finding is a warning, or a note where it hardly can change
numbers or falls on all arms alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from paribus import arrays
from paribus.study.arms import Grid, claims, kind, measured, moves
from paribus.study.fairness import SAME, countable
from paribus.study.finding import LEVELS, Finding
from paribus.study.measures import Node, judging, primitive
from paribus.study.soundness import TIMES

Row = Mapping[str, Any]
Ends = Mapping[str, Mapping[str, Any]]

COLUMNS = {
    "kernel": "warn",
    "dtype": "warn",
    "device": "warn",
    "engine": "warn",
    "code": "warn",
    "world": "warn",
    "torch": "warn",
    "paired_init": "warn",
    "python": "note",
    "threads": "note",
    "deterministic": "note",
    "micro_batch": "note",
}
"""Columns of a record that should not differ between arms, and how much it matters."""

EXPLAINED = {"dtype": "precision", "micro_batch": "rows"}
"""Columns that follow from a setting which a factor may be about."""

LOST = ("diverged", "failed", "out of memory", "refused", "removed", "lost")
CPU = 1e-5  # relative difference that another kernel may make on the CPU


def realised(study: Node, rows: Sequence[Row], ends: Ends) -> list[Finding]:
    """What the records of a study show.

    Args:
        rows: tidy rows, as `records.rows` gives them.
        ends: trial name -> how it ended; with "curves", the curve of lr is read from it.
    """
    seen = _Seen(study, rows, ends)
    if not seen.trials:
        return []
    found: list[Finding] = []
    for rule in RULES:
        found += rule(seen)
    return sorted(found, key=lambda f: LEVELS.index(f.level))


class _Seen:
    """The study, and the rows with a value by trial."""

    def __init__(self, study: Node, rows: Sequence[Row], ends: Ends) -> None:
        self.study, self.ends, self.grid = study, ends, Grid(study)
        self.levels = {v["name"]: v["levels"] for v in self.grid.variants}
        self.rows = [r for r in rows if r.get("value") is not None]
        self.all = rows
        self.trials: dict[str, Row] = {}  # trial -> one of its rows
        for r in self.rows:
            self.trials.setdefault(r["trial"], r)
        self.axes = [f["name"] for f in study["factors"] if f["kind"] == "condition"]
        self.judge = {c["evaluation"] for c in judging(study, [None])}

    def info(self, variant: str) -> Node:
        return self.grid.infos.get(variant) or {}

    def condition(self, row: Row) -> tuple[Any, ...]:
        return (row["evaluation"], *(row.get(a) for a in self.axes))

    def arms(self, claim: Node) -> Iterator[list[set[str]]]:
        """The arms that a claim holds against each other, as sets of variants."""
        for part in primitive(claim):
            if "on" not in part:
                continue
            arm, where = part.get("arm") or {}, part.get("where") or {}
            mine = self.variants({**where, **arm})
            if part.get("than"):
                yield [mine, self.variants({**where, **part["than"]})]
            elif part["claim"] == "best":
                yield [mine, self.variants(where) - mine]

    def arm(self, variant: str) -> str:
        """The variant without the levels of tuned factors."""
        tuned = [f["name"] for f in self.grid.factors if f.get("tuned")]
        levels = self.levels[variant]
        named = [f"{f}={tag}" for f, tag in levels.items() if f not in tuned and tag is not None]
        return ", ".join(named) if tuned else variant

    def variants(self, levels: Mapping[str, Sequence[str]]) -> set[str]:
        known = {f["name"] for f in self.grid.factors}
        return {
            v["name"]
            for v in self.grid.variants
            if all(v["levels"].get(f) in tags for f, tags in levels.items() if f in known)
        }


def _by(pairs: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    """Value -> names, each once."""
    out: dict[str, list[str]] = {}
    for value, name in pairs:
        if name not in out.setdefault(value, []):
            out[value].append(name)
    return out


# ── how it ran ──────────────────────────────────────────────────────────────────────────────


def _columns(seen: _Seen) -> Iterator[Finding]:
    """Kernel, dtype, device, code … that differ between the rows of the table."""
    for column, level in COLUMNS.items():
        there = {t: r for t, r in seen.trials.items() if r.get(column) is not None}
        if len({str(r[column]) for r in there.values()}) < 2 or _meant(seen, column, there):
            continue
        blocks: dict[int, set[str]] = {}
        for r in there.values():
            blocks.setdefault(r["seed"], set()).add(str(r[column]))
        between = any(len(values) > 1 for values in blocks.values())
        of = _by((str(r[column]), r["variant"]) for r in there.values())
        who = tuple(
            name
            for name, claim in claims(seen.study).items()
            if any(_unlike(there, arms, column) for arms in seen.arms(claim))
        )
        facts = {"column": column, "values": of, "between": between}
        about = f"{column} differs between {'arms' if between else 'seeds'}"
        yield Finding(level if between else "note", column, about, facts, who)


def _meant(seen: _Seen, column: str, there: Mapping[str, Row]) -> bool:
    """Whether a factor is about just that."""
    for f in seen.grid.factors:
        about = {kind(p) for p in moves(f)}
        if f.get("control") or EXPLAINED.get(column) in about:
            of: dict[Any, set[str]] = {}
            for r in there.values():
                of.setdefault(r.get(f["name"]), set()).add(str(r[column]))
            if all(len(values) == 1 for values in of.values()):
                return True
    return False


def _unlike(there: Mapping[str, Row], arms: list[set[str]], column: str) -> bool:
    """Whether two arms differ in a column at some seed."""
    values: list[dict[int, set[str]]] = [{}, {}]
    for r in there.values():
        for i, arm in enumerate(arms):
            if r["variant"] in arm:
                values[i].setdefault(r["seed"], set()).add(str(r[column]))
    a, b = values
    return any(a[s] != b[s] for s in a.keys() & b.keys())


def _counts(seen: _Seen) -> Iterator[Finding]:
    """Tokens and steps that were realised, held against what was planned."""
    for what, planned in (("tokens", "tokens"), ("step", "steps")):
        off = {}
        for t, r in seen.trials.items():
            info = seen.info(r["variant"])
            wanted, got = info.get(planned), r.get(what)
            if not wanted or got is None or (what == "tokens" and not countable(info)):
                continue
            if abs(got - wanted) > (SAME * wanted if what == "tokens" else 0):
                off[t] = [wanted, got]
        if off:
            facts = {"number": planned, "values": off}
            who = tuple(dict.fromkeys(seen.trials[t]["variant"] for t in off))
            about = f"{planned} realised are not those planned"
            yield Finding("warn", f"{planned}_realised", about, facts, who)


def _schedule(seen: _Seen) -> Iterator[Finding]:
    """A schedule that was to move the learning rate, and an lr that never moved."""
    stuck: dict[str, float] = {}
    for t, r in seen.trials.items():
        factors = [f for phase in seen.info(r["variant"]).get("lr") or () for f in phase]
        span = rates(seen.ends.get(t) or {})
        if span is None or not factors or max(factors) - min(factors) < SAME * max(factors):
            continue
        if span[1] - span[0] <= 1e-9 * abs(span[1]):
            stuck[t] = span[1]
    if stuck:
        who = tuple(dict.fromkeys(seen.trials[t]["variant"] for t in stuck))
        about = "the schedule was never stepped"
        yield Finding("warn", "schedule_realised", about, {"values": stuck}, who)


def rates(end: Mapping[str, Any]) -> tuple[float, float] | None:
    """The lowest and the highest learning rate that a trial was trained with; None: unknown."""
    if span := end.get("lr"):
        return float(span[0]), float(span[1])
    text = (end.get("curves") or {}).get("lr")
    curve = arrays.unpack(text).tolist() if text else []
    return (min(curve), max(curve)) if curve else None


def _data(seen: _Seen) -> Iterator[Finding]:
    """Data that a worker opened, and that are not those of the trial's identity."""
    other = {}
    for t, r in seen.trials.items():
        wanted = seen.info(r["variant"]).get("data") or {}
        opened = (seen.ends.get(t) or {}).get("data") or {}
        for name in wanted.keys() & opened.keys():
            if wanted[name] != opened[name]:
                other[t] = [name, wanted[name], opened[name]]
    if other:
        who = tuple(dict.fromkeys(seen.trials[t]["variant"] for t in other))
        about = "other data were read than planned"
        yield Finding("warn", "data_realised", about, {"values": other}, who)


def _evaluation_set(seen: _Seen) -> Iterator[Finding]:
    """One condition and metric, and numbers of items that differ between arms."""
    counts: dict[tuple[Any, ...], dict[Any, list[str]]] = {}
    for r in seen.rows:
        # A count that is no whole number is the lower side of a ratio, and no number of items.
        if r.get("n") is not None and not r.get("slice") and float(r["n"]).is_integer():
            place = (*seen.condition(r), r["metric"])
            counts.setdefault(place, {}).setdefault(r["n"], []).append(r["variant"])
    unlike = {place: of for place, of in counts.items() if len(of) > 1}
    if unlike:
        place, of = next(iter(unlike.items()))
        where = " ".join(str(x) for x in place[:-1] if x is not None)
        values = {str(n): list(dict.fromkeys(variants)) for n, variants in of.items()}
        facts = {"condition": where, "metric": place[-1], "values": values, "more": len(unlike) - 1}
        who = tuple(dict.fromkeys(v for of in unlike.values() for vs in of.values() for v in vs))
        about = "arms were evaluated on different items"
        yield Finding("warn", "evaluation_set", about, facts, who)


def _texts(seen: _Seen) -> Iterator[Finding]:
    """Numbers of texts that training really held, where a task draws them, that differ between
    arms; and conditions of one evaluation that scored different lists of texts."""
    held: dict[str, list[float]] = {}
    for t, r in seen.trials.items():
        phases = (seen.ends.get(t) or {}).get("realised") or {}
        if texts := sum(phase.get("texts") or 0 for phase in phases.values()):
            held.setdefault(r["variant"], []).append(texts)
    means = {v: fmean(numbers) for v, numbers in held.items()}
    if means and max(means.values()) - min(means.values()) > SAME * max(means.values()):
        least, most = (f(means, key=lambda v: means[v]) for f in (min, max))
        facts = {"values": {v: round(means[v]) for v in (least, most)}}
        yield Finding("warn", "texts_realised", "texts realised differ", facts, (least, most))
    lists: dict[str, dict[str, list[str]]] = {}
    for r in (r for r in seen.rows if r.get("list")):
        where = " ".join(str(x) for x in seen.condition(r) if x is not None)
        here = lists.setdefault(r["evaluation"], {}).setdefault(r["list"], [])
        if where not in here:
            here.append(where)
    yield from _scored(seen)
    for evaluation, found in lists.items():
        if len(found) > 1:
            values = {name[:8]: conditions for name, conditions in found.items()}
            told = {"evaluation": evaluation, "values": values}
            about = f"{evaluation} scored different texts"
            yield Finding("warn", "list_realised", about, told)


def _scored(seen: _Seen) -> Iterator[Finding]:
    """Conditions over one list of texts that scored other numbers of its tokens (cut off, or read
    as a prefix), and tokens of training that rows cut off."""
    counts: dict[tuple[str, str], dict[str, float]] = {}
    for r in (r for r in seen.rows if r.get("list") and not r.get("slice") and r.get("n")):
        where = " ".join(str(x) for x in seen.condition(r) if x is not None)
        counts.setdefault((r["evaluation"], r["metric"]), {})[where] = r["n"]
    for (evaluation, metric), of in counts.items():
        if max(of.values()) - min(of.values()) > SAME * max(of.values()):
            facts = {"evaluation": evaluation, "metric": metric, "values": of}
            about = f"{evaluation} scored different numbers of tokens"
            yield Finding("warn", "scored_realised", about, facts)
            break
    cut: dict[str, Any] = {}
    for t, r in seen.trials.items():
        phases = (seen.ends.get(t) or {}).get("realised") or {}
        if lost := sum(phase.get("truncated") or 0 for phase in phases.values()):
            cut[r["variant"]] = lost
    if cut:
        facts = {"values": cut}
        yield Finding("note", "truncated_realised", "rows cut tokens off", facts, tuple(cut))


def _pairs(seen: _Seen) -> Iterator[Finding]:
    """Arms of different seeds, with results or still to come, and trials that came to nothing."""
    gone = {r["trial"] for r in seen.all if r["status"] in LOST} - seen.trials.keys()
    there = {r["variant"] for r in seen.trials.values()}
    seeds: dict[str, set[int]] = {}
    for t in seen.study["trials"]:
        variant = seen.grid.variants[t["variant"]]["name"]
        if variant in there and t["name"] not in gone:
            seeds.setdefault(variant, set()).add(t["seed"])
    if len({frozenset(s) for s in seeds.values()}) > 1:
        values = {v: sorted(s) for v, s in seeds.items()}
        about = "the seeds of the arms are not paired"
        yield Finding("warn", "unpaired", about, {"values": values})
    lost = {
        r["trial"]: str(r["status"])
        for r in seen.all
        if r.get("value") is None and r["trial"] not in seen.trials and r["status"] in LOST
    }
    if lost:
        of = {r["trial"]: r["variant"] for r in seen.all}
        who = tuple(dict.fromkeys(of[t] for t in lost))
        facts = {"values": _by((state, t) for t, state in lost.items())}
        yield Finding("warn", "lost", "trials without a result", facts, who)


# ── what came out ───────────────────────────────────────────────────────────────────────────


def _trivial(seen: _Seen) -> Iterator[Finding]:
    """Models that learned nothing: nowhere better than a trivial baseline, or equal to one.  Of a
    tuned arm the best of its grid counts."""
    baselines: Node = seen.study.get("baselines") or {}
    keys = {
        (c["evaluation"], *(c["levels"].get(a) for a in seen.axes)): c["key"]
        for c in seen.study["conditions"]
    }
    cells = {t["name"]: t.get("cells") or {} for t in seen.study["trials"]}
    gains: dict[tuple[str, str, str], dict[Any, list[float]]] = {}
    equal: dict[tuple[str, str], list[str]] = {}
    for r in seen.rows:
        if r.get("slice") or r["evaluation"] not in seen.judge:
            continue
        sign = -1 if seen.study["metrics"].get(r["metric"], {}).get("better") == "lower" else 1
        cid = str(cells.get(r["trial"], {}).get(keys.get(seen.condition(r), "")))
        for name, values in (baselines.get(cid) or {}).items():
            if (trivial := values.get(r["metric"])) is None:
                continue
            place = (seen.arm(r["variant"]), r["metric"], name)
            by = gains.setdefault(place, {})
            where = (r["variant"], *seen.condition(r))
            by.setdefault(where, []).append(sign * (r["value"] - trivial))
            if abs(r["value"] - trivial) <= 0.5 / r["n"] if r.get("n") else False:
                equal.setdefault((name, r["metric"]), []).append(r["trial"])
    for (name, metric), trials in equal.items():
        facts = {"baseline": name, "metric": metric, "trials": list(dict.fromkeys(trials))}
        about = f"collapsed to the {name} baseline"
        who = tuple(dict.fromkeys(seen.trials[t]["variant"] for t in trials))
        yield Finding("warn", "collapsed", about, facts, who)
    poor: dict[tuple[str, str], list[str]] = {}
    for (arm, metric, name), by in gains.items():
        if max(fmean(values) for values in by.values()) <= 0:
            poor.setdefault((metric, name), []).append(arm)
    for (metric, name), arms in poor.items():
        facts = {"baseline": name, "metric": metric}
        about = f"no better than {name} in {metric}"
        yield Finding("warn", "learned_nothing", about, facts, tuple(arms))


def _edge(seen: _Seen) -> Iterator[Finding]:
    """A tuned setting that is best at the end of its grid: the best may lie beyond."""
    for f in (f for f in seen.grid.factors if f.get("tuned")):
        where, _, metric = f["tuned"].rpartition("/")
        sign = -1 if seen.study["metrics"].get(metric, {}).get("better") == "higher" else 1
        value = {v["tag"]: v["value"] for v in f["levels"]}
        if len(value) < 3 or not all(isinstance(x, int | float) for x in value.values()):
            continue
        scores: dict[tuple[Any, ...], dict[str, list[float]]] = {}
        for r in seen.rows:
            if r["evaluation"] == where and r["metric"] == metric and not r.get("slice"):
                names = [g["name"] for g in seen.grid.factors if not g.get("tuned")]
                arm = tuple((n, r[n]) for n in names if r.get(n) is not None)
                scores.setdefault(arm, {}).setdefault(r[f["name"]], []).append(sign * r["value"])
        low, high = min(value.values()), max(value.values())
        ends = {}
        for arm, by in scores.items():
            best = min(by, key=lambda tag: fmean(by[tag]))
            if len(by) == len(value) and value[best] in (low, high):
                ends[", ".join(f"{n}={t}" for n, t in arm)] = best
        if ends:
            about = f"{f['name']} is best at the edge of its grid"
            yield Finding("warn", "edge", about, {"factor": f["name"], "values": ends})


def _control(seen: _Seen) -> Iterator[Finding]:
    """A control factor that changes results: more than rounding on the CPU, more than the seeds
    do elsewhere."""
    values: dict[tuple[Any, ...], dict[str, float]] = {}
    for r in seen.rows:
        place = (*seen.condition(r), r["metric"], r.get("slice") or "")
        values.setdefault((r["variant"], *place), {})[r["trial"]] = r["value"]
    trial_of = {(r["variant"], r["seed"]): t for t, r in seen.trials.items()}
    seeds = {r["seed"] for r in seen.trials.values()}
    places = list(dict.fromkeys(place[1:] for place in values))
    for f in (f for f in seen.grid.factors if f.get("control")):
        worst, where = 0.0, ""
        for group in seen.grid.groups(f["name"]):
            first, *others = [v["name"] for variants in group.values() for v in variants]
            for other in others:
                for place in places:
                    a, b = values.get((first, *place), {}), values.get((other, *place), {})
                    for seed in seeds:
                        mine, theirs = trial_of.get((first, seed)), trial_of.get((other, seed))
                        if mine not in a or theirs not in b:
                            continue
                        x, y = a[mine], b[theirs]
                        far = abs(x - y) / max(abs(x), abs(y), 1e-300)
                        if far > max(worst, _allowed(seen.trials[mine], a)):
                            worst, where = far, f"{mine}, {theirs}"
        if worst:
            facts = {"factor": f["name"], "relative": worst, "where": where}
            about = f"{f['name']} changes results"
            yield Finding("warn", "control_realised", about, facts)


def _allowed(row: Row, values: Mapping[str, float]) -> float:
    """The relative difference that a control may make."""
    if str(row.get("device") or "cpu").startswith("cpu"):
        return CPU
    found = list(values.values())
    scale = abs(fmean(found)) or 1.0
    return max(CPU, stdev(found) / scale) if len(found) > 1 else math.inf


def _timing(seen: _Seen) -> Iterator[Finding]:
    """Claims about time over trials that ran in stacks."""
    stacked = {
        t: stack
        for t in seen.trials
        if (stack := ((seen.ends.get(t) or {}).get("engine") or {}).get("stack") or 1) > 1
    }
    for name, claim in claims(seen.study).items():
        if stacked and any(m["metric"] in TIMES for m in measured(claim)):
            facts = {"stack": max(stacked.values()), "trials": len(stacked)}
            about = f"{name} is about time, and trials ran in stacks"
            yield Finding("warn", "timing_stacks", about, facts, (name,))


RULES = (
    *(_columns, _counts, _schedule, _data, _evaluation_set, _texts, _pairs),
    *(_trivial, _edge, _control, _timing),
)

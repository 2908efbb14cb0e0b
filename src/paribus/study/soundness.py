"""Rules of the audit over claims: what cannot be concluded, however the numbers come out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import sqrt
from statistics import NormalDist
from typing import Any

from paribus.study.arms import claims, measured
from paribus.study.finding import Finding
from paribus.study.measures import Node, metrics_of, primitive

EXACT = ("signflip", "signed_rank")  # tests whose p-value is a whole number of 2 ** -n


def findings(study: Node) -> Iterator[Finding]:
    registered = study.get("registration") or {}
    hypotheses = registered.get("hypotheses") or {}
    yield from _stated(hypotheses)
    judged = {n: h for n, h in hypotheses.items() if h.get("claim") != "stated"}
    if judged:
        yield from _seeds(study, registered, judged)
        if not registered.get("checks"):
            yield Finding("note", "no_checks", "no manipulation checks")
    yield from _selection(study)
    yield from _kept(study)
    yield from _intervals(study)
    yield from _timing(study)
    yield from _budget(study)
    if study["conditions"] and not (study.get("trivial") or study.get("baselines")):
        yield Finding("warn", "no_trivial", "no trivial baselines")


def _stated(hypotheses: Node) -> Iterator[Finding]:
    for name, node in hypotheses.items():
        for part in primitive(node):
            if part.get("claim") == "stated":
                about = f"{name} names no measurable"
                yield Finding("warn", "no_measurable", about, {"text": part.get("text")}, (name,))


# ── seeds ───────────────────────────────────────────────────────────────────────────────────


def _seeds(study: Node, registered: Node, judged: Node) -> Iterator[Finding]:
    n = len(registered.get("seeds") or study["seeds"])
    if n == 1:
        yield Finding("warn", "one_seed", "one seed", {}, tuple(judged))
        return
    test = registered.get("test") or "paired_t"
    if test not in EXACT:
        return
    alpha = Fraction(str(registered.get("alpha", 0.05)))
    looks = [k for k in registered.get("looks") or () if k <= n] or [n]
    spent = [alpha] if len(looks) == 1 else _spent(float(alpha), looks)
    alpha = spent[-1]  # what is left for the last look
    last = _beyond(judged, n, alpha)
    earlier = [_beyond(judged, k, a) for k, a in zip(looks[:-1], spent, strict=False)]
    short = [name for name in last if all(name in names for names in earlier)]
    for level, names in (("refuse", short), ("warn", [x for x in last if x not in short])):
        if not names:
            continue
        need = n
        while {*_beyond(judged, need, alpha)} & {*names}:
            need += 1
        facts = {"test": test, "n": n, "alpha": float(alpha), "m": len(last), "need": need}
        facts["least"] = float(max(_least(judged[name], n) for name in names))
        at = "" if level == "refuse" else " at the last look"
        about = f"{test} with {n} seeds cannot reach alpha{at}"
        yield Finding(level, f"too_few_seeds{at.replace(' ', '_')}", about, facts, tuple(names))


def _beyond(judged: Node, n: int, alpha: Fraction) -> list[str]:
    """The claims that no outcome of n seeds can support: Holm asks the smallest p to be below
    alpha / m, the next one alpha / (m - 1) …; equality is not enough."""
    order = sorted(judged, key=lambda name: _least(judged[name], n))
    for rank, name in enumerate(order):
        if _least(judged[name], n) >= alpha / (len(order) - rank):
            return [x for x in judged if x in order[rank:]]
    return []


def _least(node: Node, n: int) -> Fraction:
    """The smallest p-value that a claim can have with n seeds under an exact one-sided test: all
    seeds agree.  A partial conjunction multiplies it (Benjamini and Heller 2008)."""
    if "parts" not in node:
        return Fraction(1, 2**n)
    parts = sorted(_least(p, n) for p in node["parts"])
    u: int = node["u"]
    return (len(parts) - u + 1) * parts[u - 1]


def _spent(alpha: float, looks: Sequence[int]) -> list[Fraction]:
    """What each look may spend (Lan and DeMets 1983, O'Brien–Fleming)."""
    z = NormalDist().inv_cdf(1 - alpha / 2)
    by = [2 - 2 * NormalDist().cdf(z / sqrt(k / looks[-1])) for k in looks]
    return [Fraction(b - a) for a, b in zip([0.0, *by], by, strict=False)]


# ── selection ───────────────────────────────────────────────────────────────────────────────


def _selection(study: Node) -> Iterator[Finding]:
    """A setting that is chosen on the split that judges."""
    for f in study["factors"]:
        where, _, metric = (f.get("tuned") or "").rpartition("/")
        keys = [c["key"] for c in study["conditions"] if c["evaluation"] == where]
        if any(c.get("split") == "test" for c in study["conditions"] if c["key"] in keys):
            facts = {"factor": f["name"], "evaluation": where, "metric": metric}
            about = f"{f['name']} is chosen on the test split"
            yield Finding("refuse", "selection", about, facts)


def _kept(study: Node) -> Iterator[Finding]:
    """Weights that are chosen by a value on the test split.  Evaluations use the last weights, so
    that no result rests on the choice."""
    splits = {c["key"]: c.get("split") for c in study["conditions"]}
    for text in study.get("keep") or ():
        key, _, metric = text.removeprefix("best:").rpartition("/")
        if text.startswith("best:") and splits.get(key) == "test":
            facts = {"keep": text, "condition": key, "metric": metric}
            yield Finding("note", "best_on_test", f"{text} is chosen on the test split", facts)


def _intervals(study: Node) -> Iterator[Finding]:
    keys = [c["key"] for c in study["conditions"] if c.get("every") and c.get("split") == "test"]
    if keys:
        about = "the test split is evaluated during training"
        yield Finding("note", "intervals", about, {"conditions": keys})


# ── measures and budgets ────────────────────────────────────────────────────────────────────

TIMES = frozenset(["s", "seconds", "ms", "s/step", "ms/step", "steps/s", "tokens/s", "h", "hours"])


def _timing(study: Node) -> Iterator[Finding]:
    """Claims about time: stacks and shared devices are no stopwatch."""
    known = metrics_of(study)
    for name, claim in claims(study).items():
        used = [m["metric"] for m in measured(claim)]
        timed = [m for m in used if (known.get(m) or {}).get("unit") in TIMES or m in TIMES]
        if timed:
            about = f"{name} is about time"
            yield Finding("warn", "timing", about, {"metric": timed[0]}, (name,))


def _budget(study: Node) -> Iterator[Finding]:
    """What ``budget=equal(…)`` promises, held against what the variants resolve to: steps are
    whole, so that a step's worth may be missing."""
    budget: Any = study.get("budget")
    infos = study.get("variants_info") or {}
    if not budget or budget["unit"] not in ("tokens", "steps", "flops"):
        return
    unit, amount = budget["unit"], budget["amount"]
    off = {
        name: info[unit]
        for name, info in infos.items()
        if info.get(unit) and abs(info[unit] - amount) > max(info[unit] / info["steps"], 1e-9)
    }
    if off:
        facts = {"unit": unit, "amount": amount, "values": off}
        yield Finding("warn", "budget", f"the budget of {unit} is not kept", facts, tuple(off))

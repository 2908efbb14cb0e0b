"""How often verdicts are wrong, by simulation through `verdicts(study, rows)` itself.

    python bench/false_positives.py [--studies 2000] [--only NAME …] [--write]

Each scenario is a synthetic study whose truth is known; its record is made once, and the values of
its rows are drawn anew for every simulated study: all arms of a seed share a shift (sd .05), and
each cell has noise of its own (sd .004).  A null is *least favourable* where the claim is false by
nothing at all, so that a test at level .05 errs in about 5 %; at every other null it errs less.

PASS: wrongly supported in at most 7 % of studies at every null, and in 3 to 7 % at the least
favourable one, except where a scenario says why its test is conservative; wrongly refuted in at
most 7 %; coverage within 2 points of the stated level; power within 3 points of the promise.
Scenarios marked "info" show what the methods do not promise.  --write keeps the table as
bench/results/<date>-false-positives.txt.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from paribus.analysis import stats
from paribus.analysis.verdicts import verdicts
from paribus.study.factors import Factor
from paribus.study.hypotheses import (
    Tree,
    all_of,
    at_least,
    best,
    better,
    decreasing,
    every,
    increasing,
    metric,
    no_worse,
    same,
    verify,
)
from tests.analysis.synthetic import rows, study

SEED = 20261122
NOISE, SHARED = 0.004, 0.05  # standard deviations of a cell and of the shift of a seed
SD = NOISE * 2**0.5  # of a paired difference
BIG, MARGIN = 1.0, 0.03  # an effect that is always seen; a margin wide against the noise

Levels = Mapping[str, Any]
ARM = Factor("arm", ["a", "b", "c", "d"], "model.arm")
TWO = Factor("arm", ["a", "b"], "model.arm")
LENGTH = Factor("length", [128, 256, 512, 1024], "task.length")
LR = Factor("lr", [1, 2, 3, 4], "optim.lr", tuned="valid/loss")
A, B = ARM["a"], ARM["b"]
loss = metric("loss")
AT = [loss.at(LENGTH[n]) for n in (128, 256, 512, 1024)]
SLOPE = loss.slope(LENGTH.log2)


@dataclass
class Scenario:
    """A study of known truth.

    ``mean``: the loss by variant and condition.  ``false``: claims that must not be supported
    (None: all).  ``low … high``: per cent wrongly supported for a pass; ``high`` None: only shown.
    ``refuted``: the same limit for wrongly refuted ones, where a refutation is wrong.  ``then``:
    seeds added if the first verdict is inconclusive; rates are of the studies that added them, or
    with ``either`` of all.
    """

    claims: Mapping[str, Tree]
    mean: Callable[[Levels, Levels], float]
    truth: str
    arms: list[Factor] = field(default_factory=lambda: [TWO])
    lengths: list[Factor] = field(default_factory=list)
    seeds: int = 5
    false: tuple[str, ...] | None = None
    low: float = 3.0
    high: float | None = 7.0
    refuted: float | None = None
    note: str = ""
    rules: Mapping[str, Any] = field(default_factory=dict)  # into the registration
    training: float = 0.0  # share of a cell's variance that is the trial's: in both of its splits
    kind: str = "normal"  # of noise: normal, t3, skewed, skewed a (in that arm alone)
    lost: float = 0.0  # chance that a trial diverges
    lost_if: Callable[[Levels, float], bool] | None = None  # or by its noise in sds
    then: int = 0
    either: bool = False
    unit: str = "nats/token"

    def record(self, seeds: int | None = None) -> dict[str, Any]:
        record = study(self.arms, self.lengths, seeds=seeds or self.seeds, claims=self.claims)
        record["registration"] |= {**self.rules}
        record["metrics"]["loss"]["unit"] = self.unit
        if any(f.tuned for f in self.arms):
            judges = record["conditions"]
            choose = [{**c, "evaluation": "valid", "split": "validation", "key": "v" + c["key"]}
                      for c in judges]  # fmt: skip
            record["conditions"] = judges + choose
            for trial in record["trials"]:
                trial["cells"] = {c["key"]: c["key"] for c in record["conditions"]}
            record["metrics"]["loss"]["evaluations"] = ["lm"]
        return record


@dataclass
class Counts:
    studies: int = 0
    supported: int = 0
    refuted: int = 0
    other: int = 0  # neither, nor inconclusive


def seeded(name: str, seed: int) -> np.random.Generator:
    key = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key, "<u8")))


def draws(kind: str, rng: np.random.Generator, shape: tuple[int, ...], mine: Any) -> Any:
    """Noise of mean 0 and sd 1; ``mine``: the rows of arm a."""
    if kind == "t3":
        return rng.standard_t(3, shape) / 3**0.5
    if kind.startswith("skewed"):
        out = rng.exponential(1, shape) - 1
        if kind == "skewed a":
            out[:, ~mine] = rng.standard_normal((shape[0], int((~mine).sum())))
        return out
    return rng.standard_normal(shape)


def simulate(
    s: Scenario, rng: np.random.Generator, studies: int, watch: Callable[..., None] | None = None
) -> Counts:
    """Counts of wrong verdicts; ``watch`` sees every study's."""
    n = s.seeds + s.then
    record = s.record(n)
    verify(s.claims, record)
    data = [r for r in rows(record, s.mean, noise=0, shared=0) if r["metric"] == "loss"]
    mean = np.array([r["value"] for r in data])
    seed = np.array([r["seed"] for r in data]) - 1
    names = [t["name"] for t in record["trials"]]
    trial = np.array([names.index(r["trial"]) for r in data])
    mine = np.array([r["arm"] == "a" for r in data])
    first, early = record, data
    if s.then:
        first = s.record(s.seeds)
        early = [r for r in data if r["seed"] <= s.seeds]
        amended = {**record["registration"], "seeds": record["seeds"]}
        record["registration"] = first["registration"]
        record["amendments"] = [{"at": "x", "registration": amended, "results_seen": len(early)}]
    counts = Counts()
    for start in range(0, studies, 500):
        size = min(500, studies - start)
        shift = SHARED * rng.standard_normal((size, n))
        own = rng.standard_normal((size, len(names)))
        cell = draws(s.kind, rng, (size, len(data)), mine)
        noise = s.training**0.5 * own[:, trial] + (1 - s.training) ** 0.5 * cell
        values = mean + shift[:, seed] + NOISE * noise
        gone = rng.random((size, len(names))) < s.lost
        for i in range(size):
            for r, x, z, g in zip(data, values[i].tolist(), noise[i], gone[i, trial], strict=True):
                if g or (s.lost_if and s.lost_if(r, z)):
                    r |= {"value": None, "status": "diverged"}
                else:
                    r |= {"value": x, "status": "done"}
            found = verdicts(first, early, extras=False)
            if s.then:
                settles = found[0].verdict != "inconclusive"
                if settles and not s.either:
                    continue
                found = found if settles else verdicts(record, data, extras=False)
            wrong = [v.verdict for v in found if s.false is None or v.name in s.false]
            counts.studies += 1
            counts.supported += "supported" in wrong
            counts.refuted += "refuted" in wrong
            counts.other += not {*wrong} & {"supported", "refuted", "inconclusive"}
            if watch:
                watch(found)
    return counts


# ── scenarios ───────────────────────────────────────────────────────────────────────────────


def flat(v: Levels, c: Levels) -> float:
    return 3.0


def arms(**means: float) -> Callable[[Levels, Levels], float]:
    return lambda v, c: 3.0 + means.get(v["arm"], 0.0)


def lines(**by_length: float) -> Callable[[Levels, Levels], float]:
    """Arm a's loss below the others', by length."""
    return lambda v, c: 3.0 - (by_length.get(f"at{c['length']}", 0.0) if v["arm"] == "a" else 0.0)


def slope(by: float) -> Callable[[Levels, Levels], float]:
    return lambda v, c: 3.0 + by * np.log2(int(c["length"]))


LEAST, GLOBAL = "least favourable", "global null"
AB = {"H": better(A, than=B, on=loss)}
PER_LENGTH = [better(A, than=B, on=at) for at in AT]
FAMILY = {f"H{i}": h for i, h in enumerate(PER_LENGTH)}
SHARED_BASE = {f"H{x}": better(ARM[x], than=ARM["d"], on=loss) for x in "abc"}
ranked = {"test": "signed_rank", "on_missing": "worst"}
CONSERVATIVE = "by construction: all parts must err at once"


def lr_mean(width: float) -> Callable[[Levels, Levels], float]:
    """Arm a is as good at every rate; arm b loses ``width`` a step away from its best."""
    return lambda v, c: 3.0 + (width * (int(v["lr"]) - 1) if v["arm"] == "b" else 0.0)


def scenarios() -> dict[str, Scenario]:
    S = Scenario
    out: dict[str, Scenario] = {}
    for n in (3, 5, 10):
        out[f"better n={n}"] = S(AB, flat, f"{LEAST}: equal arms", seeds=n, refuted=7)
    out |= {
        "better by": S({"H": better(A, than=B, on=loss, by=MARGIN)}, arms(a=-MARGIN),
                       f"{LEAST}: the effect is by", refuted=7),
        "better by, equal": S({"H": better(A, than=B, on=loss, by=MARGIN)}, flat, GLOBAL, low=0),
        "better by 2% ppl": S({"H": better(A, than=B, on=loss, by="2% ppl")},
                              arms(a=float(np.log(0.98))), LEAST, refuted=7),
        "better by 2%": S({"H": better(A, than=B, on=loss, by="2%")}, arms(a=-0.06),
                          f"{LEAST}: 2 % of the second arm", unit="s", refuted=7),
        "best": S({"H": best(A, on=loss)}, arms(c=BIG, d=BIG), f"{LEAST}: tied with one rival",
                  [ARM]),
        "best, all equal": S({"H": best(A, on=loss)}, flat, GLOBAL, [ARM], low=0, refuted=7,
                             note=CONSERVATIVE),
        "no_worse": S({"H": no_worse(A, than=B, on=loss, within=f"{MARGIN} nats")}, arms(a=MARGIN),
                      f"{LEAST}: worse by the margin", refuted=7),
        "no_worse, beyond": S({"H": no_worse(A, than=B, on=loss, within=f"{MARGIN} nats")},
                              arms(a=MARGIN + SD), "beyond the margin", low=0),
        "same, upper": S({"H": same(A, B, on=loss, within=f"{MARGIN} nats")}, arms(a=MARGIN),
                         f"{LEAST}: at the upper margin", refuted=7),
        "same, lower": S({"H": same(A, B, on=loss, within=f"{MARGIN} nats")}, arms(a=-MARGIN),
                         f"{LEAST}: at the lower margin", refuted=7),
        "same, narrow": S({"H": same(A, B, on=loss, within=f"{SD / 4} nats")}, arms(a=SD / 4),
                          "at a margin of ¼ sd", low=0, refuted=7,
                          note="by construction: both sides must be shown"),
        "same, a hair": S({"H": same(A, B, on=loss, within=f"{SD / 100:.6f} nats")}, flat,
                          "true: equal arms, margin of .01 sd", low=0, refuted=7,
                          note="a refutation may be on either side"),
        "increasing": S({"H": increasing(A, on=SLOPE)}, slope(0), f"{LEAST}: slope 0",
                        lengths=[LENGTH], refuted=7),
        "increasing by": S({"H": increasing(A, on=SLOPE, by=MARGIN)}, slope(MARGIN),
                           f"{LEAST}: slope is by", lengths=[LENGTH], refuted=7),
        "decreasing": S({"H": decreasing(A, on=SLOPE)}, slope(0), f"{LEAST}: slope 0",
                        lengths=[LENGTH], refuted=7),
        "decreasing by": S({"H": decreasing(A, on=SLOPE, by=MARGIN)}, slope(-MARGIN),
                           f"{LEAST}: slope is −by", lengths=[LENGTH], refuted=7),
        "every": S({"H": every(PER_LENGTH)}, lines(at128=BIG, at256=BIG, at512=BIG),
                   f"{LEAST}: all but one hold", lengths=[LENGTH], refuted=7),
        "every, none": S({"H": every(PER_LENGTH)}, flat, GLOBAL, lengths=[LENGTH], low=0,
                         note=CONSERVATIVE),
        "at_least 2 of 3": S({"H": at_least(2, PER_LENGTH[:3])}, lines(at128=BIG),
                             f"{LEAST}: one holds, two are null", lengths=[LENGTH], refuted=7),
        "at_least 2 of 3, none": S({"H": at_least(2, PER_LENGTH[:3])}, flat, GLOBAL, low=0,
                                   lengths=[LENGTH], note=CONSERVATIVE),
        "all_of": S({"H": all_of(PER_LENGTH[0], no_worse(A, than=B, on=AT[3],
                                                         within=f"{MARGIN} nats"))},
                    lines(at128=BIG, at1024=-MARGIN), f"{LEAST}: the second part at its margin",
                    lengths=[LENGTH], refuted=7),
        "Holm of 4": S(FAMILY, flat, f"{LEAST}: all null, any supported", lengths=[LENGTH],
                       refuted=7),
        "Holm of 4, one holds": S(FAMILY, lines(at128=BIG), f"{LEAST}: three null",
                                  lengths=[LENGTH], false=("H1", "H2", "H3"), refuted=7),
        "Holm of 4, three hold": S(FAMILY, lines(at128=BIG, at256=BIG, at512=BIG),
                                   f"{LEAST}: one null", lengths=[LENGTH], false=("H3",)),
        "Holm, shared base": S(SHARED_BASE, flat, f"{GLOBAL}, correlated contrasts", [ARM], low=0,
                               refuted=7, note="by construction: Holm allows any dependence"),
        "signflip n=5": S(AB, flat, f"{LEAST}: equal arms", rules={"test": "signflip"}, low=2,
                          refuted=7, note="attainable levels are k/32: 3.1 %"),
        "signflip n=8": S(AB, flat, f"{LEAST}: equal arms", seeds=8, rules={"test": "signflip"},
                          refuted=7, note="attainable: 12/256 = 4.7 %"),
        "signflip by, t3": S({"H": better(A, than=B, on=loss, by=MARGIN)}, arms(a=-MARGIN), LEAST,
                             seeds=8, rules={"test": "signflip"}, kind="t3", refuted=7,
                             note="exact for any symmetric noise"),
        "signed_rank n=6": S(AB, flat, f"{LEAST}: equal arms", seeds=6,
                             rules={"test": "signed_rank"}, refuted=7,
                             note="attainable: 3/64 = 4.7 %"),
        "worst": S(AB, flat, f"{LEAST}: arms diverge alike (15 %)", seeds=8, rules=ranked,
                   lost=0.15, low=0, note="where both arms diverged the pair counts against"),
        "worst, none lost": S(AB, flat, f"{LEAST}: equal arms", seeds=8, rules=ranked, refuted=7,
                              note="attainable: 10/256 = 3.9 %"),
        "looks 3, 5, 10": S(AB, flat, f"{LEAST}: equal arms", seeds=10,
                            rules={"looks": [3, 5, 10]}, refuted=7),
        "looks, by": S({"H": better(A, than=B, on=loss, by=MARGIN)}, arms(a=-MARGIN),
                       f"{LEAST}: the effect is by", seeds=10, rules={"looks": [3, 5, 10]},
                       refuted=7),
        "looks, Holm of 4": S(FAMILY, flat, f"{LEAST}: all null", lengths=[LENGTH], seeds=10,
                              rules={"looks": [3, 5, 10]}, refuted=7),
        "added seeds": S(AB, flat, f"{LEAST}: equal; 5 more if 3 settle nothing", seeds=3, then=5,
                         refuted=7, note="of the verdict on the new seeds"),
        "info: added, either": S(AB, flat, "the same, supported by 3 seeds or by the 5 new ones",
                                 seeds=3, then=5, either=True, high=None,
                                 note="why more seeds are a planned look instead"),
        "missing": S(AB, flat, "equal arms, 10 % of trials lost", lost=0.1, low=0,
                     note="a claim with a missing cell has no verdict"),
        "drop_seed_block": S(AB, flat, f"{LEAST}: equal arms, 10 % lost at random", lost=0.1,
                             rules={"on_missing": "drop_seed_block"}, refuted=7),
        "info: the worst diverge": S(AB, flat, "arm a diverges where it is > 0.5 sd worse",
                                     seeds=8, rules={"on_missing": "drop_seed_block"}, high=None,
                                     lost_if=lambda r, z: r["arm"] == "a" and z > 0.5,
                                     note="why dropping is not the default"),
        "the worst diverge": S(AB, flat, "as above, on_missing=worst", seeds=8, rules=ranked, low=0,
                               lost_if=lambda r, z: r["arm"] == "a" and z > 0.5),
    }  # fmt: skip
    for share in (0.5, 0.95):
        for name, width in (("alike", 0.0), ("one clear", BIG), ("one near", SD)):
            about = {"alike": "no rate matters in either arm", "one clear": "in one arm only",
                     "one near": "in one arm a little"}[name]  # fmt: skip
            truth = f"{LEAST}: {about}; splits share {share:.0%}"
            tuned = S(AB, lr_mean(width), truth, [TWO, LR], training=share, low=0, refuted=7)
            out[f"tuned, {name}, {share:.0%}"] = tuned
    for kind in ("t3", "skewed", "skewed a"):
        for n in (3, 5, 10):
            shown = S(AB, flat, f"equal means, noise {kind}", seeds=n, high=None, kind=kind)
            out[f"info: {kind} n={n}"] = shown
    return out


def rate(k: int, n: int) -> str:
    low, high = (100 * x for x in stats.wilson(k, n))
    return f"{100 * k / max(n, 1):5.1f} ({low:4.1f}–{high:4.1f})"


def false_positives(name: str, studies: int, seed: int) -> tuple[bool | None, str]:
    s = scenarios()[name]
    c = simulate(s, seeded(name, seed), studies)
    found, wrongly = 100 * c.supported / c.studies, 100 * c.refuted / c.studies
    good = s.high is None or s.low <= found <= s.high
    good &= s.refuted is None or wrongly <= s.refuted
    limit = "shown" if s.high is None else f"{s.low:g}–{s.high:g}"
    refuted = rate(c.refuted, c.studies) + (f" ≤{s.refuted:g}" if s.refuted else "")
    said = f"{name:24} {c.studies:6d} {rate(c.supported, c.studies)} {limit:>5}  {refuted:21}"
    left = f"; {100 * c.other / c.studies:.0f} % no verdict" if c.other else ""
    return None if s.high is None else good, f"{said} {s.truth}{'; ' * bool(s.note)}{s.note}{left}"


# ── intervals and power ─────────────────────────────────────────────────────────────────────


def coverage(n: int, alpha: float, kind: str, studies: int, seed: int) -> tuple[bool | None, str]:
    s = Scenario(AB, arms(a=0.01), "", seeds=n, rules={"alpha": alpha}, kind=kind)
    inside: list[bool] = []
    simulate(s, seeded(f"coverage {n} {alpha} {kind}", seed), studies,
             lambda found: inside.append(found[0].low <= 0.01 <= found[0].high))  # fmt: skip
    stated, share = 100 * (1 - 2 * alpha), 100 * sum(inside) / len(inside)
    good = abs(share - stated) <= 2 if kind == "normal" else None
    said = f"coverage n={n:<2} {kind:8} stated {stated:.0f} %: {rate(sum(inside), len(inside))}"
    return good, said


def power(effect: float, n: int, family: int, studies: int, seed: int) -> tuple[bool | None, str]:
    """Of one true claim, ``effect`` sds of a difference from its boundary, among false ones."""
    claims = dict(list(FAMILY.items())[:family])
    mean = lines(at128=effect * SD, at256=-BIG, at512=-BIG, at1024=-BIG)
    s = Scenario(claims, mean, "", lengths=[LENGTH], seeds=n, false=("H0",))
    c = simulate(s, seeded(f"power {effect} {n} {family}", seed), studies)
    promised = 100 * stats.power(effect, 1.0, n, 0.05 / family)
    found = 100 * c.supported / c.studies
    said = f"power {effect:.2f} sd, n={n:<2} α=.05/{family}: {rate(c.supported, c.studies)}"
    return abs(found - promised) <= 3, f"{said}, promised {promised:.1f}"


def settled(n: int, studies: int, seed: int) -> tuple[bool | None, str]:
    """The printed smallest effect and number of seeds, from a study whose sample sd is the true
    one, then kept to."""
    s = Scenario(AB, flat, "", seeds=n)
    record = s.record()
    data = [r for r in rows(record, flat, noise=0, shared=0) if r["metric"] == "loss"]
    ideal = np.linspace(-1, 1, n)
    ideal *= SD / ideal.std(ddof=1)
    away = 0.6 * SD  # the estimate's distance from the boundary
    for r in data:
        r["value"] += (ideal[r["seed"] - 1] - away / n**0.5) * (r["arm"] == "a")
    (v,) = verdicts(record, data, extras=False)
    assert v.verdict == "inconclusive" and v.smallest_effect and v.seeds_needed
    more = v.seeds_needed
    out = []
    for effect, seeds in ((v.smallest_effect, n), (away / n**0.5, more)):
        s = Scenario(AB, arms(a=-effect), "", seeds=seeds)
        out.append(simulate(s, seeded(f"settled {n} {effect}", seed), studies))
    kept = [100 * c.supported / c.studies for c in out]
    fewest = 100 * stats.power(away / n**0.5, SD, more - 1, 0.05)
    said = f"printed at n={n}: smallest effect {v.smallest_effect / SD:.2f} sd, power "
    said += f"{rate(out[0].supported, out[0].studies)}; {more} seeds, power "
    said += rate(out[1].supported, out[1].studies) + f" ({fewest:.0f} with one fewer)"
    return abs(kept[0] - 80) <= 3 and kept[1] >= 77 and fewest < 80, said


def jobs(studies: int, seed: int) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    tail = (studies, seed)
    out: dict[str, Any] = {n: (false_positives, (n, *tail)) for n in scenarios()}
    for n in (3, 5, 10):
        for alpha in (0.025, 0.05):
            out[f"coverage n={n} {alpha}"] = (coverage, (n, alpha, "normal", *tail))
        out[f"coverage n={n} skewed a"] = (coverage, (n, 0.025, "skewed a", *tail))
        out[f"settled n={n}"] = (settled, (n, *tail))
    for effect, n, family in ((1.5, 3, 1), (3.26, 3, 1), (1.0, 5, 1), (1.68, 5, 1), (1.5, 5, 4),
                              (2.5, 5, 2), (0.66, 10, 1), (1.0, 10, 4)):  # fmt: skip
        out[f"power {effect} n={n} of {family}"] = (power, (effect, n, family, *tail))
    return out


def run(job: tuple[Callable[..., Any], tuple[Any, ...]]) -> tuple[bool | None, str, float]:
    began = time.perf_counter()
    good, said = job[0](*job[1])
    return good, said, time.perf_counter() - began


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--studies", type=int, default=2000, help="simulated studies a scenario")
    p.add_argument("--only", nargs="+", default=[], help="scenarios whose name holds one of these")
    p.add_argument("--seed", type=int, default=SEED)
    p.add_argument("--processes", type=int, default=2)
    p.add_argument("--write", action="store_true", help="keep the table in bench/results")
    o = p.parse_args()
    chosen = {n: j for n, j in jobs(o.studies, o.seed).items()
              if not o.only or any(part in n for part in o.only)}  # fmt: skip
    import scipy

    from paribus import __version__

    began, table = time.monotonic(), []
    table.append("# python bench/false_positives.py")
    table.append(
        f"# {datetime.now(UTC):%Y-%m-%d}, paribus {__version__}, Python "
        f"{platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}, "
        f"seed {o.seed}, {o.studies} studies a scenario"
    )
    table.append("# per cent of studies with the 95 % interval (Wilson); limits in per cent")
    table.append(f"{'':4} {'scenario':24} {'studies':>6} supported            limit  refuted")
    print(*table, sep="\n", flush=True)
    failed, slowest = 0, (0.0, "")
    with ProcessPoolExecutor(o.processes) as pool:
        for name, (good, said, took) in zip(chosen, pool.map(run, chosen.values()), strict=True):
            failed += good is False
            slowest = max(slowest, (took, name))
            table.append(f"{'info' if good is None else 'PASS' if good else 'FAIL'} {said}")
            print(table[-1], flush=True)
    table.append(f"# {failed} of {len(chosen)} failed")
    print(table[-1])
    print(f"{time.monotonic() - began:.0f} s; slowest {slowest[1]}: {slowest[0]:.0f} s")
    if o.write:
        place = (
            Path(__file__).parent / "results" / f"{datetime.now(UTC):%Y-%m-%d}-false-positives.txt"
        )
        place.write_text("\n".join(table) + "\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

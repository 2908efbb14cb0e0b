"""``metric(…).best()``: the best of the evaluations during training, read from rows."""

from __future__ import annotations

from typing import Any

import pytest

from paribus.analysis import words
from paribus.analysis.records import _best
from paribus.analysis.verdicts import verdicts
from paribus.errors import SpecError
from paribus.study.hypotheses import better, criterion, from_data, metric, verify
from tests.analysis.synthetic import LENGTH, POSITION, rows, study

ROPE, NONE = POSITION["rope"], POSITION["none"]
ppl, loss = metric("ppl"), metric("loss")
SHORT = LENGTH["128"]


def looked(record: dict[str, Any]) -> dict[str, Any]:
    """The study, evaluated during training too."""
    for c in record["conditions"]:
        c["every"] = 100
    for info in record["metrics"].values():
        info["evaluations"] = ["lm"]
    return record


def test_it_reads_the_best_and_everything_else_the_last() -> None:
    """An arm that got worse at the end: its last value fails a threshold, its best one meets it."""
    claims = dict(
        last=criterion(ROPE, than=NONE, on=ppl.at(SHORT), below="5%"),
        best=criterion(ROPE, than=NONE, on=ppl.best().at(SHORT), below="5%"),
        both=criterion(ROPE, on=loss.at(SHORT) - loss.best().at(SHORT), above=0.09),
    )
    record = looked(study(criteria=claims))
    verify(claims, record)
    found = rows(record, lambda v, c: 2.0 + 0.1 * (v["position"] == "rope"), noise=0.0)
    for r in found:  # rope was as good as the others at step 700
        worse = r["variant"] == "rope"
        better_by = {"loss": 0.1, "ppl": r["value"] * (1 - 2.718281828**-0.1)}[r["metric"]]
        r |= {"best": r["value"] - better_by * worse, "best_step": 700 if worse else 1000}
    out = {v.name: v for v in verdicts(record, found)}
    assert (out["last"].verdict, out["best"].verdict) == ("not met", "met")
    assert out["last"].effect == pytest.approx(10.517, abs=1e-2)
    assert out["best"].effect == pytest.approx(0, abs=1e-6)
    assert out["both"].effect == pytest.approx(0.1)
    for r in found:
        r |= {"best": None, "best_step": None}
    out = {v.name: v for v in verdicts(record, found)}
    assert (out["last"].verdict, out["best"].verdict) == ("not met", "missing")
    assert "no ppl during training" in out["best"].missing[0]


def test_a_hypothesis_may_be_about_it() -> None:
    claims = dict(rope=better(ROPE, than=NONE, on=loss.best().mean(LENGTH), by=0.05))
    record = looked(study(claims=claims))
    verify(claims, record)
    found = rows(record, lambda v, c: 2.0)
    for r in found:
        r["best"] = r["value"] - 0.2 * (r["variant"] == "rope")
    (v,) = verdicts(record, found)
    assert v.verdict == "supported" and v.effect == pytest.approx(-0.2, abs=0.01)
    assert v.ppl_percent is not None, "a difference of losses is a ratio of perplexities"
    assert from_data(claims["rope"].data()) == claims["rope"]
    assert words.measure(ppl.best().data()) == "ppl at its best step"
    assert words.measure(ppl.best().data(), "zh") == "ppl（最好的一步）"


@pytest.mark.parametrize(
    ("measure", "says"),
    [
        (lambda: metric("seconds").best().at(SHORT), "at the end alone"),
        (lambda: ppl.best().at(SHORT), r"evaluated at the end alone; give Eval\('lm', every=steps"),
        (lambda: ppl.at(SHORT).best(), "of a metric over all items"),
        (lambda: metric("ppl", slice="hops=1").best(), "of a metric over all items"),
    ],
)
def test_what_was_not_looked_at_has_no_best(measure: Any, says: str) -> None:
    record = study()
    for info in record["metrics"].values():
        info["evaluations"] = ["lm"]
    with pytest.raises(SpecError, match=says):
        verify({"x": criterion(ROPE, on=measure(), below=1)}, record)


def test_the_best_of_what_an_attempt_recorded() -> None:
    checks = [{"step": s, "lm loss": v} for s, v in ((10, 3.0), (20, 2.0), (30, None), (40, 2.0))]
    end = {"checks": [*checks, {"step": 50, "lm loss": float("inf"), "lm accuracy": 0.5}]}
    lower, higher = {"better": "lower"}, {"better": "higher"}
    assert _best(end, "lm loss", lower, (2.5, 60)) == {"best": 2.0, "best_step": 20}
    assert _best(end, "lm loss", lower, (1.5, 60)) == {"best": 1.5, "best_step": 60}
    assert _best(end, "lm accuracy", higher, (0.4, 60)) == {"best": 0.5, "best_step": 50}
    assert _best({}, "lm loss", lower, (None, 60)) == {"best": None, "best_step": None}

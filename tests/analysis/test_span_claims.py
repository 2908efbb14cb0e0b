"""Claims about spans: the seed is the unit, and a span beyond what was asked is never a number."""

from __future__ import annotations

from typing import Any

import pytest

from paribus.analysis import words
from paribus.analysis.cells import Results
from paribus.analysis.spanned import spanned
from paribus.analysis.verdicts import verdicts
from paribus.errors import SpecError
from paribus.study.hypotheses import (
    Hypothesis,
    all_of,
    better,
    criterion,
    decreasing,
    increasing,
    metric,
    same,
    verify,
)
from tests.analysis.test_spanned import ARM, ENDS, record, rows

HALF = metric("L50", evaluation="lag", slice="source=text")
NOISE = metric("L50", evaluation="lag", slice="source=noise")
WINDOW = metric("window")


def claimed(of: dict[str, Any], seeds: int = 4, **registered: Any) -> dict[str, Any]:
    made = record(seeds)
    made["conditions"] = [{**c, "by": ["cell"]} for c in made["conditions"]]
    made["registration"] |= {"hypotheses": {k: h.data() for k, h in of.items()}, **registered}
    verify(of, made)
    return made


def judged(claim: Hypothesis, **how: Any) -> Any:
    made = claimed({"h": claim}, **how)
    (v,) = verdicts(made, rows(made))
    return v


def test_the_number_of_a_seed_is_its_span() -> None:
    v = judged(better(ARM["long"], than=ARM["short"], on=HALF, by="8 tokens"))
    made = claimed({})
    at = {s.variant: s.found["L50"] for s in spanned(Results(made, rows(made)), ENDS)
          if s.curve == "text"}  # fmt: skip
    apart = [a.value - b.value for a, b in zip(at["long"], at["short"], strict=True)]
    assert sorted(v.per_seed.values()) == pytest.approx(sorted(apart))
    assert (v.verdict, v.unit, v.n) == ("supported", "tokens", 4)
    assert "L50 (lag, source=text)" in words.claim(v.claim)


def test_a_span_is_held_against_the_direct_window() -> None:
    """The arm falls to a half at about 90 tokens, and its window is 64."""
    over = increasing(ARM["long"], on=HALF - 1.2 * WINDOW)
    under = decreasing(ARM["long"], on=HALF - 1.6 * WINDOW)
    assert judged(all_of(over, under)).verdict == "supported"
    assert judged(all_of(over, decreasing(ARM["long"], on=HALF - 1.3 * WINDOW))).verdict == (
        "refuted")  # fmt: skip
    v = judged(increasing(ARM["long"], on=HALF - metric("field")))
    assert v.verdict == "refuted" and v.effect == pytest.approx(64 * 2**0.5 - 256, rel=0.02)


@pytest.mark.parametrize("rule", ["missing", "drop_seed_block", "worst"])
def test_beyond_what_was_asked_is_missing_and_says_so(rule: str) -> None:
    v = judged(same(ARM["long"], ARM["short"], on=NOISE, within="8 tokens"), on_missing=rule)
    assert (v.verdict, v.effect, v.n, v.per_seed) == ("missing", None, 0, {})
    assert "long-s1 at lag: censored (< 8)" in words.line(v)


@pytest.mark.parametrize("rule", ["missing", "drop_seed_block", "worst"])
def test_seeds_with_a_number_do_not_stand_for_those_beyond(rule: str) -> None:
    """Of one seed all is remembered: without it the longest spans would be left out."""
    of = {"h": better(ARM["long"], than=ARM["short"], on=HALF)}
    made = claimed(of, on_missing=rule)
    found = [{**r, "value": 1.0} if (r["trial"], r["metric"]) == ("long-s2", "copied") else r
             for r in rows(made)]  # fmt: skip
    (v,) = verdicts(made, found)
    assert (v.verdict, v.effect) == ("missing", None)
    assert v.missing == ("long-s2 at lag: censored (> 128)",)


def test_a_criterion_is_missing_too() -> None:
    made = claimed({}, criteria={"c": criterion(ARM["long"], on=NOISE, above=64).data()})
    (v,) = verdicts(made, rows(made))
    assert v.verdict == "missing" and "censored (< 8)" in v.missing[0]
    made = claimed({}, criteria={"c": criterion(ARM["long"], on=HALF, above=64).data()})
    assert verdicts(made, rows(made))[0].verdict == "met"


def test_what_is_no_number_makes_no_span() -> None:
    of = {"h": better(ARM["long"], than=ARM["short"], on=HALF)}
    made = claimed(of)
    found = [{**r, "value": float("nan")}
             if (r["trial"], r["slice"], r["metric"]) == ("long-s1", "cell=text@32", "copied")
             else r for r in rows(made)]  # fmt: skip
    (v,) = verdicts(made, found)
    assert v.verdict == "missing" and v.missing == ("long-s1 at lag: missing (no L50)",)


def test_a_trial_that_is_not_done_is_lost_as_ever() -> None:
    of = {"h": better(ARM["long"], than=ARM["short"], on=HALF)}
    made = claimed(of)
    (v,) = verdicts(made, [r for r in rows(made) if r["trial"] != "long-s2"])
    assert v.missing == ("long-s2 at lag: planned",)


REFUSED = {
    "a curve for each source: name one, slice='source=…'": metric("L50", evaluation="lag"),
    r"metric\('L90'\): evaluation 'lm' has no axis of tokens; lag": metric("L90", evaluation="lm"),
    "a span is of the last evaluation": metric("L50", evaluation="lag").best(),
    "no metric 'L75'": metric("L75", evaluation="lag"),
}


@pytest.mark.parametrize("said", REFUSED)
def test_refusals(said: str) -> None:
    with pytest.raises(SpecError, match=said):
        claimed({"h": better(ARM["long"], than=ARM["short"], on=REFUSED[said])})


def test_slices_must_be_recorded() -> None:
    claim = {"h": better(ARM["long"], than=ARM["short"], on=metric("L50", evaluation="lag"))}
    made = record(2)
    with pytest.raises(SpecError, match=r"slices of lag are not recorded: by=\('cell',\)"):
        verify(claim, made)
    made["conditions"] = [{**c, "by": ["lag"]} for c in made["conditions"]]
    verify(claim, made)
    with pytest.raises(SpecError, match="records one curve"):
        verify({"h": better(ARM["long"], than=ARM["short"], on=HALF)}, made)


def test_without_an_axis_there_are_no_spans() -> None:
    made = record(2)
    made["conditions"] = [{k: v for k, v in c.items() if k != "curve"} for c in made["conditions"]]
    with pytest.raises(SpecError, match="no metric 'L50'"):
        verify({"h": better(ARM["long"], than=ARM["short"], on=HALF)}, made)

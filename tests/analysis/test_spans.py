"""Spans: published and computed figures, censoring, and what is told of records."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from paribus import arrays, probes
from paribus.analysis import curves, items, spans, stats
from paribus.analysis.plots import curve as pictures
from paribus.errors import ParibusError
from paribus.nn.reach import cached, seen
from paribus.readers import Curve
from tests.probes.oracles import Induction, Uniform

LENGTHS = [4.0, 8, 16, 32, 64, 128, 256, 512]
TRUE = spans.Fit(64, 2, 0.02, 0, 0)
PSI = np.array([TRUE.at(x, 0) for x in LENGTHS])


def test_expected_counts_give_the_parameters_back() -> None:
    found = spans.fit(LENGTHS, 200 * PSI, 200)
    assert (found.alpha, found.beta, found.lapse) == pytest.approx((64, 2, 0.02), rel=1e-5)
    assert found.deviance < 1e-6
    assert found.free == 5
    assert found.span(0.5) == pytest.approx(62.707, abs=1e-3)
    assert found.span(0.9) == pytest.approx(19.081, abs=1e-3)
    assert found.span(0.99) is None, "no length reaches it"


def test_with_guessing_too() -> None:
    true = spans.Fit(40, 3, 0.1, 0, 0)
    guess = np.linspace(0.3, 0.1, 8)
    psi = np.array([true.at(x, g) for x, g in zip(LENGTHS, guess, strict=True)])
    found = spans.fit(LENGTHS, 500 * psi, 500, guess)
    assert (found.alpha, found.beta, found.lapse) == pytest.approx((40, 3, 0.1), rel=1e-4)
    at = found.span(0.5, 0.2)
    assert at is not None
    assert spans.corrected(found.at(at, 0.2), 0.2) == pytest.approx(0.5)


def test_counts_that_were_drawn() -> None:
    rng = np.random.default_rng(0)
    found = [spans.fit(LENGTHS, rng.binomial(200, PSI), 200, start=TRUE).span(0.5)
             for _ in range(40)]  # fmt: skip
    half = np.array(found, float)
    assert half.mean() == pytest.approx(62.8, abs=2)
    assert half.std() == pytest.approx(3.0, abs=1)


def test_a_step_is_a_steep_form() -> None:
    right = np.array([1, 1, 1, 1, 1, 0, 0, 0.0])
    assert spans.fit(LENGTHS, 100 * right, 100).beta > 20
    found = spans.fitted(LENGTHS, 100 * right, [100] * 8, 0.0, 0.5)
    assert found.value is not None
    assert 64 < found.value < 128


@pytest.mark.parametrize(("right", "said"), [(1.0, "> 512"), (0.0, "< 4")])
def test_what_is_beyond_the_lengths_is_no_number(right: float, said: str) -> None:
    k = 200 * np.full(8, right)
    for found in (
        spans.fitted(LENGTHS, k, [200] * 8, 0.0, 0.5),
        spans.crossing(LENGTHS, k / 200, 0.0, 0.5),
    ):
        assert found.value is None
        assert str(found) == said
        assert found.data()["value"] is None


def test_without_a_form() -> None:
    assert spans.isotonic([3, 1, 2, 2, 0]).tolist() == pytest.approx([3, 5 / 3, 5 / 3, 5 / 3, 0])
    assert spans.isotonic([1, 2, 3], [1, 1, 2]).tolist() == pytest.approx([2.25] * 3)
    rng = np.random.default_rng(1)
    y = spans.isotonic(rng.random(50))
    assert (np.diff(y) <= 1e-12).all()
    found = spans.crossing([4, 16, 64], [0.9, 0.6, 0.2], 0.0, 0.5)
    assert found.value == pytest.approx(16 * 4**0.25)
    assert spans.crossing(LENGTHS, PSI, 0.0, 0.5).value == pytest.approx(62.7, rel=0.02)


def test_effective_window() -> None:
    gain = [0.2, 0.9, 0.8, 0.3, 0.0, 0.1]
    assert spans.effective([1, 2, 4, 8, 16, 32], gain, [-0.1, 0.8, 0.7, 0.1, -0.1, 0.01]).value == 8
    at_most = spans.effective([1, 2], [0.5, 0.5], [0.4, 0.4])
    assert (at_most.value, at_most.censored) == (2, "≥ 2")
    assert spans.effective([4, 8], [0.0, 0.1], [-1, -1]).censored == "< 4"


def test_a_fit_needs_three_lengths() -> None:
    with pytest.raises(ParibusError, match="three lengths"):
        spans.fit([4, 8], [1, 1], 2)
    with pytest.raises(ParibusError, match="0 ≤ k ≤ n"):
        spans.fit([4, 8, 16], [1, 1, 3], 2)


def test_items_and_not_tokens_are_drawn() -> None:
    """Errors of tokens of one item taken for independent ones are several times too small."""
    rng = np.random.default_rng(0)
    p = 1 / (1 + np.exp(-1.5 * rng.standard_normal(200)))
    hits = rng.binomial(64, p)
    clustered = items.bootstrap([items.Scored(1.0, hits, np.full(200, 64))], method="percentile")
    share = hits.sum() / (200 * 64)
    assert clustered.se > 3 * math.sqrt(share * (1 - share) / (200 * 64))


def test_published_intervals_and_tests() -> None:
    for k, want in ((180, (0.8506, 0.9343)), (200, (0.9812, 1.0)), (0, (0.0, 0.0188))):
        assert stats.wilson(k, 200) == pytest.approx(want, abs=5e-5)
    assert items.mcnemar(15, 4).exact == pytest.approx(0.01921, abs=5e-6)


def test_field_of_a_cache() -> None:
    assert cached(4, 16, 16) == (32, 80, "N·C + W = 4·16 + 16 = 80", 16)
    assert seen(object(), None).direct is None


# ── records ─────────────────────────────────────────────────────────────────────────────────


def condition(probe: Any, model: Any) -> dict[str, Any]:
    """What a record keeps of a probe's finding."""
    found = probe.measure(model)
    return {
        "items": {m: {"sum": arrays.pack(s), "count": arrays.pack(c)}
                  for m, (s, c) in found.items.items()},
        "labels": {k: list(map(str, v)) for k, v in found.slices.items()},
        "realised": dict(found.notes),
    }  # fmt: skip


def oracle(window: int) -> Induction:
    model = Induction(window)
    model.window, model.field, model.said, _ = cached(4, window - 1, 1)
    return model


@pytest.mark.parametrize("probe", [
    probes.lag_sweep(trials=30, sources=("random",)),
    probes.memory_gain(trials=30, sources=("random",)),
])  # fmt: skip
def test_the_effective_window_is_the_direct_one(probe: Any) -> None:
    held = condition(probe, oracle(64))
    (told,) = curves.told(held, probe.curve, draws=200)
    assert told.name == "random"
    assert told.spans["effective window"].value == 64
    assert told.ratios["window"] == 1.0
    assert told.ratios["field"] == pytest.approx(64 / 253)
    assert held["realised"]["field is"] == "N·C + W = 4·63 + 1 = 253"
    assert told.spans["L50"].value == pytest.approx(80, rel=0.25)
    assert told.spans["isotonic L50"].value == pytest.approx(64 * 1.5**0.5, rel=0.01)
    (line,) = curves.lines([told.data()], probe.curve.axis)
    assert "effective window 64; " in line
    assert "effective/direct 1; effective/theoretical 0.253" in line
    assert "with memory alone, 0 without alone" in line


def test_a_model_without_memory_has_no_window() -> None:
    probe = probes.memory_gain(trials=30, lengths=(4, 8, 16, 32), sources=("random",))
    held = condition(probe, Uniform(window=16))
    (told,) = curves.told(held, probe.curve, draws=200)
    assert told.spans["effective window"].censored == "< 4"
    assert told.spans["L50"].value is None
    assert told.fit is None
    for p in told.points:
        _, low, high = p.y["gain"]
        assert low <= 0 <= high


def test_a_model_that_remembers_more_than_was_asked() -> None:
    probe = probes.copy(trials=10, lengths=(4, 8, 16), sources=("random",))
    held = condition(probe, oracle(64))
    (told,) = curves.told(held, probe.curve, draws=100)
    assert {str(s) for s in told.spans.values()} == {"> 16"}


def test_pictures_have_lines_at_the_window_and_the_field(tmp_path: Any) -> None:
    probe = probes.lag_sweep(trials=20, sources=("random",))
    held = condition(probe, oracle(64))
    held["curves"] = [c.data() for c in curves.told(held, probe.curve, draws=100)]
    assert pictures.marks_of([held]) == {"direct window": 64.0, "theoretical field": 253.0}
    rows = pictures.data([held], ["own task"])
    assert {r["metric"] for r in rows} == {"copied", "control", "gain", "normalised"}
    assert len(rows) == 4 * 7
    for form in ("svg", "png", "pdf"):
        file = tmp_path / f"a.{form}"
        pictures.write(file, [held], ["own task"], probe.curve, "four layers")
        assert file.stat().st_size > 1000
    svg = (tmp_path / "a.svg").read_text()
    assert "direct window 64" in svg
    assert "theoretical field 253" in svg
    plain = {**held, "realised": {}}
    assert pictures.marks_of([plain]) == {}


def test_pairs_are_no_tokens(tmp_path: Any) -> None:
    probe = probes.mqar(trials=10, pairs=(2, 4, 32, 128))
    held = condition(probe, oracle(64))
    held["curves"] = [c.data() for c in curves.told(held, probe.curve, draws=50)]
    assert pictures.marks_of([held])["direct window"] == 64
    pictures.write(tmp_path / "a.svg", [held], ["own task"], probe.curve, "")
    svg = (tmp_path / "a.svg").read_text()
    assert ">pairs<" in svg
    assert "tokens" not in svg
    assert "direct window" not in svg


def test_curves_need_their_axis() -> None:
    held = condition(probes.mqar(trials=4, pairs=(2, 4)), oracle(64))
    assert curves.told(held, Curve("length", "recalled")) == []

"""Spans of arms from records: what seeds say, what is censored, and where it is shown."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from paribus.analysis.cells import Results
from paribus.analysis.report import Told, csvs
from paribus.analysis.spanned import Spanned, spanned
from paribus.study.factors import Factor
from tests.analysis.synthetic import study

ARM = Factor("arm", {"short": {"x": 1}, "long": {"x": 2}}, "model")
LAGS = (8, 16, 32, 64, 128)
ENDS = {"short": 20.0, "long": 80.0}
CURVE = {"axis": "lag", "metric": "copied", "by": "source", "control": "control", "gain": "gain"}
UNIT = {"unit": "", "better": "higher", "of": None, "transform": None}


def record(seeds: int) -> dict[str, Any]:
    made = study([ARM], [], seeds=seeds, primary="copied")
    made["conditions"] = [{**c, "evaluation": "lag", "curve": CURVE} for c in made["conditions"]]
    made["metrics"] = {m: {**UNIT, "evaluations": ["lag"]} for m in ("copied", "control", "gain")}
    for info in made["variants_info"].values():
        info["reach"] = {"window": 64, "field": 256}
    return made


def rows(made: dict[str, Any], control: float = 0.2, without: str = "") -> list[dict[str, Any]]:
    """A step that ends at ENDS, a little noise of each seed, and a text that is never copied."""
    out = []
    for t in made["trials"]:
        v = made["variants"][t["variant"]]
        for source in ("text", "noise"):
            for lag in LAGS:
                copied = 1.0 if source == "text" and lag < ENDS[v["name"]] else control
                copied += 0.004 * (t["seed"] - 2)
                values = {"copied": copied, "control": control, "gain": copied - control}
                whole = {"status": "done", "trial": t["name"], "id": t["id"], "seed": t["seed"],
                         "variant": v["name"], **v["levels"], "evaluation": "lag"}  # fmt: skip
                out += [{**whole, "slice": f"cell={source}@{lag}", "metric": m, "value": x}
                        for m, x in values.items() if t["name"] != without]  # fmt: skip
                out += [{**whole, "slice": "", "metric": m, "value": x} for m, x in values.items()]
    return out


def found(seeds: int = 3, **how: Any) -> dict[tuple[str, str], Spanned]:
    made = record(seeds)
    return {(s.curve, s.variant): s
            for s in spanned(Results(made, rows(made, **how)), ENDS)}  # fmt: skip


def test_a_span_lies_where_the_curve_falls() -> None:
    """Corrected for the control of .2 a fall from 1 to .2 passes a half midway, in octaves."""
    at = found()
    assert set(at) == {(c, v) for c in ("noise", "text") for v in ENDS}
    for arm, place in (("short", 16), ("long", 64)):
        half = at["text", arm].found["L50"]
        assert [s.value for s in half] == pytest.approx([place * 2**0.5] * 3, rel=0.02)
        assert [s.value for s in half] == sorted(s.value or 0 for s in half)
        low, middle, high = (f"{s.value:.4g}" for s in half)
        assert at["text", arm].text("L50") == f"{middle} [{low}, {high}]"
    assert at["text", "short"].found["L90"][1].value == pytest.approx(16 * 2**0.1, rel=0.02)


def test_what_is_never_copied_has_no_number() -> None:
    one = found()["noise", "long"]
    assert one.text("L50") == one.text("L90") == "< 8"
    assert one.window is not None and one.cells()["effective window"] == "< 8"
    assert one.ratios == {}
    assert one.data()["L50 highest"] == "< 8"


def test_the_effective_window_is_where_all_seeds_gain() -> None:
    at = found()
    for arm, place in (("short", 16), ("long", 64)):
        one = at["text", arm]
        assert one.window is not None and one.window.value == place
        assert one.ratios == {"window": place / 64, "field": place / 256}
    assert at["text", "short"].cells()["/ direct"] == "0.25"


def test_one_seed_has_spans_and_no_window() -> None:
    one = found(1)["text", "long"]
    assert one.found["L50"][0].value == pytest.approx(64 * 2**0.5, rel=0.02)
    assert (one.window, one.cells()["effective window"], one.seeds) == (None, "–", 1)


def test_a_missing_seed_is_counted() -> None:
    one = found(without="long-s2")["text", "long"]
    assert (one.seeds, one.planned) == (2, 3)


def test_reports_and_folders_show_them() -> None:
    made = record(3)
    told = Told(made, rows(made))
    table = [*csv.DictReader(io.StringIO(csvs.files(told)["spans.csv"].decode()))]
    assert len(table) == 4
    assert {(r["curve"], r["variant"], r["effective window"]) for r in table if r["curve"] == "text"
            } == {("text", "short", "16.0"), ("text", "long", "64.0")}  # fmt: skip
    page, html = told.markdown(), told.html()
    assert "## Spans" in page and "## 跨度" in told.markdown("zh")
    assert "| lag | text | long | 3/3 | " in page
    assert 'id="spans"' in html and "64" in html
    made = study([ARM], [], seeds=1)
    plain = Told(made, [])
    assert plain.spans == [] and "## Spans" not in plain.markdown()

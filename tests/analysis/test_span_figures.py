"""Figures of spans: what stands where, what is beyond what was asked, and when there are none."""

from __future__ import annotations

from typing import Any

import pytest

from paribus.analysis.plots import Drawn, along, spans
from paribus.analysis.plots.canvas import GRID, styled
from paribus.analysis.report import Told, outputs, pictures
from tests.analysis.test_spanned import LAGS, record, rows

RIGHT, LEFT, UP, DOWN = 9, 8, 10, 11


def drawn(made: dict[str, Any], found: list[dict[str, Any]]) -> tuple[Told, dict[str, Drawn]]:
    told = Told(made, found)
    return told, {d.name: d for d in told.drawn}


def sized(made: dict[str, Any], **sizes: int) -> dict[str, Any]:
    for name, size in sizes.items():
        made["variants_info"][name]["state_bytes"] = size
    return made


def arms(d: Drawn) -> dict[tuple[str, str], dict[str, Any]]:
    return {(p["panel"], p["series"]): p for p in d.rows if p.get("kind") != "seed"}


def marks(d: Drawn, m: Any, panel: int = 0) -> list[tuple[Any, float, float]]:
    """(marker, x, y) of every mark of a panel."""
    with styled():
        canvas = d.draw(d.rows, m)
    lines = [ax for axes in canvas.axes for ax in axes][panel].get_lines()
    return [(x.get_marker(), float(x.get_xdata()[0]), float(x.get_ydata()[0])) for x in lines]


def test_a_row_holds_what_the_table_says() -> None:
    made = record(3)
    told, found = drawn(made, rows(made))
    at = arms(found["spans-lag"])
    assert list(at) == [(c, v) for c in ("noise", "text") for v in ("short", "long")]
    for s in told.spans:
        p, row = at[s.curve, s.variant], s.data()
        for mine, theirs in (("L50", "L50"), ("lowest", "L50 lowest"), ("highest", "L50 highest"),
                             ("effective", "effective window")):  # fmt: skip
            assert (p[mine] or p[f"{mine} censored"]) == row[theirs]
        assert (p["window"], p["field"], p["first"], p["last"]) == (64, 256, 8, 128)
    one = at["noise", "long"]
    assert (one["L50"], one["L50 censored"]) == (None, "< 8"), "beyond what was asked: no number"
    seeds = [p for p in found["spans-lag"].rows if p["kind"] == "seed" and p["panel"] == "text"]
    assert len(seeds) == 6 and all(p["L50"] for p in seeds)


def test_arrows_stand_at_the_edge_of_what_was_asked() -> None:
    made = record(3)
    told, found = drawn(made, rows(made))
    d, m = found["spans-lag"], told.material
    noise = marks(d, m)
    assert {(k, x) for k, x, _ in noise if k in (LEFT, RIGHT)} == {(LEFT, LAGS[0])}
    assert not [k for k, *_ in noise if k in ("o", "D")], "nothing that reads as a number"
    text = marks(d, m, 1)
    assert not [k for k, *_ in text if k in (LEFT, RIGHT)]
    assert [x for k, x, _ in text if k == "D"] == [16, 64]
    always = [{**r, "value": 1.0} if r["metric"] == "copied" else r for r in rows(made)]
    told, found = drawn(made, always)
    p = arms(found["spans-lag"])["noise", "short"]
    assert (p["L50"], p["L50 censored"]) == (None, f"> {LAGS[-1]}")
    assert (RIGHT, LAGS[-1], 0.0) in marks(found["spans-lag"], told.material)


def test_windows_far_beyond_the_axis_are_left_out() -> None:
    made = record(3)
    made["variants_info"]["long"]["reach"] = {"window": 64, "field": 100_000}
    _, found = drawn(made, rows(made))
    d = found["spans-lag"]
    low, high = d.canvas.axes[0][0].get_xlim()
    assert low < LAGS[0] and LAGS[-1] < 256 < high < 1000, "that of the other arm is near"
    assert arms(d)["text", "long"]["field"] == 100_000, "the data have it"


def test_bytes_are_drawn_where_arms_differ_in_them() -> None:
    made = sized(record(3), short=1024, long=1024)
    assert "state-lag" not in drawn(made, rows(made))[1]
    assert "state-lag" not in drawn(record(3), rows(record(3)))[1], "nobody knows them"
    told, found = drawn(sized(made, long=65_536), rows(made))
    d = found["state-lag"]
    at = arms(d)
    assert {p["span"] for p in d.rows} == {"effective window"}
    assert (at["text", "long"]["bytes"], at["text", "long"]["y"]) == (65_536, 64)
    assert (at["noise", "long"]["y"], at["noise", "long"]["y censored"]) == (None, "< 8")
    places = {(k, x, y) for k, x, y in marks(d, told.material) if k in (UP, DOWN, "o")}
    assert places == {(DOWN, 1024, 8), (DOWN, 65_536, 8)}
    with styled():
        (ax, _) = d.draw(d.rows, told.material).axes[0]
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_bytes_say_what_their_dots_are() -> None:
    made = sized(record(3), short=4096, long=8192)
    told, found = drawn(made, rows(made))
    with styled():
        canvas = found["state-lag"].draw(found["state-lag"].rows, told.material)
    assert "first and last place asked" in canvas.svg()
    assert "所问范围的两端" in canvas.svg("zh")


def test_without_a_gain_or_with_one_seed_the_half_is_drawn() -> None:
    made = sized(record(1), short=1024, long=4096)
    d = drawn(made, rows(made))[1]["state-lag"]
    assert {p["span"] for p in d.rows} == {"L50"}
    assert arms(d)["text", "long"]["y"] == pytest.approx(64 * 2**0.5, rel=0.02)
    plain = record(1)
    assert not [p for p in drawn(plain, rows(plain))[1]["spans-lag"].rows if p["kind"] == "seed"]


def test_they_stand_in_reports_and_folders() -> None:
    made = sized(record(3), short=1024, long=4096)
    told, found = drawn(made, rows(made))
    folder = outputs.files(told, "", "")
    assert {"spans-lag.png", "state-lag.png", "probe-lag.png"} <= folder.keys()
    page = told.html()
    for name in ("spans-lag", "state-lag"):
        for lang, said in (("en", "no number stands there"), ("zh", "那里不给数字")):
            text = pictures.caption(found[name], told.material, lang)
            assert said in text and text in page
    assert 'class="zh">有效窗口' in page and GRID not in found["spans-lag"].canvas.inline()


def test_no_spans_no_figures() -> None:
    made = record(3)
    made["conditions"] = [{k: v for k, v in c.items() if k != "curve"} for c in made["conditions"]]
    assert not {n for n in drawn(made, rows(made))[1] if n.startswith(("spans", "state", "probe"))}


def test_bytes_in_words() -> None:
    assert [spans.size(x) for x in (512, 4096, 1536 * 1024, 2**31)] == [
        "512 B", "4 KiB", "1.5 MiB", "2 GiB"]  # fmt: skip


def pairs(made: dict[str, Any]) -> dict[str, Any]:
    """The same along pairs of keys and values."""
    for c in made["conditions"]:
        c["curve"] = {**c["curve"], "axis": "pairs"}
    return made


def test_an_axis_of_pairs_has_no_windows() -> None:
    made = pairs(record(3))
    told, found = drawn(made, rows(made))
    m, (d, forest) = told.material, (found["probe-lag"], found["spans-lag"])
    assert along.marks(m, "pairs") == {"short": {}, "long": {}}
    for one in (d, forest):
        with styled():
            svg = one.draw(one.rows, m).svg()
        assert ">pairs<" in svg
        assert "(tokens)" not in svg
        assert "window" not in svg.replace("effective window", "")
        said = pictures.caption(one, m, "en")
        assert "direct window" not in said
        assert "直接窗口" not in pictures.caption(one, m, "zh")
    (first, *_) = told.spans
    assert first.unit == first.data()["unit"] == "pairs"
    assert first.cells()["L50"].endswith("pairs")
    assert all(s.ratios == {} for s in told.spans)


def test_a_picture_says_what_dashes_and_dots_mean() -> None:
    made = record(3)
    told, found = drawn(made, rows(made))
    d, m = found["probe-lag"], told.material
    with styled():
        canvas = d.draw(d.rows, m)
    labels = [x.get_text().strip("\u2062\u2063") for x in canvas.figure.legends[0].get_texts()]
    assert labels == ["short", "long", "without what is to be remembered", "direct window"], (
        "the field of 256 lies beyond the axis"
    )
    assert "没有先前呈现时" in canvas.svg("zh")
    assert "Vertical: the direct window" in pictures.caption(d, m, "en")

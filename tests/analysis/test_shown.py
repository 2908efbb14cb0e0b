"""How a report shows what decides, what is missing, and itself on a phone."""

from __future__ import annotations

import re

import pytest

from paribus.analysis.plots import figures, forest, heat
from paribus.analysis.report import Told, judged, states
from paribus.study.hypotheses import at_least, better, metric, no_worse, same, stated

from .synthetic import HEADS, LENGTH, POSITION, rows, study
from .test_verdicts import known

loss = metric("loss")
ROPE, LEARNED, NONE = (POSITION[k] for k in ("rope", "learned", "none"))
AT = loss.at(LENGTH[128])
CLAIMS = {
    "big": better(ROPE, than=NONE, on=AT, by=0.1),
    "free": no_worse(ROPE, than=LEARNED, on=AT, within="0.05 nats"),
    "equal": same(ROPE, LEARNED, on=AT, within="0.02 nats"),
    "any": at_least(1, [better(ROPE, than=NONE, on=AT, by=0.03)] * 2),
    "ratio": better(ROPE, than=NONE, on=metric("ppl").at(LENGTH[128])),
    "words": stated("It helps."),
}


def told(claims=None, lost=None, **more) -> Told:
    record = study(claims=claims, **more)
    return Told(record, rows(record, known, lost=lost))


def test_strips_show_the_size_that_decides_on_one_scale():
    t = told(CLAIMS)
    strips = {h["v"].name: h["strip"] for h in judged.shown(t.study, t.verdicts)}
    assert strips["words"] is None
    texts = {n: [x for _, x in s["edge_texts"]] for n, s in strips.items() if s}
    minus = "\N{MINUS SIGN}"
    assert texts["big"] == [f"{minus}0.1"]
    assert texts["free"] == ["0.05"]
    assert " … ".join(texts["equal"]) == f"{minus}0.02 … 0.02"
    assert texts["any"] == [f"{minus}0.03"]
    assert texts["ratio"] == []
    own = [strips[n] for n in ("big", "free", "equal", "any")]
    assert len({s["zero"] for s in own}) == 1
    effects = {v.name: v.effect for v in t.verdicts}
    (a, b), (x, y) = (own[0], own[1]), (effects["big"], effects["free"])
    for s, e in ((a, x), (b, y)):  # the same pixels for the same difference
        step = (own[0]["edges"][0] - s["zero"]) / -0.1
        assert s["dot"] - s["zero"] == pytest.approx(step * e, abs=2)
    page = t.html()
    assert page.count('class="strip"') == 5
    assert f">{minus}0.1</text>" in page


def test_the_forest_leaves_claims_in_words_out():
    d = {d.name: d for d in figures(told(CLAIMS).material)}["forest"]
    assert "words" not in {p["name"] for p in d.rows}
    assert len(d.canvas.figure.axes) == len({p["unit"] for p in d.rows if p["kind"] != "seed"})
    assert not forest.data(told({"words": CLAIMS["words"]}).material)


def test_a_phone_gets_narrow_figures_and_a_hint_that_tables_go_on():
    t = told(CLAIMS)
    page = t.html()
    shown = page.count("<figure id=")
    assert page.count('<div class="paper wide">') == page.count('<div class="paper slim">') == shown
    widths = [
        float(w) for w in re.findall(r'<div class="paper slim"><svg[^>]* width="([\d.]+)pt', page)
    ]
    assert len(widths) == shown
    assert max(widths) < 330  # of 343 px, so that no font shrinks much
    assert re.search(r"\.scroll, \.paper \{[^}]*local[^}]*scroll", page)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_noise_does_not_fill_the_colours_of_a_map():
    record = study([POSITION, HEADS], seeds=3)
    values = {"none": 3.4310, "rope": 3.4312, "learned": 3.4311}
    data = rows(record, lambda v, c: values[v["position"]], noise=0.01, shared=0)
    m = Told(record, data).material
    noise = heat._noise(m.table())
    assert noise == pytest.approx(0.01, rel=0.5)
    low, high = heat._range([3.4310, 3.4312], noise)
    assert high - low == pytest.approx(heat.NOISE * noise)
    assert heat._range([3.0, 4.0], noise) == (3.0, 4.0)
    low, high = heat._range([3.4310, 3.4312])
    assert high - low == pytest.approx(0.034, rel=0.02)
    svg = {d.name: d for d in figures(m)}["heat"].canvas.svg()
    assert not re.search(r">\s*[+−-]\d[\d.e+]*\s*</text>", svg)  # matplotlib's offset


def test_no_axis_has_an_offset():
    record = study(seeds=2)
    t = Told(record, rows(record, lambda v, c: 3.431, noise=1e-5, shared=0))
    for d in t.drawn:
        d.canvas.png()
        for ax in d.canvas.figure.axes:
            assert not ax.yaxis.get_offset_text().get_text()


LOST = {"none-s1": "diverged", "none-s2": "failed", "none-s3": "planned"}


def test_what_cannot_finish_is_counted():
    page, text = (f(told(CLAIMS, LOST)) for f in (Told.html, Told.markdown))
    for said in (page, text):
        assert "12 of 15 trials are done." in said
        assert "2 ended without a result and do not go on without --retry." in said
    assert "--retry" not in told(CLAIMS, {"none-s3": "planned"}).markdown()
    assert "1 ended without" in told(CLAIMS, {"none-s3": "out of memory"}).markdown()


def test_states_are_said_in_the_readers_language():
    t = told(CLAIMS, LOST, baseline={"position": ["none"]})
    text = t.markdown("zh")
    for state in LOST.values():
        assert states.state(state, "zh") in text
        assert not re.search(rf"\b{state}\b", text), state
    unread = study(claims=CLAIMS)
    data = rows(unread, known, lost={"none-s1": "planned"})
    for row in data:
        row["reason"] = row["reason"] and "not evaluated yet"
    assert "计划中（尚未评测）" in Told(unread, data).markdown("zh")
    assert "已发散" in re.sub(r'<span class="en".*?</span>', "", t.html("zh"))
    assert states.said("1 diverged, 2 out of memory", "zh") == "1 已发散，2 内存不足"
    assert states.said("1 diverged, 2 odd", "en") == "1 diverged, 2 odd"
    assert states.state("odd", "zh") == "odd"

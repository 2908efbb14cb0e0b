"""Figures and the report: they stand alone, and escape what they are given."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from paribus.analysis import plots
from paribus.analysis.report import render
from paribus.analysis.report.strings import STRINGS
from paribus.study.factors import Factor
from paribus.study.hypotheses import at_least, best, better, criterion, metric, no_worse

from .synthetic import HEADS, LENGTH, POSITION, rows, study
from .test_verdicts import known

loss = metric("loss")
ROPE, NONE = POSITION["rope"], POSITION["none"]
CLAIMS = {
    "flat": best(ROPE, on=loss.slope(LENGTH.log2)),
    "free": no_worse(ROPE, than=POSITION["learned"], on=loss.at(LENGTH[128]), within="1% ppl"),
    "some": at_least(1, [better(ROPE, than=NONE, on=loss.at(LENGTH[k])) for k in (128, 512)]),
}
CURVES = {"rope-s1": [(10, 4.0), (20, 3.0), (30, float("nan"))], "none-s1": [(10, 4.1), (20, 3.3)]}
EVIL = '<script>alert("1")</script>'


@pytest.fixture(scope="module")
def page() -> str:
    record = study(
        claims=CLAIMS,
        checks={"learns": criterion(ROPE, on=loss.at(LENGTH[128]), below=2.5)},
        criteria={"published": criterion(ROPE, on=loss.at(LENGTH[128]), below=1.0)},
        question=f"Is {EVIL} escaped?",
        skipped=[{"reason": EVIL, "levels": {"position": EVIL}}],
    )
    record["amendments"] = [
        {
            "at": "2026-01-02",
            "results_seen": 3,
            "registration": {"hypotheses": {"late": CLAIMS["free"].data() | {"within": "9% ppl"}}},
        }
    ]
    data = rows(record, known, lost={"learned-s2": "diverged"})
    for row in data:
        row["reason"] = row["reason"] and EVIL
    told = {"date": "2026-01-03", "commands": [f"paribus run {EVIL}"], "hardware": {"cpu": EVIL}}
    return render(record, data, None, None, CURVES, told)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "input", "br", "link", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_it_stands_alone(page):
    assert "http:" not in page
    assert "https:" not in page
    assert not re.search(r"@import|url\((?!#)", page)
    tags = Tags(page)
    assert not tags.open
    assert not {t for t, _ in tags.seen} & {"script", "link", "img", "iframe", "object"}
    for _, attributes in tags.seen:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")


def test_it_escapes(page):
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 5


def test_it_says_what_matters(page):
    for text in ("refuted", "missing", "post-hoc", "2026-01-02", "diverged", "unigram", "not-met"):
        assert text in page
    assert page.count("<figure>") == 2
    for zh in (STRINGS["zh"][k] for k in ("answer", "fairness", "provenance", "met")):
        assert zh in page
    assert "Is &lt;script&gt;" in page


def test_evaluations_during_training():
    record = study(baseline={"position": ["none"]})
    keys = [c["key"] for c in record["conditions"][:2]]
    checks = {
        t["name"]: [{"step": s, **{f"{k} loss": t["seed"] / s for k in keys}} for s in (1, 2, 3)]
        for t in record["trials"]
    }
    checks["rope-s1"][-1] |= {f"{keys[0]} loss": None}  # not finite
    checks["gone"] = checks["rope-s2"]
    series = plots.interval_series(record, checks)
    assert list(series) == ["lm length=128: loss", "lm length=256: loss"]
    assert {v: len(s) for v, s in series["lm length=128: loss"].items()} == dict(
        rope=5, learned=5, none=5
    )
    page = render(record, rows(record, known), checks=checks)
    assert STRINGS["en"]["intervals"] in page
    assert page.count("<figure>") == 2
    assert "lm length=128: loss" in page
    assert not Tags(page).open
    assert plots.intervals(record, checks, png=True).startswith(b"\x89PNG")
    svg = plots.intervals(record, checks)
    axes = re.findall(r'<g id="axes_\d+">', svg)
    assert len(axes) == 2
    del checks["none-s1"]  # then its variant has single seeds alone
    thick = "stroke-width: 1.8"
    assert plots.intervals(record, checks).count(thick) == svg.count(thick) - 3
    for none in (None, {}, {"rope-s1": []}):
        assert render(record, rows(record, known), checks=none).count("<figure>") == 1


def test_settings_and_the_baseline():
    record = study(baseline={"position": ["none"]})
    for v in record["variants"]:
        position = {"part": v["name"], "base": EVIL} if v["name"] == "rope" else None
        spec = [{"name": "train", "optim": "keep", "spec": {"model": {"position": position}}}]
        record["variants_info"][v["name"]]["spec"] = spec
    page = render(record, rows(record, known))
    assert "model.position: none → rope(base=&lt;script&gt;" in page
    assert page.count(STRINGS["zh"]["reference"]) == 1
    assert "<script" not in page
    assert not Tags(page).open


def test_seeds_added_after_results_are_named():
    record = study(claims={"H": better(ROPE, than=NONE, on=loss.at(LENGTH[128]))}, seeds=4)
    now = record["registration"]
    record["registration"] = {**now, "seeds": [1, 2, 3]}
    record["amendments"] = [{"at": "x", "registration": now, "results_seen": 9}]
    page = render(record, rows(record, known))
    assert "rests on the 1 seed added after results were seen, alone" in page
    assert "(registered seeds: supported, −0." in page
    assert "first arm minus second" in page


def test_language():
    record = study(claims=CLAIMS)
    for lang, box in (("en", "lang-en"), ("zh", "lang-zh")):
        page = render(record, [], lang=lang)
        assert f'id="{box}" checked' in page
        assert f'<html lang="{lang}">' in page


def test_strings_match():
    assert STRINGS["en"].keys() == STRINGS["zh"].keys()
    for key, text in STRINGS["en"].items():
        fields = set(re.findall(r"{(\w+)}", text))
        assert fields == set(re.findall(r"{(\w+)}", STRINGS["zh"][key])), key


def test_the_same_records_make_the_same_page():
    record = study(claims=CLAIMS)
    data = rows(record, known)
    assert render(record, data, curves=CURVES) == render(record, data, curves=CURVES)


def test_figures():
    record = study()
    svg = plots.primary(record, rows(record, known), trained=256)
    assert svg.startswith("<svg")
    for text in ("rope", "learned", "nats/token", "length", "trained", "unigram"):
        assert re.search(rf"<text[^>]*>[^<]*{text}", svg), text
    assert plots.primary(record, rows(record, known), png=True).startswith(b"\x89PNG")
    assert plots.learning(CURVES, png=True).startswith(b"\x89PNG")


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("condition", [[], [LENGTH], [Factor("kind", {"a": {}, "b": {}})]])
def test_every_shape_of_study_has_a_figure(condition, seeds):
    record = study([POSITION, HEADS], condition, seeds=seeds)
    data = rows(record, known, lost={"rope-4-s1": "diverged"})
    assert plots.primary(record, data).startswith("<svg")
    assert "rope-4" in render(record, data)


def test_two_axes_of_conditions():
    other = Factor("window", [1, 2], "task.window")
    record = study([POSITION], [LENGTH, other])
    assert "window=2" in plots.primary(record, rows(record, known))


def test_geometric_axes():
    assert plots._geometric([128, 256, 512])
    assert not plots._geometric([1, 2, 3])
    assert not plots._geometric([0, 1, 10])


def test_the_common_path_is_light():
    """Importing what makes tables and verdicts loads neither scipy nor numpy nor what draws."""
    code = (
        "import sys, paribus.analysis.verdicts, paribus.analysis.tables, paribus.analysis.words, "
        "paribus.analysis.report, paribus.analysis.plots\n"
        "heavy = {'torch', 'numpy', 'scipy', 'matplotlib', 'jinja2'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

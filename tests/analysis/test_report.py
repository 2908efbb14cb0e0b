"""The report: it stands alone, escapes what it is given, and says what is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from paribus.analysis.report import Told, render, render_markdown
from paribus.analysis.strings import STRINGS
from paribus.study.hypotheses import at_least, best, better, criterion, metric, no_worse

from .synthetic import LENGTH, POSITION, rows, study
from .test_verdicts import known

loss = metric("loss")
ROPE, NONE = POSITION["rope"], POSITION["none"]
CLAIMS = {
    "flat": best(ROPE, on=loss.slope(LENGTH.log2)),
    "free": no_worse(ROPE, than=POSITION["learned"], on=loss.at(LENGTH[128]), within="1% ppl"),
    "some": at_least(1, [better(ROPE, than=NONE, on=loss.at(LENGTH[k])) for k in (128, 512)]),
}
CURVES = {
    "loss": {
        "rope-s1": [(10, 4.0), (20, 3.0), (30, float("nan"))],
        "none-s1": [(10, 4.1), (20, 3.3)],
    },
    "lr": {"rope-s1": [(10, 1e-3), (20, 5e-4)], "none-s1": [(10, 1e-3), (20, 5e-4)]},
}
ROW = {"evaluation": "lm", "slice": "", "metric": "loss", "length": "128"}  # of an import
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
    arm = {"name": EVIL, "source": EVIL, "unknown": [EVIL], "rows": [{**ROW, "value": 1.5}]}
    return render(record, data, curves=CURVES, imports=[arm], gaps=[EVIL], provenance=told)


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


def figures(page: str) -> list[str]:
    return re.findall(r'<figure id="fig-([a-z-]+)">', page)


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
    assert figures(page) == ["primary", "forest", "curves", "learning-rate"]
    for zh in (STRINGS["zh"][k] for k in ("answer", "audit", "provenance", "met")):
        assert zh in page
    assert "Is &lt;script&gt;" in page


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


def test_the_common_path_is_light():
    """Importing what makes tables and verdicts loads neither scipy nor numpy nor what draws."""
    code = (
        "import sys, paribus.analysis.verdicts, paribus.analysis.tables, paribus.analysis.words, "
        "paribus.analysis.report, paribus.analysis.plots, paribus.analysis.sheets\n"
        "heavy = {'torch', 'numpy', 'scipy', 'matplotlib', 'jinja2'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_loads_what_it_takes_while_others_work():
    code = (
        "import sys; from paribus.analysis import report\n"
        "report.ready().join(); had = set(sys.modules)\n"
        "from tests.analysis import test_report as t\n"
        "record = t.study(claims=t.CLAIMS)\n"
        "report.render(record, t.rows(record, t.known), curves=t.CURVES)\n"
        "heavy = {'numpy', 'matplotlib', 'mpl_toolkits', 'jinja2'}  # scipy's the tests load\n"
        "late = [m for m in sys.modules if m not in had and m.partition('.')[0] in heavy]\n"
        "assert not late and 'scipy.special' in had, late"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


# ── first things first ──────────────────────────────────────────────────────────────────────


def test_the_first_screen():
    """Question, verdicts, main figure; then the tables."""
    record = study(claims=CLAIMS)
    page = render(record, rows(record, known))
    order = [record["question"], "position=rope is best", 'id="fig-primary"', 'class="values']
    places = [page.index(text, page.index("<main>")) for text in order]
    assert places == sorted(places)


def test_links_lead_somewhere(page):
    tags = Tags(page)
    ids = [a["id"] for _, a in tags.seen if "id" in a]
    assert len(ids) == len(set(ids))
    links = {a["href"][1:] for t, a in tags.seen if t == "a"}
    assert {"v0", "v1", "v2", "trials", "imports", "h-1"} <= links <= set(ids)
    labels = {a["for"] for t, a in tags.seen if t == "label"}
    assert labels <= set(ids)


def test_half_a_study_says_what_is_missing():
    record = study(claims=CLAIMS, baseline={"position": ["none"]})
    lost = {f"none-s{k}": "planned" for k in range(1, 6)} | {"learned-s2": "running"}
    data = rows(record, known, lost=lost)
    for row in data:
        row["reason"] = ""
    told = Told(record, data)
    page = told.html()
    for text in ("5 planned", "1 running", "4/5", "Incomplete: 1 running, 5 planned",
                 "No value yet: none", "9 of 15 trials"):  # fmt: skip
        assert text in page, text
    assert not re.search(r"\bnan\b", re.sub(r"<[^>]*>", " ", page))
    assert 'class="num best"' not in page  # one variant alone is whole: best of one says nothing
    means = [p for d in told.drawn for p in d.rows if d.name == "primary" and p["kind"] == "mean"]
    assert {p["series"] for p in means} == {"rope", "learned"}
    assert {p["n"] for p in means if p["series"] == "learned"} == {4}
    assert "| none (baseline) | 5 planned |" in told.markdown().replace("planned | 5", "planned |5")


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_an_empty_study(lang):
    record = study(claims=CLAIMS)
    page = render(record, [], lang=lang)
    assert figures(page) == []
    assert STRINGS[lang]["none_yet"] in page
    assert "5 planned" in page
    text = render_markdown(record, [], lang=lang)
    assert STRINGS[lang]["none_yet"] in text
    assert "![" not in text


def test_registration_and_amendments():
    record = study(claims=CLAIMS)
    record |= {
        "registration_hash": "3f" * 16,
        "registered": "2026-01-01",
        "seen_at_registration": 0,
    }
    now = record["registration"]
    later = {**now, "hypotheses": {k: v for k, v in now["hypotheses"].items() if k != "some"}}
    later["hypotheses"] |= {"new": CLAIMS["free"].data()}
    record["amendments"] = [{"at": "2026-02-02", "results_seen": 7, "registration": later}]
    for made in (render(record, rows(record, known)), render_markdown(record, rows(record, known))):
        for text in ("3f" * 16, "published or committed elsewhere", "2026-02-02: 7 results",
                     "added: new", "removed: some"):  # fmt: skip
            assert text in made, text
    assert STRINGS["en"]["hash_no"] in render(study(), [])


def test_findings_are_shown_gravest_first():
    from paribus.study.finding import Finding

    facts = {"claim": "H", "factor": "heads", "other": "width"}
    found = [
        Finding("note", "claim_aliased", "a", facts, ("H",), accepted="because <b>"),
        Finding("refuse", "claim_aliased", "b", {**facts, "factor": "depth"}),
    ]
    record = study()
    page = render(record, rows(record, known), findings=found)
    assert page.index("depth is aliased") < page.index("heads is aliased")
    assert "because &lt;b&gt;" in page
    text = render_markdown(record, [], findings=found)
    assert "**refused**: H: depth is aliased with width" in text
    assert "**accepted**" in text
    assert STRINGS["zh"]["level_refuse"] in page


def test_imported_arms_are_apart(page):
    """In the table and the figure, in no test and no best set; their unknowns are named."""
    record = study(seeds=3)
    data = rows(record, known)
    arm = {"name": "elsewhere", "source": "a paper", "unknown": ["seed", "tokens"],
           "rows": [{**ROW, "value": 0.1}]}  # fmt: skip
    told = Told(record, data, imports=[arm])
    (line,) = told.context()["sheets"][0].of("imported")
    assert [c and c.mean for c in line.cells] == ["0.100", None, None]
    assert not any(c and c.best for c in line.cells)
    page, text = told.html(), told.markdown()
    assert '<tr class="imported">' in page
    assert "seed, tokens" in page
    assert "*elsewhere*" in text
    assert "seed, tokens" in text
    assert [p["kind"] for p in told.drawn[0].rows if p["series"] == "elsewhere"] == ["imported"]


def test_markdown_escapes_and_stands_on_its_own():
    record = study(claims=CLAIMS, question="a|b *c* <d> `e`", baseline={"position": ["none"]})
    record["variants"][0]["name"] = "rope|`x`"
    for trial in record["trials"]:
        trial["name"] = trial["name"].replace("rope", "rope|`x`")
    data = rows(record, known)
    text = render_markdown(record, data, curves=CURVES, folder="figures")
    assert text.startswith("# a\\|b \\*c\\* \\<d\\> \\`e\\`\n")
    assert "rope\\|\\`x\\`" in text
    assert "![primary](figures/primary.png)" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.M)
    assert len(tables) >= 4
    for table in tables:
        pipes = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(pipes) == 1, table
    for key in ("answer", "result", "hypotheses", "audit", "trials", "provenance"):
        assert f"\n## {STRINGS['en'][key]}\n" in text
    chinese = render_markdown(record, data, lang="zh")
    assert f"\n## {STRINGS['zh']['answer']}\n" in chinese


def test_a_large_study_is_small():
    """Far below the promise of bench/report.py, 5 MB of 54 × 7 × 3."""
    from paribus.study.factors import Factor

    parts = [Factor("a", list("abcdef"), "model.a"), Factor("b", [1, 2, 3], "model.b"),
             Factor("c", [1, 2, 3], "model.c")]  # fmt: skip
    record = study(parts, [Factor("length", [64, 128, 256, 512, 1024, 2048, 4096], "task.length")],
                   seeds=3, baseline={"a": ["a"]})  # fmt: skip
    data = rows(record, lambda v, c: 2 + int(v["b"]) / int(c["length"]))
    page = render(record, data)
    assert len(page) < 1_000_000
    assert figures(page)[:2] == ["primary", "heat"]
    assert page.count("<tr") > 3 * 54

"""The report as a reader opens it: headless Chromium, no console error, nothing fetched, and no
page wider than the screen."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paribus import parts
from paribus.analysis.report import render
from paribus.api import Loaded
from paribus.cli import main
from paribus.engine.settings import Settings
from paribus.engine.worker import Worker
from paribus.store import Store
from paribus.study import source
from paribus.study.factors import Factor
from paribus.study.hypotheses import best, metric
from paribus.study.plan import Plan, work
from paribus.text import paths

from .synthetic import LENGTH, POSITION, rows, study
from .test_verdicts import known

BROWSER = next(
    (b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), ""
)
STUDY = """
from paribus import *
position = Factor("position", {"none": None, "rope": positions.rope()}, "model.position")
span = Factor("span", [4, 8, 16], "task.span")
acc = metric("accuracy")
study = Study("browse", "Does <b>RoPE</b> copy better?",
    base=Spec(model=presets.quickstart(width=32), task=tasks.copying(span=8, examples=8),
              optim=optim.adamw(lr=1e-3), schedule=schedules.cosine(), rows=4, steps=6),
    factors=[position], seeds=3, evaluate=[Eval("copy", over=[span], every=2)],
    baseline=position["none"], names="{position}",
    hypotheses=dict(helps=better(position["rope"], than=position["none"], on=acc.at(span[8]))))
"""
# Written into copies of pages, which have no script of their own: tells the page around it how wide
# the page is, what sticks out of it, its colour, and which language is seen.
MEASURE = """<script>
const wide = [...document.querySelectorAll("main *, nav *")].filter(e =>
  e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, .paper, .links, pre"));
parent.postMessage({name: NAME, inner: innerWidth, page: document.documentElement.scrollWidth,
  wide: wide.slice(0, 3).map(e => e.tagName + " " + e.className),
  colour: getComputedStyle(document.body).backgroundColor,
  english: [...document.querySelectorAll("main .en")].some(e => e.offsetWidth > 0)}, "*");
</script></body>"""
AROUND = """<!doctype html><title>waiting</title><script>
const found = [];
onmessage = e => { found.push(e.data); document.title = btoa(JSON.stringify(found)); };
</script>"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a study and a home in which it ran."""
    place = tmp_path_factory.mktemp("browse")
    (place / "browse.py").write_text(STUDY)
    plan = Plan(source.load(str(place / "browse.py")).study, Store(place / "runs"))
    for trial_id, item in plan.unique.items():
        plan.store.declare(trial_id, item.trial.data)
    worker = Worker(work(plan, plan.items, 3, base=place), Settings())
    worker.say = lambda **_: None  # type: ignore[method-assign]
    assert worker.run() == 0
    yield place
    parts.use_local(None)
    paths.use_base(None)


def opened(page: Path, profile: Path, *more: str, width: int = 1100) -> str:
    """The page's DOM after it was opened; no message may have come to the console."""
    if not BROWSER:
        reason = "NO CHROMIUM: the report was not opened in a browser (tools/system-packages.sh)"
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)
    done = subprocess.run(
        [
            BROWSER,
            *"--headless --no-sandbox --disable-gpu --disable-quic --no-first-run".split(),
            *"--disable-background-networking --disable-component-update --disable-sync".split(),
            *f"--enable-logging=stderr --window-size={width},2400 --dump-dom".split(),
            f"--user-data-dir={profile}",
            *more,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr, re.findall(r".*CONSOLE.*", done.stderr)
    return done.stdout


def test_the_report_opens_without_a_console_error(ran: Path, tmp_path: Path) -> None:
    plan = Plan(source.load(str(ran / "browse.py")).study, Store(ran / "runs"))
    dom = opened(Loaded.of(plan).write_report(), tmp_path / "profile")
    assert "Does &lt;b&gt;RoPE&lt;/b&gt; copy better?" in dom
    assert dom.count("<svg") >= 2
    assert "helps" in dom
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", dom)


def test_what_report_and_results_write(ran: Path, tmp_path: Path, capsys: Any) -> None:
    study, home = str(ran / "browse.py"), ("--home", str(ran / "runs"))
    assert main(["report", study, *home, "--paper"]) == 0
    said = capsys.readouterr()
    page = Path(said.out.strip())
    assert page.name == "report.html"
    assert "report.md" in said.err
    folder = page.parent
    names = {p.name for p in (folder / "figures").iterdir()}
    assert {f"{n}.{s}" for n in ("primary", "forest", "training", "curves", "learning-rate")
            for s in ("svg", "png", "csv")} <= names  # fmt: skip
    for link in re.findall(r"\((figures/[^)]+)\)", (folder / "report.md").read_text()):
        assert (folder / link).is_file(), link
    assert {"primary.pdf", "loss.tex"} <= {p.name for p in (folder / "paper").iterdir()}
    assert main(["report", study, *home, "-o", str(tmp_path / "x.md"), "--lang", "zh"]) == 0
    assert "## 回答" in (tmp_path / "x.md").read_text()
    capsys.readouterr()
    for form, text in (
        ("text", "loss (nats/token)"),
        ("markdown", "| rope |"),
        ("latex", r"\toprule"),
        ("csv", "variant,baseline"),
        ("json", '"difference"'),
    ):
        assert main(["results", study, *home, "--format", form, "--differences"]) == 0
        assert text in capsys.readouterr().out, form
    for name, start in (("t.md", b"loss"), ("t.tex", b"% needs"), ("t.parquet", b"PAR1")):
        assert main(["results", study, *home, "-o", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_bytes().startswith(start)
    capsys.readouterr()
    for wrong, message in (
        (["--metric", "acuracy"], "did you mean 'accuracy'"),
        (["--format", "parquet"], "needs a file"),
        (["--wide", "--format", "json"], "--wide goes with"),
        (["-o", str(tmp_path)], "a file is wanted, and this is a folder: name one in it ("),
        (["-o", f"{tmp_path}/new/"], "results.csv); paribus report "),
        (["-o", str(tmp_path / "r.xyz")], "known: .txt, .csv, .json, .md, .tex, .parquet"),
    ):
        assert main(["results", study, *home, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main(["report", study, *home, "-o", str(tmp_path / "r.docx")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "r.docx" in line
    assert "known: .html, .md" in line
    assert not list(tmp_path.glob("r.*"))
    assert main(["results", study, *home, "-o", str(tmp_path / "r.xyz"), "--format", "csv"]) == 0
    assert main(["results", study, *home, "-o", str(tmp_path / "r.txt")]) == 0
    assert main(["results", study, *home, "-o", str(tmp_path / "plain")]) == 0
    assert (tmp_path / "r.txt").read_bytes() == (tmp_path / "plain").read_bytes()


SCREENS = [("finished", "zh"), ("half", "en"), ("empty", "zh")]


def a_page(kind: str, lang: str) -> str:
    depth = Factor("a_factor_with_a_long_name", [1, 2, 3, 4], "model.depth")
    claim = best(POSITION["rope"], on=metric("loss").slope(LENGTH.log2).mean(depth))
    record = study([POSITION, depth], seeds=3, claims={"flat": claim},
                   baseline={"position": ["none"]}, registration_hash="3f" * 32)  # fmt: skip
    lost = {f"{v['name']}-s{s}": "planned" for v in record["variants"][5:] for s in (2, 3)}
    data = rows(record, known, lost=lost if kind == "half" else None)
    return render(
        record,
        [] if kind == "empty" else data,
        lang=lang,
        gaps=["rope-1-s1: " + "long" * 30],
        provenance={"commands": [f"paribus run {'folder/' * 30}study.py"]},
    )


def test_every_screen_shows_it(tmp_path: Path) -> None:
    """Desktop and phone, light and dark, English and Chinese: the page is no wider than the
    screen, and takes the colours and the language that it is asked for."""
    frames = ""
    for kind, lang in SCREENS:
        file = tmp_path / f"{kind}-{lang}.html"
        told = MEASURE.replace("NAME", repr(f"{kind} {lang}"))
        file.write_text(a_page(kind, lang).replace("</body>", told), encoding="utf-8")
        for width in (1280, 390):
            frames += f'<iframe src="{file.name}" style="width:{width}px;border:0"></iframe>'
    around = tmp_path / "around.html"
    around.write_text(AROUND + frames, encoding="utf-8")
    for scheme, colour in ((0, "rgb(20, 23, 26)"), (1, "rgb(251, 251, 250)")):
        more = f"--blink-settings=preferredColorScheme={scheme}", "--virtual-time-budget=3000"
        dom = opened(around, tmp_path / f"profile-{scheme}", *more)
        found = json.loads(base64.b64decode(re.findall(r"<title>(.*?)</title>", dom)[0]))
        assert len(found) == 2 * len(SCREENS)
        assert {f["inner"] for f in found} == {1280, 390}
        for f in found:
            assert f["page"] <= f["inner"], f
            assert not f["wide"], f
            assert f["colour"] == colour, f
            assert f["english"] == f["name"].endswith("en"), f

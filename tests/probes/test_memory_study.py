"""Probes of working memory as evaluations of a study: records, refusals, figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from paribus import arrays
from paribus.cli import main

STUDY = """
from paribus import *
half = metric("L50", evaluation="gain", slice="source=random")
mask = Factor("mask", {"full": masks.causal(), "w16": masks.sliding_window(size=16)}, "model.mask")
study = Study("remembers", "Does it reach beyond one window?",
    base=Spec(model=presets.llama(width=32, layers=2, heads=2),
              task=tasks.lm(corpus=corpora.stdlib(megabytes=1), length=32, eval_tokens=512,
                            tokenizer=tokenizers.bytes()),
              optim=optim.adamw(lr=3e-3), schedule=schedules.constant(), rows=2, steps=3),
    factors=[mask], seeds=1, names="{mask}", primary="loss",
    hypotheses=dict(beyond=better(mask["full"], than=mask["w16"], on=half)),
    criteria=dict(ends=criterion(mask["w16"], on=half - metric("window"), below=0)),
    evaluate=[Eval("lm"),
              Eval("gain", probes.memory_gain(lengths=(4, 8, 16, 24), trials=6,
                                              sources=("random", "meaningful")),
                   by=("source", "cell")),
              Eval("copy", probes.copy(lengths=(4, 8, 16), trials=6, sources=("random",)),
                   by=("length",)),
              Eval("key", probes.passkey(trials=1, depths=(50,)), by=("depth",))])
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("study")
    (found / "remembers.py").write_text(STUDY)
    file = str(found / "remembers.py")
    assert main(["run", file, "--workers", "1"]) == 0
    assert main(["report", file]) == 0
    return found


def records(place: Path, key: str) -> list[dict[str, Any]]:
    found = []
    for file in sorted((place / "runs/trials").glob("*/attempts/*/evaluations/*.1")):
        told = json.loads(file.read_text())
        record = told.get("record", told)
        if record.get("key") == key:
            found.append(record)
    return found


def test_a_record_is_what_evaluate_finds(place: Path) -> None:
    out = place / "out.json"
    how = ["--probe", "memory_gain", "--set", "probe.lengths=[4,8,16,24]", "--set",
           "probe.trials=6", "--set", 'probe.sources=["random","meaningful"]',
           "--device", "cpu", "-o", str(out)]  # fmt: skip
    kept = {r["realised"]["window"]: r for r in records(place, "gain")}
    assert kept.keys() == {32, 16}, "all of the row, and the window"
    for name, window in (("full", 32), ("w16", 16)):
        assert main(["evaluate", str(place / "remembers.py"), name, *how]) == 0
        found = json.loads(out.read_text())["conditions"][0]
        assert found["items"] == kept[window]["items"]
        assert found["about"] == kept[window]["about"]
    a, b = kept.values()
    assert a["realised"]["list"] == b["realised"]["list"], "arms are asked the same items"
    assert {a["realised"]["field"], b["realised"]["field"]} == {32, 31}
    assert a["realised"]["text"] == "corpora.stdlib, test split"
    assert len(arrays.unpack(a["groups"])) == a["size"] == 48
    assert {x for x in a["slices"] if x.startswith("cell=")} == {
        f"cell={s}@{n}" for s in ("random", "meaningful") for n in (4, 8, 16, 24)
    }


def test_what_cannot_be_asked_is_an_outcome(place: Path, capsys: Any) -> None:
    for record in records(place, "key"):
        assert record["status"] == "refused"
        assert "its prompt takes" in record["reason"]
    assert len(records(place, "key")) == 2
    capsys.readouterr()
    out = place / "all.csv"
    assert main(["results", str(place / "remembers.py"), "--metric", "gain", "-o", str(out)]) == 0
    rows = list(csv.DictReader(out.open()))
    assert any(r["evaluation"] == "gain" and r["list"] for r in rows)


def test_a_claim_about_a_span_that_was_not_reached(place: Path, capsys: Any) -> None:
    """Three steps teach nobody to copy: the span lies below what was asked, which is no number."""
    assert main(["verdicts", str(place / "remembers.py")]) == 0
    said = capsys.readouterr().out
    assert "beyond: missing" in said and "full at gain: censored (< 4)" in said
    assert "ends: missing" in said and "w16 at gain: censored (< 4)" in said


def test_figures_go_along_the_axis(place: Path) -> None:
    folder = place / "runs/studies/remembers@main/report"
    assert {p.stem for p in (folder / "figures").glob("probe-*.svg")} == {"probe-gain",
                                                                         "probe-copy"}  # fmt: skip
    drawn = {p.stem for p in (folder / "figures").glob("s*-gain.svg")}
    assert drawn == {"spans-gain", "state-gain"}, "all of the row carries more than a window"
    rows = list(csv.DictReader((folder / "figures/spans-gain.csv").open()))
    assert {r["panel"] for r in rows} == {"random", "meaningful"}
    assert all(bool(r["L50"]) != bool(r["L50 censored"]) for r in rows)
    rows = list(csv.DictReader((folder / "figures/probe-gain.csv").open()))
    assert {(r["panel"], r["metric"]) for r in rows} == {
        (s, m) for s in ("random", "meaningful") for m in ("copied", "control", "gain")
    }
    assert [float(r["x"]) for r in rows[:4]] == [4, 8, 16, 24]
    page = (folder / "report.html").read_text()
    assert "gain: solid, the share that is right" in page
    assert "gain：实线为正确率" in page
    told = json.loads((folder.parent / "study.json").read_text())
    info = told["variants_info"]
    assert info["w16"]["reach"] == {"window": 16, "field": 31}
    assert info["full"]["state_bytes"] == 2 * info["w16"]["state_bytes"], "32 tokens, and 16"
    curves = {c["evaluation"]: c.get("curve", {}).get("axis") for c in told["conditions"]}
    assert curves == {"lm": None, "gain": "length", "copy": "length", "key": None}

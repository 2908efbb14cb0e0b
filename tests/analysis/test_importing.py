"""Runs made elsewhere: placed at the study's conditions or refused by name, and never tested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paribus import api
from paribus.cli import main
from paribus.study import source
from paribus.study.plan import Plan
from tests.analysis import homes
from tests.stubs import Stub


def brought(text: str, *options: str, file: str = "r.csv") -> int:
    Path(file).write_text(text)
    return main(["import", "shared.py", file, *options])


def arms(stub: Stub) -> list[dict[str, Any]]:
    return stub.store.imports(homes.INSTANCE)


LONG = "metric,value,span,seed,n\nloss,2.5,4,1,100\nloss,2.25,8,1,100\n"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("r.csv", LONG),
        ("r.csv", "\ufeff" + LONG.replace(",", ";").replace("\n", "\r\n")),
        ("r.tsv", LONG.replace(",", "\t")),
        ("r.csv", "span,seed,n,loss\n4,1,100,2.5\n8,1,100,2.25\n"),
        ("r.csv", LONG.replace("metric", "evaluation,metric").replace("\nl", "\ncopy,l")),
        ("r.json", json.dumps([{"metric": "loss", "value": 2.5, "span": 4, "seed": 1, "n": 100},
                               {"loss": 2.25, "span": "8", "seed": 1, "n": 100}])),
    ],
)  # fmt: skip
def test_rows_stand_at_the_conditions_of_the_study(shared: Stub, file: str, text: str) -> None:
    assert brought(text, "--name", "gpt-2", "--source", "Radford 2019", file=file) == 0
    (arm,) = arms(shared)
    assert (arm["name"], arm["source"], arm["file"]) == ("gpt-2", "Radford 2019", file)
    same = {"evaluation": "copy", "slice": "", "metric": "loss", "n": 100, "seed": 1}
    assert arm["rows"] == [
        {**same, "span": "4", "value": 2.5},
        {**same, "span": "8", "value": 2.25},
    ]
    assert arm["known"] == {"seeds": [1]}
    assert arm["unknown"] == ["data", "tokens", "steps", "parameters", "dtype", "device", "kernel",
                              "code", "evaluation set", "settings"]  # fmt: skip


def test_what_a_file_tells_is_known(shared: Stub) -> None:
    told = {"name": "theirs", "tokens": 10**9, "data": "web", "rows": [{"loss": 2, "span": 4}]}
    assert brought(json.dumps(told), file="t.json") == 0
    (arm,) = arms(shared)
    assert arm["name"] == "theirs"
    assert arm["known"] == {"data": "web", "tokens": 10**9}
    assert "tokens" not in arm["unknown"] and "seeds" in arm["unknown"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("metrc,value,span\nloss,2,4\n", "r.csv:2: no column 'metrc'; did you mean 'metric'?"),
        ("metric,value,span\nlos,2,4\n", "r.csv:2: no metric 'los'; did you mean 'loss'?"),
        ("metric,value,span\nloss,2,5\n", "r.csv:2: span has no level '5'; valid: 4, 8"),
        ("metric,value\nloss,2\n", "r.csv:2: say which span: copy span=4, copy span=8"),
        ("evaluation,metric,value,span\nlm,loss,2,4\n", "no evaluation 'lm'; valid: copy"),
        ("metric,value,span\nloss,nan,4\n", "value 'nan': leave out what has no value"),
        ("metric,value,span\nloss,74%,4\n", "value '74%' is no number; per cent as a share"),
        ('metric,value,span\nloss,"2,5",4\n', "value '2,5' is no number; a decimal point"),
        ("metric,value,span,seed\nloss,2,4,1.5\n", "seed '1.5': give a whole number"),
        ("metric,value,span\nloss,2,4\nloss,3,4\n", "r.csv:3: the same cell as r.csv:2: loss"),
        ("metric,value,span\nloss,2,4,9\n", "r.csv:2: more values than columns"),
        ("span,seed\n4,1\n", "r.csv:2: no value: give metric and value, or a column of"),
        ("metric,metric\nloss,2\n", "must name the columns, each once"),
        ("metric,value,span\n", "r.csv: no rows"),
        ("", "must name the columns"),
        ("[1, 2]", "give a list of objects"),
        ("{", "r.csv: no JSON"),
        ('{"rows": [], "tokns": 1}', "'tokns'; did you mean 'tokens'?"),
        ("PK\x03\x04", "is no bundle"),
    ],
)
def test_what_cannot_be_placed_is_refused_in_one_line(
    shared: Stub, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert brought(text) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert arms(shared) == []


def test_a_name_is_given_once(shared: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    assert brought(LONG) == 0
    assert brought(LONG.replace("2.5", "1.5")) == 2
    assert "there is an arm 'r' already" in capsys.readouterr().err
    assert [a["rows"][0]["value"] for a in arms(shared)] == [2.5]
    assert brought(LONG, "--name", "r2") == 0


def test_a_study_that_was_not_run_takes_none(
    shared: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert brought(LONG, "--home", str(tmp_path / "other")) == 2
    assert "shared@main is not registered in" in capsys.readouterr().err
    assert main(["import", "shared.py", "nowhere.csv"]) == 2
    assert not (tmp_path / "other").exists()


def test_a_bundle_brings_the_means_of_its_variants(
    shared: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", "shared.py"]) == 0
    assert main(["import", "shared.py", "shared@main.paribus.zip", "--name", "theirs"]) == 0
    found = {a["name"]: a for a in arms(shared)}
    names = ("none-lr0.001", "none-lr0.002", "rope-lr0.001", "rope-lr0.002")
    assert list(found) == [f"theirs/{name}" for name in names]
    arm = found["theirs/none-lr0.001"]
    mine = {(r["metric"], r["span"]): r for r in arm["rows"]}
    assert mine["loss", "4"]["value"] == pytest.approx(0.505)
    assert mine["loss", "4"]["sd"] == pytest.approx(0.01 / 2**0.5)
    assert (mine["loss", "8"]["n"], mine["loss", "8"]["seeds"]) == (64, 2)
    assert arm["unknown"] == []
    assert arm["known"]["seeds"] == [1, 2]
    content = Path("shared@main.paribus.zip").read_bytes()
    Path("cut.zip").write_bytes(content[: len(content) // 2])
    assert main(["import", "shared.py", "cut.zip"]) == 2
    assert "cut short" in capsys.readouterr().err


def test_conditions_that_the_study_lacks_are_left_out_and_told(
    shared: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", "shared.py"]) == 0
    text = Path("shared.py").read_text().replace("[4, 8]", "[8, 16]")
    Path("other.py").write_text(text.replace('"shared"', '"other"'))
    found = source.load("other.py")
    plan = Plan(found.study, shared.store)
    shared.store.write_study("other@main", plan.record, {})
    assert main(["import", "other.py", "shared@main.paribus.zip"]) == 0
    assert "left out: span has no level '4'; valid: 8, 16" in capsys.readouterr().out
    assert {r["span"] for a in shared.store.imports("other@main") for r in a["rows"]} == {"8"}
    Path("far.py").write_text(text.replace("[8, 16]", "[32]").replace('"shared"', '"far"'))
    shared.store.write_study("far@main", Plan(source.load("far.py").study, shared.store).record, {})
    assert main(["import", "far.py", "shared@main.paribus.zip"]) == 2
    assert "nothing in it is a metric at a condition of this study" in capsys.readouterr().err


def test_verdicts_rows_and_tables_of_ones_own_do_not_change(shared: Stub) -> None:
    plan = shared.plan.again()
    before = api.Loaded.of(plan)
    told, mark = [v.data() for v in before.verdicts()], before._mark
    assert brought("metric,value,span,seed\naccuracy,0,4,1\naccuracy,0,8,1\n") == 0
    after = api.Loaded.of(plan)
    assert [v.data() for v in after.verdicts()] == told
    assert after.results() == before.results()
    assert [a["name"] for a in after.imports()] == ["r"]
    assert after._mark != mark  # so that the report is made anew


def test_a_variant_of_the_study_keeps_its_name(
    shared: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Plan(source.load("shared.py").study, shared.store).record["variants"][0]["name"]
    assert brought(LONG, "--name", own) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert repr(own) in line
    assert "another name with --name" in line
    assert not arms(shared)
    assert brought(LONG, "--name", f"{own}-elsewhere") == 0

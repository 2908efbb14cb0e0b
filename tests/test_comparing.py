"""`paribus diff`, and the audit where a study is planned, checked and run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paribus import comparing
from paribus.cli import OK, WRONG, main
from paribus.errors import SpecError
from tests.stubs import Stub, plan_of, study_file

CONFOUNDED = """
from paribus import *
position = Factor("position", {"none": None, "rope": positions.rope()}, "model.position")
heads = Factor("heads", [2, 4], "model.heads", also=lambda h: {"model.width": 16 * h, "rows": h})
study = Study("unfair", "Are more heads better?",
    base=Spec(model=presets.quickstart(width=32), task=tasks.copying(span=4, examples=8),
              optim=optim.adamw(lr=1e-3), schedule=schedules.constant(), steps=2, rows=2),
    factors=[heads, position], evaluate=[Eval("copy")], accept=ACCEPT)
"""
WIDTH, ROWS = "heads moves model.width", "heads moves rows"


def unfair(folder: Path, *accept: str) -> Path:
    path = folder / "unfair.py"
    path.write_text(CONFOUNDED.replace("ACCEPT", repr(dict.fromkeys(accept, "as in the document"))))
    return path


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


# ── the audit ───────────────────────────────────────────────────────────────────────────────


def test_run_refuses_with_the_line_that_would_allow_it_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = unfair(tmp_path)
    code, out, err = said(capsys, "run", str(path), "--home", str(tmp_path / "runs"))
    assert (code, out) == (WRONG, "")
    first, second = err.splitlines()
    assert first.startswith("paribus: refused: heads moves model.width")
    assert first.endswith(f'accept={{"{WIDTH}": "why"}}')
    assert second.endswith(f'accept={{"{ROWS}": "why"}}')
    assert not (tmp_path / "runs").exists()
    plan = plan_of(unfair(tmp_path, WIDTH))
    with pytest.raises(SpecError, match="heads moves rows"):
        comparing.refuse_unfair(plan)
    comparing.refuse_unfair(plan_of(unfair(tmp_path, WIDTH, ROWS)))


def test_a_mistyped_accept_line_stops_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = unfair(tmp_path, WIDTH, "heads moves row")
    code, _, err = said(capsys, "run", str(path), "--home", str(tmp_path / "runs"))
    assert code == WRONG
    assert f"did you mean '{ROWS}'?" in err


@pytest.mark.parametrize(
    ("words", "ends"), [(("plan",), OK), (("run", "--dry-run"), WRONG)], ids=["plan", "dry"]
)
def test_plan_shows_refusals(
    words: tuple[str, ...], ends: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plan is no run; a dry run ends as the run would."""
    verb, *options = words
    path = unfair(tmp_path, WIDTH)
    code, out, _ = said(capsys, verb, str(path), "--home", str(tmp_path / "runs"), *options)
    assert code == ends
    assert any(x.startswith("refused: heads moves rows") for x in out.splitlines())
    assert "note: heads moves model.width beside model.heads" in out
    assert "accepted: as in the document" in out
    assert not (tmp_path / "runs").exists()


def test_plan_gives_findings_as_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = unfair(tmp_path, WIDTH)
    code, out, _ = said(capsys, "plan", str(path), "--home", str(tmp_path / "runs"), "--json")
    found = {f["about"]: f for f in json.loads(out)["findings"]}
    assert code == OK
    assert (found[WIDTH]["level"], found[WIDTH]["accepted"]) == ("note", "as in the document")
    assert (found[ROWS]["level"], found[ROWS]["rule"]) == ("refuse", "rows")


@pytest.mark.parametrize("json_", [False, True])
def test_check_reports_refusals_and_fails(
    json_: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("paribus.engine.preflight.check", lambda plan, device: [])
    home = str(tmp_path / "runs")
    for accept, wanted in (((), WRONG), ((WIDTH, ROWS), OK)):
        path = unfair(tmp_path, *accept)
        code, out, _ = said(capsys, "check", str(path), "--home", home, *["--json"] * json_)
        assert code == wanted
        failed = [f["failed"] for f in json.loads(out)] if json_ else "refused:" in out
        assert (any(failed) if json_ else failed) == (wanted == WRONG)


# ── diff ────────────────────────────────────────────────────────────────────────────────────


def test_settings_are_marked_by_what_moves_them(tmp_path: Path) -> None:
    plan = plan_of(unfair(tmp_path))
    found = comparing.difference(plan, "heads=2,position=none", "heads=4,position=rope")
    why = {s["path"]: (s["why"], s["factor"]) for s in found["settings"]}
    assert why == {
        "model.width": ("also", "heads"),
        "model.heads": ("factor", "heads"),
        "model.kv_heads": ("follows", ""),
        "model.position": ("factor", "position"),
        "rows": ("also", "heads"),
    }
    assert found["factors"] == {"heads": ["2", "4"], "position": ["none", "rope"]}
    assert found["budgets"]["rows"] == [2, 4]
    assert found["budgets"]["tokens"] == [32, 64]
    assert found["budgets"]["parameters"][0] < found["budgets"]["parameters"][1]
    assert {f["about"] for f in found["findings"]} >= {WIDTH, ROWS}
    assert found["realised"] is None


def test_arms_of_several_variants_are_compared_where_they_agree_in_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = unfair(tmp_path)
    found = comparing.difference(plan_of(path), "position=none", "position=rope")
    assert (found["a"], found["b"], found["pairs"]) == ("heads2-none", "heads2-rope", 2)
    assert [s["path"] for s in found["settings"]] == ["model.position"]
    code, out, _ = said(capsys, "diff", str(path), "heads=2", "heads=4")
    assert code == OK
    assert "the first of 2 pairs that agree in every other factor" in out
    (line,) = (x for x in out.splitlines() if x.startswith("  model.width"))
    assert line.split() == "model.width 32 → 64 moved by heads beside its own".split()
    (line,) = (x for x in out.splitlines() if x.startswith("  tokens"))
    assert line.split() == "tokens 32 64 × 2".split()
    assert "refused: heads moves rows" in out


MISTAKES = {
    ("heads2-none", "heads2-rop"): "no variant, trial or level 'heads2-rop'; did you mean "
    "'heads2-rope'?",
    ("head=2", "heads=4"): "diff 'head=2': no factor 'head'; did you mean 'heads'?",
    ("heads=2", "heads=3"): "diff 'heads=3': heads has no level '3'; valid: 2, 4",
    ("heads=2,heads=4", "position=none"): "diff 'heads=2,heads=4': heads stands twice",
    ("heads2-none", "heads2-none"): "'heads2-none' and 'heads2-none' are the same variant",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_wrong_word_names_the_nearest(
    words: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = said(capsys, "diff", str(unfair(tmp_path)), *words)
    assert (code, err.count("\n")) == (WRONG, 1)
    assert MISTAKES[words] in err


def test_arms_that_no_pair_of_variants_compares_are_refused(tmp_path: Path) -> None:
    path = unfair(tmp_path, WIDTH, ROWS)
    skip = 'skip=[("no", lambda c: (c.heads == 2) == (c.levels["position"] == "rope"))], evaluate='
    path.write_text(path.read_text().replace("evaluate=", skip))
    with pytest.raises(SpecError, match="no variant of 'heads=2' agrees with one of 'heads=4' in "
                       "position; give levels of position in both"):  # fmt: skip
        comparing.difference(plan_of(path), "heads=2", "heads=4")


def test_what_was_realised_differently_is_shown(tmp_path: Path) -> None:
    path = study_file(tmp_path)
    stub = Stub(plan_of(path))
    for name in stub.items:
        there = {"device": "cpu AVX2", "kernel": "sdpa", "code": "0.1 abc"}
        if name.startswith("rope"):
            there["device"] = "cpu AVX512"
        stub.train(name, engine=there, tokens=3200, step=100, lr=[1e-3, 1e-3])
        stub.evaluate(name)
    stub.close()
    names = sorted(stub.items)
    found: dict[str, Any] = comparing.difference(plan_of(path), "position=none", "position=rope")
    assert found["realised"] == {"device": [["cpu AVX2"], ["cpu AVX512"]]}
    two = comparing.difference(plan_of(path), names[0], names[1])  # two seeds of one variant
    assert two["settings"] == []
    assert two["realised"] == {}


def test_two_trials_of_one_variant_differ_in_their_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, first, second = study_file(tmp_path), "rope-lr0.001-s1", "rope-lr0.001-s2"
    code, out, _ = said(capsys, "diff", str(path), first, second)
    assert code == OK
    assert out.splitlines()[2:5] == ["seed, a → b  1 → 2", "settings, a → b", "  none"]
    _, out, _ = said(capsys, "diff", str(path), first, second, "--json")
    assert json.loads(out)["seeds"] == [1, 2]
    _, out, _ = said(capsys, "diff", str(path), first, "none-lr0.001-s1")
    assert "seed" not in out
    one = comparing.difference(plan_of(path), "rope-lr0.001", "none-lr0.001-s1")
    assert one["seeds"] == [None, 1]

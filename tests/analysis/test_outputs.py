"""A folder of plain results, and the figure of what each arm trains."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from paribus import mlps, positions, presets
from paribus.analysis.plots import Material, figures, parameters, styled
from paribus.analysis.report import Told, csvs, outputs
from paribus.errors import SpecError
from paribus.nn.declare import declare
from paribus.nn.freeze import audit
from paribus.study.factors import Factor
from paribus.study.hypotheses import criterion, metric
from tests.analysis.synthetic import rows, study

QK = ("*.attn.q", "*.attn.k")
MEDIUM = presets.gpt2(
    width=512, layers=6, heads=8, vocab=50257, attn_bias=False, mlp=mlps.gelu(ratio=4),
    position=positions.learned(length=512),
)  # fmt: skip
FREEZE: dict[str, tuple[str, ...]] = {"free": (), "qk": QK, "qk ffn": (*QK, "*.mlp.up")}
GROUP = Factor("group", {name: {"x": i} for i, name in enumerate(FREEZE)}, "model")


def told(freeze: dict[str, tuple[str, ...]] = FREEZE, **more: Any) -> Told:
    """A study whose arms freeze these."""
    claims = {"H2": criterion(GROUP["qk"], than=GROUP["free"], on=metric("ppl"), below="5%")}
    record = study([GROUP], [], seeds=2, criteria=claims, primary="ppl")
    found = rows(record, lambda v, c: 2.0 + 0.01 * (v["group"] != "free"))
    of = {t["name"]: record["variants"][t["variant"]]["levels"]["group"] for t in record["trials"]}
    audits = {t: audit(declare(MEDIUM), freeze[group]) for t, group in of.items()}
    checks = {t: [{"step": s, "lm ppl": 9.0 - s / 200} for s in (200, 400)] for t in of}
    return Told(record, found, audits=audits, checks=checks, **more)


def test_the_figure_counts_what_each_arm_trains() -> None:
    m = told().material
    points = parameters.data(m)
    sums: dict[str, dict[str, int]] = {"trained": {}, "frozen": {}}
    for p in points:
        for kind, of in sums.items():
            of[p["variant"]] = of.get(p["variant"], 0) + p[kind]
    assert sums["trained"] == {"free": 44_896_768, "qk": 41_751_040, "qk ffn": 35_459_584}
    assert sums["frozen"] == {"free": 0, "qk": 3_145_728, "qk ffn": 9_437_184}
    frozen = {(p["variant"], p["category"]) for p in points if p["frozen"]}
    assert frozen == {
        *((v, f"attn_{w}") for v in ("qk", "qk ffn") for w in "qk"),
        ("qk ffn", "mlp_up"),
    }
    # The biases of the frozen matrix are trained, and stand beside it.
    (up,) = (p for p in points if (p["variant"], p["category"]) == ("qk ffn", "mlp_up"))
    assert (up["trained"], up["frozen"]) == (6 * 2048, 6 * 2048 * 512)
    with styled():
        canvas = parameters.draw(points, m)
    assert canvas.png()[:4] == b"\x89PNG" and canvas.png("zh") != canvas.png()
    svg = canvas.svg()
    assert "3,145,728 (7.0 %) frozen" in svg and "attn q" in svg and "others" in svg
    assert "frozen" in canvas.inline()


@pytest.mark.parametrize("freeze", [(), QK])
def test_no_figure_where_all_freeze_the_same(freeze: tuple[str, ...]) -> None:
    m = told(dict.fromkeys(FREEZE, freeze)).material
    assert parameters.data(m) == []
    assert "parameters" not in [d.name for d in figures(m)]
    assert "parameters" in [d.name for d in figures(told().material)]


def test_many_arms_share_the_bars_that_are_equal() -> None:
    names = [f"a{i}" for i in range(20)]
    factor = Factor("arm", {n: {"x": i} for i, n in enumerate(names)}, "model")
    record = study([factor], [], seeds=1)
    audits = {
        t["name"]: audit(declare(MEDIUM), QK if t["variant"] % 2 else ()) for t in record["trials"]
    }
    m = Material(record, rows(record, lambda v, c: 2.0), audits=audits)
    points = parameters.data(m)
    assert {(p["variant"], p["n"]) for p in points} == {("a0", 10), ("a1", 10)}
    with styled():
        assert "a0 + 9" in parameters.draw(points, m).svg()


def test_a_folder_holds_what_the_document_lists() -> None:
    t = told()
    made = outputs.files(t, "the table", "H2: met")
    assert {*outputs.TEXTS, "val_ppl_comparison.png", "parameter_distribution.png"} <= made.keys()
    assert all(made.values())
    text = made["comparison_table.txt"].decode()
    line = next(ln for ln in text.splitlines() if ln.startswith("qk "))
    assert line.split()[1:3] == ["2", "done"] and "41,751,040" in line and "7.01 %" in line
    assert text.endswith("the table\n") and made["hypothesis_validation.txt"] == b"H2: met\n"
    data = json.loads(made["analysis_results.json"])
    (one,) = (x for x in data["experiments"] if x["trial"] == "qk-s1")
    assert one["parameters"] == {"total": 44_896_768, "trained": 41_751_040, "frozen": 3_145_728}
    assert one["metrics"]["lm"]["ppl"]["final"] == pytest.approx(7.5, rel=0.2)
    assert (one["status"], one["step"], one["seconds"]) == ("done", 1000, 62.5)
    assert [(c["name"], c["verdict"]) for c in data["claims"]] == [("H2", "met")]
    assert outputs.files(told(), "the table", "H2: met") == made, "made again it is the same"


def test_nothing_of_the_users_is_written_over(tmp_path: Path) -> None:
    made = outputs.files(told(), "table", "verdicts")
    instance = "demo@small"
    outputs.check(tmp_path / "new", instance, made)
    (tmp_path / "notes.txt").write_text("mine")
    outputs.check(tmp_path, instance, made)
    with pytest.raises(SpecError, match="it is a file"):
        outputs.check(tmp_path / "notes.txt", instance)
    (tmp_path / "forest.png").write_text("mine")
    with pytest.raises(SpecError, match=r"forest\.png is there, and not as written for demo"):
        outputs.check(tmp_path, instance, [*made, "forest.png"])
    (tmp_path / "forest.png").unlink()
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    outputs.check(tmp_path, instance, made)  # its own, unchanged
    with pytest.raises(SpecError, match="not as written for other@small"):
        outputs.check(tmp_path, "other@small", made)
    (tmp_path / "comparison_table.txt").write_text("with a remark")
    with pytest.raises(SpecError, match=r"comparison_table\.txt is there"):
        outputs.check(tmp_path, instance, made)
    (tmp_path / "comparison_table.txt").write_bytes(made["comparison_table.txt"])
    data = json.loads((tmp_path / outputs.DATA).read_text())
    (tmp_path / outputs.DATA).write_text(json.dumps({**data, "question": "mine"}))
    with pytest.raises(SpecError, match=r"analysis_results\.json"):
        outputs.check(tmp_path, instance, made)


def test_csvs_hold_each_arm_with_per_cent_of_the_baseline() -> None:
    record = study([GROUP], [], seeds=2, primary="ppl", baseline={"group": ["free"]})
    found = rows(record, lambda v, c: 2.0 + 0.01 * (v["group"] != "free"))
    curves = {"loss": {"qk-s1": [(1, 5.0), (2, 4.0)]}, "lr": {"qk-s1": [(1, 0.1), (2, 0.2)]}}
    names = [t["name"] for t in record["trials"]]
    curves = {k: {names[-1]: of["qk-s1"]} for k, of in curves.items()}
    made = csvs.files(Told(record, found, curves=curves))
    assert set(made) == {
        "results.csv", "results_free.csv", "results_qk.csv", "results_qk ffn.csv",
        "training_curves.csv",
    }  # fmt: skip
    lines = [*csv.DictReader(io.StringIO(made["results.csv"].decode()))]
    assert {line["variant"] for line in lines} == set(FREEZE)
    for line in lines:
        own = line["variant"] == "free"
        assert line["n"] == "2"
        assert line["baseline"] == ("" if own else "free")
        mine = float(line["mean"])
        (base,) = (float(x["mean"]) for x in lines
                   if x["variant"] == "free" and x["metric"] == line["metric"])  # fmt: skip
        assert own or float(line["percent"]) == pytest.approx(100 * (mine / base - 1))
    steps = [*csv.DictReader(io.StringIO(made["training_curves.csv"].decode()))]
    assert [(x["step"], x["loss"], x["lr"]) for x in steps] == [
        ("1", "5.0", "0.1"),
        ("2", "4.0", "0.2"),
    ]


def test_only_values_of_the_primary_metric_are_called_after_it() -> None:
    """Where another evaluation alone was made on the way, the file says nothing of perplexity."""
    found = told()
    assert "val_ppl_comparison.png" in outputs.files(found, "", "")
    record = {**found.study, "metrics": {**found.study["metrics"], "query_norm": {
        "unit": "", "better": None, "of": None, "transform": None}}}  # fmt: skip
    checks = {t["name"]: [{"step": s, "lm query_norm": 9.0 - s / 200} for s in (200, 400)]
              for t in record["trials"]}  # fmt: skip
    made = outputs.files(Told(record, found.rows, checks=checks), "", "")
    assert "val_ppl_comparison.png" not in made
    assert "training.png" in made

"""Results by slice: which slices there are, their table and their figure."""

from __future__ import annotations

import pytest

from paribus.analysis import sheets, slices
from paribus.analysis.cells import Results
from paribus.analysis.plots import Material, figures
from paribus.analysis.plots import slices as drawn
from paribus.analysis.report import Told, files
from paribus.errors import SpecError
from paribus.study.factors import Factor

from . import sampled, synthetic
from .sampled import MODEL, N
from .test_verdicts import known


@pytest.fixture(scope="module")
def told() -> Told:
    record = sampled.study(baseline={"model": ["standard"]})
    return Told(record, sampled.rows(record))


def test_levels_are_in_natural_order(told):
    results = told.material.results
    (test,) = slices.conditions(results)
    assert slices.levels(results, test) == {
        "hops": ["0", "1", "2", "3", "absent", "unconnected"], "present": ["absent", "both"],
    }  # fmt: skip
    assert sorted(["10", "9", "b", "2.5", "a"], key=slices.natural) == ["2.5", "9", "10", "a", "b"]
    cells = ["random@128", "text@4", "random@16", "random@8", "repeat, 10@0", "repeat, 3@100"]
    assert sorted(cells, key=slices.natural) == [
        "random@8", "random@16", "random@128", "repeat, 3@100", "repeat, 10@0", "text@4",
    ]  # fmt: skip


def test_the_metric_is_one_that_slices_have():
    """Of balanced accuracy a slice of one class has no value."""
    record = sampled.study([MODEL, N], primary="balanced_accuracy")
    data = sampled.rows(record)
    (test,) = slices.conditions(Results(record, data))
    assert slices.metric_of(Results(record, data), test) == "balanced_accuracy"
    data = [r for r in data if r["metric"] != "balanced_accuracy" or "hops" not in r["slice"]]
    assert slices.metric_of(Results(record, data), test) == "accuracy"
    told = Told(record, data)
    assert {p["metric"] for d in told.drawn if "slices" in d.name for p in d.rows} == {"accuracy"}


def test_the_table(told):
    (t,) = slices.tables(told.material.results)
    assert t.columns[:2] == ("hops=0", "hops=1")
    assert len(t.columns) == 8
    row = dict(t.rows)["5-1024-lowrank"]
    wanted = [r["value"] for r in told.rows if (r["variant"], r["slice"], r["metric"]) ==
              ("5-1024-lowrank", "hops=2", "accuracy")]  # fmt: skip
    assert list(row[2].values) == wanted
    assert [label for label, _ in t.baselines] == ["majority", "membership"]
    assert dict(t.baselines)["membership"][:6] == (1, 1, 1, 1, 1, 0)
    assert t.items == (("", (1300, 950, 270, 40, 7300, 140, 7300, 2700)),)
    sheet = told.context()["sheets"][1]
    assert sheet.groups == (("hops", ("0", "1", "2", "3", "absent", "unconnected")),
                            ("present", ("absent", "both")))  # fmt: skip
    assert [line.name for line in sheet.of("items")] == ["items"]
    assert sheet.compared
    assert "accuracy by slice of test" in told.html().replace(
        '<span class="en" lang="en">', "").replace("</span>", "")  # fmt: skip
    assert "### accuracy 按 test 的切片" in told.markdown("zh")
    assert "| *样本数* |" in told.markdown("zh")


def test_slices_that_only_some_arms_have():
    record = sampled.study([Factor("V", [5, 20], "task.tables"), MODEL])
    data = [r for r in sampled.rows(record) if not (r["V"] == "5" and r["slice"] == "hops=3")]
    for r in data:
        if r["V"] == "20" and r["slice"] == "hops=0":
            r["n"] = 700.0
    (t,) = slices.tables(Results(record, data))
    assert dict(t.rows)["5-standard"][3] is None
    assert [label for label, _ in t.items] == ["at V=5", "at V=20"]
    assert [values[0] for _, values in t.items] == [1300, 700]
    names = [d.name for d in figures(Material(record, data))]
    assert names == ["primary", "heat", "slices-hops", "slices-present"]


def test_the_figure(told):
    found = {d.name: d for d in told.drawn}
    points = found["slices-hops"].rows
    means = [p for p in points if p["kind"] == "mean"]
    assert len(means) == 20 * 6
    assert {(p["panel"], p["label"]) for p in means} == {
        (f"V={v}", f"model={x}") for v in (5, 20) for x in ("standard", "lowrank")
    }
    (one,) = [p for p in means if (p["series"], p["x"]) == ("20-512-standard", "unconnected")]
    assert (one["along"], one["items"], one["n"]) == ("512", 140, 3)
    assert one["low"] < one["y"] < one["high"]
    flat = {(p["label"], p["x"]): p["y"] for p in points if p["kind"] == "baseline"}
    assert flat["membership", "unconnected"] == 0
    assert len([p for p in points if p["kind"] == "baseline"]) == 2 * 2 * 6
    svg = found["slices-hops"].canvas.svg()
    for text in ("unconnected", "1300", "model=lowrank", "hops", "higher is better", "V=20"):
        assert text in svg, text
    page = told.html()
    assert "N = 256, 512, 1024, 2048, 4096" in page
    assert 'id="fig-slices-present"' in page


def test_without_baselines_of_slices_and_without_an_axis():
    record = sampled.study([MODEL], seeds=1, sliced=False)
    told = Told(record, sampled.rows(record))
    d = next(d for d in told.drawn if d.name == "slices-hops")
    assert {p["kind"] for p in d.rows} == {"mean"}
    assert {p["along"] for p in d.rows} == {None}
    (t,) = slices.tables(told.material.results)
    assert not t.baselines
    shifts = [drawn._shift(d.rows[0], [], k, 2) for k in (0, 1)]
    assert shifts[0] == -shifts[1] != 0


def test_a_mean_of_fewer_seeds_is_hollow():
    record = sampled.study([MODEL])
    data = [r for r in sampled.rows(record)
            if not (r["trial"] == "standard-s1" and r["slice"] == "hops=1")]  # fmt: skip
    d = next(d for d in Told(record, data).drawn if d.name == "slices-hops")
    assert [(p["n"], p["of"]) for p in d.rows if p["kind"] == "mean" and p["n"] < p["of"]] == [
        (2, 3)
    ]
    assert any(a.get_markerfacecolor() == "white" for a in d.canvas.ax.lines)


def test_files_of_slices(told):
    names = dict(files.figures(told, "en"))
    assert {"figures/slices-hops.svg", "figures/slices-present.csv"} <= names.keys()
    assert {"paper/accuracy-slices-test.tex", "paper/slices-hops.pdf"} <= dict(
        files.paper(told)
    ).keys()
    assert drawn.plain("Größe: x/y") == "größe--x-y"


def test_tables_for_other_programs(told):
    record = told.study
    text = sheets.told(record, told.rows, None, False, "text", sliced=True)
    lines = text.splitlines()
    assert lines[0] == "accuracy by slice of test, higher is better; mean ± sd over 3 seeds"
    assert any(line.split()[:3] == ["items", "1300", "950"] for line in lines)
    recall = sheets.told(record, told.rows, "recall", False, "markdown", sliced=True)
    assert recall.startswith("recall by slice of test, higher is better")
    apart = sheets.told(record, told.rows, None, True, "latex", sliced=True)
    assert "difference to the baseline arm" in apart
    with pytest.raises(SpecError, match="did you mean 'recall'"):
        sheets.told(record, told.rows, "recal", False, "text", sliced=True)
    plain = synthetic.study()
    with pytest.raises(SpecError, match=r"no results by slice: Eval\(..., by="):
        sheets.told(plain, synthetic.rows(plain, known), None, False, "text", sliced=True)


def test_a_study_without_slices_has_none_of_it():
    record = synthetic.study()
    told = Told(record, synthetic.rows(record, known))
    assert list(slices.tables(told.material.results)) == []
    assert not drawn.kinds(told.material)
    assert "slice" not in told.html()

"""Lines along a number that training was given: which factor, which lines, which baselines."""

from __future__ import annotations

import pytest

from paribus.analysis.plots import Material, axes, figures, lines
from paribus.analysis.plots.canvas import styled
from paribus.analysis.report import Told
from paribus.analysis.tables import decided, table
from paribus.study.factors import Factor

from . import sampled, synthetic
from .sampled import MODEL, N, V
from .test_verdicts import known


def material(record, data) -> Material:
    return Told(record, data).material


@pytest.fixture(scope="module")
def m() -> Material:
    record = sampled.study(baseline={"model": ["standard"]})
    return material(record, sampled.rows(record))


def kind(points, name):
    return [p for p in points if p["kind"] == name]


def test_the_axis_is_the_training_factor_with_most_levels(m):
    assert axes.axis_of(m) == axes.Axis("N", True, {str(n): float(n) for n in
                                                    (256, 512, 1024, 2048, 4096)})  # fmt: skip
    depth = Factor("depth", [1, 2, 3], "model.layers")
    record = sampled.study([depth, N])
    assert axes.axis_of(material(record, sampled.rows(record))).name == "N"


def test_a_condition_makes_the_axis_where_there_is_one():
    record = synthetic.study([N], seeds=2)
    axis = axes.axis_of(material(record, synthetic.rows(record, known_of_n)))
    assert (axis.name, axis.trained) == ("length", False)


def known_of_n(v, c):
    return 2.0 + int(v["N"]) / 1e5


@pytest.mark.parametrize("factor", [
    Factor("N", [256, 512], "task.examples"),
    Factor("N", {"few": 1, "some": 2, "many": "x"}, "task.examples"),
    Factor("lr", [1e-4, 1e-3, 1e-2], "optim.lr", tuned="valid/accuracy"),
])  # fmt: skip
def test_two_levels_words_and_tuned_factors_are_no_axis(factor):
    record = synthetic.study([synthetic.POSITION, factor], [], seeds=2)
    assert axes.axis_of(material(record, synthetic.rows(record, known))) is None


def test_a_factor_that_some_arms_lack_is_no_axis():
    record = sampled.study([MODEL, N])
    for v in record["variants"]:
        if v["name"].startswith("lowrank"):
            v["levels"] = {**v["levels"], "N": None}
    assert axes.axis_of(Material(record, [])) is None


def test_a_factor_that_most_arms_have_at_one_level_is_no_axis():
    """One thing changed at a time: lines of one point each would tell nothing."""
    record = sampled.study([MODEL, N])
    record["variants"] = [
        v
        for v in record["variants"]
        if v["levels"]["N"] == "256" or v["name"].startswith("lowrank")
    ]
    assert axes.axis_of(Material(record, [])).name == "N"
    for k, v in enumerate(record["variants"]):
        v["levels"] = {**v["levels"], "other": str(k)}
    assert axes.axis_of(Material(record, [])) is None


def test_an_arm_is_a_line_and_what_its_task_is_a_panel(m):
    points = lines.data(m)
    means = kind(points, "mean")
    assert len(means) == 20
    assert {(p["panel"], p["label"]) for p in means} == {
        (f"V={v}", f"model={x}") for v in (5, 20) for x in ("standard", "lowrank")
    }
    one = [p for p in means if (p["panel"], p["label"]) == ("V=5", "model=standard")]
    assert [p["x"] for p in one] == [256, 512, 1024, 2048, 4096]
    t = table(m.study, m.results)
    entry = dict(t.rows)["5-1024-standard"][0]
    assert one[2]["y"] == pytest.approx(sum(entry.values) / 3)
    assert one[2]["low"] < one[2]["y"] < one[2]["high"]
    assert len(kind(points, "seed")) == 60


def test_each_panel_has_its_own_baselines(m):
    flat = kind(lines.data(m), "baseline")
    assert {(p["panel"], p["label"], p["y"]) for p in flat} == {
        ("V=5", "majority", 0.733), ("V=5", "membership", 0.987),
        ("V=20", "majority", 0.935), ("V=20", "membership", 0.9994),
    }  # fmt: skip
    assert len(flat) == 4 * 5  # once a place, whatever the number of arms


def test_the_training_split_is_beside_its_arm(m):
    points = lines.data(m)
    train = kind(points, "train")
    assert len(train) == 20
    t = table(m.study, m.results)
    entry = dict(t.rows)["20-256-lowrank"][1]
    (point,) = [p for p in train if (p["panel"], p["x"], p["series"]) ==
                ("V=20", 256, "20, lowrank")]  # fmt: skip
    assert point["y"] == pytest.approx(sum(entry.values) / 3)
    with styled():
        canvas = lines.draw(points, m)
    assert all(ax.get_xscale() == "log" for ax in canvas.axes[0])
    by = {a.get_label(): a for a in canvas.ax.lines}
    svg = canvas.svg()
    for text in ("model=standard (baseline)", "model=lowrank, train split", "membership 0.987"):
        assert text in svg, text
    assert "训练集" in canvas.svg("zh")
    drawn = next(a for name, a in by.items() if name.startswith("model=lowrank, "))
    assert drawn.get_color() == m.looks["5-256-lowrank"].colour or drawn.get_linewidth() == 1.0
    assert drawn.get_color() == by["model=lowrank"].get_color()
    limits = [ax.get_ylim() for ax in canvas.axes[0]]
    assert limits[0] != limits[1]  # other tasks, other heights


def test_a_single_line_is_called_after_what_judges():
    """The validation split is declared first, and its values are not those that are drawn."""
    record = synthetic.study([Factor("N", [1, 2, 4, 8], "task.n")], [], seeds=2)
    (test,) = record["conditions"]
    valid = {**test, "evaluation": "valid", "key": "valid", "split": "validation"}
    record["conditions"] = [valid, {**test, "evaluation": "test", "key": "test"}]
    for t in record["trials"]:
        t["cells"] = {"valid": "c0", "test": "c1"}
    found = [{**r, "value": r["value"] + (r["evaluation"] == "valid")}
             for r in synthetic.rows(record, lambda v, c: 2.0)]  # fmt: skip
    points = lines.data(material(record, found))
    assert {p["label"] for p in kind(points, "mean")} == {"test"}
    assert all(p["y"] < 2.5 for p in kind(points, "mean"))


def test_eight_arms_are_four_panels_of_two():
    parts = [Factor(n, list(levels), f"model.{n}") for n, levels in
             (("position", ("full", "tiled")), ("mask", ("dense", "structured")),
              ("causal", ("yes", "no")))]  # fmt: skip
    record = sampled.study([*parts, N], baseline={"mask": ["dense"]})
    m = material(record, sampled.rows(record))
    points = lines.data(m)
    assert {p["panel"] for p in points} == {
        f"position={p}, causal={c}" for p in ("full", "tiled") for c in ("yes", "no")
    }
    assert {p["label"] for p in kind(points, "mean")} == {"mask=dense", "mask=structured"}
    d = next(figures(m))
    assert "mask=dense (baseline)" in d.canvas.svg()


def test_one_arm_alone_is_named_after_its_evaluation():
    record = sampled.study([N])
    points = lines.data(material(record, sampled.rows(record)))
    assert {(p["panel"], p["label"]) for p in points if p["kind"] != "baseline"} == {("", "test")}


def test_several_evaluations_have_panels():
    record = sampled.study([MODEL, N])
    other = {"evaluation": "other", "key": "other", "levels": {}, "split": "test", "by": []}
    record["conditions"].append(other)
    for trial in record["trials"]:
        trial["cells"] = {**trial["cells"], "other": "o"}
    for info in record["metrics"].values():
        info["evaluations"] = ["test", "train", "other"]
    points = lines.data(material(record, sampled.rows(record)))
    assert list(dict.fromkeys(p["panel"] for p in kind(points, "mean"))) == [
        "test", "train", "other",
    ]  # fmt: skip
    assert not kind(points, "train")
    assert {p["panel"] for p in kind(points, "baseline")} == {"test", "train"}


def test_missing_arms_are_missing_points():
    record = sampled.study()
    lost = {f"5-512-standard-s{k}": "diverged" for k in (1, 2, 3)} | {"5-256-lowrank-s1": "running"}
    points = lines.data(material(record, sampled.rows(record, lost=lost)))
    (gone,) = kind(points, "missing")
    assert (gone["panel"], gone["x"], gone["state"]) == ("V=5", 512, "diverged")
    assert [p["n"] for p in kind(points, "mean") if (p["x"], p["series"]) ==
            (256, "5, lowrank")] == [2]  # fmt: skip


def test_a_measured_elsewhere_arm_is_level():
    record = sampled.study([MODEL, N])
    arm = {"name": "elsewhere", "rows": [{"evaluation": "test", "metric": "accuracy",
                                          "value": 0.76, "slice": ""}]}  # fmt: skip
    told = Told(record, sampled.rows(record), imports=[arm])
    points = kind(told.drawn[0].rows, "imported")
    assert [(p["x"], p["y"]) for p in points] == [(x, 0.76) for x in (256, 512, 1024, 2048, 4096)]


def test_baselines_of_a_table_are_few_lines():
    record = sampled.study()
    t = table(record, sampled.rows(record))
    assert [name for name, _ in t.baselines] == [
        "majority at V=5", "majority at V=20", "membership at V=5", "membership at V=20",
    ]  # fmt: skip
    test, train = t.baselines[0][1]
    assert test == 0.733
    assert train[0] < train[1]  # the majority of as many examples as were trained on
    assert t.texts()[-4][2].count("…") == 1
    assert t.trivial["5-256-standard"]["majority"][0] == 0.733


def test_what_decides_values():
    record = sampled.study()
    levels = {v["name"]: v["levels"] for v in record["variants"]}
    assert decided(record, {n: [1.0] for n in levels})[0][0] == ""
    by_two = decided(record, {n: [v["V"] + v["model"]] for n, v in levels.items()})
    assert [label for label, _ in by_two] == [
        "at V=5, model=standard", "at V=5, model=lowrank", "at V=20, model=standard",
        "at V=20, model=lowrank",
    ]  # fmt: skip
    each = decided(record, {n: [n] for n in levels})
    assert each[0] == ("of 5-256-standard", ["5-256-standard"])
    unknown = decided(record, {n: [None if v["N"] == "256" else v["V"]] for n, v in levels.items()})
    assert [label for label, _ in unknown] == ["at V=5", "at V=20"]


def test_the_caption_says_what_the_lines_are():
    record = sampled.study([V, N, MODEL])
    told = Told(record, sampled.rows(record))
    page = told.html()
    for text in ("accuracy against N: one line an arm", "the split that it was trained on",
                 "每个点都是重新训练的"):  # fmt: skip
        assert text in page, text


def test_conditions_without_the_axis_of_others_have_a_figure_of_their_own():
    record = synthetic.study([N, MODEL], seeds=2, baseline={"model": ["standard"]})
    record["conditions"].append(
        {"evaluation": "own", "key": "own", "levels": {"length": None}, "split": "test"}
    )
    for trial in record["trials"]:
        trial["cells"] = {**trial["cells"], "own": "own"}
    data = synthetic.rows(record, lambda v, c: 2.0 - int(v["N"]) / 1e4)
    report = Told(record, data)
    found = {d.name: d for d in report.drawn}
    assert {p["x"] for p in kind(found["primary"].rows, "mean")} == {128, 256, 512}
    means = kind(found["learning"].rows, "mean")
    assert {(p["label"], p["x"]) for p in means} == {
        (m, n) for m in ("standard", "lowrank") for n in (256, 512, 1024, 2048, 4096)
    }
    assert "loss against N: one line an arm" in report.html()
    record = synthetic.study([N, MODEL], seeds=2)
    assert axes.learning(Material(record, [])) is None

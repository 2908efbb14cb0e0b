"""Figures: drawn from their data alone, whole or marked, in both languages, with every glyph."""

from __future__ import annotations

import csv
import io
import math
import re
import shutil

import pytest

from paribus.analysis.plots import (
    FIGURES,
    HEAT,
    Material,
    axes,
    cost,
    figures,
    heat,
    lines,
    training,
    tuning,
)
from paribus.analysis.plots import fonts as fonts_
from paribus.analysis.plots.canvas import CLOSE, OPEN, Canvas, spread, styled
from paribus.analysis.report import Told, files
from paribus.study.factors import Factor
from paribus.study.hypotheses import best, better, metric, no_worse

from .synthetic import HEADS, LENGTH, POSITION, rows, study
from .test_verdicts import known

loss = metric("loss")
ROPE, NONE = POSITION["rope"], POSITION["none"]
PNG = b"\x89PNG"


def material(record, data, **more) -> Material:
    return Told(record, data, **more).material


def drawn(record, data, **more):
    return {d.name: d for d in figures(material(record, data, **more))}


def test_lines():
    record = study(trained={"length": 256})
    d = drawn(record, rows(record, known))["primary"]
    svg = d.canvas.svg()
    assert svg.startswith("<svg")
    for text in ("rope", "learned", "nats/token", "length", "trained", "unigram"):
        assert re.search(rf"<text[^>]*>[^<]*{text}", svg), text
    assert d.canvas.png().startswith(PNG)
    assert d.canvas.pdf().startswith(b"%PDF")


def test_the_data_is_what_is_drawn():
    record = study()
    data = rows(record, known, lost={"learned-s2": "diverged"})
    points = lines.data(material(record, data))
    mean = [p for p in points if p["kind"] == "mean" and p["series"] == "rope"]
    wanted = [r["value"] for r in data if r["metric"] == "loss" and r["variant"] == "rope"
              and r["length"] == "128"]  # fmt: skip
    assert mean[0]["y"] == pytest.approx(sum(wanted) / 5)
    assert mean[0]["low"] < mean[0]["y"] < mean[0]["high"]
    seeds = [
        p["y"] for p in points if p["kind"] == "seed" and p["series"] == "rope" and p["x"] == 128
    ]
    assert seeds == wanted
    assert {p["n"] for p in points if p["kind"] == "mean" and p["series"] == "learned"} == {4}


def test_an_incomplete_mean_is_hollow_and_no_line_goes_through_it():
    record = study()
    data = rows(record, known)
    for row in data:
        if row["trial"] == "rope-s1" and row["length"] == "256":
            row |= {"value": None, "status": "planned", "metric": "loss"}
    m = material(record, data)
    points = lines.data(m)
    with styled():
        ax = lines.draw(points, m).ax
    ours = [a for a in ax.lines if a.get_color() == m.looks["rope"].colour and a.get_ls() == "-"]
    assert [len(a.get_xdata()) for a in ours] == [1, 1]  # 128 and 512: the line has a gap
    hollow = [a for a in ax.lines if a.get_markerfacecolor() == "white"]
    assert [a.get_xdata()[0] for a in hollow] == [256]


def test_nothing_missing_is_zero():
    record = study()
    lost = {f"none-s{k}": "out of memory" for k in range(1, 6)}
    for d in figures(material(record, rows(record, known, lost=lost))):
        assert not any(p.get("y") == 0 for p in d.rows)
        assert not any(p["kind"] == "mean" and p["series"] == "none" for p in d.rows
                       if d.name == "primary")  # fmt: skip


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("condition", [[], [LENGTH], [Factor("kind", {"a": {}, "b": {}})]])
def test_every_shape_of_study_has_a_figure(condition, seeds):
    record = study([POSITION, HEADS], condition, seeds=seeds)
    found = drawn(record, rows(record, known, lost={"rope-4-s1": "diverged"}))
    assert {"primary", "heat"} <= found.keys()
    assert found["primary"].canvas.inline().startswith("<svg")


def test_two_axes_of_conditions():
    record = study([POSITION], [LENGTH, Factor("window", [1, 2], "task.window")])
    points = lines.data(material(record, rows(record, known)))
    assert {p["label"] for p in points if p["kind"] == "mean"} == {
        f"{v}, window={w}" for v in ("rope", "learned", "none") for w in (1, 2)
    }


def test_many_lines_are_put_into_panels():
    record = study([POSITION, Factor("depth", [1, 2, 3, 4, 5, 6], "model.depth")], seeds=2)
    m = material(record, rows(record, known))
    points = lines.data(m)
    assert {p["panel"] for p in points} == {f"depth={k}" for k in range(1, 7)}
    assert {p["label"] for p in points if p["kind"] == "mean"} == {
        "position=rope", "position=learned", "position=none",
    }  # fmt: skip


def test_beyond_200_variants_a_map_stands_in_or_the_report_says_why_not():
    a, b = (Factor(n, list(range(15)), f"model.{n}") for n in "ab")
    record = study([a, b], [], seeds=1)
    data = rows(record, lambda v, _: 1 + int(v["a"]) * int(v["b"]), lost={"2-3-s1": "diverged"})
    told = Told(record, data)
    assert [d.name for d in told.drawn] == ["heat"]
    assert len(told.drawn[0].rows) == 225
    assert "too many" not in told.html() and "A map stands in" in told.html()
    record = study([Factor("a", [f"x{i}" for i in range(201)], "model.a")], [], seeds=1)
    told = Told(record, rows(record, lambda v, _: 1 + int(v["a"][1:])))
    assert told.drawn == []
    assert "No main figure: 201 variants" in told.html()
    assert "No main figure: 201 variants" in told.markdown()


def test_heat():
    record = study([POSITION, HEADS], seeds=2)
    data = rows(record, lambda v, c: 2.0 + (v["position"] == "none"), noise=0, shared=0,
                lost={"rope-4-s1": "diverged", **dict.fromkeys(("none-8-s1", "none-8-s2"),
                                                               "planned")})  # fmt: skip
    m = material(record, data)
    points = {(p["row"], p["column"]): p for p in heat.data(m)}
    assert points["learned", "8"] | {"panel": ""} == {
        "panel": "", "row": "learned", "column": "8", "y": 2.0, "n": 6, "of": 6, "state": "",
    }  # fmt: skip
    assert (points["rope", "4"]["n"], points["rope", "4"]["of"]) == (3, 6)
    assert (points["none", "8"]["y"], points["none", "8"]["state"]) == (None, "6 planned")
    assert heat.averaged(m) == ["length"]
    assert "3/6" in drawn(record, data)["heat"].canvas.svg()


def test_heat_tells_squares_that_are_means_of_unlike_things():
    depth, mask = Factor("depth", [1, 2, 3, 4], "model.layers"), Factor("mask", ["a", "b"], "model")
    record = study([POSITION, depth, HEADS, mask], seeds=2)
    m = material(record, rows(record, lambda v, c: 2.0))
    assert heat.axes_of(m) == ("depth", "position", "heads")
    assert (heat.averaged(m), heat.uneven(m)) == (["mask", "length"], [])
    kept = [
        v for v in record["variants"] if v["levels"]["mask"] == "a" or v["levels"]["depth"] == "1"
    ]
    numbers = {record["variants"].index(v): i for i, v in enumerate(kept)}
    trials = [
        t | {"variant": numbers[t["variant"]]} for t in record["trials"] if t["variant"] in numbers
    ]
    record |= {"variants": kept, "trials": trials}
    told = Told(record, rows(record, lambda v, c: 2.0))
    assert heat.uneven(told.material) == ["mask"]
    assert "the same levels of mask" in told.html()


def test_the_forest_has_every_contrast():
    claims = {
        "flat": best(ROPE, on=loss.slope(LENGTH.log2)),
        "free": no_worse(
            ROPE, than=POSITION["learned"], on=loss.at(LENGTH[128]), within="0.01 nats"
        ),
        "big": better(ROPE, than=NONE, on=loss.at(LENGTH[128]), by=0.02),
    }
    record = study(claims=claims)
    d = drawn(record, rows(record, known))["forest"]
    names = [(p["kind"], p["name"]) for p in d.rows if p["kind"] != "seed"]
    assert names == [("claim", "flat"), ("part", "− position=learned"), ("part", "− position=none"),
                     ("claim", "free"), ("claim", "big")]  # fmt: skip
    edges = {p["name"]: p["edges"] for p in d.rows if p["kind"] == "claim"}
    assert edges == {"flat": [], "free": [pytest.approx(0.01)], "big": [pytest.approx(-0.02)]}
    assert len(d.canvas.figure.axes) == 2  # two units
    assert "forest" not in drawn(record, [])


def test_losses_and_rates():
    record = study(seeds=2)
    names = [t["name"] for t in record["trials"]]
    curves = {
        "loss": {n: [(k, 3.0 + k) for k in range(1, 501)] for n in names} | {"gone-s1": [(1, 9.0)]},
        "lr": {n: [(k, 1e-3 * k) for k in range(1, 11)] for n in names},
    }
    curves["loss"]["rope-s1"] = [(1, 2.0), (2, math.nan), (3, math.inf)]
    curves["lr"]["none-s2"] = curves["lr"]["none-s2"][:4]  # has not ended
    curves["lr"]["rope-s1"] = [(k, 2e-3) for k in range(1, 11)]
    m = material(record, rows(record, known), curves=curves)
    points = training.losses(m)
    assert all(math.isfinite(p["y"]) for p in points)
    assert len([p for p in points if p["trial"] == "none-s1"]) <= 200
    assert [p["y"] for p in points if p["trial"] == "rope-s1"] == [2.0]
    rates = training.rates(m)
    assert {(p["schedule"], p["trials"]) for p in rates} == {(0, 1), (1, 5)}


def test_learning_rates_have_room_beside_their_legend():
    """The axes keep their height however many courses there are."""
    heights = {}
    for many in (2, 40):
        arm = Factor("arm", [f"arm-with-a-long-name-{i}" for i in range(many)], "model.arm")
        record = study([arm], seeds=1)
        curves = {"lr": {t["name"]: [(k, (i + 1) * 1e-4 * k) for k in (1, 2, 3)]
                         for i, t in enumerate(record["trials"])}}  # fmt: skip
        m = material(record, [], curves=curves)
        with styled():
            canvas = training.draw_rates(training.rates(m), m)
            canvas.png()
            heights[many] = canvas.ax.get_window_extent().height / canvas.figure.dpi
    assert heights[40] > 0.85 * heights[2] > 1.2


def many_arms(most_lack: bool):
    """20 arms, of which those of the second half have no norm; or all but four."""
    record = study(
        [Factor("arm", [f"a{i}" for i in range(20)], "x"), Factor("norm", ["rms", "l2"], "y"),
         Factor("size", [1, 2, 3], "z")], [], seeds=1,
    )  # fmt: skip
    kept = [v for v in record["variants"] if v["levels"]["norm"] == "rms"][:20]
    for i, v in enumerate(kept):
        norm = ("rms", "l2")[i % 2] if i < (4 if most_lack else 10) else None
        v["levels"] = {"arm": f"a{i}", "size": str(i % 3 + 1), "norm": norm}
    record["variants"] = kept
    record["trials"] = [t for t in record["trials"] if t["variant"] < len(kept)]
    return record


def test_arms_without_the_factor_of_colours_are_other_arms():
    record = many_arms(most_lack=False)
    record["factors"] = record["factors"][:2]
    m = material(record, [])
    assert m.coloured["name"] == "norm"
    assert [m.looks[n].label for n in list(m.chosen)[8:11]] == ["norm=rms", "norm=l2", "other arms"]
    with styled():
        canvas = m.canvas("x", (7.6, 3))
        training._looks_below(canvas, {x.label: x for x in m.looks.values()})
    assert "other arms" in canvas.svg()
    assert "其他组" in canvas.svg("zh")
    assert "None" not in canvas.svg()


def test_colours_tell_no_factor_that_most_arms_lack():
    record = many_arms(most_lack=True)
    assert material(record, []).coloured["name"] == "size"
    record["factors"] = record["factors"][:2]  # there is no other one
    assert material(record, []).coloured["name"] == "norm"


def test_evaluations_during_training():
    record = study(baseline={"position": ["none"]})
    keys = [c["key"] for c in record["conditions"][:2]]
    checks = {
        t["name"]: [{"step": s, **{f"{k} loss": t["seed"] / s for k in keys}} for s in (1, 2, 3)]
        for t in record["trials"]
    }
    checks["rope-s1"][-1] |= {f"{keys[0]} loss": None}  # not finite
    checks["gone"] = checks["rope-s2"]
    m = material(record, rows(record, known), checks=checks)
    points = training.intervals(m)
    assert list(dict.fromkeys(p["panel"] for p in points)) == [
        "lm length=128: loss", "lm length=256: loss",
    ]  # fmt: skip
    means = [p for p in points if p["kind"] == "mean" and "128" in p["panel"]]
    assert [p["step"] for p in means if p["variant"] == "rope"] == [1, 2]  # the third lacks a seed
    assert [p["step"] for p in means if p["variant"] == "none"] == [1, 2, 3]
    assert means[0]["y"] == pytest.approx(3.0)
    del checks["none-s1"]  # then its variant has single seeds alone
    m = material(record, rows(record, known), checks=checks)
    assert {p["variant"] for p in training.intervals(m) if p["kind"] == "mean"} == {
        "rope",
        "learned",
    }
    for none in (None, {}, {"rope-s1": []}):
        assert not training.intervals(material(record, [], checks=none))


def test_cost():
    record = study()
    data = rows(record, known, lost={"none-s1": "diverged"})
    for row in data:
        row["flops"] = {"rope": 1e12, "learned": 3e12, "none": 2e12}[row["variant"]]
    points = cost.data(material(record, data))
    assert {p["variant"]: (p["cost"], p["x"]) for p in points} == {
        "rope": ("flops", 1e12), "learned": ("flops", 3e12),
    }  # fmt: skip
    assert not cost.data(material(record, rows(record, known)))  # all cost the same


def tuned(losses):
    """Two arms over a grid of three learning rates; ``losses``: (position, lr) -> loss."""
    rate = Factor("lr", [1e-4, 1e-3, 1e-2], "optim.lr", tuned="valid/loss")
    record = study([Factor("position", ["rope", "none"], "model.position"), rate], seeds=2)
    record["conditions"].append(
        {"evaluation": "valid", "key": "valid", "levels": {"length": None}, "split": "valid"}
    )
    for trial in record["trials"]:
        trial["cells"] = {**trial["cells"], "valid": "cv"}
    record["metrics"]["loss"]["evaluations"] = ["lm"]
    return record, lambda v, _: losses[v["position"], v["lr"]]


def test_tuning_curves_and_the_edge_of_the_grid():
    tags = [v.tag for v in Factor("lr", [1e-4, 1e-3, 1e-2], "optim.lr").levels]
    values = {("rope", t): y for t, y in zip(tags, (3, 2, 3), strict=True)}
    values |= {("none", t): y for t, y in zip(tags, (3, 2.5, 2), strict=True)}
    record, of = tuned(values)
    told = Told(record, rows(record, of, noise=0.001, shared=0))
    points = next(d.rows for d in told.drawn if d.name == "tuning")
    assert len(points) == 6
    assert {(p["arm"], p["level"]) for p in points if p["chosen"]} == {
        ("rope", tags[1]), ("none", tags[2]),
    }  # fmt: skip
    (edge,) = tuning.edges(points)
    assert edge["arm"] == "none"
    assert f"lr={tags[2]} for none lies at the edge" in told.html()
    assert f"lr={tags[2]} for none lies at the edge" in told.markdown()
    sheet = told.context()["sheets"][0]
    assert [line.levels for line in sheet.of("variant")] == [("rope", tags[1]), ("none", tags[2])]
    assert sheet.hidden == 4
    record["baseline"] = {"position": ["none"]}
    sheet = Told(record, rows(record, of, noise=0.001, shared=0)).context()["sheets"][0]
    (against,) = [line.against for line in sheet.of("variant") if line.against]
    assert against == f"none-{tags[2]}"  # what was chosen for the baseline arm


def test_every_figure_is_written_with_its_data():
    record = study(claims={"H": better(ROPE, than=NONE, on=loss.at(LENGTH[128]))})
    told = Told(record, rows(record, known))
    written = dict(files.figures(told, "en"))
    assert set(written) == {f"figures/{n}.{s}" for n in ("primary", "forest")
                            for s in ("svg", "png", "csv")}  # fmt: skip
    for d in told.drawn:
        back = list(csv.DictReader(io.StringIO(written[f"figures/{d.name}.csv"].decode())))
        assert len(back) == len(d.rows)
        assert float(back[0]["y"]) == pytest.approx(d.rows[0]["y"])
    paper = dict(files.paper(told))
    assert paper["paper/primary.pdf"].startswith(b"%PDF")
    assert b"\\toprule" in paper["paper/loss.tex"]
    assert {f.name for f in (*FIGURES, HEAT)} >= {"forest", "heat", "tuning", "cost"}


def test_the_same_figure_is_the_same_file():
    record = study()
    data = rows(record, known)
    one, two = (drawn(record, data)["primary"].canvas for _ in range(2))
    assert one.svg() == two.svg()
    assert one.inline() == two.inline()
    assert one.pdf() == two.pdf()


# ── words, colours, glyphs ──────────────────────────────────────────────────────────────────


def test_words_follow_the_language():
    record = study(trained={"length": 256})
    canvas = drawn(record, rows(record, known))["primary"].canvas
    page = canvas.inline()
    assert '<tspan class="en">trained</tspan><tspan class="zh">训练所用</tspan>' in page
    assert "越低越好" in canvas.svg("zh") and "lower is better" not in canvas.svg("zh")
    assert "lower is better" in canvas.svg("en") and "越低越好" not in canvas.svg("en")
    for text in (page, canvas.svg()):
        assert OPEN not in text and CLOSE not in text
    assert canvas.png("zh") != canvas.png("en")
    texts = [
        re.findall(r"<text.*?</text>", p)[-1].split(">", 1)[1] for p in (page, canvas.inline())
    ]
    assert texts[0] == texts[1]  # drawing in one language leaves no trace


def test_a_page_gives_its_own_colours_and_font():
    record = study()
    page = drawn(record, rows(record, known))["primary"].canvas.inline()
    assert "var(--c0)" in page and "var(--ink)" in page
    assert not re.search(r"#[0-9a-f]{6}", page)
    assert "font-family" not in page
    assert "<style" not in page
    assert not re.search(r"\d\.\d{4}", re.sub(r">[^<]*<", "><", page))


def test_texts_keep_their_digits():
    with styled():
        canvas = Canvas("x", (4, 3))
        canvas.ax.text(0.5, 0.5, "0.00123456")
    assert ">0.00123456<" in canvas.svg()


def test_odd_names_are_drawn_as_they_are():
    """Neither mathematics nor markup, and no name takes the whole figure."""
    odd = ["$x_1", r"$\frac$ & <b>", "long " * 40]
    record = study([Factor("position", {t: i for i, t in enumerate(odd)}, "model.position")])
    found = drawn(record, rows(record, lambda v, c: 2.0))
    svg = found["primary"].canvas.svg()
    assert "$x_1" in svg and "&lt;b&gt;" in svg and "<b>" not in svg
    assert found["primary"].canvas.png().startswith(PNG)


def test_labels_are_spread():
    assert spread([0.0, 0.5, 1.0], 0.1) == pytest.approx([0.0, 0.5, 1.0])
    assert spread([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])
    assert spread([0.0, 0.01, 0.9], 0.1) == pytest.approx([-0.045, 0.055, 0.9])


def test_geometric_axes():
    assert axes.geometric([128, 256, 512])
    assert not axes.geometric([1, 2, 3])
    assert not axes.geometric([0, 1, 10])


CHINESE = "位置编码"


def chinese_font() -> bool:
    return not fonts_.cover([CHINESE]).missing


def test_chinese_labels_are_no_boxes():
    if not chinese_font():
        assert not shutil.which("apt-get") or not shutil.os.environ.get("CI")
        pytest.skip("NO CHINESE FONT: fonts-wqy-microhei (tools/system-packages.sh)")
    import numpy as np
    from matplotlib.image import imread

    def shape(text: str) -> bytes:
        with styled():
            canvas = Canvas("x", (1, 1), families=fonts_.cover([CHINESE]).families)
            canvas.ax.set_axis_off()
            canvas.ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=24)
        image = imread(io.BytesIO(canvas.png()))
        return (image[..., 0] < 0.5).astype(np.uint8).tobytes()

    box = shape("\U00100000")  # of a private use plane: in no font
    glyphs = [shape(c) for c in CHINESE]
    assert len({box, *glyphs}) == 5


def test_what_no_font_has_is_said():
    odd = "\U00013000"  # an Egyptian hieroglyph
    found = fonts_.cover([odd, "abc", "é"])
    if not found.missing:
        pytest.skip("a font with hieroglyphs is installed")
    assert found.missing == odd
    record = study([Factor("position", {odd: 1, "b": 2}, "model.position")])
    told = Told(record, rows(record, lambda v, c: 2.0))
    assert f"show boxes for them: {odd}" in told.html()
    assert f"show boxes for them: {odd}" in told.markdown()
    svg = told.drawn[0].canvas.svg()
    assert odd in svg and "Noto Sans CJK SC" in svg

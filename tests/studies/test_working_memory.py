"""The studies of working memory, of training recipes and of effective windows: the notes' rows and
arithmetic, what is refused beforehand, and the notes' own table made from records.  (16) and others
are acceptance checks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import paribus
from paribus import parts, presets
from paribus.analysis.recipe import HEAD, markdown, recipe
from paribus.errors import SpecError
from paribus.nn.declare import counts
from paribus.nn.reach import reach
from paribus.store import Store
from paribus.study import source
from paribus.study.plan import Plan, study_record
from paribus.text import paths
from tests.command import paribus as run

STUDIES = ("lm-recipe", "effective-window", "working-memory")


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    yield
    parts.use_local(None)
    paths.use_base(None)


def plan(name: str, scale: str, folder: Path) -> Plan:
    return Plan(source.load(name, scale=scale).study, Store(folder / "home"))


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("scale", ["paper", "small", "smoke"])
def test_nothing_is_refused_beforehand(name: str, scale: str, tmp_path: Path) -> None:
    from paribus.comparing import audited

    made = plan(name, scale, tmp_path)
    made.refuse()
    assert not [f for f in audited(made) if f.level == "refuse"]


def test_the_notes_rows_and_arithmetic(tmp_path: Path) -> None:
    """(18) 262,144 tokens a step, 12,000 steps of one epoch, as many tokens in 48,000 steps of a
    quarter; (19) 83.1 M parameters, 32.77 M of them embeddings; no clipping, no decay."""
    made = {v.name: v for v in source.load("lm-recipe", scale="paper").study.variants()[0]}
    steps = {n: made[n].spec.steps for n in ("half-fixed", "quarter-none-adam", "eighth")}
    assert steps == {"half-fixed": 6000, "quarter-none-adam": 12_000, "eighth": 24_000}
    assert made["sixteenth-fixed"].spec.steps == 48_000
    for v in made.values():
        spec = v.spec
        assert spec.rows * spec.task.length * spec.steps == 12_000 * 262_144
        assert (spec.clip, spec.kernel, spec.model.width) == (None, "auto", 1024)
        assert counts(spec.model)["groups"]["embedding"] == 32_768_000
    plain = made["quarter-none-adam"].spec
    assert (plain.optim.name, plain.optim.lr, plain.optim.betas) == ("adam", 1e-3, (0.9, 0.999))
    for n, b2 in (("half-memory", 0.998), ("sixteenth-memory", 0.99975)):
        assert made[n].spec.optim.betas[1] == pytest.approx(b2, abs=2e-6)
    assert made["sixteenth-root"].spec.optim.lr == pytest.approx(5e-4)
    at = {n: made[f"quarter-{n}"].spec.schedule for n in ("wsd-50-none", "wsd-70", "wsd-90")}
    assert [p.factor(11_999, 12_000) * p.decay * 12_000 for p in at.values()] == pytest.approx(
        [1] * 3
    )
    for model in (presets.wm83m_wide4(), presets.wm83m_deep16()):
        assert counts(model)["total"] == pytest.approx(83.1e6, abs=1e5)


def test_ratios_of_wsd_share_their_beginning(tmp_path: Path) -> None:
    made = plan("lm-recipe", "paper", tmp_path)
    ends = {t.id: t.until for t in made.forest.trunks}
    shared = {i.trial.name: ends.get(made.forest.parent.get(i.trial.id)) for i in made.items}
    assert shared["quarter-wsd-50-none"] == shared["quarter-wsd-50-sqrt"] == 6001
    assert shared["quarter-wsd-70"] >= 7200
    assert shared["quarter-wsd-90"] >= 10_800
    assert shared["quarter-plateau"] is None
    assert shared["quarter-wsd-50-key"] is None


def test_windows_depths_and_seeds(tmp_path: Path) -> None:
    """At the small scale five seeds, three windows, two depths; each model says how far it sees,
    and lengths reach beyond twice the largest window's direct one."""
    study = source.load("effective-window", scale="small").study
    assert len(study.seeds) == 5
    seen: dict[str, set[Any]] = {"layers": set(), "window": set(), "memory": set()}
    for v in study.variants()[0]:
        for name, tag in v.tags.items():
            if name in seen and tag is not None:
                seen[name].add(tag)
        model, told = v.spec.model, reach(v.spec.model, 512)
        if v.tags["memory"] == "xl":
            w = model.memory.segment
            assert (told.direct, told.theoretical) == (2 * w, (model.layers + 1) * w)
            assert told.state_bytes == 2 * model.layers * 256 * w * 4
            assert model.memory.through == 1
    assert len(seen["layers"]) >= 2
    assert len(seen["window"]) >= 3
    assert seen["memory"] == {"none", "cut", "xl", "xl-through", "sliding", "linear"}
    large = source.load("effective-window", scale="paper").study
    assert {v.tags["memory"] for v in large.variants()[0]} - seen["memory"] == {
        "tokens",
        "retrieval",
    }


def test_the_notes_models(tmp_path: Path) -> None:
    """(19) Both shapes of the notes' model, one epoch of each in segments of 1,024 and of 2,048 at
    equal tokens a step; the recipe is that of Table A's chosen row."""
    made = plan("working-memory", "paper", tmp_path)
    info = made.record["variants_info"]
    assert {n: info[n]["parameters"] for n in info} == {
        "wide4-1024": 83_108_864,
        "wide4-2048": 83_108_864,
        "deep16-1024": 83_116_544,
        "deep16-2048": 83_116_544,
    }
    for v in made.expansion.variants:
        spec = v.spec
        assert (spec.task.length, spec.rows * spec.task.length, spec.steps) == (
            int(v.tags["segment"] or 0), 262_144, 12_000,
        )  # fmt: skip
        assert spec.model.width // spec.model.heads == 64
        assert (spec.optim.name, spec.optim.lr, spec.clip) == ("adam", 1e-3, None)
        assert spec.schedule.name == "constant"
    wide, deep = (v.spec.model for v in made.expansion.variants[::2])
    for mine, preset in ((wide, presets.wm83m_wide4()), (deep, presets.wm83m_deep16())):
        for field in ("width", "layers", "heads", "vocab", "tied", "mask", "norm", "logit_scale"):
            assert getattr(mine, field) == getattr(preset, field), field


def test_both_shapes_have_as_much_and_are_asked_the_same(tmp_path: Path) -> None:
    """At the small scale parameters differ by less than one in a thousand, all trainings take less
    than 2e16 operations, and no length of a probe is left to the model."""
    made = plan("working-memory", "small", tmp_path)
    assert len(made.record["seeds"]) == 5
    info = made.record["variants_info"]
    sizes = [of["parameters"] for of in info.values()]
    assert max(sizes) < 1.001 * min(sizes)
    assert 5 * sum(of["flops"] for of in info.values()) < 2e16
    for e in made.study.evaluate:
        given = [getattr(e.what, f, None) for f in ("lengths", "delays", "histories")]
        assert e.what is None or any(given)
    # A claim about what lies beyond the trained length asks beyond it, and one about the inside
    # in a row that fits into it.
    lags = [n + 16 for n in next(e.what for e in made.study.evaluate if e.name == "lag").delays]
    for length in (256, 512):
        assert {3 * length // 4, length, 3 * length // 2} <= {*lags}
        assert 3 * length // 4 + 2 * 16 <= length


def test_books_are_taken_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "data" / "novels").mkdir(parents=True)
    for name in STUDIES:
        task = source.load(name, scale="small").study.variants()[0][0].spec.task
        assert (task.corpus.name, task.pack, task.within, task.words) == (
            "pg19", "document", "document", True,
        )  # fmt: skip
    assert (
        source.load("lm-recipe", scale="smoke").study.variants()[0][0].spec.task.corpus.name
        == "stdlib"
    )


def test_the_notes_table_from_three_records(tmp_path: Path) -> None:
    """(25) Three rows of WSD, one of which ran on another kernel: the notes' columns, and a warning
    that the kernel differs across rows."""
    only = "schedule=wsd-50,wsd-70,wsd-90"
    done = run(
        "run", "lm-recipe", "--scale", "smoke", "--only", only, "--workers", "1", report=False
    )
    assert done.returncode == 0, done.stderr
    loaded = paribus.load("lm-recipe", scale="smoke")
    names = ["quarter-wsd-50-none", "quarter-wsd-70", "quarter-wsd-90"]
    rows = [r for r in loaded._rows if r["variant"] in names]
    found, warned = recipe(loaded.study, rows)
    table = {r["variant"]: r for r in found if r["variant"] in names}
    assert [table[n]["stable_ratio"] for n in names] == [0.5, 0.7, 0.9]
    assert {(r["type"], r["warmup_steps"], r["batch_tokens"], r["lr"]) for r in table.values()} == {
        ("WSD", 2, 128, 1e-3)
    }
    values = {r["variant"]: r["value"] for r in rows
              if r["metric"] == "ppl" and r["evaluation"] == "test"}  # fmt: skip
    for n in names:
        assert table[n]["test_ppl"] == values[n]
        assert math.isfinite(table[n]["valid_ppl"])
        assert table[n]["remark"] == "n = 1: no claim"
        assert table[n]["seg_num"] == 4
    assert not [w for w in warned if "kernel" in w]
    assert any("declared and not there" in w and "quarter-cosine" in w for w in warned)
    mixed = [{**r, "kernel": "xformers"} if r["variant"] != names[1] else r for r in rows]
    found, warned = recipe(loaded.study, mixed)
    assert any("attention kernel differs across rows (sdpa, xformers)" in w for w in warned)
    remarks = {r["variant"]: r["remark"] for r in found}
    assert remarks[names[0]] == "kernel xformers; n = 1: no claim"
    assert remarks[names[1]] == "kernel sdpa; n = 1: no claim"
    text = markdown(loaded.study, mixed)
    cells = {x[0]: (x[7], x[-1]) for line in text.splitlines() if line.startswith("| ")
             for x in [[c.strip() for c in line.strip("| ").split(" | ")]]}  # fmt: skip
    assert cells["quarter-wsd-50-sqrt"][0] == "WSD sqrt"
    assert cells["quarter-wsd-50-key"][0] == "WSD (k: l2)"
    assert cells["quarter-wsd-50-key-learned"][0] == "WSD (k: l2, gain scalar)"
    assert cells["quarter-wsd-50-qk"][0] == "WSD (q: rmsnorm + k: rmsnorm)"
    assert cells["half-fixed"][1] == "n = 0"
    assert cells["half-memory"][1] == "betas 0.9, 0.998001; n = 0"
    told = [(r["batch_tokens"], r["lr"], cells[r["variant"]], r["warmup_steps"], r["stable_ratio"])
            for r in recipe(loaded.study, [])[0]]  # fmt: skip
    assert len({*told}) == len(told), "every row is told from every other one"
    assert text.splitlines()[0] == "| variant | " + " | ".join(HEAD) + " |"
    assert "warning: attention kernel differs" in text
    assert loaded.recipe().count("\n| ") >= 20
    shown = run("results", "lm-recipe", "--scale", "smoke", "--format", "recipe")
    assert (shown.returncode, shown.stdout) == (0, loaded.recipe())
    assert "warning: declared and not there: half-fixed" in shown.stdout
    file = tmp_path / "out" / "recipe.md"
    assert (
        run("report", "lm-recipe", "--scale", "smoke", "--output", str(file.parent)).returncode == 0
    )
    assert file.read_text() == loaded.recipe()
    mixed = run(
        "results", "lm-recipe", "--scale", "smoke", "--format", "recipe", "--metric", "loss"
    )
    assert mixed.returncode == 2 and "recipe without --metric" in mixed.stderr


def test_perplexity_is_that_of_the_trained_length() -> None:
    """Of a study that judges at several lengths, neither their mean nor another one's."""
    made = study_record(
        Plan(source.load("effective-window", scale="smoke").study, Store(Path("h")))
    )
    name = made["variants"][0]["name"]
    levels = made["variants"][0]["levels"]
    blank = {"variant": name, "trial": "t", "seed": 1, "status": "done", "slice": "", **levels}
    rows = [{**blank, "evaluation": "lm", "metric": "ppl", "length": str(n), "value": float(n)}
            for n in (8, 16, 32)]  # fmt: skip
    assert recipe(made, rows)[0][0]["test_ppl"] == 32.0
    untrained = markdown(made, []).splitlines()[2].split(" | ")
    assert untrained[5].endswith("k(8.22k)") and len(untrained[5]) > len("k(8.22k)")
    with pytest.raises(SpecError, match="measures no perplexity"):
        recipe({**made, "metrics": {}}, rows)


@pytest.mark.full
def test_every_memory_is_trained_and_judged(tmp_path: Path) -> None:
    done = run("run", "effective-window", "--scale", "smoke", "--workers", "2", report=False)
    assert done.returncode == 0, done.stderr
    loaded = paribus.load("effective-window", scale="smoke")
    assert {r["status"] for r in loaded._rows} == {"done"}
    study = study_record(plan("effective-window", "smoke", tmp_path))
    assert {r["variant"] for r in loaded._rows} == {v["name"] for v in study["variants"]}
    at = {(r["variant"], r["length"]): r["value"] for r in loaded._rows if r["metric"] == "loss"}
    for depth in (
        1,
        2,
    ):  # no more context, no other loss; and none beyond a slid window of one layer
        assert at[f"L{depth}-cut-8", "8"] == pytest.approx(at[f"L{depth}-cut-8", "32"], rel=1e-5)
    shown = run("show", "effective-window", "--scale", "smoke", "L2-xl-8").stdout
    assert "reach    16 tokens in a layer, 24 through all layers; 4.1 KB carried" in shown
    assert at["L1-xl-8", "16"] == pytest.approx(at["L1-xl-8", "32"], rel=1e-5)
    made = {p.name for p in loaded.write_outputs(tmp_path / "out")}
    assert "probe-lag.png" in made  # gain by lag, in panels: the arms are many


@pytest.mark.full
def test_both_shapes_are_asked_everything(tmp_path: Path) -> None:
    done = run("run", "working-memory", "--scale", "smoke", "--workers", "2", report=False)
    assert done.returncode == 0, done.stderr
    loaded = paribus.load("working-memory", scale="smoke")
    assert {r["status"] for r in loaded._rows} == {"done"}
    asked = {"valid", "test", "lm", "copy", "memory", "foreign", "order", "lag", "reverse",
             "induction", "history"}  # fmt: skip
    assert {r["evaluation"] for r in loaded._rows} == asked
    verdicts = {v.name: v.verdict for v in loaded.verdicts()}
    assert verdicts["context"] == "met"
    assert "missing" not in verdicts.values()
    for name in ("random", "text", "far"):
        assert verdicts[f"{name}_wide4"] in ("met", "not met")
    # The control of a foreign sequence keeps places, the permuted one the tokens: the same copies.
    at = {(r["evaluation"], r["variant"], r["slice"]): r["value"] for r in loaded._rows
          if r["metric"] == "copied" and r["slice"].startswith("cell=")}  # fmt: skip
    for (evaluation, variant, cell), value in at.items():
        if evaluation in ("foreign", "order"):
            assert value == pytest.approx(at["memory", variant, cell])

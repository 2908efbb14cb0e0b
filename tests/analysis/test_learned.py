"""What each arm learned: the tests against scipy, what they come to, and the words."""

from __future__ import annotations

import pytest
from scipy import stats as scipy_stats

from paribus.analysis import telling
from paribus.analysis.learned import SHARE, learned
from paribus.analysis.plots import Material
from paribus.analysis.report import Told
from paribus.analysis.stats import holm
from paribus.study.factors import Factor

from . import sampled, synthetic
from .sampled import MODEL, N, V
from .test_verdicts import known


def made(record, data):
    m = Material(record, data)
    return m, learned(m)


def told(found, m, lang="en"):
    """Arms -> what is said of them."""
    return {s.arms: str(s) for s in telling.sentences(found, m, lang)}


def against(found, variant, baseline):
    (row,) = [r for r in found.rows if r.variant == variant]
    return next(a for a in row.against if a.baseline == baseline)


@pytest.fixture(scope="module")
def sixty():
    record = sampled.study(baseline={"model": ["standard"]})
    return made(record, sampled.rows(record))


def values(m, variant):
    return [m.results.best[t["name"], "accuracy", "", ("test",)]["value"]
            for t in m.study["trials"] if m.of[t["name"]] == variant]  # fmt: skip


def test_the_t_tests_are_those_of_scipy_with_holm_over_all(sixty):
    m, found = sixty
    assert len(found.rows) == 20
    assert found.tests == 40
    up, down, of = [], [], []
    for r in found.rows:
        for a in r.against:
            xs = values(m, r.variant)
            up.append(scipy_stats.ttest_1samp(xs, a.trivial, alternative="greater").pvalue)
            down.append(scipy_stats.ttest_1samp(xs, a.trivial, alternative="less").pvalue)
            interval = scipy_stats.ttest_1samp(xs, a.trivial).confidence_interval(0.9)
            assert (a.low, a.high) == pytest.approx(
                (interval.low - a.trivial, interval.high - a.trivial)
            )
            assert a.effect == pytest.approx(sum(xs) / 3 - a.trivial)
            of.append(a)
    assert [a.above for a in of] == pytest.approx(holm(up), rel=1e-6)
    assert [a.below for a in of] == pytest.approx(holm(down), rel=1e-6)
    for a, p, q in zip(of, holm(up), holm(down), strict=True):
        assert (a.stands == "above") == (p < 0.05)
        assert (a.stands == "below") <= (q < 0.05)
    assert {a.stands for a in of} >= {"above", "below", "open", "short"}


def flat(**levels):
    """One variant whose three seeds have these values; the majority has 0.733."""
    record = sampled.study([MODEL])
    xs = {"standard": levels["xs"], "lowrank": [0.8, 0.81, 0.82]}
    data = sampled.rows(record)
    for r in data:
        if r["evaluation"] == "test" and not r["slice"] and r["metric"] == "accuracy":
            r["value"] = xs[r["variant"]][r["seed"] - 1]
    return made(record, data)[1]


@pytest.mark.parametrize(("xs", "stands"), [
    ([0.733, 0.733, 0.733], "at"),  # collapsed
    ([0.7331, 0.7328, 0.733], "at"),
    ([0.7325, 0.7325, 0.7325], "at"),  # below by less than the tolerance
    ([0.7335, 0.7335, 0.7335], "above"),  # shown, however little: perfect may be that near
    ([0.9, 0.9, 0.9], "above"),
    ([0.73, 0.78, 0.95], "open"),
    ([0.60, 0.70, 0.75], "short"),
    ([0.70, 0.7001, 0.7], "below"),
])  # fmt: skip
def test_how_an_arm_stands(xs, stands):
    assert against(flat(xs=xs), "standard", "majority").stands == stands


def test_lower_is_better():
    record = synthetic.study()
    m, found = made(record, synthetic.rows(record, known))
    assert (found.better, found.share) == ("lower", False)
    (row, *_) = found.rows
    a = row.against[0]
    assert (a.baseline, a.stands, a.better) == ("unigram", "above", 5)
    assert a.effect < 0 < a.gain
    assert a.low < a.effect < a.high < 0
    said = told(found, m)
    assert said["rope"].startswith("length=128 … 512: better than unigram (−1.10 … −0.996), ")


def test_one_seed_describes():
    record = sampled.study(seeds=1)
    m, found = made(record, sampled.rows(record))
    assert found.tests == 0
    a = against(found, "5-1024-lowrank", "majority")
    assert (a.above, a.low, a.stands) == (None, None, "over")
    assert against(found, "5-1024-lowrank", "membership").stands == "under"
    said = told(found, m)
    assert "above majority (+0.0" in said["V=5, lowrank"]
    assert "not tested" not in said["V=5, lowrank"]
    assert "One seed shows no spread" in telling.note(found)
    assert "one seed: described, not tested" in telling.lines(found, m)


def test_fewer_seeds_than_planned_describe():
    record = sampled.study()
    lost = {"5-1024-lowrank-s2": "diverged", "5-256-standard-s1": "running"}
    m, found = made(record, sampled.rows(record, lost=lost))
    a = against(found, "5-1024-lowrank", "majority")
    assert (a.n, a.of, a.above, a.stands) == (2, 3, None, "over")
    assert found.tests == 36
    assert "above majority, not tested" in told(found, m)["V=5, lowrank"]
    assert "lack seeds" in telling.note(found)


def test_the_choices_of_a_tuned_factor_multiply_p():
    lr = Factor("lr", [1e-4, 1e-3], "optim.lr", tuned="valid/accuracy")
    plain, tuned = sampled.study([MODEL]), sampled.study([MODEL, lr])
    tuned["conditions"].append(
        {"evaluation": "valid", "key": "valid", "levels": {}, "split": "validation", "by": []}
    )
    for trial in tuned["trials"]:
        trial["cells"]["valid"] = "valid"

    def value(v, split, slice):
        return 0.8 + 0.05 * (v["model"] == "lowrank") + 0.01 * (v.get("lr") == "0.001")

    _, one = made(plain, sampled.rows(plain, value))
    _, two = made(tuned, sampled.rows(tuned, value))
    assert two.tests == one.tests == 4
    assert [r.variant for r in two.rows] == ["standard-0.001", "lowrank-0.001"]
    xs = values(Material(tuned, sampled.rows(tuned, value)), "lowrank-0.001")
    p = scipy_stats.ttest_1samp(xs, 0.733, alternative="greater").pvalue
    row = against(two, "lowrank-0.001", "majority")
    assert row.above in (pytest.approx(2 * p * k) for k in (3, 4))


# ── slices ──────────────────────────────────────────────────────────────────────────────────


def test_slices_against_the_baselines_there(sixty):
    _, found = sixty
    (row,) = [r for r in found.rows if r.variant == "5-4096-standard"]
    parts = {p.name: p for p in row.parts}
    assert len(parts) == 8
    lone = parts["hops=unconnected"]
    assert lone.items == 140
    assert lone.against["majority"] == (pytest.approx(lone.mean - 1), -1)
    assert lone.against["membership"] == (pytest.approx(lone.mean), 1)
    assert parts["hops=0"].against["majority"][1] == 1
    said = told(found, sixty[0])["V=5, standard"]
    assert "Slices at N=4096: against majority above on hops=0, 1, 2, 3 & present=both" in said
    assert f"weakest on hops=unconnected: {lone.mean:.3f}." in said


def test_no_way_is_taken_where_seeds_disagree_or_are_near():
    record = sampled.study([MODEL])
    data = sampled.rows(record)
    for r in data:
        if r["metric"] == "accuracy" and r["slice"] == "hops=0":
            r["value"] = 1 - SHARE / 2
        if r["metric"] == "accuracy" and r["slice"] == "hops=1":
            r["value"] = 0.5 if r["seed"] == 1 else 1.0
    _, found = made(record, data)
    parts = {p.name: p for p in found.rows[0].parts}
    assert parts["hops=0"].against["membership"][1] == 0
    assert parts["hops=1"].against["membership"][1] == 0
    assert parts["hops=1"].against["majority"][1] == 1


def test_without_baselines_of_slices_the_weakest_is_named():
    record = sampled.study(sliced=False)
    m, found = made(record, sampled.rows(record))
    said = told(found, m)["V=20, lowrank"]
    assert "Slices at N=4096: weakest on hops=unconnected: 0.0" in said
    assert "against" not in said


# ── sentences ───────────────────────────────────────────────────────────────────────────────


def test_levels_at_which_an_arm_stands_alike_are_one_step(sixty):
    m, found = sixty
    said = told(found, m)
    assert list(said) == [
        "V=5, standard", "V=5, lowrank", "V=20, standard", "V=20, lowrank",
    ]  # fmt: skip
    text = said["V=5, standard"]
    assert text.startswith("N=256: not shown above majority (+0.015 [+0.012, +0.019]; 3 of 3 seeds "
                           "better), below membership (−0.239 [")  # fmt: skip
    assert "N=512, 1024: above majority (+0.071 … +0.185), below membership" in text
    assert text.endswith(".") and ".." not in text
    chinese = told(found, m, "zh")["V=5, standard"]
    assert "N=256：未证实高于 majority（+0.015" in chinese
    assert chinese.endswith("。") and "(" not in chinese


def test_many_arms_of_which_the_same_is_said_share_a_sentence():
    parts = [Factor(n, list("abcd"), f"model.{n}") for n in "xy"]
    record = synthetic.study(parts, seeds=5)
    m, found = made(record, synthetic.rows(record, lambda v, c: 2.0 + 2 * (v["x"] == "d")))
    said = told(found, m)
    assert list(said) == [
        "a-a, a-b, a-c, a-d, b-a and 7 more", "d-a, d-b, d-c, d-d",
    ]  # fmt: skip
    assert "worse than unigram (+" in said["d-a, d-b, d-c, d-d"]
    record = synthetic.study(parts, seeds=5)
    m, found = made(record, synthetic.rows(record, lambda v, c: 2.0))
    assert list(told(found, m)) == ["all 16 arms"]


def test_small_and_whole_shares_keep_their_digits(sixty):
    _, found = sixty
    assert [telling._value(found, x) for x in (0.21349, -0.0004, 0.9996, 1.0, 0.0, -0.01)] == [
        "0.213", "−0.0004", "0.9996", "1.000", "0.000", "−0.010",
    ]  # fmt: skip


def test_the_report_has_the_section(sixty):
    record = sixty[0].study
    report = Told(record, sampled.rows(record))
    page, text, chinese = report.html(), report.markdown(), report.markdown("zh")
    for part in ('id="learned"', "V=5, standard", "above majority?", "each comparison (40; p",
                 "not shown above majority", "未证实高于 majority"):  # fmt: skip
        assert part in page, part
    assert "## What each arm learned" in text
    assert "- **V=20, lowrank**: N=256, 512: above majority" in text
    assert "## 各组学到了什么" in chinese
    table = report.context()["learned"]["compared"]
    assert (len(table["rows"]), table["names"]) == (20, ["majority", "membership"])


def test_too_many_comparisons_are_not_listed():
    record = synthetic.study([Factor("x", list(range(50)), "model.x")], seeds=2)
    _, found = made(record, synthetic.rows(record, lambda v, c: 2.0))
    assert telling.compared(found) is None


def test_without_trivial_baselines_there_is_nothing_to_say():
    record = sampled.study([V, N]) | {"baselines": {}}
    _, found = made(record, sampled.rows(record))
    assert found is None
    assert "What each arm learned" not in Told(record, sampled.rows(record)).html()
    record = sampled.study([V, N])
    assert learned(Material(record, [])) is None
    assert 'id="learned"' not in Told(record, []).html()


def test_the_data_of_every_comparison(sixty):
    _, found = sixty
    rows = found.data()
    assert len(rows) == 40
    assert rows[0].keys() >= {"variant", "baseline", "difference", "low", "high", "p", "stands"}


# ── from a home ─────────────────────────────────────────────────────────────────────────────


def test_the_records_of_a_home_hold_slices_and_their_baselines(tmp_path, monkeypatch, capsys):
    """What the engine publishes: "baselines" and "baseline_slices" beside "slices"."""
    from paribus import parts
    from paribus.api import Loaded
    from paribus.cli import main
    from paribus.text import paths

    from . import homes

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    stub = homes.made(tmp_path)
    try:
        for k, (name, item) in enumerate(stub.items.items()):
            homes.train(stub, name)
            for cell in item.cells:
                value = 0.6 + 0.2 * name.startswith("rope") + 0.001 * k
                part = {"accuracy": {"value": value - 0.1, "count": 16.0}}
                with stub._claim(item, cell) as claim:
                    claim.publish({
                        "status": "done", "seconds": 0.5, "size": 8,
                        "metrics": {"accuracy": {"value": value, "count": 32.0},
                                    "loss": {"value": 1 - value, "count": 32.0}},
                        "slices": {"far=1": part, "far=2": part},
                        "baselines": {"chance": {"accuracy": 0.5, "loss": 0.5}},
                        "baseline_slices": {"chance": {"far=1": {"accuracy": 0.4},
                                                       "far=2": {"accuracy": 0.9}}},
                    })  # fmt: skip
        loaded = Loaded.of(stub.plan.again())
        assert len(loaded.study["baseline_slices"]) == len({c.id for i in stub.items.values()
                                                            for c in i.cells})  # fmt: skip
        loaded.study["primary"] = "accuracy"
        rows = loaded.learned()
        assert {(r["baseline"], r["n"]) for r in rows} == {("chance", 2)}
        assert len(rows) == 4 * 2
        text = loaded.learned_text()
        assert "What each arm learned (accuracy, exploratory):" in text
        assert "against chance above on far=1, below on far=2" in text
        assert "探索性" in loaded.learned_text("zh")
        assert main(["results", "shared.py", "--slices"]) == 0
        out = capsys.readouterr().out
        assert "accuracy by slice of" in out and "far=2" in out
        assert main(["results", "shared.py", "--slices", "--format", "csv"]) == 2
        assert "a row a slice" in capsys.readouterr().err
        main(["verdicts", "shared.py"])
        assert "What each arm learned" in capsys.readouterr().out
    finally:
        stub.close()
        parts.use_local(None)
        paths.use_base(None)

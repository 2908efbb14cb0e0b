"""Tables as they are shown: the best set, differences, and what other programs read."""

from __future__ import annotations

import builtins
import csv
import io
import random

import pytest
from scipy import stats

from paribus.analysis import compared, sheets, tables
from paribus.analysis.tables import Entry, Table, table
from paribus.errors import ParibusError, SpecError

from .synthetic import HEADS, POSITION, rows, study
from .test_verdicts import known

BASE = {"position": ["none"]}


def of(columns: dict[str, dict[int, float]], better: str = "lower", **lost: int) -> Table:
    """A table of one condition: variant -> seed -> value; ``lost``: seeds without one."""
    lines = tuple(
        (name, (Entry(values, {"diverged": lost[name]} if name in lost else {}),))
        for name, values in columns.items()
    )
    return Table("loss", "nats/token", better, 5, ("here",), lines, ())


def best(t: Table) -> set[str]:
    return set(compared.best(t, 0, [n for n, _ in t.rows]))


# ── the best set ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_the_best_set_by_its_definition(better):
    """Against scipy's paired test at 5 %: an interval includes 0 where the test does not reject."""
    draw = random.Random(better)
    sizes = set()
    for _ in range(60):
        n = draw.choice([2, 3, 5, 8])
        shared = [draw.gauss(0, 1) for _ in range(n)]
        columns = {
            f"v{k}": {s: shared[s] + 0.1 * k * draw.random() + draw.gauss(0, 0.1) for s in range(n)}
            for k in range(5)
        }
        means = {name: sum(v.values()) / n for name, v in columns.items()}
        first = (min if better == "lower" else max)(means, key=means.__getitem__)
        wanted = {first} | {
            name for name, v in columns.items() if name != first
            and stats.ttest_rel(list(v.values()), list(columns[first].values())).pvalue >= 0.05
        }  # fmt: skip
        assert best(of(columns, better)) == wanted
        sizes.add(len(wanted))
    assert len(sizes) > 2


def test_no_best_set_where_nothing_can_be_said():
    one = {"a": {1: 1.0}, "b": {1: 2.0}}
    assert best(of(one)) == set()  # one seed
    several = {n: {s: x + s for s in range(3)} for n, x in (("a", 1.0), ("b", 2.0))}
    assert best(of(several)) == {"a"}
    assert best(of(several, a=1)) == set()  # best of one
    assert best(of({"a": several["a"]})) == set()


def test_a_variant_that_lacks_seeds_is_not_in_the_set():
    columns = {n: {s: x + s for s in range(3)} for n, x in (("a", 1.0), ("b", 2.0), ("c", 2.0))}
    assert best(of(columns, a=2)) == {"b", "c"}


def test_equal_values_are_one_set():
    columns = {n: {s: float(s) for s in range(3)} for n in "abc"}
    assert best(of(columns)) == {"a", "b", "c"}


def test_pairs_are_of_the_same_seed():
    """Values in another order are the same values."""
    values = {1: 1.0, 2: 5.0, 3: 9.0}
    worse = {s: v + 0.01 for s, v in values.items()}
    assert best(of({"a": values, "b": dict(reversed(worse.items()))})) == {"a"}


# ── differences ─────────────────────────────────────────────────────────────────────────────


def test_differences_to_the_baseline_arm():
    record = study([POSITION, HEADS], baseline=BASE)
    data = rows(record, known, noise=0.08, lost={"rope-4-s2": "diverged"})
    t = table(record, data)
    found = compared.differences(record, t)
    assert {n: base for n, (base, _) in found.items()} == {
        "rope-4": "none-4", "rope-8": "none-8", "learned-4": "none-4", "learned-8": "none-8",
    }  # fmt: skip
    cells = {n: row[0] for n, row in t.rows}
    d = found["learned-4"][1][0]
    a, b = (list(cells[n].values) for n in ("learned-4", "none-4"))
    test = stats.ttest_rel(a, b)
    ends = test.confidence_interval(0.95)
    assert (d.low, d.high) == pytest.approx((ends.low, ends.high))
    assert d.mean == pytest.approx(sum(a) / 5 - sum(b) / 5)
    assert d.percent_of == "PPL"
    assert d.p == pytest.approx(test.pvalue)
    tested = [x for _, line in found.values() for x in line]
    wanted = stats.false_discovery_control([x.p for x in tested]) < 0.05
    assert [x.clear for x in tested] == wanted.tolist()
    assert 0 < sum(wanted) < len(wanted)
    less = found["rope-4"][1][0]
    assert (less.n, less.of) == (4, 5)
    assert {r["n"] for r in compared.rows(record, t) if r["variant"] == "rope-4"} == {4}


def test_per_cent_of_the_baselines_mean():
    record = study(baseline=BASE)
    t = table(record, rows(record, lambda v, c: 4.0 + (v["position"] == "rope"), noise=0, shared=0),
              "ppl")  # fmt: skip
    d = compared.differences(record, t)["rope"][1][0]
    assert d.percent_of == ""
    assert d.percent == pytest.approx(100 * (2.718281828 - 1))
    assert d.share() == "+172 %"


def test_no_baseline_arm_no_differences():
    record = study()
    assert compared.differences(record, table(record, rows(record, known))) == {}
    with pytest.raises(SpecError, match="names no baseline arm"):
        sheets.told(record, [], None, True, "text")


def test_no_better_than_a_trivial_baseline():
    record = study()
    s = sheets.sheet(
        record, table(record, rows(record, lambda v, c: 3.2 - (v["position"] == "rope")))
    )
    flagged = {line.name for line in s.of("variant") if all(c.trivial for c in line.cells)}
    assert flagged == {"learned", "none"}
    assert "≤ 3.2" in sheets.markdown(s)


# ── forms ───────────────────────────────────────────────────────────────────────────────────


def test_factors_are_columns_where_there_are_several():
    record = study([POSITION, HEADS])
    s = sheets.sheet(record, table(record, rows(record, known)))
    assert sheets.heads(s)[:3] == ["position", "heads", "length=128"]
    assert [line.levels for line in s.of("variant")][:2] == [("rope", "4"), ("rope", "8")]
    assert s.groups == (("length", ("128", "256", "512")),)
    record = study()
    assert sheets.sheet(record, table(record, rows(record, known))).factors == ()


def test_latex():
    record = study(baseline=BASE)
    record["variants"][0]["name"] = r"a_b & 50% #1 {x} \y ~^$"
    for trial in record["trials"][:5]:
        trial["name"] = trial["name"].replace("rope", "odd")
    data = rows(record, known, lost={"none-s1": "diverged"})
    s = sheets.sheet(record, table(record, data))
    text = sheets.latex(s, label="tab:loss")
    assert r"a\_b \& 50\% \#1 \{x\} \textbackslash{}y \textasciitilde{}\textasciicircum{}\$" in text
    assert r"\textbf{1.9" in text and r" $\pm$ 0.0" in text
    assert "(4/5; 1 diverged)" in text
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    lines = [ln for ln in body.splitlines() if ln.endswith(r"\\")]
    assert {ln.replace(r"\&", "").count("&") for ln in lines} == {3}
    for opened, closed in ((r"\begin{table}", r"\end{table}"), (r"\toprule", r"\bottomrule")):
        assert text.count(opened) == text.count(closed) == 1
    assert text.count("{") == text.count("}")
    assert "nats/token" in text
    apart = sheets.latex(s, apart=True)
    assert "none" not in apart[apart.index(r"\midrule") :]
    assert "unigram" not in apart


def test_text_of_differences():
    record = study(baseline=BASE)
    lines = sheets.told(record, rows(record, known), None, True, "text").splitlines()
    assert lines[0].endswith("difference to the baseline arm [95% interval], paired by seed")
    assert [ln.split()[0] for ln in lines if "PPL" in ln] == ["rope", "learned"] * (len(lines) // 4)


def test_one_metrics_rows():
    record = study(baseline=BASE)
    data = rows(record, known, lost={"none-s1": "diverged"})
    found = tables.of_metric(data, "ppl", record)
    assert {r["metric"] for r in found} == {"ppl"}
    assert len(found) == 45
    assert sum(r["value"] is None for r in found) == 3
    assert tables.of_metric(data, None, record) == data


def test_parquet(monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    record = study()
    data = rows(record, known, lost={"none-s1": "diverged"})
    data[0]["threads"] = "many"
    back = parquet.read_table(io.BytesIO(tables.to_parquet(data))).to_pylist()
    text = list(csv.DictReader(io.StringIO(tables.to_csv(data))))
    assert list(back[0]) == list(text[0])
    assert [r["value"] for r in back] == [r["value"] for r in data]
    assert back[0]["threads"] == "many" and back[1]["threads"] == "1"
    real = builtins.__import__

    def without(name, *more):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ParibusError, match=r"pip install paribus\[text\]"):
        tables.to_parquet(data)

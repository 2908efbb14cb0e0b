"""Tables: what is missing is shown as what it is; files hold every column."""

from __future__ import annotations

import csv
import io
import json

import pytest

from paribus.analysis.tables import pivot, table, to_csv, to_json, wide
from paribus.analysis.words import number, p_value
from paribus.errors import SpecError

from .synthetic import HEADS, POSITION, rows, study
from .test_verdicts import known


def test_pivot():
    record = study()
    text = pivot(record, rows(record, known))
    lines = text.splitlines()
    assert lines[0] == "loss (nats/token), lower is better; mean ± sd over 5 seeds"
    assert lines[2].split() == ["variant", "length=128", "length=256", "length=512"]
    assert lines[3].startswith("rope     2.00")
    assert lines[-2].split() == ["unigram", "3.000", "3.000", "3.000"]
    assert "**" not in text


def test_states_stand_where_numbers_would():
    record = study()
    data = rows(record, known, lost={"learned-s2": "diverged", **{
        f"none-s{s}": "out of memory" for s in range(1, 6)
    }})  # fmt: skip
    text = pivot(record, data)
    assert "(4/5; 1 diverged)" in text
    assert text.count("out of memory") == 3
    assert "nan" not in text
    data = [r for r in data if r["variant"] != "rope"]
    assert pivot(record, data, width=200).splitlines()[3].split() == ["rope", *["planned"] * 3]


def test_narrow_terminals_get_blocks():
    record = study()
    text = pivot(record, rows(record, known), width=40)
    assert max(map(len, text.splitlines()[1:])) <= 40
    assert text.count("variant") == 2


def test_one_seed():
    record = study(seeds=1)
    text = pivot(record, rows(record, known))
    assert "1 seed" in text
    assert "±" not in text


def test_entries():
    record = study([POSITION, HEADS])
    t = table(record, rows(record, known), "ppl")
    assert (len(t.rows), len(t.columns), t.n) == (6, 3, 5)
    assert all(len(e.values) == 5 for _, row in t.rows for e in row)
    assert t.baselines == ()
    with pytest.raises(SpecError, match="did you mean 'ppl'"):
        table(record, [], "ppls")


def test_a_condition_of_some_trials_only():
    record = study()
    for trial in record["trials"][:5]:
        trial["cells"] = {k: v for k, v in trial["cells"].items() if "512" not in k}
    data = [r for r in rows(record, known) if (r["variant"], r["length"]) != ("rope", "512")]
    assert table(record, data).rows[0][1][2] is None


def test_csv_and_json():
    record = study()
    data = rows(record, known, lost={"none-s1": "diverged"})
    back = list(csv.DictReader(io.StringIO(to_csv(data))))
    assert len(back) == len(data)
    assert list(back[0])[:5] == ["study", "variant", "trial", "id", "seed"]
    assert set(back[0]) == set(data[0])
    gone = [r for r in back if r["trial"] == "none-s1"]
    assert all(r["value"] == "" and r["status"] == "diverged" for r in gone)
    assert json.loads(to_json(data))[0]["value"] == data[0]["value"]
    assert to_csv([]) == "\n"


def test_wide():
    record = study(columns="position, width=model.width, length, loss, ppl")
    for info in record["variants_info"].values():
        info["spec"] = [{"name": "train", "spec": {"model": {"width": 64}}}]
    data = wide(record, rows(record, known, lost={"none-s1": "diverged"}))
    assert len(data) == 3 * 5 * 3
    assert list(data[0]) == ["position", "width", "length", "loss", "ppl", "seed", "status"]
    assert data[0]["width"] == 64
    assert [r["loss"] for r in data if r["status"] == "diverged"] == [None] * 3
    assert "accuracy" in wide({**record, "columns": None}, rows(record, known))[0]
    with pytest.raises(SpecError, match="no column 'los'; did you mean 'loss'"):
        wide({**record, "columns": "los"}, rows(record, known))


def test_numbers():
    assert [number(x) for x in (2.0, -0.0722, 1234.6, 1e-7, None, 0.0)] == [
        "2", "−0.0722", "1235", "1e−07", "–", "0",
    ]  # fmt: skip
    assert number(2.00449, 0.02) == "2.0045"
    assert [p_value(p) for p in (0.2, 0.0312, 0.00123, 1e-9, None)] == [
        ".200", ".031", ".0012", "< .0001", "–",
    ]  # fmt: skip


def test_one_number_of_decimals_in_a_table():
    record = study()
    data = rows(record, known)
    for row in data:
        if row["length"] == "512" and row["metric"] == "loss":
            row["value"] = 1e-7 * row["seed"] if row["variant"] == "rope" else row["value"] * 100
    for found in (data, [r for r in data if r["seed"] == 1]):
        cells = [c for line in table(record, found).texts() for c in line[1:]]
        numbers = [n for c in cells for n in c.partition("(")[0].split(" ± ")]
        assert len({len(n.partition(".")[2].strip()) for n in numbers}) == 1, numbers
    tiny = [{**r, "value": (r["value"] or 0) * 1e-9} for r in data]
    assert "e−" in table(record, tiny).texts()[0][1]


def test_the_baseline_arm_is_marked():
    record = study([POSITION, HEADS], baseline={"position": ["none"]})
    t = table(record, rows(record, known))
    assert t.reference == ("none-4", "none-8")
    lines = pivot(record, rows(record, known)).splitlines()
    assert [ln.split()[0] for ln in lines if "(baseline)" in ln] == ["none-4", "none-8"]
    assert t.texts(mark="")[-3][0] == "none-8"

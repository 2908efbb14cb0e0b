"""Which settings of the resolved specs differ between variants."""

from __future__ import annotations

from typing import Any

from paribus.analysis.settings import baseline, differences, references, show

from .synthetic import HEADS, POSITION, study

PARTS: dict[str, Any] = {
    "rope": {"part": "rope", "base": 10000.0},
    "learned": {"part": "learned", "init": {"part": "normal", "std": 0.02}, "max": None},
    "none": None,
}


def record(**more: Any) -> dict[str, Any]:
    out = study([POSITION, HEADS], **more)
    for v in out["variants"]:
        heads = int(v["levels"]["heads"])
        model = {
            "heads": heads,
            "head_dim": 32 // heads,
            "position": PARTS[v["levels"]["position"]],
        }
        spec = {"model": model, "optim": {"part": "adamw", "lr": 1e-3}, "rows": 8.0}
        out["variants_info"][v["name"]]["spec"] = [{"name": "train", "optim": "keep", "spec": spec}]
    return out


def test_against_the_baseline_arm():
    r = record(baseline={"position": ["none"]})
    assert baseline(r) == ["none-4", "none-8"]
    assert references(r)["rope-8"] == "none-8"
    found = {tuple(d.variants): d.settings for d in differences(r)}
    assert found == {
        ("rope-4", "rope-8"): ["model.position: none → rope(base=10000)"],
        ("learned-4", "learned-8"): ["model.position: none → learned(init=normal)"],
        ("none-8",): ["model.heads: 4 → 8", "model.head_dim: 8 → 4"],
    }


def test_against_the_first_variant():
    r = record()
    assert baseline(r) == []
    assert set(references(r).values()) == {"rope-4"}
    assert differences(r)[0].settings == ["model.heads: 4 → 8", "model.head_dim: 8 → 4"]


def test_what_no_factor_names_is_listed_too():
    r = record(baseline={"position": ["none"]})
    spec = r["variants_info"]["rope-4"]["spec"][0]["spec"]
    spec["optim"] = {"part": "adamw", "lr": 3e-3}
    spec["rows"] = 8  # as a number the same
    (mine,) = (d for d in differences(r) if d.variants == ["rope-4"])
    assert mine.settings[1:] == ["optim.lr: 0.001 → 0.003"]


def test_phases():
    r = record(baseline={"position": ["none"], "heads": ["4"]})
    spec = {"model": {"freeze": []}}
    more = {"name": "finetune", "optim": "reset", "spec": spec}
    r["variants_info"]["none-8"]["spec"].append(more)
    (mine,) = (d for d in differences(r) if "none-8" in d.variants)
    assert mine.settings == [
        "train:model.heads: 4 → 8", "train:model.head_dim: 8 → 4", "finetune: not there → there",
    ]  # fmt: skip
    r["variants_info"]["none-4"]["spec"].append({**more, "optim": "keep"})
    (mine,) = (d for d in differences(r) if "none-8" in d.variants)
    assert mine.settings[-1] == "finetune: state of optim: keep → reset"


def test_records_without_specs_list_nothing():
    assert differences(study()) == []


def test_show():
    many = {"part": "p", **dict.fromkeys("abcdef", 1.5)}
    assert show(many) == "p(a=1.5, b=1.5, c=1.5, d=1.5, …)"
    assert show([True, None, many]) == "[true, none, p]"
    assert show({}) == "{}"

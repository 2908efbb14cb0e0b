"""Specs: strict, canonical, stable."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paribus import (
    Factor,
    masks,
    memories,
    norms,
    optim,
    parts,
    positions,
    presets,
    probes,
    schedules,
    spec,
    suites,
    tasks,
)
from paribus.errors import SpecError
from paribus.parts import dump
from tests.engine import tiny


def test_dump_load_dump_is_byte_identical() -> None:
    s = tiny.spec(freeze=("*.attn.q",), init={"qk": parts.build("init", {"part": "normal"}, "x")})
    once = spec.encode(dump(s))
    again = spec.encode(dump(spec.load(json.loads(once))))
    assert once == again
    full = dump(s, full=True)
    assert dump(spec.load(full)) == dump(s)


@settings(max_examples=50, deadline=None)
@given(
    width=st.sampled_from([32, 64]),
    base=st.floats(1, 1e7),
    lr=st.floats(1e-8, 10),
    steps=st.integers(1, 10**6),
    clip=st.none() | st.floats(1e-3, 1e3),
)
def test_round_trip_of_any_spec(
    width: int, base: float, lr: float, steps: int, clip: float | None
) -> None:
    s = tiny.spec(
        model=tiny.model(width=width, position=positions.rope(base=base)),
        optim=optim.adamw(lr=lr),
        steps=steps,
        clip=clip,
    )
    back = spec.load(json.loads(spec.encode(dump(s))))
    assert spec.digest(dump(back)) == spec.digest(dump(s))


def test_whole_floats_hash_as_integers_and_true_never_as_one() -> None:
    a, b = positions.rope(base=5000), positions.rope(base=5000.0)
    assert spec.canonical(dump(a)) == spec.canonical(dump(b))
    assert parts.same(1, 1.0)
    assert not parts.same(True, 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "x", None, True, [1]])
def test_wrong_values_are_refused_with_the_field_and_the_value(bad: object) -> None:
    with pytest.raises(SpecError) as caught:
        positions.rope(base=bad)
    assert "rope.base" in str(caught.value)
    assert repr(bad) in str(caught.value)


def test_defaults_are_left_out_so_that_a_new_field_orphans_nothing() -> None:
    assert dump(positions.rope()) == {"part": "rope"}
    assert dump(positions.rope(base=10000)) == {"part": "rope"}
    assert dump(positions.rope(base=5)) == {"part": "rope", "base": 5.0}


def test_unknown_keys_parts_and_kinds_name_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"unknown key 'bse'; did you mean 'base'\?"):
        positions.rope(bse=1)
    with pytest.raises(SpecError, match=r"no positions\.rop; did you mean 'rope'\?"):
        positions.rop()
    with pytest.raises(SpecError, match=r"quickstart\.position: masks\.causal does not fit"):
        presets.quickstart(position=masks.causal())
    with pytest.raises(SpecError, match=r"unknown key 'widht'; did you mean 'width'\?"):
        presets.gpt2_small(widht=3)
    with pytest.raises(SpecError, match="span must be given"):
        tasks.copying()


def test_parts_built_by_class_are_checked_too() -> None:
    cls = parts.get("positions", "rope")
    with pytest.raises(SpecError, match=r"rope\.base"):
        cls(base="large")


def test_patches_follow_rules_not_numbers() -> None:
    s = tiny.spec()
    rules = tiny.Spec(
        model=tiny.model(), task=s.task, optim=s.optim, schedule=s.schedule, rows=8, steps=2
    )
    wide = spec.resolve(spec.patch(rules, "model.width", 64))
    assert wide.model.head_dim == 32
    assert wide.model.kv_heads == 2


def test_resolution_is_idempotent_and_the_pack_key_ignores_stackable_numbers() -> None:
    s = tiny.spec()
    assert dump(spec.resolve(s)) == dump(s)
    other = tiny.spec(optim=optim.adamw(lr=1e-5))
    assert spec.pack_key(s) == spec.pack_key(other)
    assert spec.pack_key(s) != spec.pack_key(tiny.spec(**{"model.norm": norms.layernorm()}))
    assert spec.digest(dump(s)) != spec.digest(dump(other))


def test_local_parts_are_found_identified_by_source_and_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # an edit in the same second counts
    folder = tmp_path / "parts" / "scales"
    folder.mkdir(parents=True)
    source = (
        "from paribus.contracts import Scale\n"
        "class Mine(Scale, frozen=True, kw_only=True):\n"
        "    x: float = 2.0\n"
        "    def factor(self, d): return self.x\n"
    )
    (folder / "mine.py").write_text(source)
    before = parts.local_folder_or_base()
    try:
        parts.use_local(tmp_path)
        from paribus import scales

        one = scales.mine()
        assert type(one).identity().startswith("source:")
        assert dump(one) == {"part": "mine"}
        (folder / "mine.py").write_text(source.replace("2.0", "3.0"))
        assert parts.get("scales", "mine").identity() != type(one).identity() or True
        assert scales.mine().x == 3.0
        (folder / "fixed.py").write_text(source)
        with pytest.raises(SpecError, match=r"scales\.fixed is shipped with paribus"):
            parts.use_local(tmp_path)
    finally:
        parts.use_local(before)
    with pytest.raises(SpecError, match=r"no scales\.mine"):
        scales.mine()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: schedules.wsd(shape="sqr"),
         "schedules.wsd.shape: 'sqr' is none of 'linear', 'sqrt', 'cosine', 'exponential'; did you "
         "mean 'sqrt'?"),
        (lambda: probes.copy(sources=["random", "shufled"]),
         "probes.copy.sources: 'shufled' is none of 'random', 'meaningful', 'shuffled', 'nonce'; "
         "did you mean 'shuffled'?"),
        (lambda: memories.recurrence(segment=4, form="slidin"),
         "memories.recurrence.form: 'slidin' is none of 'full_cache', 'sliding'; did you mean "
         "'sliding'?"),
        (lambda: probes.copy(shots=3), "probes.copy.shots: 3 is none of 0, 1, 2, 4, 8"),
        (lambda: suites.memori("quick"), "no suites.memori; did you mean 'memory'?"),
        (lambda: presets.wm83m_deep17(), "no presets.wm83m_deep17; did you mean 'wm83m_deep16'?"),
        (lambda: Factor("kernel", [1], "x"), "factor 'kernel': the name is reserved, for it is a "
         "column of results; call it kernel_, or after what it varies"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_answered_with_the_right_ones(make: Any, said: str) -> None:
    with pytest.raises(SpecError) as why:
        make()
    assert str(why.value) == said


def test_modules_of_names_know_them() -> None:
    assert callable(suites.memory) and "memory" in suites.SUITES
    assert {"gpt2", "llama", "quickstart", "wm83m_wide4"} <= {*presets.PRESETS}
    assert not any(name.startswith("_") for name in presets.PRESETS)
    for module in (suites, presets):
        assert not hasattr(module, "__path__")

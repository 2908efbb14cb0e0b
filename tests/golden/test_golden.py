"""Numbers that may not move in silence.  To write them anew after a `revision` was bumped:

PARIBUS_GOLDEN=write pytest tests/golden
"""

from __future__ import annotations

import copy
import os

import pytest

from tests.golden import golden

writing = os.environ.get("PARIBUS_GOLDEN") == "write"
compares = pytest.mark.skipif(writing, reason="PARIBUS_GOLDEN=write: written, not compared")
KEPT, DEFAULTS = golden.read(golden.LOSSES), golden.read(golden.DEFAULTS)
NOW = golden.defaults()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("golden")


@compares
@pytest.mark.parametrize("name", golden.names())
def test_losses_are_as_they_were(name, folder):
    assert name in KEPT, f"{name} has no golden losses yet: {golden.WRITE}"
    now = golden.losses(name, folder)
    how = golden.moved(KEPT[name], now)
    if how is None and now["revisions"] == KEPT[name]["revisions"]:
        return
    was, is_ = KEPT[name]["revisions"], now["revisions"]
    bumped = [k for k in is_ if was.get(k) != is_[k]]
    assert how is None, f"{name}: {how}; " + (
        f"the revision of {', '.join(bumped)} changed; if that is meant: {golden.WRITE}"
        if bumped
        else f"a defect, or a change of numbers: then bump its `revision`, and {golden.WRITE}"
    )
    pytest.fail(f"{name}: losses hold, revisions of {', '.join(bumped)} changed: {golden.WRITE}")


@compares
@pytest.mark.parametrize("name", sorted(NOW))
def test_defaults_are_as_they_were(name):
    """A default that changes gives old specs, which leave it out, another meaning."""
    assert name in DEFAULTS, f"{name} has no golden defaults yet: {golden.WRITE}"
    how = golden.changed(DEFAULTS[name], NOW[name])
    assert how is None, f"{name}: {how}; bump its `revision`, then {golden.WRITE}"
    assert NOW[name] == DEFAULTS[name], f"{name} is not as written: {golden.WRITE}"


@compares
def test_files_hold_nothing_else():
    assert KEPT.keys() == set(golden.names()), golden.WRITE
    assert DEFAULTS.keys() == NOW.keys(), golden.WRITE
    assert golden.PLACES.keys() | golden.ELSEWHERE == golden.parts.FOLDERS.keys()


@pytest.mark.skipif(not writing, reason="writes only with PARIBUS_GOLDEN=write")
def test_write(folder):
    """One test writes both files, so that two workers cannot write at once."""
    made = {name: golden.losses(name, folder) for name in golden.names()}
    losses, refused = golden.merge(KEPT, made, golden.moved)
    defaults, refused_ = golden.merge(DEFAULTS, NOW, golden.changed)
    golden.write(golden.LOSSES, losses)
    golden.write(golden.DEFAULTS, defaults)
    assert not refused + refused_, "not written:\n" + "\n".join(refused + refused_)


# ── the rule itself ─────────────────────────────────────────────────────────────────────────

ENTRY = {"revisions": {"positions.rope": "1", "core": "1"}, "losses": [4.0, 3.5]}


def test_a_moved_number_is_not_written_under_an_unchanged_revision():
    new = copy.deepcopy(ENTRY) | {"losses": [4.0, 3.5 * (1 + 2e-8)]}
    out, (refused,) = golden.merge({"a": ENTRY}, {"a": new}, golden.moved)
    assert out["a"] == ENTRY
    assert "loss of step 1" in refused
    assert "bump its `revision`" in refused


def test_a_moved_number_is_written_under_a_new_revision():
    new = {"revisions": {"positions.rope": "2", "core": "1"}, "losses": [4.0, 3.0]}
    assert golden.merge({"a": ENTRY}, {"a": new, "b": ENTRY}, golden.moved) == (
        {"a": new, "b": ENTRY},
        [],
    )


def test_rounding_leaves_the_file_alone():
    new = copy.deepcopy(ENTRY) | {"losses": [4.0 * (1 + 1e-12), 3.5]}
    assert golden.merge({"a": ENTRY, "gone": ENTRY}, {"a": new}, golden.moved) == ({"a": ENTRY}, [])


def test_a_changed_default_needs_a_revision():
    old = {"revisions": {"own": "1"}, "defaults": {"base": 10000.0, "layout": "half"}}
    new = copy.deepcopy(old)
    new["defaults"] |= {"base": 5e5, "fraction": 1.0}
    out, (refused,) = golden.merge({"rope": old}, {"rope": new}, golden.changed)
    assert out["rope"] == old
    assert "default of base is 500000.0, was 10000.0" in refused
    new["defaults"]["base"] = 10000
    out, refused = golden.merge({"rope": old}, {"rope": new}, golden.changed)
    assert not refused, "a new field changes no old spec"
    new["defaults"].pop("layout")
    assert golden.merge({"rope": old}, {"rope": new}, golden.changed)[1]
    new["revisions"]["own"] = "2"
    assert golden.merge({"rope": old}, {"rope": new}, golden.changed) == ({"rope": new}, [])


def test_what_moves_a_number_is_seen(folder):
    """The comparison is sharp: another seed or a base of 10001 is caught."""
    spec = golden.spec_of("positions.rope", folder)
    kept = KEPT.get("positions.rope") or golden.losses("positions.rope", folder)
    other = golden.specs.patch(spec, "model.position.base", 10001.0)
    data = golden.Data(folder / "cache")
    curve = golden.trained([other], [7], data).curve(0)["loss"]
    assert golden.moved(kept, {"losses": curve}) is not None

"""Trunks: which beginnings are shared, what is trained of them; a fork changes no bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paribus import (
    Eval,
    Factor,
    Spec,
    Study,
    external,
    optim,
    parts,
    positions,
    presets,
    schedules,
    tasks,
)
from paribus.errors import SpecError
from paribus.store import Store
from paribus.study.expand import Trial
from paribus.study.plan import Plan, study_record
from paribus.study.trunks import SHORTEST, Forest, forest
from paribus.study.units import todo, work

COPY = Eval("copy")


def spec(**changes: Any) -> Spec:
    fields: dict[str, Any] = dict(
        model=presets.quickstart(width=32),
        task=tasks.copying(span=8, examples=8),
        optim=optim.adamw(lr=3e-3),
        schedule=schedules.constant(),
        rows=8,
        steps=100,
    )
    return Spec(**{**fields, **changes})


def study(arms: Mapping[str, Mapping[str, Any]], base: Any = None, **changes: Any) -> Study:
    """One factor with the given patches."""
    fields: dict[str, Any] = dict(evaluate=[COPY], names="{arm}")
    arm = Factor("arm", {k: dict(v) for k, v in arms.items()})
    return Study("s", "?", base=base or spec(), factors=[arm], **{**fields, **changes})


def planned(home: Path, *arguments: Any, **changes: Any) -> Plan:
    return Plan(study(*arguments, **changes), Store(home))


def shape(plan: Plan) -> dict[str, int]:
    """Trial name -> steps that it shares; absent: none."""
    ends = {t.id: t.until for t in plan.forest.trunks}
    return {
        i.trial.name: ends[plan.forest.parent[i.trial.id]]
        for i in plan.items
        if i.trial.id in plan.forest.parent
    }


def wsd(*decays: int, steps: int = 100) -> dict[str, dict[str, Any]]:
    return {f"d{d}": {"schedule": schedules.wsd(decay=d), "steps": steps} for d in decays}


# ── what is shared ──────────────────────────────────────────────────────────────────────────


def test_schedules_that_look_at_losses_share_with_their_like_alone(tmp_path: Path) -> None:
    """Their factors are all the same before anything is trained, and say nothing."""
    tight, loose = (schedules.plateau(every=10, patience=n) for n in (1, 2))
    arms = {"flat": {}, "tight": {"schedule": tight}, "loose": {"schedule": loose}}
    assert shape(planned(tmp_path, arms)) == {}
    longer = {"a": {"schedule": tight}, "b": {"schedule": tight, "steps": 150}}
    assert shape(planned(tmp_path, longer)) == {"a": 100, "b": 100}


def test_wsd_arms_share_all_before_the_first_decay_and_nest(tmp_path: Path) -> None:
    plan = planned(tmp_path, wsd(60, 40, 20), seeds=2)
    assert shape(plan) == {
        "d60-s1": 40, "d60-s2": 40, "d40-s1": 60, "d40-s2": 60, "d20-s1": 60, "d20-s2": 60,
    }  # fmt: skip
    found = plan.forest
    assert [(t.name, t.until, t.seed) for t in found.trunks] == [
        ("d60-s1-trunk40", 40, 1),
        ("d40-s1-trunk60", 60, 1),
        ("d60-s2-trunk40", 40, 2),
        ("d40-s2-trunk60", 60, 2),
    ]
    assert [t.parent for t in found.trunks[:2]] == [None, found.trunks[0].id]
    assert found.saved_steps == 2 * (2 * 40 + 20)
    assert (plan.training.steps, plan.training.saved) == (600 - 200, 200)
    assert plan.data()["steps_saved"] == 200


def test_constant_schedules_of_different_length_share_the_shorter_whole(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"short": {"steps": 40}, "long": {"steps": 100}})
    assert shape(plan) == {"short": 40, "long": 40}
    # The shorter trial is its trunk's last checkpoint: it has no step of its own.
    assert [(start, end) for _, start, end in plan.training.spans] == [(0, 40), (40, 40), (40, 100)]


def test_a_warm_up_that_is_a_fraction_of_all_steps_is_not_the_same(tmp_path: Path) -> None:
    warm = schedules.constant(warmup=0.5)
    assert not shape(
        planned(tmp_path, {"a": {"steps": 100}, "b": {"steps": 90}}, spec(schedule=warm))
    )


def test_cosines_of_different_length_share_the_warm_up_alone(tmp_path: Path) -> None:
    arms = {"a": {"steps": 100}, "b": {"steps": 200}}
    base = spec(schedule=schedules.cosine(warmup=20))
    assert shape(planned(tmp_path, arms, base)) == {"a": 20, "b": 20}
    base = spec(schedule=schedules.cosine())
    assert planned(tmp_path, arms, base).forest == Forest([], {}, 0)


@pytest.mark.parametrize(
    "patch",
    [
        {"optim.lr": 1e-3},
        {"task.span": 16},
        {"model.dropout": 0.1},
        {"rows": 4},
        {"clip": None},
        {"precision": "fp64"},
        {"freeze": ("*.attn.q",)},
        {"optim": optim.sgd(lr=3e-3)},
    ],
    ids=lambda p: next(iter(p)),
)
def test_what_a_step_reads_is_not_shared_where_it_differs(
    tmp_path: Path, patch: dict[str, Any]
) -> None:
    decay = {"schedule": schedules.wsd(decay=20)}
    assert planned(tmp_path, {"a": decay, "b": {**decay, **patch}}).forest == Forest([], {}, 0)


def test_seeds_share_nothing(tmp_path: Path) -> None:
    assert planned(tmp_path, {"a": {}}, seeds=3).forest == Forest([], {}, 0)


def test_continuations_share_their_base(tmp_path: Path) -> None:
    base = spec().then("more", {"task.span": 16, "steps": 50})
    arms = {
        "keep": {},
        "reset": {"more:optim": "reset"},
        "base": {"more:model.position": positions.rope(base=5e5)},
        # These two go on alike for 40 steps of the second phase.
        "d10": {"more:schedule": schedules.wsd(decay=10)},
        "d5": {"more:schedule": schedules.wsd(decay=5), "more:steps": 45},
    }
    plan = planned(tmp_path, arms, base)
    assert shape(plan) == {"keep": 140, "reset": 100, "base": 100, "d10": 140, "d5": 140}
    first, second = plan.forest.trunks
    assert [len(t.data["phases"]) for t in (first, second)] == [1, 2]
    assert [p["spec"]["steps"] for p in second.data["phases"]] == [100, 40]
    assert [p["optim"] for p in second.data["phases"]] == [None, "keep"]


def test_a_longer_first_phase_shares_up_to_the_end_of_the_shorter(tmp_path: Path) -> None:
    base = spec().then("more", {"task.span": 16, "steps": 50})
    assert shape(planned(tmp_path, {"a": {}, "b": {"steps": 60, "more:steps": 50}}, base)) == {
        "a": 60,
        "b": 60,
    }


def test_a_trunk_adds_a_tenth_of_the_shortest_trial_at_least(tmp_path: Path) -> None:
    assert shape(planned(tmp_path, wsd(91, 80))) == {}  # 9 steps
    assert shape(planned(tmp_path, wsd(90, 80))) == {"d90": 10, "d80": 10}
    # 10, then 5 more (not worth a trunk), then 10 more than the first.
    assert shape(planned(tmp_path, wsd(90, 85, 80, 75))) == {
        "d90": 10, "d85": 10, "d80": 20, "d75": 20,
    }  # fmt: skip


def test_interval_evaluations_are_part_of_the_curve(tmp_path: Path) -> None:
    arms, both = wsd(60, 20), [Eval("copy", every=10)]
    plan = planned(tmp_path, arms, evaluate=both)
    assert shape(plan) == {"d60": 40, "d20": 40}
    (trunk,) = plan.forest.trunks
    assert len(trunk.data["intervals"]) == 1
    assert trunk.id != planned(tmp_path, arms).forest.trunks[0].id
    arm = Factor("arm", arms)
    only = Study(
        "s", "?", base=spec(), factors=[arm], names="{arm}",
        evaluate=[Eval("copy", every=10, when=arm["d60"])],
    )  # fmt: skip
    assert Plan(only, Store(tmp_path)).forest == Forest([], {}, 0)


def test_evaluating_the_model_of_a_later_phase_keeps_beginnings_apart(tmp_path: Path) -> None:
    """An interval evaluation uses the last phase's model, so the curves differ before it too."""
    base = spec().then("more", {"task.span": 16, "steps": 50})
    arms = {"a": {}, "b": {"more:model.position": positions.rope(base=5e5)}}
    assert shape(planned(tmp_path, arms, base)) == {"a": 100, "b": 100}
    assert not shape(planned(tmp_path, arms, base, evaluate=[Eval("copy", every=10)]))


def test_trials_that_keep_their_best_weights_share_nothing(tmp_path: Path) -> None:
    keep = ("last", "best:copy/loss")
    assert not shape(planned(tmp_path, wsd(60, 20), evaluate=[Eval("copy", every=10)], keep=keep))


def test_external_models_share_nothing(tmp_path: Path) -> None:
    (tmp_path / "mymodel.py").write_text("class LM: ...\n")
    parts.use_local(tmp_path)
    try:
        assert not shape(planned(tmp_path, wsd(60, 20), spec(model=external("mymodel:LM"))))
    finally:
        parts.use_local(None)


def test_the_identity_is_the_learning_rates_and_not_the_schedule(tmp_path: Path) -> None:
    """Studies that get to the same rates in other words share trunks."""
    plain = planned(tmp_path, wsd(60, 20)).forest.trunks[0]
    other = planned(tmp_path, {"c": {"steps": 40}, "d": wsd(50, steps=120)["d50"]})
    (trunk,) = other.forest.trunks
    assert trunk.id == plain.id
    assert trunk.data == plain.data
    assert "schedule" not in trunk.data["phases"][0]["spec"]
    assert not any("schedules" in k for k in trunk.data["parts"])


# ── the longest equal beginning ─────────────────────────────────────────────────────────────

made = st.one_of(
    st.builds(schedules.constant, warmup=st.sampled_from([0, 3, 10, 0.2])),
    st.builds(
        schedules.wsd, warmup=st.sampled_from([0, 3, 0.2]), decay=st.sampled_from([1, 5, 20, 0.5])
    ),
    st.builds(schedules.linear, warmup=st.sampled_from([0, 3]), floor=st.sampled_from([0.0, 1.0])),
    st.builds(schedules.cosine, warmup=st.sampled_from([0, 3, 10])),
)
arm = st.lists(st.tuples(made, st.integers(1, 40)), min_size=1, max_size=3)


def letters(t: Trial) -> list[tuple[int, float]]:
    """What decides each step of a trial, written out."""
    return [
        (i, p.spec.schedule.factor(step, p.spec.steps))
        for i, p in enumerate(t.variant.phases)
        for step in range(p.spec.steps or 0)
    ]


def alike(a: Sequence[Any], b: Sequence[Any]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
                min(len(a), len(b)))  # fmt: skip


def trials_of(arms: list[list[tuple[Any, int]]]) -> list[Trial]:
    from paribus.spec import patch, resolve
    from paribus.study.expand import Phase as Stretch
    from paribus.study.expand import Variant

    base = resolve(spec())
    out = []
    for i, phases in enumerate(arms):
        made = tuple(
            Stretch(
                f"p{k}", patch(patch(base, "schedule", s), "steps", n), "keep" if k else "reset"
            )
            for k, (s, n) in enumerate(phases)
        )
        out.append(Trial(f"t{i}", Variant(i, {}, {}, made, f"t{i}"), 1, 1))
    return out


@settings(deadline=None)
@given(st.lists(arm, min_size=2, max_size=2))
def test_two_trials_share_exactly_their_longest_equal_beginning(arms: Any) -> None:
    a, b = trials_of(arms)
    found = forest([a, b], lambda _: [])
    longest = alike(letters(a), letters(b))
    worth = longest >= SHORTEST * min(len(letters(a)), len(letters(b)))
    assert [t.until for t in found.trunks] == ([longest] if worth and a.id != b.id else [])


@settings(deadline=None)
@given(st.lists(arm, min_size=2, max_size=6))
def test_a_forest_is_a_trie_of_the_traces(arms: Any) -> None:
    trials = {t.id: t for t in trials_of(arms)}
    found = forest(list(trials.values()), lambda _: [])
    by_id = {t.id: t for t in found.trunks}
    assert len(by_id) == len(found.trunks)
    ran = {t: letters(trial) for t, trial in trials.items()}
    below: dict[str, list[str]] = {t: [] for t in by_id}
    steps = 0
    for t in trials:
        fork = above = found.parent.get(t)
        steps += len(ran[t]) - (by_id[fork].until if fork else 0)
        while above:
            below[above].append(t)
            above = by_id[above].parent
    for i, trunk in enumerate(found.trunks):
        parent = by_id[trunk.parent] if trunk.parent else None
        assert parent is None or found.trunks.index(parent) < i
        start = parent.until if parent else 0
        sharers = below[trunk.id]
        first = ran[trunk.like.id]
        assert len(sharers) > 1
        # All who share it are equal up to its end, and somebody differs or ends right there.
        assert min(alike(first, ran[t]) for t in sharers) == trunk.until
        assert trunk.until - start >= SHORTEST * min(len(ran[t]) for t in sharers)
        steps += trunk.until - start
    assert steps + found.saved_steps == sum(map(len, ran.values()))


# ── what is trained ─────────────────────────────────────────────────────────────────────────


def end(plan: Plan, unit: str, state: str = "done", step: int = 100) -> None:
    """An attempt of a unit that ended so, without any training."""
    store = plan.store
    known = {i.trial.id: i.trial.data for i in plan.items} | {
        t.id: t.data for t in plan.forest.trunks
    }
    store.declare(unit, known[unit])
    attempt = store.open(unit, "w")
    assert attempt is not None
    if state == "done":
        attempt.seal(step, {"state": b""}, {})
        weights = None if unit in plan.trunks else b"weights"
        attempt.finish(weights, {"step": step}, keep=1)
    else:
        attempt.end(state, "because")


def by_name(plan: Plan) -> dict[str, str]:
    names = {i.trial.name: i.trial.id for i in plan.items}
    return names | {t.name: t.id for t in plan.forest.trunks}


def test_workers_are_told_of_trunks_first(tmp_path: Path) -> None:
    plan = planned(tmp_path, wsd(60, 40, 20), evaluate=[COPY, Eval("often", every=10, examples=4)])
    told, ids = work(plan, plan.items, 4), by_name(plan)
    low, high = ids["d60-trunk40"], ids["d40-trunk60"]
    assert told["packs"][:2] == [[low], [high]]
    assert told["packs"][2:] == [[ids["d60"]], sorted([ids["d40"], ids["d20"]])]
    about = told["trials"]
    assert {u: about[u]["trunk"] for u in about} == {
        low: None, high: low, ids["d60"]: low, ids["d40"]: high, ids["d20"]: high,
    }  # fmt: skip
    assert about[high] == {
        "name": "d40-trunk60", "like": ids["d40"], "until": 60, "trunk": low, "attempts": 0,
        "key": about[high]["key"], "retry": False,
        "conditions": [c for c in about[ids["d40"]]["conditions"] if c["every"]],
    }  # fmt: skip
    assert [c["key"] for c in about[high]["conditions"]] == ["often"]
    assert about[ids["d20"]]["until"] is None
    assert len(about[ids["d20"]]["conditions"]) == 2
    apart = work(plan, plan.items, 4, trunks=False)
    assert apart["packs"] == [sorted(i.trial.id for i in plan.items)]
    assert {u["trunk"] for u in apart["trials"].values()} == {None}


def test_a_trunk_that_no_unfinished_trial_needs_is_not_trained(tmp_path: Path) -> None:
    plan = planned(tmp_path, wsd(60, 40, 20))
    ids = by_name(plan)
    end(plan, ids["d40"])
    again = planned(tmp_path, wsd(60, 40, 20))
    assert [t.name for t, _ in again.training.trunks.values()] == ["d60-trunk40"]
    # What would have forked from the longer one forks from the shorter.
    assert again.training.source[ids["d20"]].name == "d60-trunk40"
    assert (again.training.steps, again.training.saved) == (40 + 60 + 60, 40)
    end(plan, ids["d20"])
    last = planned(tmp_path, wsd(60, 40, 20))
    assert not last.training.trunks
    assert not last.training.source
    assert (last.training.steps, last.training.saved) == (100, 0)


def test_a_trunk_that_is_there_is_used_and_one_that_failed_is_not(tmp_path: Path) -> None:
    plan = planned(tmp_path, wsd(60, 20))
    ids = by_name(plan)
    end(plan, ids["d60-trunk40"], step=40)
    again = planned(tmp_path, wsd(60, 20))
    assert not again.training.trunks
    assert {t.name for t in again.training.source.values()} == {"d60-trunk40"}
    assert (again.training.steps, again.training.saved, again.data()["trunks"]) == (120, 80, 1)
    told = work(again, again.items, 1)
    assert {u["trunk"] for u in told["trials"].values()} == {ids["d60-trunk40"]}

    # Its checkpoint is gone (gc): it cannot be forked from, and the plan says so.
    plan.store.remove(plan.store.gc())
    swept = planned(tmp_path, wsd(60, 20))
    assert (swept.training.steps, swept.training.saved) == (200, 0)

    other = planned(tmp_path / "other", wsd(60, 20))
    end(other, ids["d60-trunk40"], "failed")
    assert not other.training.trunks
    assert not other.training.source
    assert len(todo(other, other.items, retry=True).trunks) == 1


def test_only_some_trials(tmp_path: Path) -> None:
    """Of a trunk that others will need too, one trial that is asked for trains it; trials of
    another trunk are left alone."""
    plan = planned(tmp_path, wsd(60, 20), seeds=2)
    one = [i for i in plan.items if i.trial.name == "d20-s2"]
    told, ids = work(plan, one, 4), by_name(plan)
    assert told["packs"] == [[ids["d60-s2-trunk40"]], [ids["d20-s2"]]]


def test_packs_do_not_depend_on_what_is_finished(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"a": {}}, seeds=6, evaluate=[])
    before = plan.packs(2)
    assert [len(p) for p in before] == [2, 2, 2]
    end(plan, before[0][1])
    end(plan, before[1][0])
    again = planned(tmp_path, {"a": {}}, seeds=6, evaluate=[])
    assert again.packs(2) == [before[0][:1], before[1][1:], before[2]]


def test_study_json_names_the_trunks(tmp_path: Path) -> None:
    plan = planned(tmp_path, wsd(60, 40, 20), keep=["last", "state"])
    record, ids = study_record(plan), by_name(plan)
    assert {t["name"]: t["trunk"] for t in record["trials"]} == {
        "d60": ids["d60-trunk40"], "d40": ids["d40-trunk60"], "d20": ids["d40-trunk60"],
    }  # fmt: skip
    assert record["trunks"][1] == {
        "id": ids["d40-trunk60"], "name": "d40-trunk60", "until": 60, "seed": 1,
        "parent": ids["d60-trunk40"],
    }  # fmt: skip
    assert record["keep"] == ["last", "state"]


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("last", r'keep is a list, such as \("last", "state"\)'),
        (["last", "stat"], "keep='stat'; did you mean 'state'"),
        (["last", "best:copy"], r"keep='best:copy'; write \"best:<condition>/<metric>\""),
        (["state"], 'lacks "last": evaluations use the last weights'),
        (["last", "best:cpy/loss"], "no evaluation 'cpy'; did you mean 'copy'"),
        (["last", "best:copy/los"], "no metric 'los'; did you mean 'loss'"),
        (["last", "best:end/loss"], "'end' is evaluated at the end alone: give every="),
    ],
)
def test_what_to_keep_is_checked(keep: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        study(
            {"a": {}}, evaluate=[Eval("copy", every=5), Eval("end", examples=4)], keep=keep
        ).expand()


def test_what_is_kept_is_in_no_identity() -> None:
    watched = [Eval("copy", every=5)]
    a = study({"a": {}}, evaluate=watched).expand()
    b = study({"a": {}}, evaluate=watched, keep=["last", "state", "best:copy/loss"]).expand()
    assert a.trials[0].id == b.trials[0].id

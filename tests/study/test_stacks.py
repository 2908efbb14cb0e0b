"""How many trials a stack has: small models in large stacks, large ones alone, nobody idle."""

from __future__ import annotations

from pathlib import Path

from paribus import Factor, Spec, Study, optim, presets, schedules, tasks
from paribus.store import Store
from paribus.study import stacks
from paribus.study.plan import Plan


def plan(home: Path, width: int, layers: int, seeds: int = 100) -> Plan:
    base = Spec(
        model=presets.gpt2(width=width, layers=layers, heads=4),
        task=tasks.copying(span=8, symbols=8),
        optim=optim.adamw(lr=1e-3),
        schedule=schedules.constant(),
        rows=16,
        steps=10,
    )
    arms = Factor("lr", [1e-3, 1e-2], "optim.lr")
    return Plan(Study("s", "?", base=base, factors=[arms], seeds=seeds), Store(home))


def test_what_starting_kernels_costs_is_shared_as_far_as_it_pays(tmp_path: Path) -> None:
    sizes = [stacks.trials(plan(tmp_path, w, 4)) for w in (64, 256, 512, 8192)]
    assert sizes[0] == stacks.LARGEST
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] <= 2


def test_memory_workers_and_trials_bound_it(tmp_path: Path) -> None:
    many = plan(tmp_path, 64, 4)
    need = many.said_memory(many.items[0])
    assert stacks.trials(many, memory=10.5 * need / stacks.ROOM) == 10
    assert stacks.trials(many, memory=0.5 * need) == 1
    assert stacks.trials(many, slots=8) == 25
    assert stacks.trials(plan(tmp_path, 64, 4, seeds=3)) == 6

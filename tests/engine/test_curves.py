"""The curves of a stack: every member's own values, each fetched from its device once."""

from __future__ import annotations

import pytest
import torch

from paribus import arrays
from paribus.engine.curves import NAMES, Curves


def steps(curves: Curves, some: range) -> None:
    for i in some:
        curves.add(torch.tensor([i, 10.0 + i]), [0.1 * i, 0.2 * i], torch.tensor([-i, i]) / 2)


def test_each_member_has_its_own_from_its_first_step_on() -> None:
    curves = Curves(2)
    assert curves.of(0) == {c: [] for c in NAMES}
    curves.restore(1, {c: arrays.pack([7.0, float("nan")]) for c in NAMES})
    steps(curves, range(3))
    assert curves.last("loss") == [2.0, 12.0]
    steps(curves, range(3, 5))
    assert curves.of(0)["loss"] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert curves.of(1)["lr"][2:] == [0.2 * i for i in range(5)], "rates are not rounded to fp32"
    assert curves.of(1)["loss"][0] == 7.0 and curves.of(1)["loss"][2:] == [10, 11, 12, 13, 14]
    assert curves.packed(1)["norm"] == arrays.pack(curves.of(1)["norm"])
    steps(curves, range(5, 6))
    assert curves.packed(1)["norm"] == arrays.pack(curves.of(1)["norm"]), "of the newest step, too"
    again = Curves(2)
    again.restore(0, curves.packed(0))
    assert again.of(0) == curves.of(0)


def test_a_step_is_fetched_once_however_many_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of a stack each member's curves are looked at several times."""
    curves, fetched, stack = Curves(2), [], torch.stack

    def counted(tensors: list[torch.Tensor]) -> torch.Tensor:
        fetched.append(len(tensors))
        return stack(tensors)

    monkeypatch.setattr(torch, "stack", counted)
    steps(curves, range(5))
    for e in (0, 1, 0, 1):
        curves.of(e), curves.packed(e)
    steps(curves, range(5, 7))
    curves.of(1)
    assert fetched == [5, 5, 5, 2, 2, 2]

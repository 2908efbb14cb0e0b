"""Questions of a model that ends somewhere, in batches whose padding would reach beyond."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paribus import Study, positions, presets, scalings, tasks
from paribus.engine import preflight
from paribus.engine.net import Net
from paribus.errors import SpecError
from paribus.nn import spans
from paribus.nn.questions import Span
from paribus.spec import resolve
from paribus.store import Store
from paribus.study.plan import Plan
from tests.engine import tiny

END = 24


def test_padding_reaches_no_place_beyond_the_last() -> None:
    """A row that is full and one whose long rest follows a short beginning, together."""
    model = presets.gpt2(
        width=16, layers=2, heads=2, vocab=40, position=positions.learned(length=END)
    )
    spec = resolve(tiny.spec(model=model, task=tasks.copying(span=4, symbols=8, examples=4)))
    net = Net([spec], "cpu", "sdpa")
    p = net.initial([1])
    made = torch.Generator().manual_seed(0)

    def ids(n: int) -> list[int]:
        return torch.randint(40, (n,), generator=made).tolist()

    full, short = ids(END - 2), ids(2)
    questions = [
        [Span([*full, 1, 2], END - 2, END), Span([*full, 3, 4], END - 2, END)],
        [Span([*short, *ids(END - 2)], 3, END), Span([*short, *ids(9)], 3, 11)],
    ]
    cached = spans.Cached(net.core, p)
    whole = spans.Whole(lambda rows: net(p, {"inputs": rows[None]})[0])
    alone = [spans.scores(cached, [q], 1)[0] for q in questions]
    for model_ in (cached, whole):
        together = spans.scores(model_, questions, 10_000)
        for a, b in zip(alone, together, strict=True):
            assert [x.nats for x in a] == pytest.approx([x.nats for x in b], rel=1e-5)
            assert [x.likeliest for x in a] == [x.likeliest for x in b]


def test_rows_of_a_model_that_goes_by_their_length_are_not_padded() -> None:
    made = torch.Generator().manual_seed(0)
    table = torch.randn(40, 40, generator=made)
    lengths = []

    def logits(rows: torch.Tensor) -> torch.Tensor:
        lengths.append(rows.shape[1])
        return table[rows] * rows.shape[1]

    draws = [torch.randint(40, (n,), generator=made).tolist() for n in (3, 9, 5, 9)]
    questions = [[Span([*x, 1], len(x), len(x) + 1), Span([*x, 2], 1, 2)] for x in draws]
    whole = spans.Whole(logits, unpadded=True)
    alone = [spans.scores(whole, [[s]], 1)[0][0].nats for q in questions for s in q]
    lengths.clear()
    found = spans.scores(whole, questions, 10_000)
    assert lengths == [4, 6, 10]
    assert [s.nats for q in found for s in q] == pytest.approx(alone, rel=1e-6)


def test_a_pass_has_few_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a vocabulary's worth: passes that would have many of them are smaller."""
    monkeypatch.setattr(spans, "OUTPUTS", 24)
    sizes = [(12, 3), (12, 1), (9, 8), (5, 0), (30, 29), (5, 1), (4, 1)]
    questions = [[Span([1] * n, n - k, n), Span([1] * n, n - k, n)] for n, k in sizes]
    cut = [spans._shared(q) for q in questions]
    batches = list(spans._batches(questions, cut, 10_000))
    assert sorted(i for batch in batches for i in batch) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) == 1 or 2 * len(batch) * max(sizes[i][1] for i in batch) <= 24
    assert len(batches) < len(sizes)


def test_what_a_growing_position_reads_counts_as_read(tmp_path: Path) -> None:
    scaling = scalings.dynamic_ntk(factor=4.0, original=8)
    spec = tiny.spec(**{"model.position": positions.growing(scaling=scaling)})
    study = Study("s", "?", base=spec)
    (found,) = preflight.run(Plan(study, Store(tmp_path)).graphs(), tiny.Settings(), tmp_path)
    assert not found.failed, found


def test_half_of_a_rule_is_refused() -> None:
    for half in ({"mscale": 0.7}, {"mscale_all_dim": 0.7}):
        with pytest.raises(SpecError, match="give both, or neither"):
            scalings.yarn(factor=4.0, original=256, **half)

"""Conditions at lengths for which what training reads makes no whole number of rows."""

from __future__ import annotations

from pathlib import Path

from paribus import Eval, Factor, Study, corpora, tasks, tokenizers
from paribus.store import Store
from paribus.study.plan import Plan
from tests.engine import tiny


def test_tokens_a_step_bind_no_evaluation(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some words " * 400)
    task = tasks.lm(
        corpus=corpora.files(path=str(tmp_path / "*.txt")),
        tokenizer=tokenizers.bytes(),
        length=32,
        tokens_per_step=256,
        eval_tokens=200,
    )
    lengths = Factor("length", [32, 100, 512], "task.length")
    base = tiny.spec(task=task, rows=None)
    plan = Plan(Study("s", "?", base=base, evaluate=[Eval("lm", over=[lengths])]), Store(tmp_path))
    (item,) = plan.items
    assert [c.refused for c in item.cells] == [None] * 3
    seen = [(c.spec.task.length, c.spec.task.tokens_per_step) for c in item.cells if c.spec]
    assert seen == [(32, 256), (100, None), (512, None)]


def test_an_evaluation_that_equals_another_is_counted_once(tmp_path: Path) -> None:
    """At the trained length the second evaluation is the first one: both are one cell to be made,
    of a fresh home all of them are missing."""
    (tmp_path / "a.txt").write_text("some words " * 400)
    task = tasks.lm(
        corpus=corpora.files(path=str(tmp_path / "*.txt")), tokenizer=tokenizers.bytes(),
        length=32, eval_tokens=200,
    )  # fmt: skip
    lengths = Factor("length", [16, 32, 64], "task.length")
    both = [Eval("test"), Eval("lm", over=[lengths])]
    study = Study("s", "?", base=tiny.spec(task=task), evaluate=both, seeds=2)
    plan = Plan(study, Store(tmp_path))
    assert [len(i.cells) for i in plan.items] == [4, 4]
    told = plan.data()
    assert (told["evaluations"], told["evaluations_missing"]) == (2 * 3, 2 * 3)
    assert told["evaluations_refused"] == 0

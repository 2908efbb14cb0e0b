"""A study whose text is another one here, or is gone, is read as it was registered."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paribus import parts
from paribus.errors import SpecError
from paribus.running import register
from paribus.store import Store
from paribus.study import source
from paribus.study.plan import Plan
from paribus.study.registered import elsewhere, reading, results
from paribus.text import paths
from paribus.text.corpora import stdlib
from tests.stubs import Stub

STUDY = """
from paribus import *
text, other = corpora.files(path="text.txt"), corpora.files(path="other.txt")
position = Factor("position", {"none": None, "rope": positions.rope()}, "model.position")
length = Factor("length", [8, 16], "task.length")
task = tasks.lm(corpus=text, tokenizer=tokenizers.bytes(), length=8, eval_tokens=64)
study = Study("told", "Is it there?",
    base=Spec(model=presets.quickstart(width=32, heads=4), task=task,
              optim=optim.adamw(lr=1e-3), schedule=schedules.constant(), rows=4, steps=100),
    factors=[position], seeds=2, evaluate=[Eval("lm", over=[length])])
"""
OTHER = "what=tasks.lm(corpus=other, tokenizer=tokenizers.bytes(), length=8, eval_tokens=64)"
NAMES = ["none-s1", "none-s2", "rope-s1", "rope-s2"]


class Lab:
    """A study, its text and its home."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "told.py"
        self.path.write_text(STUDY)
        self.write("text.txt", "a")
        self.write("other.txt", "b")

    def write(self, name: str, word: str) -> None:
        (self.folder / name).write_text(f"{word} line of text\n" * 200)

    def edit(self, old: str, new: str) -> None:
        text = self.path.read_text()
        assert old in text
        self.path.write_text(text.replace(old, new))

    def plan(self) -> Plan:
        found = source.load(str(self.path))
        return Plan(found.study, Store(self.folder / "runs"))

    def run(self, *names: str) -> Plan:
        """Register the study, and give its trials results."""
        found = source.load(str(self.path))
        plan = Plan(found.study, Store(self.folder / "runs"))
        register(found, plan)
        stub = Stub(plan)
        for name in names or [n for n, i in stub.items.items() if not i.done]:
            stub.train(name, engine={"python": "3.1.4"})
            stub.evaluate(name)
        stub.close()
        return plan.again()

    def read(self) -> Plan:
        return reading(source.load(str(self.path)).study, Store(self.folder / "runs"))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    yield Lab(tmp_path)
    parts.use_local(None)
    paths.use_base(None)


def same(a: Plan, b: Plan) -> bool:
    """Whether two plans tell the same of all trials, cells, trunks and data."""
    keys = ("trials", "trunks", "conditions", "evaluated", "variants_info", "definitions")
    return all(a.record[k] == b.record[k] for k in keys)


def test_the_same_text_is_no_matter(lab: Lab) -> None:
    then = lab.run()
    now = lab.read()
    assert same(now, then)
    assert now.note == "" and elsewhere(lab.plan()) == ""


def test_other_text(lab: Lab) -> None:
    then = lab.run()
    lab.write("text.txt", "another")
    assert results(lab.plan()) == (0, 0, 0)
    now = lab.read()
    assert same(now, then)
    assert results(now) == results(now.again()) == (4, 8, 4)
    assert now.again().note == now.note
    assert now.note == (
        "the text here is not the one that these trials were trained on (corpus: files); results "
        "are read as registered"
    )
    lab.write("text.txt", "a")
    assert lab.read().note == ""


def test_text_that_is_gone(lab: Lab) -> None:
    then = lab.run()
    (lab.folder / "text.txt").unlink()
    now = lab.read()
    assert same(now, then) and results(now) == (4, 8, 4)
    assert "cannot be read here (corpora.files.path: no file " in now.note


def test_text_that_is_gone_and_was_never_registered(lab: Lab) -> None:
    (lab.folder / "text.txt").unlink()
    with pytest.raises(SpecError, match="no file"):
        lab.read()


def test_a_tokenizer_that_was_made_from_the_text(lab: Lab) -> None:
    lab.edit("tokenizers.bytes()", "tokenizers.bpe(vocab=300)")
    then = lab.run()
    lab.write("text.txt", "another")
    now = lab.read()
    assert same(now, then)
    assert "(corpus: files; tokenizer: bpe)" in now.note


def test_text_of_the_evaluation_alone(lab: Lab) -> None:
    lab.edit('Eval("lm", over=[length])', f'Eval("lm", over=[length]), Eval("far", {OTHER})')
    then = lab.run()
    lab.write("other.txt", "another")
    assert results(lab.plan()) == (4, 8, 4)
    now = lab.read()
    assert same(now, then) and results(now) == (4, 12, 4)
    assert "not the one that these trials were evaluated on (corpus: files)" in now.note
    assert elsewhere(lab.plan()) == ""  # nothing is trained anew


def test_a_condition_that_was_refused(lab: Lab) -> None:
    lab.edit("positions.rope()", "positions.learned(length=8)")
    then = lab.run("none-s1", "rope-s1")
    (lab.folder / "text.txt").unlink()
    assert same(lab.read(), then)


def test_phases_with_texts_of_their_own(lab: Lab) -> None:
    lab.edit("steps=100),", 'steps=100).then("more", {"task.corpus": other, "steps": 50}),')
    then = lab.run()
    lab.write("text.txt", "another")
    lab.write("other.txt", "one more")
    assert results(lab.read()) == (4, 8, 4)
    assert [i.trial.id for i in lab.read().items] == [i.trial.id for i in then.items]


def test_shared_beginnings(lab: Lab) -> None:
    lab.edit("factors=[position]", 'factors=[position, Factor("steps", [100, 200], "steps")]')
    then = lab.run()
    assert then.record["trunks"]
    lab.write("text.txt", "another")
    assert same(lab.read(), then)


@pytest.mark.parametrize("gone", [False, True])
def test_a_study_that_has_grown(lab: Lab, gone: bool) -> None:
    lab.run()
    lab.edit("seeds=2", "seeds=3")
    lab.edit("[8, 16]", "[8, 16, 32]")
    lab.write("text.txt", "another")
    if gone:
        (lab.folder / "text.txt").unlink()
    now = lab.read()
    assert [i.trial.name for i in now.items if i.done] == NAMES
    assert results(now) == (4, 8, 4)


def test_what_else_was_edited_is_not_read_as_what_it_was(lab: Lab) -> None:
    lab.run()
    lab.write("text.txt", "another")
    lab.edit("positions.rope()", "positions.rope(base=500.0)")
    now = lab.read()
    assert [i.trial.name for i in now.items if i.done] == ["none-s1", "none-s2"]
    lab.edit("steps=100", "steps=101")
    now = lab.read()
    assert same(now, lab.plan()) and results(now) == (0, 0, 0)
    assert now.note == ""


def test_an_edit_under_the_same_text_is_none_of_this(lab: Lab) -> None:
    lab.run()
    lab.edit("steps=100", "steps=101")
    assert same(lab.read(), lab.plan())
    assert lab.read().note == "" and elsewhere(lab.plan()) == ""


def test_more_results_on_the_text_that_is_here(lab: Lab) -> None:
    first = lab.run()
    lab.write("text.txt", "another")
    second = lab.run("none-s1")
    assert same(lab.read(), second) and lab.read().note == ""
    lab.write("text.txt", "a")
    now = lab.read()
    assert same(now, first) and results(now) == (4, 8, 4)
    assert now.note == (
        "1 trial of this study was trained on other text (corpus: files); what is shown was "
        "trained on the text that is here"
    )


def test_what_a_run_would_not_use(lab: Lab) -> None:
    lab.run("none-s1", "rope-s2")
    lab.write("text.txt", "another")
    said = elsewhere(lab.plan())
    assert said.startswith(
        "2 trials of this study were trained on other text (corpus: files); with the text here "
        "they are other trials, and `run` trains these anew"
    )
    lab.run("none-s1")  # registered with the new text
    assert elsewhere(lab.plan()) == ""


def test_the_versions_of_python_where_the_text_comes_with_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.edit('corpora.files(path="text.txt")', "corpora.stdlib(megabytes=1)")
    then = lab.run()
    mark = stdlib.Stdlib.fingerprint
    monkeypatch.setattr(stdlib.Stdlib, "fingerprint", lambda self: mark(self)[::-1])
    now = lab.read()
    assert same(now, then)
    here = ".".join(map(str, sys.version_info[:3]))
    assert f"(corpus: stdlib of Python 3.1.4 there, {here} here)" in now.note


def test_what_is_being_trained_elsewhere(lab: Lab) -> None:
    plan = lab.run("none-s1")
    stub = Stub(plan)
    stub.open("rope-s1")
    lab.write("text.txt", "another")
    now = lab.read()
    assert [i.state.state for i in now.items] == ["done", "planned", "running", "planned"]
    assert elsewhere(lab.plan()).startswith("2 trials of this study were trained on other text")
    stub.close()


def test_a_damaged_registration_is_no_reason_to_see_nothing(lab: Lab) -> None:
    then = lab.run()
    (then.store.study_dir("told@main") / "study.json").write_text("{")
    assert results(lab.read()) == (4, 8, 4)
    assert elsewhere(lab.plan()) == ""

"""CORE: 22 tasks of knowledge, reading and reasoning, asked with worked examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from paribus.contracts import Measured, Metric, Probe, Reader
from paribus.errors import SpecError, nearest
from paribus.lazy import numpy as np
from paribus.probes import _core, _icl
from paribus.text.paths import digest, folder_of


class Core(Probe, frozen=True, kw_only=True):
    """The mean over tasks of accuracy above guessing, (acc − b) / (1 − b); slice ``task``.

    Which questions, which worked examples, and what is scored is nanochat's to the letter, with
    three cases defined that it leaves open: an option that another begins with, an option of no
    tokens, a prompt whose last token merges with the answer (``probes/_icl.py``).  A prompt longer
    than the model's limit keeps its last tokens.

    Results of identical training runs differ by 0.005 and the questions alone make an error of
    0.006: compare models on the same questions (``paribus evaluate --against``), over seeds.

    Attributes:
        data: the folder of the bundle: jsonl files, in eval_data/ or as in llm-foundry, and
            core.yaml where it is not nanochat's; relative to the study's folder.
        tasks: labels; (): those whose files are there.  Of fewer than all it is another measure,
            and has anchors of its own.
        most: questions of a task, at most: the first, in the shuffled order; worked examples are
            drawn from them too.
    """

    data: str
    tasks: tuple[str, ...] = ()
    most: Annotated[int, Meta(ge=2)] | None = None

    metrics: ClassVar[dict[str, Metric]] = {
        "core": Metric("", better="higher"),
        "core_v1": Metric("", better="higher"),
        "accuracy": Metric("", better="higher"),
    }
    slices: ClassVar[tuple[str, ...]] = ("task",)
    example: ClassVar[dict[str, Any]] = {"data": "core"}

    def _folder(self) -> Path:
        return folder_of(self.data, "probes.core.data")

    def chosen(self) -> dict[str, tuple[_core.Task, Path | None]]:
        """The tasks by label, with their files."""
        folder = self._folder()
        known = {t.label: (t, _core.located(folder, t.file)) for t in _core.tasks(folder)}
        for label in self.tasks:
            if label not in known:
                raise SpecError(f"probes.core.tasks: no {label!r}; {nearest(label, known)}")
            if known[label][1] is None:
                raise SpecError(f"probes.core.tasks: {self.data} has no {known[label][0].file}")
        if not any(path for _, path in known.values()):
            raise SpecError(f"probes.core.data: {self.data} holds no file of a task of CORE")
        return {k: v for k, v in known.items() if k in self.tasks or not self.tasks}

    def fingerprints(self) -> dict[str, str]:
        return {f"core {k}": digest(p) for k, (_, p) in self.chosen().items() if p is not None}

    def measure(self, model: Reader, examples: int | None = None) -> Measured:
        most = min((x for x in (self.most, examples) if x is not None), default=None)
        labels: list[str] = []
        hits: list[float] = []
        guess: dict[str, dict[str, float]] = {"core": {}, "core_v1": {}}
        for label, (task, path) in self.chosen().items():
            if path is None:
                continue
            rows = _icl.drawn(_core.rows(path), most)
            asked = _icl.questions(task.kind, rows, task.shots, task.delimiter, model.encode)
            found = model.scores([a.spans for a in asked])
            hits += [float(a.right(f)) for a, f in zip(asked, found, strict=True)]
            labels += [label] * len(rows)
            for metric, table in (("core", "v2"), ("core_v1", "v1")):
                guess[metric][label] = _core.guessing(task, table, rows) / 100
        hit, of = np.array(hits), np.array(labels)
        items = {"accuracy": (hit, np.ones(len(hit)))}
        for metric, b in guess.items():
            # Sums and counts over n questions of a task: of the task they make its centred
            # accuracy, of all tasks the mean of theirs.
            sums, counts = np.zeros(len(hit)), np.zeros(len(hit))
            for label, chance in b.items():
                mine = of == label
                counts[mine] = 1 / mine.sum()
                sums[mine] = (hit[mine] - chance) / (1 - chance) / mine.sum()
            items[metric] = (sums, counts)
        there = [k for k, (_, p) in self.chosen().items() if p is not None]
        notes: dict[str, Any] = {"tasks": len(there)}
        if missing := [k for k, (_, p) in self.chosen().items() if p is None]:
            notes["without"] = missing
        anchors = {m: _core.anchors(there, t) for m, t in (("core", "v2"), ("core_v1", "v1"))}
        return Measured(items, {"task": of}, notes, {m: a for m, a in anchors.items() if a})

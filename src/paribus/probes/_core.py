"""CORE (Li et al. 2024, DataComp-LM; nanochat's form): 22 tasks, their baselines and anchors.

Accuracy is centred, (acc − b) / (1 − b) with b what guessing gets, and CORE is the mean over tasks.
Baselines v1 are those of nanochat's bundle, which DCLM marks as older and incorrect: they take 20 %
where questions have four options, and 9.1 %.  v2 are DCLM's own.  Published figures (the "time to
GPT-2" of nanochat: 0.256525) are v1.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from paribus.errors import SpecError

ANSWER = "\nAnswer: "
MODELS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")


class Task(NamedTuple):
    """A task of the bundle.

    Attributes:
        shots: worked examples before a question.
        v1, v2: what guessing gets, in per cent; None: not in the table.
    """

    label: str
    file: str
    kind: str
    shots: int
    delimiter: str = " "
    v1: float | None = None
    v2: float | None = None


def _known() -> dict[str, tuple[Task, tuple[float, ...]]]:
    mc, sc, lm = "multiple_choice", "schema", "language_modeling"
    say, lang, read = "commonsense_reasoning", "language_understanding", "reading_comprehension"
    know, sign = "world_knowledge", "symbolic_problem_solving"
    # label, folder, file, kind, shots, delimiter, v1, v2, accuracy of GPT-2 small, medium, large
    # and XL (nanochat; all but small on at most 1,000 questions)
    rows: list[Any] = [
        ("hellaswag_zeroshot", lang, "hellaswag", mc, 0, " ", 25, 25, (.308504, .39, .44, .502)),
        ("jeopardy", know, "jeopardy_all", lm, 10, ANSWER, 0, 0, (.001889, .044, .045, .092)),
        ("bigbench_qa_wikidata", know, "", lm, 10, " ", 0, 0, (.282663, .428, .48, .531)),
        ("arc_easy", know, "", mc, 10, ANSWER, 25, 25, (.412458, .48, .535, .595)),
        ("arc_challenge", know, "", mc, 10, ANSWER, 25, 25, (.221843, .262, .264, .299)),
        ("copa", say, "", mc, 0, " ", 50, 50, (.6, .66, .67, .67)),
        ("commonsense_qa", say, "", mc, 10, " ", 20, 40.3, (.224406, .196, .27, .227)),
        ("piqa", say, "", mc, 10, ANSWER, 50, 50, (.62296, .67, .698, .725)),
        ("openbook_qa", say, "", mc, 0, " ", 25, 25, (.278, .308, .318, .346)),
        ("lambada_openai", lang, "", lm, 0, " ", 0, 0, (.322919, .426, .488, .523)),
        ("hellaswag", lang, "", mc, 10, " ", 25, 25, (.307907, .395, .444, .512)),
        ("winograd", lang, "winograd_wsc", sc, 0, " ", 50, 50,
         (.578755, .655678, .688645, .714286)),
        ("winogrande", lang, "", sc, 0, " ", 50, 50, (.486188, .521, .541, .569)),
        ("bigbench_dyck_languages", sign, "", lm, 10, " ", 0, 0, (.155, .17, .225, .247)),
        ("agi_eval_lsat_ar", sign, "", mc, 3, " ", 20, 25, (.226087, .230435, .256522, .273913)),
        ("bigbench_cs_algorithms", sign, "", lm, 10, " ", 0, 0, (.419697, .456, .44, .417)),
        ("bigbench_operators", sign, "", lm, 10, " ", 0, 0, (.085714, .1, .114286, .157143)),
        ("bigbench_repeat_copy_logic", sign, "", lm, 10, " ", 0, 0,
         (.03125, .0625, .0625, .09375)),
        ("squad", read, "", lm, 10, " ", 0, 0, (.058278, .169, .235, .309)),
        ("coqa", read, "", lm, 0, " ", 0, 0, (.133659, .227, .23, .28)),
        ("boolq", read, "", mc, 10, ANSWER, 62, 62, (.552294, .606, .567, .619)),
        ("bigbench_language_identification", lang, "", mc, 10, " ", 9.1, 25,
         (.2566, .269, .261, .25)),
    ]  # fmt: skip
    return {
        r[0]: (Task(r[0], f"{r[1]}/{r[2] or r[0]}.jsonl", r[3], r[4], r[5], r[6], r[7]), r[8])
        for r in rows
    }


KNOWN = _known()


def centred(accuracy: float, baseline: float) -> float:
    """(acc − b) / (1 − b), b in per cent."""
    return (accuracy - baseline / 100) / (1 - baseline / 100)


def core(accuracy: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """The mean of centred accuracies over the tasks that are there."""
    return math.fsum(centred(a, baseline[t]) for t, a in accuracy.items()) / len(accuracy)


def anchors(labels: Sequence[str], table: str) -> dict[str, float]:
    """CORE of the GPT-2 family on these tasks, with the baselines "v1" or "v2"; {} where one of the
    tasks is none of the 22."""
    if not set(labels) <= KNOWN.keys():
        return {}
    baseline = {t: getattr(KNOWN[t][0], table) for t in labels}
    return {
        name: core({t: KNOWN[t][1][i] for t in labels}, baseline) for i, name in enumerate(MODELS)
    }


# ── the bundle ──────────────────────────────────────────────────────────────────────────────


def tasks(folder: Path) -> list[Task]:
    """The tasks of a bundle's core.yaml, else the 22; baselines that no table has are those of
    eval_meta_data.csv."""
    listed = folder / "core.yaml"
    if not listed.is_file():
        return [task for task, _ in KNOWN.values()]
    told = folder / "eval_meta_data.csv"
    own: dict[str, float] = {}
    if told.is_file():
        with told.open(encoding="utf-8", newline="") as file:
            own = {r["Eval Task"]: float(r["Random baseline"]) for r in csv.DictReader(file)}
    out: list[Task] = []
    for number, row in enumerate(entries(_text(listed)), 1):
        needed = ("label", "dataset_uri", "icl_task_type", "num_fewshot")
        if gone := [name for name in needed if name not in row]:
            raise SpecError(f"{listed}: task {number} has no {gone[0]}")
        label, shots = row["label"], row["num_fewshot"]
        if label in {t.label for t in out}:
            raise SpecError(f"{listed}: {label!r} stands there twice")
        shots = shots[0] if isinstance(shots, list) and len(shots) == 1 else shots
        if not re.fullmatch(r"\d+", str(shots)):
            raise SpecError(f"{listed}: num_fewshot of {label} is {shots!r}, no number of examples")
        known = KNOWN[label][0] if label in KNOWN else Task(label, "", "", 0)
        out.append(
            Task(
                label,
                row["dataset_uri"],
                row["icl_task_type"],
                int(shots),
                row.get("continuation_delimiter", " "),
                own.get(label, known.v1),
                own.get(label) if known.v2 is None else known.v2,
            )
        )
    if not out:
        raise SpecError(f"{listed} lists no task")
    return out


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is no UTF-8: {error}") from None


def entries(text: str) -> list[dict[str, Any]]:
    """The tasks of a core.yaml: a list of mappings of scalars and [numbers], no more of YAML."""
    out: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines(), 1):
        body = line.strip()
        if body.startswith("-"):
            out.append({})
            body = body[1:].strip()
        if not body or body.startswith("#") or body == "icl_tasks:":
            continue
        found = re.fullmatch(r"(\w+):\s*(.*)", body)
        if found is None or not out:
            raise SpecError(f"core.yaml, line {number}: {body!r} is no 'key: value' of a task")
        name, value = found.groups()
        try:
            plain = value[:1] not in '"[' and value not in ("true", "false")
            out[-1][name] = value if plain or not value else json.loads(value)
        except ValueError as error:
            raise SpecError(f"core.yaml, line {number}: {value} ({error})") from None
    return out


def located(folder: Path, file: str) -> Path | None:
    """The file of a task, in the bundle's eval_data/ or in the folder itself."""
    for place in (folder / "eval_data" / file, folder / file):
        if place.is_file():
            return place
    return None


def rows(path: Path) -> list[dict[str, Any]]:
    out = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            try:
                out.append(json.loads(line))
            except ValueError as error:
                raise SpecError(f"{path}, line {number}: {error}") from None
    if not out:
        raise SpecError(f"{path} holds no question")
    return out


def guessing(task: Task, table: str, asked: Sequence[Mapping[str, Any]]) -> float:
    """What guessing gets, in per cent: of the table, else one in as many as there are options."""
    given = getattr(task, table)
    if given is not None:
        return float(given)
    if task.kind == "language_modeling":
        return 0.0
    name = "choices" if task.kind == "multiple_choice" else "context_options"
    return 100 * math.fsum(1 / len(r[name]) for r in asked) / len(asked)

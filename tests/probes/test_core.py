"""CORE: nanochat's questions and scores, the cases that it leaves open, what is recomputed of
published results, and one answer for one model in two forms."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paribus import (
    corpora,
    external,
    masks,
    optim,
    parts,
    positions,
    presets,
    probes,
    schedules,
    tasks,
)
from paribus import tokenizers as kinds
from paribus.engine.net import make_net
from paribus.engine.probing import Trained
from paribus.engine.settings import Settings
from paribus.errors import SpecError
from paribus.nn.cache import generate
from paribus.nn.initialise import initialise
from paribus.nn.questions import Scored, Span, common, cropped
from paribus.nn.spans import Whole, scores
from paribus.nn.transformer import Transformer
from paribus.probes import _core, _icl
from paribus.spec import InitScheme, Spec, resolve
from paribus.text import paths
from paribus.text.data import Data
from tests.probes import bundle

WIDE = InitScheme(every=parts.Namespace("init").gpt2(std=0.3))
POSITIONS = {
    "rope": positions.rope(),
    "table": positions.learned(length=512),
    "alibi": positions.alibi(),
    "none": None,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle.write(tmp_path_factory.mktemp("core"))


@pytest.fixture(autouse=True)
def _base(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "text").mkdir()
    for i in range(20):
        words = random.Random(i).choices(bundle.WORDS, k=60)
        (tmp_path / "text" / f"{i:02}.txt").write_text(" ".join(words))
    paths.use_base(tmp_path)
    yield
    paths.use_base(None)


def trained(data: Data, position: Any = None, **model: Any) -> tuple[Trained, Transformer, Any]:
    """A model of random weights, far from uniform, as probes see it."""
    task = tasks.lm(corpus=corpora.files(path="text"), tokenizer=kinds.bytes(), length=64)
    fields = {"width": 32, "heads": 2, "position": position, "mask": masks.causal(), **model}
    spec = resolve(
        Spec(model=presets.quickstart(**fields), task=task, optim=optim.adamw(lr=1e-3),
             schedule=schedules.constant(), rows=2, steps=1, precision="fp64", init=WIDE)
    )  # fmt: skip
    p = initialise(spec.model, spec.init, [1], torch.float64)  # type: ignore[arg-type]
    return Trained(p, spec, data, Settings()), Transformer(spec.model), p  # type: ignore[arg-type]


def encode(text: str) -> list[int]:
    return [256, *text.encode()]


# ── scoring ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", POSITIONS)
def test_answers_are_nanochat_s(name: str, folder: Path, tmp_path: Path) -> None:
    """Question by question, against one prompt at a time in plain loops."""
    model, core, p = trained(Data(tmp_path / "c"), POSITIONS[name])
    found = probes.core(data=str(folder)).measure(model)
    hits, of = found.items["accuracy"][0], found.slices["task"]
    assert found.notes == {"tasks": 4, "without": ["squad"]}
    for label in bundle.KINDS:
        data = bundle.asked(label)
        want = [
            bundle.right(label, data, i, lambda ids: core(p, ids[None])[0], encode, model.limit)
            for i in range(len(data))
        ]
        assert hits[of == label].tolist() == [float(x) for x in want], label
    assert 0 < hits.mean() < 1
    # The items' sums and counts make CORE, and each task's centred accuracy.
    accuracy = {t: float(hits[of == t].mean()) for t in bundle.KINDS}
    for metric, table in (("core", "v2"), ("core_v1", "v1")):
        s, c = found.items[metric]
        base = {t: getattr(_core.KNOWN[t][0], table) for t in accuracy}
        assert s.sum() / c.sum() == pytest.approx(_core.core(accuracy, base), abs=1e-12)
        for t in accuracy:
            own = of == t
            assert s[own].sum() / c[own].sum() == pytest.approx(_core.centred(accuracy[t], base[t]))
        assert found.anchors[metric]["gpt2-xl"] == pytest.approx(
            _core.anchors(list(accuracy), table)["gpt2-xl"]
        )


def test_worked_examples_are_drawn_from_the_questions_that_are_asked(folder: Path) -> None:
    for most in (None, 9):
        data = _icl.drawn(bundle.rows("arc_easy"), most)
        assert data == bundle.asked("arc_easy", most)
        for i in range(len(data)):
            others = [j for j in range(len(data)) if j != i]
            assert _icl.shots(i, len(data), 3) == random.Random(1234 + i).sample(others, 3)
    assert _icl.shots(7, 20_321, 10) == random.Random(1241).sample(
        [j for j in range(20_321) if j != 7], 10
    )


def test_a_prompt_too_long_keeps_its_last_tokens(folder: Path, tmp_path: Path) -> None:
    model, core, p = trained(Data(tmp_path / "c"), positions.learned(length=96))
    assert model.limit == 96
    found = probes.core(data=str(folder), tasks=("arc_easy",)).measure(model)
    data = bundle.asked("arc_easy")
    lengths = [len(encode(x)) for i in range(14) for x in bundle.prompts_of("arc_easy", data, i)]
    assert max(lengths) > 96
    want = [
        float(bundle.right("arc_easy", data, i, lambda ids: core(p, ids[None])[0], encode, 96))
        for i in range(14)
    ]
    assert found.items["accuracy"][0].tolist() == want
    assert cropped(Span(range(10), 3, 10), 4) == Span(range(6, 10), 1, 4)


@pytest.mark.parametrize("name", POSITIONS)
def test_beginnings_read_once_change_nothing(name: str, folder: Path, tmp_path: Path) -> None:
    """Whatever is in a pass together, and beside a model that reads every prompt alone."""
    model, core, p = trained(Data(tmp_path / "c"), POSITIONS[name])
    asked = []
    for label, (kind, k, delimiter) in bundle.KINDS.items():
        asked += _icl.questions(kind, bundle.asked(label), k, delimiter, model.encode)
    spans = [a.spans for a in asked]
    alone = scores(Whole(lambda ids: core(p, ids[None])[0]), [[s] for q in spans for s in q], 1)
    want = [x[0] for x in alone]
    for budget in (1, 700, 8192):
        found = [x for q in scores(model.reads, spans, budget) for x in q]
        assert [x.tokens for x in found] == [x.tokens for x in want]
        assert [x.likeliest for x in found] == [x.likeliest for x in want]
        gaps = [abs(a.mean - b.mean) for a, b in zip(found, want, strict=True)]
        assert max(gaps) < 1e-10
    single = {k: t.float() for k, t in p.items()}
    model.reads.p, model.reads.dtype = single, torch.float32  # type: ignore[attr-defined]
    one, many = (
        [x.mean for q in scores(model.reads, spans, budget) for x in q] for budget in (1, 8192)
    )
    assert max(abs(a - b) for a, b in zip(one, many, strict=True)) < 1e-5


class Guess:
    """A model that finds each option as likely as a function of its text says."""

    limit = None

    def __init__(self, nats: Any) -> None:
        self.nats = nats

    def encode(self, texts: Any) -> list[list[int]]:
        return [encode(t) for t in texts]

    def scores(self, questions: Any) -> list[list[Scored]]:
        return [
            [
                Scored(self.nats(bytes(s.ids[s.start : s.end])) * (s.end - s.start),
                       s.end - s.start, False)
                for s in q
            ]
            for q in questions
        ]  # fmt: skip


def test_the_order_of_options_does_not_matter(tmp_path: Path) -> None:
    rng = random.Random(0)
    found = []
    for shuffled in (False, True):
        place = tmp_path / str(shuffled) / "commonsense_reasoning"
        place.mkdir(parents=True)
        rows = bundle.rows("copa", 40)
        for r in rows if shuffled else ():
            right = r["choices"][r["gold"]]
            rng.shuffle(r["choices"])
            r["gold"] = r["choices"].index(right)
        (place / "copa.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        model = Guess(lambda text: math.sin(sum(text)))
        found.append(probes.core(data=str(place.parent)).measure(model).items["accuracy"][0])
    # Where options part after a common beginning, the order is all that changes.
    assert found[0].tolist() == found[1].tolist()


def test_cases_left_open_are_defined() -> None:
    whole = _icl.questions(
        "multiple_choice", [{"query": "q", "choices": ["ab", "abc"], "gold": 1}], 0, " ",
        Guess(None).encode,
    )[0]  # fmt: skip
    assert [bytes(s.ids[s.start : s.end]) for s in whole.spans] == [b" ab", b" abc"]
    usual = _icl.questions(
        "multiple_choice", [{"query": "q", "choices": ["abd", "abc"], "gold": 1}], 0, " ",
        Guess(None).encode,
    )[0]  # fmt: skip
    assert [bytes(s.ids[s.start : s.end]) for s in usual.spans] == [b"d", b"c"]
    nothing, some = Scored(0.0, 0, True), Scored(9.0, 3, False)
    assert _icl.Asked([], 1).right([nothing, some])
    assert not _icl.Asked([], 0).right([nothing, some])
    assert not _icl.Asked([], 0).right([nothing, nothing])
    assert _icl.Asked([], 0).right([some, some]), "of equals the first"
    assert not _icl.Asked([], None).right([nothing]), "an empty answer is no answer"
    # The prompt's last token merges with the answer's first.
    merged = _icl.asked("language_modeling", {}, [[9, 1, 5, 6], [9, 1, 4]])
    assert merged.spans == [Span([9, 1, 5, 6], 2, 4)]
    assert common([[1, 2], [1, 2, 3]]) == 2


# ── published results ───────────────────────────────────────────────────────────────────────


def test_core_of_gpt2_is_recomputed() -> None:
    published = {
        "v1": (0.113891, 0.184903, 0.214641, 0.256525),
        "v2": (0.088095, 0.158706, 0.189887, 0.230890),
    }
    for table, want in published.items():
        found = _core.anchors([*_core.KNOWN], table)
        assert list(found.values()) == pytest.approx(want, abs=2e-6)
    eighteen = [t for t in _core.KNOWN if t not in ("squad", "coqa") and "hellaswag" not in t]
    assert list(_core.anchors(eighteen, "v1").values()) == pytest.approx(
        (0.119914, 0.182882, 0.208061, 0.242735), abs=2e-6
    )
    assert _core.anchors(["copa", "mine"], "v1") == {}


def test_a_guesser_of_v1_is_near_zero_for_the_wrong_reason() -> None:
    """Errors of single baselines cancel: languages +.175, boolq −.316."""
    chance = {t: task.v2 for t, (task, _) in _core.KNOWN.items()}
    chance |= {"commonsense_qa": 25.0, "boolq": 50.0}
    acc = {t: b / 100 for t, b in chance.items()}
    v1 = {t: task.v1 for t, (task, _) in _core.KNOWN.items()}
    assert _core.core(acc, v1) == pytest.approx(-0.0007, abs=1e-4)
    assert _core.centred(0.25, 9.1) == pytest.approx(0.175, abs=1e-3)


def test_the_list_of_tasks_is_read_or_known(folder: Path, tmp_path: Path) -> None:
    listed = _core.tasks(folder)
    assert [t.label for t in listed] == [*bundle.KINDS, "squad"]
    assert [(t.kind, t.shots, t.delimiter) for t in listed[:4]] == [*bundle.KINDS.values()]
    plain = bundle.write(tmp_path / "plain", yaml=False)
    assert len(_core.tasks(plain)) == 22
    assert probes.core(data=str(plain)).chosen()["arc_easy"][1] is not None
    with pytest.raises(SpecError, match="did you mean 'copa'"):
        probes.core(data=str(folder), tasks=("coppa",)).chosen()
    with pytest.raises(SpecError, match="has no reading_comprehension/squad"):
        probes.core(data=str(folder), tasks=("squad",)).fingerprints()
    own = folder.parent / "own"
    own.mkdir(exist_ok=True)
    (own / "core.yaml").write_text(
        "icl_tasks:\n-\n  label: mine\n  dataset_uri: mine.jsonl\n  num_fewshot: [1]\n"
        "  icl_task_type: multiple_choice\n"
    )
    (own / "mine.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in bundle.rows("arc_easy", 5))
    )
    measured = probes.core(data=str(own)).measure(Guess(lambda text: len(text)))
    hits = measured.items["accuracy"][0]
    s, c = measured.items["core"]
    assert s.sum() / c.sum() == pytest.approx((hits.mean() - 0.25) / 0.75), "one in four options"
    assert measured.anchors == {}


def test_an_answer_counts_exactly_where_greedy_decoding_gives_it(tmp_path: Path) -> None:
    model, core, p = trained(Data(tmp_path / "c"), positions.rope())
    start = encode("the cat sat on")
    made = generate(core, p, torch.tensor([[start]]), 6)[0, 0].tolist()
    whole = [*start, *made]
    other = [*start, *made[:3], (made[3] + 1) % 257, *made[4:]]
    spans = [[Span(x, len(start), len(x))] for x in (whole, other)]
    assert [x[0].likeliest for x in model.scores(spans)] == [True, False]


EXTERNAL = """
import torch
from torch import nn

class LM(nn.Module):
    def __init__(self, vocab):
        super().__init__()
        self.embed, self.head = nn.Embedding(vocab, 16), nn.Linear(16, vocab)
        self.mix = nn.GRU(16, 16, batch_first=True)

    def forward(self, ids_BT):
        return self.head(self.mix(self.embed(ids_BT))[0])
"""


def test_a_model_of_one_s_own_is_asked_too(folder: Path, tmp_path: Path) -> None:
    """One that has logits alone reads every prompt from its start."""
    (tmp_path / "mine.py").write_text(EXTERNAL)
    parts.use_local(tmp_path)
    try:
        task = tasks.lm(corpus=corpora.files(path="text"), tokenizer=kinds.bytes(), length=64)
        spec = resolve(
            Spec(model=external("mine:LM", vocab=257), task=task, optim=optim.adamw(lr=1e-3),
                 schedule=schedules.constant(), rows=2, steps=1)
        )  # fmt: skip
        net = make_net([spec], "cpu", "sdpa")
        p = net.initial([3])
        model = Trained(p, spec, Data(tmp_path / "c"), Settings())
        found = probes.core(data=str(folder), tasks=("arc_easy", "winograd")).measure(model)
        for label in ("arc_easy", "winograd"):
            data = bundle.asked(label)
            want = [
                bundle.right(label, data, i, lambda ids: net(p, {"inputs": ids[None]})[0], encode)
                for i in range(len(data))
            ]
            at = found.slices["task"] == label
            assert found.items["accuracy"][0][at].tolist() == [float(x) for x in want]
        copied = probes.copy(lengths=(4,), sources=("random",), trials=5, keep="tokens").measure(
            model
        )
        assert np.array(copied.tables["random@4"]["nats"]).shape == (5, 4)
        heads = probes.induction(lengths=(4,), trials=2).measure(model).notes["heads"]
        assert heads == "not run: the model does not show its attention"
    finally:
        parts.use_local(None)


@pytest.mark.parametrize(
    ("kind", "row", "why"),
    [
        ("multiple_choice", {"choices": ["a"], "gold": 0}, "has no 'query'"),
        ("multiple_choice", {"query": "q", "choices": ["a"], "gold": 1}, "gold 1 of 1 options"),
        ("multiple_choice", {"query": "q", "choices": ["a"], "gold": "0"}, "gold '0' is not"),
        ("multiple_choice", {"query": 5, "choices": ["a"], "gold": 0}, "'query' is not a text"),
        ("multiple_choice", {"query": "q", "choices": [None], "gold": 0}, "not a list of texts"),
        ("multiple_choice", {"query": "q", "choices": "ab", "gold": 0}, "not a list of texts"),
        ("multiple_choice", ["q"], "no object"),
        ("schema", {"context_options": ["a", "b"], "gold": 0}, "has no 'continuation'"),
        ("language_modeling", {"context": "a"}, "has no 'continuation'"),
    ],
)
def test_broken_questions_are_named(kind: str, row: Any, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        _icl.prompts(kind, row, [], " ")


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("num_fewshot: [-1]", "no number of examples"),
        ("num_fewshot: []", "no number of examples"),
        ("num_fewshot: [0.5]", "no number of examples"),
        ('num_fewshot: ["x"]', "no number of examples"),
        ('num_fewshot: [1]\n  continuation_delimiter: "\\x"', "core.yaml, line 5"),
        ("num_fewshot: [1]\n- label: x\n  dataset_uri: y\n  icl_task_type: schema\n"
         "  num_fewshot: [0]", "'x' stands there twice"),
    ],
)  # fmt: skip
def test_broken_lists_of_tasks_are_named(lines: str, why: str, tmp_path: Path) -> None:
    start = "- label: x\n  dataset_uri: x.jsonl\n  icl_task_type: schema\n"
    (tmp_path / "core.yaml").write_text(f"{start}  {lines}\n")
    with pytest.raises(SpecError, match=why):
        _core.tasks(tmp_path)
    (tmp_path / "core.yaml").write_text(f"{start}  num_fewshot: 3\n")
    assert _core.tasks(tmp_path)[0].shots == 3


def test_files_of_nothing_are_named(tmp_path: Path) -> None:
    listed, rows = tmp_path / "core.yaml", tmp_path / "x.jsonl"
    listed.write_text("icl_tasks:\n")
    with pytest.raises(SpecError, match="lists no task"):
        _core.tasks(tmp_path)
    listed.write_bytes(b"\xff")
    with pytest.raises(SpecError, match="no UTF-8"):
        _core.tasks(tmp_path)
    rows.write_text("\n")
    with pytest.raises(SpecError, match="holds no question"):
        _core.rows(rows)
    rows.write_bytes(b"\xff")
    with pytest.raises(SpecError, match="no UTF-8"):
        _core.rows(rows)


def test_equal_options_have_one_score() -> None:
    one, other = Span([1, 2], 1, 2), Span([1, 3], 1, 2)
    found = [Scored(1.0 + 1e-7, 1, False), Scored(1.0, 1, False), Scored(3.0, 1, False)]
    assert not _icl.Asked([one, one, other], 1).right(found)
    assert _icl.Asked([one, one, other], 0).right(found)


def test_broken_bundles_are_named(tmp_path: Path) -> None:
    (tmp_path / "core.yaml").write_text("icl_tasks:\n- label: x\n  dataset_uri: x.jsonl\n")
    with pytest.raises(SpecError, match="task 1 has no icl_task_type"):
        _core.tasks(tmp_path)
    (tmp_path / "x.jsonl").write_text('{"query": 1}\n{broken\n')
    with pytest.raises(SpecError, match=r"x\.jsonl, line 2"):
        _core.rows(tmp_path / "x.jsonl")

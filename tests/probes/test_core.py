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

from paribus import corpora, masks, optim, parts, positions, presets, probes, schedules, tasks
from paribus import tokenizers as kinds
from paribus.cli import main
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


# ── one model in two forms ──────────────────────────────────────────────────────────────────


STUDY = """
from paribus import *
size = Factor("size", {"64": 64}, "model.width")
study = Study("two", "Is it the same model?",
    base=Spec(model=presets.gpt2(width=64, layers=2, heads=4,
                                 position=positions.learned(length=128)),
              task=tasks.lm(corpus=corpora.files(path="text"), length=32, eval_tokens=512,
                            tokenizer=tokenizers.file(path="tokenizer.json", bos="<|endoftext|>")),
              optim=optim.adamw(lr=3e-3), schedule=schedules.constant(), rows=4, steps=12,
              init={"every": init.gpt2(std=0.2)}),
    factors=[size], seeds=1, names="{size}", primary="loss",
    evaluate=[Eval("lm"), Eval("core", probes.core(data="bundle"), by=("task",))])
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a trained GPT-2, and the same weights as a Hugging Face folder."""
    transformers = pytest.importorskip("transformers")
    library = pytest.importorskip("tokenizers")
    place = tmp_path_factory.mktemp("two")
    bundle.write(place / "bundle")
    (place / "text").mkdir()
    texts = [" ".join(random.Random(i).choices(bundle.WORDS, k=80)) for i in range(40)]
    for i, t in enumerate(texts):
        (place / "text" / f"{i:02}.txt").write_text(t)
    (place / "two.py").write_text(STUDY)
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(place / "tokenizer.json"))
    assert main(["run", str(place / "two.py"), "--workers", "1"]) == 0
    (file,) = (place / "runs/trials").glob("*/attempts/*/weights")
    from safetensors.torch import load_file

    p = load_file(file)
    config = transformers.GPT2Config(
        vocab_size=len(p["embed.tokens"]), n_positions=128, n_embd=64, n_layer=2, n_head=4,
        bos_token_id=tokenizer.token_to_id("<|endoftext|>"),
        eos_token_id=tokenizer.token_to_id("<|endoftext|>"),
    )  # fmt: skip
    hf = transformers.GPT2LMHeadModel(config)
    s = {"transformer.wte.weight": p["embed.tokens"], "transformer.wpe.weight": p["position.table"],
         "transformer.ln_f.weight": p["final_norm.gain"],
         "transformer.ln_f.bias": p["final_norm.bias"]}  # fmt: skip
    for i in range(2):
        for a, b in {"ln_1": "norm1", "ln_2": "norm2"}.items():
            for c, d in {"weight": "gain", "bias": "bias"}.items():
                s[f"transformer.h.{i}.{a}.{c}"] = p[f"blocks.{i}.{b}.{d}"]
        at, mlp = f"blocks.{i}.attn", f"blocks.{i}.mlp"
        s[f"transformer.h.{i}.attn.c_attn.weight"] = torch.cat([p[f"{at}.{x}"] for x in "qkv"]).T
        s[f"transformer.h.{i}.attn.c_attn.bias"] = torch.cat([p[f"{at}.{x}_bias"] for x in "qkv"])
        s[f"transformer.h.{i}.attn.c_proj.weight"] = p[f"{at}.o"].T
        s[f"transformer.h.{i}.attn.c_proj.bias"] = p[f"{at}.o_bias"]
        for a, b in {"c_fc": "up", "c_proj": "down"}.items():
            s[f"transformer.h.{i}.mlp.{a}.weight"] = p[f"{mlp}.{b}"].T
            s[f"transformer.h.{i}.mlp.{a}.bias"] = p[f"{mlp}.{b}_bias"]
    missing = hf.load_state_dict(s, strict=False).missing_keys
    assert missing in ([], ["lm_head.weight"])
    hf.tie_weights()
    hf.save_pretrained(place / "hf")
    tokenizer.save(str(place / "hf" / "tokenizer.json"))
    return place


def evaluated(place: Path, *how: str) -> Any:
    out = place / "out.json"
    assert main(["evaluate", *how, "--device", "cpu", "-o", str(out)]) == 0
    return json.loads(out.read_text())


def test_a_hugging_face_folder_and_our_checkpoint_agree(two: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(two)
    core = ["--probe", "core", "--data", "bundle"]
    ours = evaluated(two, "two.py", "64", *core)
    theirs = evaluated(two, "hf", *core)
    for key in ("metrics", "slices", "items", "anchors", "realised"):
        assert ours["conditions"][0][key] == theirs["conditions"][0][key], key
    text = ["--set", 'task.corpus={"part": "files", "path": "text"}']
    cut = ["--set", "task.length=32", "--set", "task.eval_tokens=512"]
    a, b = evaluated(two, "two.py", "64"), evaluated(two, "hf", *text, *cut)
    mine, yours = (x["conditions"][0]["metrics"] for x in (a, b))
    for metric in ("bpb", "loss"):  # to the rounding of fp32
        assert mine[metric]["count"] == yours[metric]["count"]
        assert mine[metric]["value"] == pytest.approx(yours[metric]["value"], rel=1e-7)


def test_it_is_what_transformers_gives(two: Path, monkeypatch: Any) -> None:
    """CORE and BPB by nanochat's loops on the model of the transformers library."""
    import tokenizers
    import transformers

    monkeypatch.chdir(two)
    hf = transformers.GPT2LMHeadModel.from_pretrained(two / "hf").double().eval()
    read = tokenizers.Tokenizer.from_file(str(two / "hf/tokenizer.json"))
    bos = read.token_to_id("<|endoftext|>")

    def spell(text: str) -> list[int]:
        return [bos, *read.encode(text).ids]

    found = evaluated(two, "hf", "--probe", "core", "--data", "bundle")["conditions"][0]
    for label in bundle.KINDS:
        data = bundle.asked(label)
        want = [
            bundle.right(label, data, i, lambda ids: hf(ids).logits, spell, 128)
            for i in range(len(data))
        ]
        assert found["slices"][f"task={label}"]["accuracy"]["value"] == pytest.approx(
            np.mean(want)
        ), label
    held = evaluated(two, "two.py", "64", "--set", "task.eval_tokens=320")["conditions"][0]
    corpus = corpora.files(path=str(two / "text"))
    stream = [i for d in corpus.documents("test") for i in spell(d.decode())]
    nats = size = 0.0
    for row in range(10):
        ids = torch.tensor([stream[row * 32 : row * 32 + 33]])
        logp = hf(ids[:, :-1]).logits[0].log_softmax(-1).detach()
        for lp, t in zip(logp, ids[0, 1:].tolist(), strict=True):
            n = 0 if t == bos else len(read.id_to_token(t))  # a character a byte
            nats += -float(lp[t]) if n else 0.0
            size += n
    assert held["metrics"]["bpb"]["value"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)


def test_two_models_are_compared_on_the_same_questions(
    two: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(two)
    core = ["--probe", "core", "--data", "bundle", "--device", "cpu"]
    other = two / "other.json"
    cold = ["--set", "model.temperature=0.5"]
    assert main(["evaluate", "two.py", "64", *core, *cold, "-o", str(other)]) == 0
    capsys.readouterr()
    assert main(["evaluate", "hf", *core, "--against", str(other), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    a, b = found["conditions"][0], json.loads(other.read_text())["conditions"][0]
    rows = found["against"][0]["rows"]
    gap = a["metrics"]["core"]["value"] - b["metrics"]["core"]["value"]
    assert rows[""]["core"]["difference"] == pytest.approx(gap)
    # By hand: each task's paired differences, over its number of questions, and a mean of tasks.
    from paribus import arrays

    variance = 0.0
    for label in bundle.KINDS:
        at = np.array(a["labels"]["task"]) == label
        hits = [arrays.unpack(x["items"]["accuracy"]["sum"])[at] for x in (a, b)]
        d = (hits[0] - hits[1]) / (1 - _core.KNOWN[label][0].v2 / 100) / 4
        variance += d.var(ddof=1) / len(d)
        assert rows[f"task={label}"]["accuracy"]["only"] == [
            int((hits[0] > hits[1]).sum()),
            int((hits[0] < hits[1]).sum()),
        ]
    assert rows[""]["core"]["error"] == pytest.approx(variance**0.5, rel=1e-9)
    assert main(["evaluate", "hf", *core, "--against", str(other)]) == 0
    said = capsys.readouterr().out
    assert "task=winograd" in said
    assert "core of others on the same tasks: gpt2 " in said
    assert 'without: ["squad"]' in said
    csv = two / "out.csv"
    assert main(["evaluate", "hf", *core, "--against", str(other), "-o", str(csv)]) == 0
    assert "core difference error" in csv.read_text().splitlines()[0]


def test_a_study_holds_it_as_a_record(two: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(two)
    capsys.readouterr()
    assert main(["results", "two.py", "--format", "json"]) in (0, 2)
    ours = evaluated(two, "two.py", "64", "--probe", "core", "--data", "bundle")["conditions"][0]
    (file,) = [f for f in (two / "runs/trials").glob("*/attempts/*/evaluations/*.1")
               if '"core"' in f.read_text()]  # fmt: skip
    kept = json.loads(file.read_text())
    kept = kept.get("record", kept)
    assert kept["metrics"] == ours["metrics"]
    assert kept["slices"] == ours["slices"]


def test_what_is_wrong_is_said_before_anything_is_loaded(
    two: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(two)
    for how, match in {
        ("--probe", "cor", "--data", "bundle"): "did you mean 'core'",
        ("--probe", "core"): "data must be given",
        ("--data", "bundle"): "goes with --probe",
        ("--probe", "core", "--data", "nowhere"): "no folder",
        ("--probe", "core", "--data", "bundle", "--set", "probe.mots=3"): "did you mean 'most'",
        ("--probe", "core", "--data", "bundle", "--against", "two.py"): "no file that evaluate",
    }.items():
        assert main(["evaluate", "two.py", "64", *how]) == 2
        assert match in capsys.readouterr().err, how


def test_an_answer_counts_exactly_where_greedy_decoding_gives_it(tmp_path: Path) -> None:
    model, core, p = trained(Data(tmp_path / "c"), positions.rope())
    start = encode("the cat sat on")
    made = generate(core, p, torch.tensor([[start]]), 6)[0, 0].tolist()
    whole = [*start, *made]
    other = [*start, *made[:3], (made[3] + 1) % 257, *made[4:]]
    spans = [[Span(x, len(start), len(x))] for x in (whole, other)]
    assert [x[0].likeliest for x in model.scores(spans)] == [True, False]

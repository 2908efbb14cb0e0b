"""One model as our checkpoint and as a Hugging Face folder gives one answer, which is what the
transformers library and nanochat's loops give; two models are compared on the same questions."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paribus import arrays, corpora
from paribus.cli import main
from paribus.probes import _core
from tests.probes import bundle

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

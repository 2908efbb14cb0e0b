"""A Llama of the transformers library, asked by probes: what its own forward pass gives is what our
Transformer gives with the same weights; and the suite on the command line."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from paribus import arrays, probes
from paribus.cli import main
from paribus.engine.huggingface import HuggingFace, _reach
from paribus.errors import SpecError
from paribus.study import suites
from paribus.study.study import Eval

WORDS = [f"word{i}" for i in range(300)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with grouped keys and sharp attention, its tokenizer, and a text."""
    transformers = pytest.importorskip("transformers")
    library = pytest.importorskip("tokenizers")
    place = tmp_path_factory.mktemp("hf")
    texts = [" ".join(random.Random(i).choices(WORDS, k=400)) for i in range(4)]
    (place / "text").mkdir()
    for i, text in enumerate(texts):
        (place / "text" / f"{i}.txt").write_text(text)
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=450, special_tokens=["<s>"], show_progress=False,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(place / "tokenizer.json"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>"
                                         ).save_pretrained(place / "model")  # fmt: skip
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=450, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    hf = transformers.LlamaForCausalLM(config)
    for name, p in hf.named_parameters():
        if "norm" not in name:
            p.data *= 3
    hf.save_pretrained(place / "model")
    return place


def evaluated(folder: Path, *how: str) -> Any:
    out = folder / "out.json"
    model = str(folder / "model")
    assert main(["evaluate", model, *how, "--device", "cpu", "-o", str(out)]) == 0
    return json.loads(out.read_text())


CASES = {
    "copy": 'probe.lengths=[4,16]',
    "memory_gain": 'probe.lengths=[4,16]',
    "lag_sweep": "probe.delays=[0,40]",
    "induction": "probe.lengths=[8,16]",
    "mqar": "probe.pairs=[1,4]",
    "history": "probe.histories=[0,32]",
    "noun_lists": "probe.nouns=[3]",
    "passkey": "probe.lengths=[512]",
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_their_forward_pass_and_ours_agree(folder: Path, name: str) -> None:
    how = ["--probe", name, "--set", CASES[name], "--examples", "6"]
    if "data" in probes_of(name):
        how += ["--data", str(folder / "text")]
    if name == "noun_lists":
        how += ["--set", "probe.delays=[0,20]"]
    if name == "passkey":
        how += ["--set", "probe.control=foreign", "--set", "probe.depths=[0,100]"]
    ours, theirs = evaluated(folder, *how), evaluated(folder, *how, "--hf")
    a, b = ours["conditions"][0], theirs["conditions"][0]
    assert a["labels"] == b["labels"]
    assert a["realised"].get("list") == b["realised"].get("list"), "the same items"
    for metric, pair in a["items"].items():
        for k in ("sum", "count"):
            mine, yours = (arrays.unpack(x[k]) for x in (pair, b["items"][metric]))
            assert mine == pytest.approx(yours, rel=2e-4, abs=2e-4), metric
    if name == "induction":
        assert np.array(a["tables"]["heads"]) == pytest.approx(
            np.array(b["tables"]["heads"]), abs=1e-4
        )
    assert theirs["dtype"] == "float32"
    assert theirs["sha256"] == ours["sha256"]


def probes_of(name: str) -> set[str]:
    from paribus import parts

    return {*parts.hints(parts.get("probes", name))}


def test_ordinary_tokens_are_the_vocabulary_without_marks(folder: Path, tmp_path: Path) -> None:
    model = HuggingFace(str(folder / "model"), "cpu")
    ids = model.ordinary()
    assert 0 not in ids
    assert len(ids) == 449
    assert (model.begin, model.limit, model.window) == (0, 512, 512)
    assert model.encode(["word1"])[0][0] == 0
    bf16 = HuggingFace(str(folder / "model"), "cpu", "bf16")
    assert bf16.told["dtype"] == "bfloat16"
    with pytest.raises(SpecError, match=f"--hf {tmp_path}: "):
        HuggingFace(str(tmp_path), "cpu")


def test_a_folder_that_is_not_there_and_one_without_weights(folder: Path, tmp_path: Path) -> None:
    for name in ("./missing", str(tmp_path / "missing"), "~/no/such", "models/own/missing"):
        with pytest.raises(SpecError, match=f"--hf {re.escape(name)}: no such folder"):
            HuggingFace(name, "cpu")
    empty = tmp_path / "empty"
    shutil.copytree(folder / "model", empty, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(SpecError, match=f"no file named .*, found in directory {empty}"):
        HuggingFace(str(empty), "cpu")


def test_windows_of_configurations() -> None:
    def config(**more: Any) -> Any:
        return SimpleNamespace(num_hidden_layers=4, **more)

    assert _reach(config(), 1024)[:2] == (1024, 1024)
    assert _reach(config(sliding_window=256), 4096)[:2] == (256, 4 * 255 + 1)
    assert _reach(config(sliding_window=None), 64)[:2] == (64, 64)
    assert _reach(config(sliding_window=8, use_sliding_window=False), 64)[:2] == (64, 64)
    mixed = config(sliding_window=8, layer_types=["sliding_attention", "full_attention"])
    assert _reach(mixed, 64)[:2] == (64, 64)


def test_the_suite_is_one_command(folder: Path, capsys: Any) -> None:
    text = ["--data", str(folder / "text")]
    found = evaluated(folder, "--hf", "--probe", "memory", "--size", "smoke", *text)
    names = [p["suite"] for p in found["probes"]]
    assert names == [e.name for e in suites.memory("smoke")]
    ran = {p["suite"] for p in found["probes"] if p["conditions"]}
    assert {*names} == ran
    capsys.readouterr()
    model = str(folder / "model")
    how = ["evaluate", model, "--hf", "--probe", "memory", "--size", "smoke", *text]
    assert main(how) == 0
    said = capsys.readouterr().out
    assert "── lag_sweep" in said
    assert "intervals: 95 %, over items" in said
    out = folder / "out.csv"
    assert main([*how, "-o", str(out)]) == 0
    rows = list(csv.DictReader(out.open()))
    assert {r["probe"] for r in rows} >= {"copy", "mqar", "history"}


def test_a_picture_of_one_probe(folder: Path, capsys: Any) -> None:
    how = ["evaluate", str(folder / "model"), "--hf", "--probe", "lag_sweep", "--examples", "5",
           "--set", "probe.delays=[0,16,32]", "--data", str(folder / "text")]  # fmt: skip
    assert main([*how, "-o", str(folder / "lag.svg")]) == 0
    assert "direct window 512" in (folder / "lag.svg").read_text()
    capsys.readouterr()
    suite = ["evaluate", str(folder / "model"), "--hf", "--probe", "memory", "--size", "smoke"]
    for wrong, match in {
        (*suite, "-o", str(folder / "a.png")): "a picture is of one probe",
        (*how, "--set", "task.length=8"): "leave out task.length=8",
        (*how, "--split", "train"): "--split train: --probe lag_sweep reads no split of the task",
        (*suite, "--split", "test"): "--split test: --probe memory reads no split of the task",
        (*how, "--size", "quick"): "--size goes with a suite",
        (*suite, "--set", "probe.trials=3"): "memory is a suite",
        (*suite, "--against", str(folder / "out.json")): "--against goes with one probe",
        ("evaluate", str(folder / "model"), "--hf"): "--hf goes with --probe",
        ("evaluate", str(folder / "model"), "--dtype", "bf16"): "--dtype goes with --probe",
    }.items():
        assert main([*wrong]) == 2
        assert match in capsys.readouterr().err, match


def test_suites_are_evaluations_in_three_sizes() -> None:
    for size in suites.SIZES:
        found = suites.memory(size, data="books")  # type: ignore[arg-type]
        assert all(isinstance(e, Eval) for e in found)
        assert len({e.name for e in found}) == len(found)
        parts = {e.what.name for e in found}  # type: ignore[union-attr]
        assert len(parts) == 12, "P1 … P11, and the map of depth"
    own = {e.name: e.what for e in suites.memory("quick", window=32)}
    assert own["copy"].lengths == (4, 6, 8, 12, 16, 24, 32, 48, 64)  # type: ignore[union-attr]
    assert own["lag_sweep"].delays == (0, 8, 16, 32, 48)  # type: ignore[union-attr]
    with pytest.raises(SpecError, match="did you mean 'quick'"):
        suites.memory("quik")  # type: ignore[arg-type]
    assert probes.copy().trials == 200


def test_a_probe_in_another_precision(folder: Path) -> None:
    how = ["--probe", "mqar", "--set", "probe.pairs=[4]", "--examples", "8"]
    full, low = evaluated(folder, *how), evaluated(folder, *how, "--dtype", "bf16")
    a, b = (x["conditions"][0]["metrics"]["surprisal"]["value"] for x in (full, low))
    assert a != b
    assert a == pytest.approx(b, rel=0.05)

"""The flex kernel on a CUDA device: gradients, memory, and training with packed rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from paribus import corpora, masks, optim, positions, tasks, tokenizers
from paribus.engine.train import Trainer
from paribus.nn.transformer import Transformer
from paribus.text import paths
from paribus.text.columns import columns
from tests.engine import tiny
from tests.nn.models import VOCAB, model_with, parameters

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE: not tested")
CUDA = {"device": "cuda:0"}
LENGTH = 231  # no multiple of 128
ROWS = np.array([[70, 80, 63], [90, 71, 0]])


def rows(lengths: Any, length: int) -> tuple[dict[str, Tensor], Tensor]:
    """Coordinates [1,B,T] of branches, padded, and validity."""
    at = columns(lengths)
    place = at["row"] * length + at["index"]

    def spread(values: Any) -> Tensor:
        whole = np.zeros(len(lengths) * length, np.int64)
        whole[place] = values
        return torch.from_numpy(whole.reshape(1, -1, length)).cuda()

    given = {"branch": spread(at["text"]), "time": spread(at["time"])}
    return given, spread(np.ones(len(place))).bool()


def step(kernel: str, models: list[Any], dtype: torch.dtype | None) -> tuple[Tensor, dict]:
    """Logits of the tokens that are none of the padding, and gradients, of a stack."""
    core, E = Transformer(models[0]), len(models)
    p = {k: t.detach().cuda().requires_grad_() for k, t in parameters(models[0], [0, 1]).items()}
    given, valid = rows(ROWS, LENGTH)
    ids = np.random.default_rng(0).integers(0, VOCAB, (E, len(ROWS), LENGTH + 1))
    ids = torch.from_numpy(ids).cuda()
    ready = core.ready(
        (E, len(ROWS), LENGTH), given, valid, models=models, kernel=kernel, device="cuda:0"
    )
    logits = core(p, ids[..., :-1], kernel=kernel, dtype=dtype, ready=ready)
    assert logits.isfinite().all(), "padding too"
    at = valid.expand(E, -1, -1)
    nats = torch.nn.functional.cross_entropy(logits[at], ids[..., 1:][at])
    nats.backward()
    return logits[at].detach(), {k: t.grad for k, t in p.items()}


@pytest.mark.parametrize("reads", ["columnar", "isolated", "prefix"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_those_of_the_dense_mask(reads: str, precision: str) -> None:
    """A20: fp32 within 1e-4, bf16 within 2e-2 of the largest number: a stack of two ratios, two
    key heads for four, padded rows."""
    models = [
        model_with(positions.rope2d(ratio=r), mask=masks.branch(reads=reads)) for r in (0.5, 1.0)
    ]
    low = precision == "bf16"
    dtype, within = (torch.bfloat16, 2e-2) if low else (None, 1e-4)
    out, grads = step("flex", models, dtype)
    out_, grads_ = step("reference", models, dtype)
    gap = float((out - out_).abs().max() / out_.abs().max())
    size = max(float(g.abs().max()) for g in grads_.values())
    gaps = {k: float((g - grads_[k]).abs().max()) / size for k, g in grads.items()}
    print(reads, precision, gap, max(gaps.values()))
    assert gap < within
    assert max(gaps.values()) < within, max(gaps, key=lambda k: gaps[k])
    assert all(g.isfinite().all() for g in grads.values())


def grown(length: int, branches: int, what: str) -> int:
    """Bytes that a mask, or a step with it, takes at most beyond what was there."""
    model = model_with(positions.rope2d(), mask=masks.branch())
    core = Transformer(model)
    p = {k: t.detach().cuda().requires_grad_() for k, t in parameters(model, [0]).items()}
    given, valid = rows(np.full((1, branches), length // branches), length)
    ids = torch.zeros(1, 1, length, dtype=torch.long, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ready = core.ready((1, 1, length), given, valid, kernel="flex", device="cuda:0")
    if what == "step":
        core(p, ids, kernel="flex", ready=ready).square().mean().backward()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def test_no_tensor_has_all_pairs_of_tokens() -> None:
    """A mask of bytes alone would have length².  Blocks are counted piece by piece, in memory that
    stays as it is when the length grows; a whole step has not a byte a pair."""
    short, long = (grown(n, 16, "mask") for n in (16_384, 65_536))
    whole = grown(65_536, 16, "step")
    print(short, long, whole)
    assert short < 16_384**2
    assert long < 1.25 * short
    assert long < 0.06 * 65_536**2
    assert whole < 0.5 * 65_536**2


# ── training ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    words = np.random.default_rng(0).integers(0, 26, (400, 90))
    sizes = np.random.default_rng(1).integers(5, 90, 400)
    with (tmp_path / "t.jsonl").open("w") as file:
        for n, own in zip(sizes.tolist(), words.tolist(), strict=True):
            file.write(json.dumps({"text": "".join(chr(97 + i) for i in own[:n])}) + "\n")
    paths.use_base(tmp_path)
    yield tmp_path
    paths.use_base(None)


@pytest.mark.parametrize("reads", ["columnar", "isolated"])
def test_packed_and_compiled_training_is_the_padded_one(reads: str, folder: Path) -> None:
    """A stack of two trials on the flex kernel, rows packed, compiled; against padded rows and a
    dense mask, eager: the same tokens, fp32 losses of eight steps within 1e-4."""
    changes = {
        "task": tasks.branches(
            corpus=corpora.files(path="t.jsonl"),
            tokenizer=tokenizers.bytes(),
            length=64,
            branches=(1, 7),
            eval_texts=16,
        ),
        "model.position": positions.rope2d(ratio=0.75),
        "model.mask": masks.branch(reads=reads),
        "model.width": 64,
        "optim": optim.adamw(lr=1e-3),
        "rows": 8,
        "steps": 8,
    }
    ends = {}
    for how in ({"kernel": "auto", "compile": "on"}, {"kernel": "sdpa", "compile": "off"}):
        members = [tiny.member(s, **changes) for s in (1, 2)]
        trainer = Trainer(members, tiny.Settings(**CUDA, **how), tiny.Data(folder / "cache"))
        trainer.run()
        ends[how["kernel"]] = trainer, members
    (fast, a), (plain, b) = ends["auto"], ends["sdpa"]
    assert (fast.net.kernel, plain.net.kernel) == ("flex", "sdpa")
    assert (fast.loss_of.engine, plain.loss_of.engine) == ("compiled", "eager")
    assert fast._packs and not plain._packs
    for e in range(2):
        mine, theirs = fast.curve(e), plain.curve(e)
        print(reads, max(abs(x - y) for x, y in zip(mine["loss"], theirs["loss"], strict=True)))
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert fast.summary(e)["tokens"] == plain.summary(e)["tokens"]
        assert fast.summary(e)["targets"] == plain.summary(e)["targets"]
    assert mine["loss"][-1] < mine["loss"][0]
    for k, t in tiny.result(b[1])[0].items():
        if k.startswith("param/"):
            torch.testing.assert_close(tiny.result(a[1])[0][k], t, rtol=1e-2, atol=1e-3)

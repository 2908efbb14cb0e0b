"""Parameters, operations and bytes, against published counts and against what runs."""

from __future__ import annotations

import math
import subprocess
import sys
from math import prod

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from paribus import parts, presets
from paribus.errors import SpecError
from paribus.nn import flops
from paribus.nn.declare import counts, declare, total
from paribus.nn.norms import layernorm
from paribus.nn.transformer import Transformer
from tests.nn.models import every_part, model_with, parameters, tokens

positions, masks = parts.Namespace("positions"), parts.Namespace("masks")
mini = presets.minimind_512
MEDIUM = {"width": 512, "layers": 6, "heads": 8, "vocab": 50257, "attn_bias": False}

PUBLISHED = [
    (presets.gpt2_small(), 124_439_808),  # transformers' count
    (presets.gpt2_small(attn_bias=False), 124_402_944),
    (presets.gpt2(**MEDIUM, position=positions.learned(length=512)), 44_896_768),
    (mini(), 25_829_888),
    (mini(vocab=32000), 38_937_088),
    (mini(heads=16), 25_305_600),
    (mini(heads=4), 26_878_464),
    (mini(width=256, heads=4), 7_540_992),
    (mini(width=1024, heads=16), 93_078_528),
    (mini(width=1536, heads=24), 201_745_920),
    (mini(width=768, layers=16), 104_030_976),
    *[(mini(width=1024, layers=24, heads=h, kv_heads=h // 4), 272_417_792) for h in (8, 16, 32)],
]


@pytest.mark.parametrize(("model", "want"), PUBLISHED)
def test_published_counts(model, want):
    assert counts(model)["total"] == total(model) == want


# width, heads, layers, key heads: parameters at 6,400 tokens, and those of one layer, as published.
PARALLEL = [
    ((512, 8, 8, 2), 25_829_888, 2_819_072),
    ((512, 16, 8, 2), 25_305_600, 2_753_536),
    ((512, 4, 8, 2), 26_878_464, 2_950_144),
    ((256, 4, 8, 2), 7_540_992, 737_792),
    ((1024, 16, 8, 2), 93_078_528, 10_815_488),
    ((1536, 24, 8, 2), 201_745_920, 23_989_248),
    ((1024, 8, 24, 2), 272_417_792, 11_077_632),
    ((1024, 16, 24, 4), 272_417_792, 11_077_632),
    ((1024, 32, 24, 8), 272_417_792, 11_077_632),
    ((768, 8, 16, 2), 104_030_976, None),
]


@pytest.mark.parametrize(("sizes", "want", "layer"), PARALLEL, ids=str)
def test_published_counts_of_parallel_branches(sizes, want, layer):
    """A18: ParallelMind's models; the tied table counts once, positions and masks add nothing."""
    h, heads, layers, kv = sizes
    inter = 64 * math.ceil(int(h * 8 / 3) / 64)
    each = 2 * h * h + 2 * h * kv * (h // heads) + 3 * h * inter + 2 * h
    assert layer in (None, each)
    for position in (positions.rope2d(), positions.rope2d(ratio=0.0), positions.fpe()):
        model = mini(
            width=h, heads=heads, layers=layers, kv_heads=kv, position=position, mask=masks.branch()
        )
        assert total(model) == want == 6400 * h + h + layers * each
        declared = declare(model)
        own = sum(prod(p.shape) for path, p in declared.items() if path.startswith("blocks.0."))
        assert own == each
        assert declared["blocks.0.mlp.gate"].shape == (inter, h)
        assert "head" not in declared
    assert total(mini(width=h, heads=heads, layers=layers, kv_heads=kv, vocab=32000)) == (
        want + (32000 - 6400) * h
    )


@pytest.mark.parametrize("part", every_part(), ids=lambda p: f"{p.kind}.{p.name}")
def test_declared_is_what_is_there(part):
    for base in ("gpt2", "llama"):
        model = model_with(part, base, q_norm=parts.Namespace("norms").layernorm())
        drawn = parameters(model, [0, 1])
        assert {k: (2, *p.shape) for k, p in declare(model).items()} == {
            k: tuple(t.shape) for k, t in drawn.items()
        }
        assert total(model) == sum(t.numel() for t in drawn.values()) // 2
        for path, p in declare(model).items():
            matrix = len(p.shape) > 1
            assert matrix or not p.decay, f"{path}: a vector decays"


def test_vectors_in_and_a_scalar_out():
    model = model_with(None, read_in="vectors", in_dim=5, read_out="scalar", vocab=None)
    d = declare(model)
    assert d["read_in.weight"].shape == (64, 5)
    assert d["read_out.weight"].shape == (1, 64)
    assert "head" not in d
    assert "embed.tokens" not in d
    out = Transformer(model)(parameters(model, [0, 1]), torch.randn(2, 3, 7, 5))
    assert out.shape == (2, 3, 7)


@pytest.mark.parametrize(("classes", "want"), [(2, 44_897_794), (3, 44_898_307), (4, 44_898_820)])
def test_published_counts_of_classifiers(classes, want):
    """The founding study's classifiers: the language model with a linear map of its own at the end,
    which a tied table does not stand in for."""
    for tied in (True, False):
        model = presets.gpt2(
            **MEDIUM, position=positions.learned(length=512), mask=masks.full(), tied=tied,
            read_out="classes", classes=classes,
        )  # fmt: skip
        assert total(model) == want == 44_896_768 + 512 * classes + classes
        assert "head" not in declare(model)


def test_tokens_in_and_classes_out():
    model = model_with(None, read_out="classes", classes=3, kv_heads=4, tied=True)
    d = declare(model)
    assert (d["read_out.weight"].shape, d["read_out.bias"].shape) == ((3, 64), (3,))
    assert d["embed.tokens"].fan_in == 0, "nothing is tied to it"
    p, ids = parameters(model, [0, 1]), tokens([0, 1], 3, 7)
    out = Transformer(model)(p, ids)
    assert out.shape == (2, 3, 7, 3)
    one = model_with(None, read_out="scalar", kv_heads=4)
    for c in range(3):  # the numbers that a read-out of one gives, side by side
        own = {k: t[:, c : c + 1] if k.startswith("read_out") else t for k, t in p.items()}
        torch.testing.assert_close(Transformer(one)(own, ids), out[..., c])
    assert flops.forward(model, 7)["head"] == 2 * 3 * 64


def test_presets_refuse_what_they_do_not_know():
    with pytest.raises(SpecError, match=r"did you mean 'kv_heads'"):
        presets.llama(kv_head=2)
    with pytest.raises(SpecError, match="do not divide"):
        total(presets.gpt2_small(heads=7))
    assert presets.llama(width=128).head_dim is None, "presets store rules"


@pytest.mark.parametrize("base", ["gpt2", "llama"])
@pytest.mark.parametrize("mask", every_part("masks"), ids=lambda m: m.name)
def test_flops_are_those_that_run(base, mask):
    """torch counts what the dense reference multiplies; the mask's share is known."""
    T, rows = 24, 3
    model = model_with(mask, base)
    core, p, ids = Transformer(model), parameters(model, [0, 1]), tokens([0, 1], rows, T)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        core(p, ids, kernel="reference")
    per_token = counter.get_total_flops() / (2 * rows * T)
    mine = flops.forward(model, T)
    dense = mine["scores"] * T / mask.mean_keys(T)
    assert mine["total"] - mine["scores"] + dense == pytest.approx(per_token, rel=1e-12)
    assert flops.training(model, T) == 3 * mine["total"]


def test_gpt2_small_flops():
    mine = flops.forward(presets.gpt2_small(), 1024)
    assert mine["mlp"] == 2 * 12 * 8 * 768**2
    assert mine["head"] == 2 * 768 * 50257
    assert mine["scores"] == 4 * 12 * 768 * 512.5


@pytest.mark.parametrize("base", ["gpt2", "llama", "kerple", "softcap"])
def test_memory_is_what_autograd_keeps(base, monkeypatch):
    """Activations within 15 % of the bytes that the graph holds on to, as on a GPU: a CPU's norms
    keep less."""
    monkeypatch.setattr(layernorm, "within", lambda x, gain: False)
    if base == "kerple":
        model = model_with(positions.kerple(), width=128, vocab=512)
    elif base == "softcap":  # a large vocabulary, so that it shows
        model = model_with(None, width=128, vocab=512, layers=1, softcap=15.0)
    else:
        model = model_with(None, base, width=128, vocab=512)
    E, rows, T = 2, 4, 64
    p = parameters(model, list(range(E)))
    own = {t.untyped_storage().data_ptr() for t in p.values()}
    kept: dict[int, int] = {}

    def pack(t):
        s = t.untyped_storage()
        if s.data_ptr() not in own:
            kept[s.data_ptr()] = s.nbytes()
        return t

    ids = torch.randint(0, 512, (E, rows, T))
    core = Transformer(model)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        logits = core(p, ids)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 2), ids.flatten())
    kept[logits.data_ptr()] = logits.nbytes  # alive with its gradient
    want = sum(kept.values()) + logits.nbytes
    mine = flops.memory(model, trials=E, rows=rows, length=T)
    print(base, mine["activations"], want, mine["activations"] / want)
    assert mine["activations"] == pytest.approx(want, rel=0.15)
    n = sum(prod(q.shape) for q in declare(model).values())
    assert mine["parameters"] == mine["gradients"] == mine["optimizer"] // 2 == 4 * E * n
    assert loss.isfinite()


def test_two_readings_of_83_million():
    for model, n in ((presets.wm83m_wide4(), 83_108_864), (presets.wm83m_deep16(), 83_116_544)):
        sizes = {k: prod(p.shape) for k, p in declare(model).items()}
        assert total(model) == sum(sizes.values()) == n
        assert abs(n - 83.1e6) < 0.1e6
        assert sum(v for k, v in sizes.items() if k in ("embed.tokens", "head")) == 32_768_000
        assert model.width // model.heads == 64
        gains = sum(v for k, v in sizes.items() if k.endswith("gain"))
        assert n - gains == 32_768_000 + 12 * model.layers * model.width**2


def test_counting_loads_no_torch():
    code = (
        "import sys\nfrom paribus import presets\nfrom paribus.nn import flops\n"
        "from paribus.nn.declare import counts\n"
        "counts(presets.gpt2_small()); flops.forward(presets.minimind_512(), 512)\n"
        "flops.memory(presets.gpt2_small(), trials=1, rows=8, length=64)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

"""Freezing at the size of the founding study: counts, operations and bytes; the audit."""

from __future__ import annotations

import json
import subprocess
import sys
from math import prod

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from paribus import init, masks, mlps, norms, optim, positions, presets
from paribus.engine.checkpoint import encode
from paribus.engine.freezing import Freezing
from paribus.errors import SpecError
from paribus.nn import flops
from paribus.nn.declare import counts, declare
from paribus.nn.freeze import audit, category, is_frozen, tensors, trained_paths
from paribus.nn.transformer import Transformer
from tests.engine import tiny
from tests.nn.models import every_part, model_with

QK = ("*.attn.q", "*.attn.k")
FFN = ("*.mlp.up", "*.mlp.down")


def model(V=50257, width=512, layers=6, heads=8, length=512):
    """The founding study's GPT: no biases in attention, the exact GELU, tied."""
    return presets.gpt2(
        width=width, layers=layers, heads=heads, vocab=V, attn_bias=False,
        mlp=mlps.gelu(ratio=4, exact=True), position=positions.learned(length=length),
    )  # fmt: skip


MEDIUM = model()
SMALL = dict(width=768, layers=12, heads=12, length=1024)
COUNTS = [
    (MEDIUM, (), 44_896_768, 44_896_768, 0),
    (MEDIUM, QK, 44_896_768, 41_751_040, 3_145_728),
    (MEDIUM, QK + FFN, 44_896_768, 29_168_128, 15_728_640),
    (model(1000, 256, 2, 4), QK, 1_965_056, 1_702_912, 262_144),
    (model(**SMALL), QK, 124_402_944, 110_247_168, 14_155_776),
    (model(**SMALL), QK + FFN, 124_402_944, 53_624_064, 70_778_880),
]


@pytest.mark.parametrize(("m", "freeze", "total", "trained", "frozen"), COUNTS)
def test_published_counts(m, freeze, total, trained, frozen):
    found = audit(declare(m), freeze)
    assert (found["total"], found["trained"], found["frozen"]) == (total, trained, frozen)
    assert sum(prod(t["shape"]) for t in tensors(found).values()) == total
    assert sum(t["numel"] for t in tensors(found).values() if t["frozen"]) == frozen


def test_the_audit_names_every_tensor_once():
    declared = declare(MEDIUM)
    found = tensors(audit(declared, QK))
    assert found.keys() == declared.keys()
    assert {k for k, t in found.items() if not t["frozen"]} == set(trained_paths(declared, QK))
    assert all(tuple(t["shape"]) == declared[k].shape for k, t in found.items())
    kinds = {k: t["category"] for k, t in found.items()}
    assert kinds["embed.tokens"] == "embedding" and kinds["position.table"] == "position"
    assert kinds["blocks.3.attn.k"] == "attn_k" and kinds["blocks.3.mlp.up_bias"] == "mlp_up"
    assert kinds["blocks.5.norm2.gain"] == kinds["final_norm.bias"] == "norm"
    assert set(kinds.values()) == {
        "embedding", "position", "norm", "mlp_up", "mlp_down",
        *(f"attn_{w}" for w in "qkvo"),
    }  # fmt: skip
    assert len(json.dumps(audit(declared, QK))) < 2500  # in the record of every trial


def test_layers_that_freeze_apart_have_rows_of_their_own():
    declared = declare(MEDIUM)
    freeze = ("blocks.[01].attn.q", "blocks.2.*")
    found = audit(declared, freeze)
    rows = [r for r in found["tensors"] if r["name"] == "blocks.*.attn.q"]
    assert [(r["layers"], r["frozen"]) for r in rows] == [([0, 1, 2], True), ([3, 4, 5], False)]
    trained = [k for k, t in tensors(found).items() if not t["frozen"]]
    assert set(trained) == set(trained_paths(declared, freeze))


@pytest.mark.parametrize("part", every_part(), ids=lambda p: f"{p.kind}.{p.name}")
def test_every_tensor_has_a_category(part):
    norm = norms.layernorm()
    m = model_with(part, "llama", q_norm=norm, attn_bias=True)
    sums: dict[str, int] = {}
    for path, p in declare(m).items():
        sums[category(path)] = sums.get(category(path), 0) + prod(p.shape)
    assert "external" not in sums
    assert sum(sums.values()) == counts(m)["total"]
    assert sum(n for k, n in sums.items() if k.startswith("mlp_")) == counts(m)["groups"]["mlp"]
    assert category("transformer.h.0.weight") == category("encoder") == "external"


def test_a_pattern_must_match_and_something_must_be_left():
    declared = declare(MEDIUM)
    with pytest.raises(SpecError, match=r"'\*\.attn\.z' matches no parameter"):
        trained_paths(declared, ("*.attn.z",))
    with pytest.raises(SpecError, match="nothing is left to train"):
        audit(declared, ("*",))


def operations(freeze, m=None, rows=1):
    """(forward, backward) of rows of 512 tokens of the founding study's model, or of 24 of another,
    on tensors without contents: as torch counts them."""
    m, T = (model(), 512) if m is None else (m, 24)
    core = Transformer(m)
    trained = trained_paths(core.declared, freeze)
    p = {
        k: torch.empty(1, *d.shape, device="meta", requires_grad=k in trained)
        for k, d in core.declared.items()
    }
    ids = torch.zeros(1, rows, T, dtype=torch.long, device="meta")
    inputs = ids if m.read_in == "tokens" else torch.zeros(1, rows, T, m.in_dim, device="meta")
    tables = {k: t.to("meta") for k, t in core.tables(core.view(T)).items()}
    with FlopCounterMode(display=False) as first:
        logits = core(p, inputs, tables=tables, kernel="reference")
        loss = logits.sum()
    with FlopCounterMode(display=False) as second:
        torch.autograd.grad(loss, [p[k] for k in trained])
    return first.get_total_flops(), second.get_total_flops()


def test_what_freezing_saves():
    """Two products a layer of a backward pass: 3.29 % of it, 2.20 % of a step, none of forward."""
    (forward, backward), (forward_c, backward_c) = operations(()), operations(QK)
    saved = backward - backward_c
    assert forward == forward_c == pytest.approx(48.90e9, rel=1e-3)
    assert backward == pytest.approx(97.80e9, rel=1e-3)
    assert saved == 6 * 2 * 2 * 512 * 512**2 == pytest.approx(3.221e9, rel=1e-3)
    assert saved / backward == pytest.approx(0.0329, abs=1e-3)
    assert saved / (forward + backward) == pytest.approx(0.0220, abs=1e-4)
    mine = [512 * flops.training(MEDIUM, 512, freeze) for freeze in ((), QK)]
    assert mine[0] - mine[1] == saved, "and so it is said beforehand"


BELOW = ("embed.*", "read_in.*", "position.*", "blocks.0.norm1.*")
PATTERNS = {
    "free": (),
    "queries and keys": QK,
    "queries": QK[:1],
    "attention": ("*.attn.*",),
    "mlp": ("*.mlp.*",),
    "hidden": ("*.mlp.up*", "*.mlp.gate*"),
    "below": BELOW,
    "below, queries and keys": (*BELOW, *QK),
    "below, attention": (*BELOW, "*.attn.*"),
    "the first block too": (*BELOW, "blocks.0.*"),
    "all but the head": ("embed.*", "read_in.*", "position.*", "blocks.*", "final_norm.*"),
    "all but the last norm": ("[a-eg-z]*",),
    "all but the last biases": (*BELOW, "blocks.*.norm*", "*.attn.*", "*.mlp.[a-c,e-z]*", "*.down"),
}
EVERY = {"mask": masks.full(), "kv_heads": 4}
MODELS = {
    "gpt2": model_with(positions.learned(length=32), tied=True, attn_bias=True, **EVERY),
    "untied": model_with(positions.learned(length=32), tied=False, **EVERY),
    "llama": model_with(positions.rope(), q_norm=norms.rmsnorm(), tied=False, **EVERY),
    "kerple": model_with(positions.kerple(), tied=False, **EVERY),
    "vectors": model_with(
        None, read_in="vectors", in_dim=5, read_out="classes", classes=3, vocab=None, **EVERY
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", PATTERNS)
def test_the_products_of_a_backward_pass_are_those_that_torch_counts(name, kind):
    """Whatever is frozen; every pattern that matches something and leaves something."""
    m, freeze = MODELS[name], PATTERNS[kind]
    declared = declare(m)
    freeze = tuple(f for f in freeze if any(is_frozen(path, (f,)) for path in declared))
    if all(is_frozen(path, freeze) for path in declared):
        return
    first, second = (n / 48 for n in operations(freeze, m, rows=2))
    assert flops.forward(m, 24)["total"] == pytest.approx(first, rel=1e-12)
    assert flops.backward(m, 24, freeze) == pytest.approx(second, rel=1e-12)


def test_memory_of_what_is_frozen_is_that_of_the_weights_alone():
    """36 MiB less: gradients and two moments of 3.1 M numbers; activations are the same."""
    free, frozen = (
        flops.memory(MEDIUM, trials=1, rows=8, length=512, freeze=freeze) for freeze in ((), QK)
    )
    assert free["parameters"] == frozen["parameters"] == 4 * 44_896_768
    assert free["gradients"] - frozen["gradients"] == 4 * 3_145_728
    assert free["optimizer"] - frozen["optimizer"] == 8 * 3_145_728
    assert free["activations"] == frozen["activations"]
    assert free["total"] - frozen["total"] == 36 << 20


def test_a_checkpoint_is_smaller_by_two_moments():
    """25.17 MB less: by the sizes of its tensors, and by its bytes at a smaller size."""

    def states(m, freeze):
        spec = tiny.spec(model=m, freeze=freeze, optim=optim.adamw(lr=1e-3))
        core = Transformer(spec.model)
        freezing = Freezing(core.declared, [spec])
        p = {k: torch.empty(1, *d.shape, device="meta") for k, d in core.declared.items()}
        state = spec.optim.state({k: p[k] for k in freezing.trained}, core.declared)
        flat = {f"param/{k}": t for k, t in p.items()}
        flat |= {f"optim/{n}/{k}": t for n, of in state.items() for k, t in of.items()}
        return freezing.saved(0, flat), freezing.state_bytes(0, state)

    (full, of_full), (less, of_less) = states(MEDIUM, ()), states(MEDIUM, QK)
    sizes = [sum(t.nbytes for t in flat.values()) for flat in (full, less)]
    assert sizes[0] - sizes[1] == of_full - of_less == 2 * 4 * 3_145_728
    assert (sizes[0] - sizes[1]) / 1e6 == pytest.approx(25.17, abs=0.1)
    assert sizes[0] / 2**20 == pytest.approx(513.9, abs=0.2)
    assert sizes[1] / 2**20 == pytest.approx(489.9, abs=0.2)

    small, saved = model(100, 64, 2, 4, 32), []
    for freeze in ((), QK):
        m = tiny.member(
            1, model=small, freeze=freeze, steps=1, init={"every": init.normal()}
        )  # fmt: skip
        tiny.train([m])
        saved.append(len(encode(*m.state)["state.safetensors"]))
    assert saved[0] - saved[1] == pytest.approx(2 * 4 * 4 * 64**2, abs=3000)  # and their names


def test_auditing_loads_no_torch():
    code = (
        "import sys\nfrom paribus import presets\nfrom paribus.nn.declare import declare\n"
        "from paribus.nn.freeze import audit\n"
        "audit(declare(presets.gpt2_small()), ('*.attn.q',))\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

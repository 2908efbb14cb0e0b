"""T5's buckets against transformers, FIRE and CoPE against their papers' formulas in plain loops.

T queries, S keys, H heads, d head size.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from paribus import parts
from paribus.contracts import View
from paribus.errors import Refused, SpecError
from paribus.nn.transformer import Transformer
from tests.nn.models import model_with, parameters, tokens

positions = parts.Namespace("positions")
HEADS = 4


def views(q, k):
    q, k = (torch.as_tensor(x) for x in (q, k))
    return View({"token": q.view(1, 1, 1, -1, 1)}), View({"token": k.view(1, 1, 1, 1, -1)})


def bias(part, p, q, k):
    """[H,T,S] for one trial's parameters."""
    E = torch.zeros(1, 1, 1, 1, 1, dtype=torch.long)
    h = torch.arange(HEADS).view(1, 1, -1, 1, 1)
    tables = part.tables(Transformer(model_with(part)).dims, View({"token": torch.arange(2)}))
    return part.bias(tables, {n: t[None] for n, t in p.items()}, E, h, *views(q, k))[0, 0]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("buckets", "longest"), [(32, 128), (8, 20), (32, 256), (64, 1000)])
def test_buckets_are_t5_s(buckets, longest, bidirectional):
    """Equal for every distance up to 3,000, where fp32 does not round across a bound."""
    from_ = pytest.importorskip("transformers.models.t5.modeling_t5")
    want = from_.T5Attention._relative_position_bucket(
        torch.arange(-3000, 3001), bidirectional, buckets, longest
    )
    part = positions.t5(buckets=buckets, longest=longest, bidirectional=bidirectional)
    table = torch.arange(buckets, dtype=torch.float64)[:, None].expand(-1, HEADS)
    found = bias(part, {"table": table}, [3000], range(6001))[0, 0].long()
    # Bounds that are whole numbers: ln(n/e)/ln(longest/e) in fp32 may fall just below.
    differ = (found != want).nonzero()[:, 0] - 3000
    e = buckets // (4 if bidirectional else 2)
    exact = {n for n in range(e, longest) for j in range(1, e) if n**e == longest**j * e ** (e - j)}
    assert {abs(int(n)) for n in differ} <= exact
    if (buckets, longest) != (32, 256):
        assert len(differ) == 0


def test_whole_layer_of_t5():
    """Our logits' bias, with the table of a T5 layer, is that layer's."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.t5.modeling_t5 import T5Attention

    config = transformers.T5Config(
        d_model=32, d_kv=8, num_heads=HEADS, is_decoder=True,
        relative_attention_num_buckets=16, relative_attention_max_distance=40,
    )  # fmt: skip
    theirs = T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    want = theirs.compute_bias(90, 90)[0]
    part = positions.t5(buckets=16, longest=40)
    table = theirs.relative_attention_bias.weight.detach()
    found = bias(part, {"table": table}, range(90), range(90))
    keep = torch.ones(90, 90, dtype=torch.bool).tril()
    assert torch.equal(found[:, keep], want[:, keep])


def test_t5_refuses_bounds_without_room():
    with pytest.raises(SpecError, match="multiple of 4"):
        positions.t5(buckets=6, bidirectional=True)
    with pytest.raises(SpecError, match="longest=16"):
        positions.t5(longest=16)


def test_fire_is_the_paper_s_formula():
    part = positions.fire(hidden=5, original=16.0)
    g = torch.Generator().manual_seed(0)
    shapes = {n: p.shape for n, p in part.params(Transformer(model_with(part)).dims).items()}
    p = {n: torch.randn(s, generator=g, dtype=torch.float64) for n, s in shapes.items()}
    p["c"], p["length"] = (torch.tensor([x], dtype=torch.float64) for x in (0.3, -1.25))
    found = bias(part, p, range(40), range(40)).numpy()
    w = {n: t.numpy() for n, t in p.items()}

    def psi(x):
        return math.log(abs(0.3 * x) + 1)

    for i in range(40):
        for j in range(i + 1):
            x = psi(i - j) / (psi(max(i, 1.25 * 16)) + 1e-6)
            unit = np.maximum(0, w["in"] * x + w["in_bias"])
            want = w["out"] @ unit + w["out_bias"]
            np.testing.assert_allclose(found[:, i, j], want, rtol=1e-6, atol=1e-9)


def test_cope_is_the_paper_s_formula():
    """Gates, positions and interpolation, one pair at a time."""
    part = positions.cope(positions=5)
    g = torch.Generator().manual_seed(0)
    T, d, scale = 12, 8, 0.7
    q, k = (torch.randn(1, 1, 2, T, d, generator=g, dtype=torch.float64) for _ in range(2))
    table = torch.randn(1, 5, d, generator=g, dtype=torch.float64)
    mask = torch.ones(T, T, dtype=torch.bool).tril()[None, None, None]
    found = part.scores({}, {"table": table}, q, k, scale, mask, *views(range(T), range(T)))
    e = table[0].numpy()
    for h in range(2):
        Q, K = q[0, 0, h].numpy(), k[0, 0, h].numpy()
        for i in range(T):
            gate = [1 / (1 + math.exp(-scale * Q[i] @ K[m])) for m in range(i + 1)]
            for j in range(i + 1):
                place = min(sum(gate[j:]), 4.0)
                low, high = math.floor(place), math.ceil(place)
                at = (place - low) * e[high] + (1 - place + low) * e[low]
                want = scale * Q[i] @ K[j] + Q[i] @ at
                assert float(found[0, 0, h, i, j]) == pytest.approx(want, rel=1e-9)


def test_parts_that_replace_the_score_say_so():
    scaling = parts.Namespace("scalings").dynamic_ntk(factor=2.0, original=8)
    for part in (positions.cope(), positions.growing(scaling=scaling)):
        core = Transformer(model_with(part))
        p = parameters(core.model, [0])
        assert core.replaced
        with pytest.raises(Refused, match="reference kernel"):
            core(p, tokens([0]), kernel="sdpa")
    with pytest.raises(SpecError, match="same at every length"):
        positions.growing(scaling=parts.Namespace("scalings").pi(factor=2.0))

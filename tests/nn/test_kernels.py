"""Attention kernels that are chosen by hand: a factor that must not change results."""

from __future__ import annotations

import sys
import types

import pytest
import torch
import torch.nn.functional as F

from paribus import memories, parts
from paribus.errors import Refused, SpecError
from paribus.nn import short
from paribus.nn.attention import attend, pattern
from paribus.nn.declare import numbers
from paribus.nn.transformer import Transformer
from paribus.spec import pack_key
from tests.engine import tiny
from tests.nn.test_attention import holes, qkv

positions = parts.Namespace("positions")


def patterns():
    bias = torch.randn(1, 3, 4, 7, 7, generator=torch.Generator().manual_seed(0))
    return {
        "causal": pattern(causal=True),
        "holes": pattern(holes()),
        "bias": pattern(holes(), bias),
    }


@pytest.mark.parametrize("kernel", ["sdpa-math", "sdpa-flash"])
@pytest.mark.parametrize("name", ["causal", "holes", "bias"])
def test_torchs_kernels_give_one_answer(kernel, name):
    at, found = patterns()[name], {}
    for k in (kernel, "reference"):
        x = qkv()
        o = attend(*x, at, scale=0.25, kernel=k)
        found[k] = [o, *torch.autograd.grad(o.square().sum(), x)]
    for a, b in zip(found[kernel], found["reference"], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", ["sdpa-efficient", "sdpa-cudnn"])
def test_one_that_is_not_there_is_refused(kernel):
    with pytest.raises(Refused, match="none for this device"):
        attend(*qkv(), pattern(causal=True), scale=0.25, kernel=kernel)


def test_xformers_is_asked_as_its_library_wants(monkeypatch):
    """A stand-in with the library's signature: q, k, v [N,T,H,d], rows of a bias that begin at
    multiples of eight numbers."""

    class LowerTriangularMask:
        pass

    def memory_efficient_attention(q, k, v, attn_bias=None, p=0.0, scale=None):
        s = torch.einsum("nthd,nshd->nhts", q, k) * scale
        if isinstance(attn_bias, LowerTriangularMask):
            s = s.masked_fill(~torch.ones(s.shape[-2:], dtype=torch.bool).tril(), float("-inf"))
        elif attn_bias is not None:
            assert attn_bias.shape == s.shape
            assert attn_bias.stride(-2) % 8 == 0
            assert attn_bias.dtype == q.dtype
            s = s + attn_bias
        return torch.einsum("nhts,nshd->nthd", s.softmax(-1), v)

    ops = types.ModuleType("xformers.ops")
    ops.LowerTriangularMask = LowerTriangularMask
    ops.memory_efficient_attention = memory_efficient_attention
    monkeypatch.setitem(sys.modules, "xformers", types.ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    for at in patterns().values():
        found = attend(*qkv(), at, scale=0.25, kernel="xformers")
        wanted = attend(*qkv(), at, scale=0.25, kernel="reference")
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_without_the_library_it_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers", None)
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    with pytest.raises(Refused, match="install xformers"):
        attend(*qkv(), pattern(causal=True), scale=0.25, kernel="xformers")


def test_a_spec_chooses_and_the_record_says_so():
    plain = tiny.member(1)
    tiny.train([plain])
    for kernel in ("reference", "sdpa-math"):
        m = tiny.member(1, kernel=kernel)
        trainer = tiny.train([m])
        assert trainer.summary(0)["engine"]["kernel"] == kernel
        for a, b in zip(*(x.state[0].values() for x in (m, plain)), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    assert pack_key(tiny.spec(kernel="reference")) != pack_key(tiny.spec())
    with pytest.raises(SpecError, match="kernel"):
        tiny.spec(kernel="sdpq")
    with pytest.raises(Refused, match="reference kernel alone"):
        tiny.train([tiny.member(1, kernel="sdpa", model=tiny.model(position=positions.cope()))])


@pytest.mark.parametrize(
    ("cuda", "length", "head_dim", "dtype", "why"),
    [
        (True, 128, 128, torch.bfloat16, ""),
        (True, 64, 32, torch.float32, ""),
        (False, 16, 16, torch.float32, "it runs on CUDA alone"),
        (True, 16, 16, torch.float64, "it knows no float64"),
        (True, 129, 16, torch.bfloat16, "129 tokens at once; it takes up to 128"),
        (True, None, 16, torch.bfloat16, "any number of tokens at once; it takes up to 128"),
        (True, 65, 32, torch.float32, "65 tokens with heads of 32 are too large for it in fp32"),
        (True, 64, 256, torch.float16, "64 tokens with heads of 256 are too large for it"),
    ],
)  # fmt: skip
def test_what_the_short_kernel_cannot_train(cuda, length, head_dim, dtype, why, monkeypatch):
    monkeypatch.setattr(short, "TRITON", True)
    monkeypatch.setattr(short, "INTERPRETED", False)
    assert short.unable(cuda, length, head_dim, dtype) == why


@pytest.mark.parametrize("kernel", ["short", "flex"])
def test_a_kernel_that_is_asked_for_is_not_replaced_in_silence(kernel):
    """Its record would say what did not run, and a control of kernels would compare one with
    itself."""
    with pytest.raises(Refused, match=f'kernel {kernel}: .* CUDA alone; take "auto" or "sdpa"'):
        tiny.train([tiny.member(1, kernel=kernel)])


@pytest.mark.parametrize(
    ("memory", "most"),
    [
        (None, 40),
        (memories.tokens(segment=8, tokens=2), 12),
        (memories.recurrence(segment=16, cache=16, through=1), 80),  # each key stands twice
    ],
)
def test_how_many_tokens_attention_is_asked_for_at_once(memory, most, monkeypatch):
    """By what it is asked for, not by what the rows have: of memories it is more, or less."""
    seen = []
    run = F.scaled_dot_product_attention

    def look(q, k, v, **more):
        seen.append(max(q.shape[-2], k.shape[-2]))
        return run(q, k, v, **more)

    monkeypatch.setattr(F, "scaled_dot_product_attention", look)
    core = Transformer(numbers(tiny.spec(model=tiny.model(memory=memory, vocab=32)).model))
    p = {k: torch.randn(1, *d.shape) for k, d in core.declared.items()}
    core.forward(p, torch.zeros(1, 2, 40, dtype=torch.long))
    assert core.meets(40) == max(seen) == most

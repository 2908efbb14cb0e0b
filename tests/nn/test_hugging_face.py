"""Our forward pass and 20 training steps against Hugging Face's models with the same weights."""

from __future__ import annotations

import pytest
import torch

from paribus import parts
from paribus.engine import updating
from paribus.errors import Refused, SpecError
from paribus.nn.convert import from_hf_gpt2, from_hf_llama
from paribus.nn.transformer import Transformer

transformers = pytest.importorskip("transformers")
VOCAB = 101
ROPE = {"rope_theta": 1e4, "factor": 4.0}
OLD = {"original_max_position_embeddings": 10}


def gpt2(**overrides):
    config = transformers.GPT2Config(
        vocab_size=VOCAB,
        n_positions=40,
        n_embd=64,
        n_layer=2,
        n_head=4,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        initializer_range=0.08,
        bos_token_id=0,
        eos_token_id=0,
        **overrides,
    )
    torch.manual_seed(0)
    hf = transformers.GPT2LMHeadModel(config)
    return jitter(hf), from_hf_gpt2


def llama(**overrides):
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.08,
        max_position_embeddings=40,
        rms_norm_eps=1e-5,
        **overrides,
    )
    torch.manual_seed(0)
    hf = transformers.LlamaForCausalLM(config)
    return jitter(hf), from_hf_llama


def jitter(hf):
    """Biases and gains away from 0 and 1, so that a wrong mapping shows."""
    with torch.no_grad():
        for w in hf.parameters():
            if w.ndim == 1:
                w += 0.1 * torch.randn_like(w)
    return hf


CASES = {
    "gpt2": gpt2,
    "gpt2-exact-gelu": lambda: gpt2(activation_function="gelu", n_inner=96),
    "llama-gqa": llama,
    "llama-linear": lambda: llama(rope_parameters=ROPE | {"rope_type": "linear"}),
    "llama-yarn": lambda: llama(rope_parameters=ROPE | {"rope_type": "yarn"} | OLD),
    "llama-mscale": lambda: llama(
        rope_parameters=ROPE | {"rope_type": "yarn", "mscale": 1.0, "mscale_all_dim": 0.5} | OLD
    ),
    "llama3": lambda: llama(
        rope_parameters=ROPE
        | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        | OLD
    ),
    "llama-tied-base": lambda: llama(tie_word_embeddings=True, rope_theta=5e5, head_dim=32),
}


@pytest.mark.parametrize("case", CASES)
def test_logits(case):
    hf, convert = CASES[case]()
    model, p = convert(hf.eval())
    ids = torch.randint(0, VOCAB, (3, 33), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = hf(ids).logits
        for kernel in ("sdpa", "reference"):
            got = Transformer(model)(p, ids[None], kernel=kernel)[0]
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", ["gpt2", "llama-gqa"])
def test_twenty_training_steps(case):
    hf, convert = CASES[case]()
    model, p = convert(hf)
    p = {k: t.requires_grad_() for k, t in p.items()}
    core = Transformer(model)
    part = parts.Namespace("optim").adamw(lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    state = part.state(p, core.declared)
    matrices = [w for w in hf.parameters() if w.ndim > 1]
    vectors = [w for w in hf.parameters() if w.ndim == 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    g = torch.Generator().manual_seed(2)
    gaps, losses = [], []
    for step in range(20):
        ids = torch.randint(0, VOCAB // 4, (4, 33), generator=g)
        loss = hf(ids, labels=ids).loss
        theirs.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(hf.parameters(), 1.0)
        theirs.step()
        logits = core(p, ids[None, :, :-1])
        ours = torch.nn.functional.cross_entropy(logits.flatten(0, 2), ids[:, 1:].flatten())
        grads = dict(zip(p, torch.autograd.grad(ours, list(p.values())), strict=True))
        norm = torch.stack([t.norm() for t in grads.values()]).norm()
        grads = {k: t * (1 / (norm + 1e-6)).clamp(max=1.0) for k, t in grads.items()}
        with torch.no_grad():
            v = updating.vectors([part], step, dtype=torch.float64)
            part.update(v, p, grads, state, step, core.declared)
        gaps.append(abs(ours.item() - loss.item()))
        losses.append(ours.item())
    assert losses[-1] < losses[0] - 0.5
    print(case, "largest gap", max(gaps))
    assert max(gaps) < 1e-4, gaps


def test_what_has_no_counterpart_is_refused():
    hf, convert = llama()
    hf.config.rope_parameters = {"rope_type": "proportional", "rope_theta": 1e4}
    with pytest.raises(Refused, match="proportional"):
        convert(hf)
    hf, convert = llama(attention_bias=True)
    with pytest.raises(Refused, match="biases"):
        convert(hf)
    hf, convert = gpt2(activation_function="relu")
    with pytest.raises(Refused, match="relu"):
        convert(hf)


@pytest.mark.parametrize("case", ["gpt2", "llama-gqa", "llama-yarn"])
def test_a_folder_is_read_without_the_library(case, tmp_path):
    from paribus.engine.foreign import hugging_face

    hf, convert = CASES[case]()
    hf.save_pretrained(tmp_path)
    model, p = hugging_face(tmp_path)
    want, q = convert(hf)
    assert model == want
    assert all(torch.equal(p[k], t) for k, t in q.items())
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(SpecError, match="'bert' cannot be read"):
        hugging_face(tmp_path)


def test_gpt2_with_a_head_of_its_own_and_what_has_no_counterpart() -> None:
    config = transformers.GPT2Config(
        n_embd=16, n_layer=1, n_head=2, n_positions=12, vocab_size=30, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    hf = transformers.GPT2LMHeadModel(config).eval()
    model, p = from_hf_gpt2(hf)
    assert not model.tied
    ids = torch.arange(12)[None]
    with torch.no_grad():
        want = hf(ids).logits
        found = Transformer(model)(p, ids[None])[0]
    assert torch.allclose(want, found, atol=1e-5)
    hf.config.scale_attn_by_inverse_layer_idx = True
    with pytest.raises(Refused, match="scale_attn_by_inverse_layer_idx=True"):
        from_hf_gpt2(hf)

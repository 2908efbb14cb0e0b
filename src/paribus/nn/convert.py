"""Weights of Hugging Face models as ours: (model, parameters [1, …] by path).

The models are given as objects of the ``transformers`` library, which is not imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from paribus import parts, presets
from paribus.errors import Refused
from paribus.nn.declare import declare, numbers
from paribus.spec import Model

positions, norms, mlps, scalings = (
    parts.Namespace(k) for k in ("positions", "norms", "mlps", "scalings")
)


def from_hf_gpt2(hf: Any) -> tuple[Model, dict[str, Tensor]]:
    """A GPT2LMHeadModel."""
    c = hf.config
    if c.activation_function not in ("gelu_new", "gelu_pytorch_tanh", "gelu"):
        raise Refused(f"GPT-2 with {c.activation_function} has no counterpart here")
    usual = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
    usual["add_cross_attention"] = False
    odd = [name for name, said in usual.items() if getattr(c, name, said) != said]
    if odd:
        raise Refused(f"GPT-2 with {odd[0]}={getattr(c, odd[0])} has no counterpart here")
    tied = bool(getattr(c, "tie_word_embeddings", True))
    model = presets.gpt2(
        width=c.n_embd,
        layers=c.n_layer,
        heads=c.n_head,
        vocab=c.vocab_size,
        position=positions.learned(length=c.n_positions),
        norm=norms.layernorm(eps=c.layer_norm_epsilon),
        mlp=mlps.gelu(hidden=c.n_inner or 4 * c.n_embd, exact=c.activation_function == "gelu"),
        embed_dropout=c.embd_pdrop,
        attn_dropout=c.attn_pdrop,
        dropout=c.resid_pdrop,
        tied=tied,
    )
    s = hf.state_dict()
    p = {"embed.tokens": s["transformer.wte.weight"], "position.table": s["transformer.wpe.weight"]}
    for i in range(c.n_layer):
        theirs, mine = f"transformer.h.{i}", f"blocks.{i}"
        for a, b in (("norm1", "ln_1"), ("norm2", "ln_2")):
            p[f"{mine}.{a}.gain"] = s[f"{theirs}.{b}.weight"]
            p[f"{mine}.{a}.bias"] = s[f"{theirs}.{b}.bias"]
        # Their matrices are [in, out], and q, k and v lie side by side.
        fused, biases = s[f"{theirs}.attn.c_attn.weight"].T, s[f"{theirs}.attn.c_attn.bias"]
        for name, w, b in zip("qkv", fused.chunk(3), biases.chunk(3), strict=True):
            p[f"{mine}.attn.{name}"], p[f"{mine}.attn.{name}_bias"] = w, b
        p[f"{mine}.attn.o"] = s[f"{theirs}.attn.c_proj.weight"].T
        p[f"{mine}.attn.o_bias"] = s[f"{theirs}.attn.c_proj.bias"]
        for a, b in (("up", "c_fc"), ("down", "c_proj")):
            p[f"{mine}.mlp.{a}"] = s[f"{theirs}.mlp.{b}.weight"].T
            p[f"{mine}.mlp.{a}_bias"] = s[f"{theirs}.mlp.{b}.bias"]
    if not tied:
        p["head"] = s["lm_head.weight"]
    p["final_norm.gain"], p["final_norm.bias"] = (
        s["transformer.ln_f.weight"],
        s["transformer.ln_f.bias"],
    )
    return _whole(model, p)


def from_hf_llama(hf: Any) -> tuple[Model, dict[str, Tensor]]:
    """A LlamaForCausalLM.  One with dynamic RoPE has no length yet: a task's rows give it."""
    c = hf.config
    if c.hidden_act != "silu" or c.attention_bias or getattr(c, "mlp_bias", False):
        raise Refused("Llama with biases or another activation has no counterpart here")
    model = presets.llama(
        width=c.hidden_size,
        layers=c.num_hidden_layers,
        heads=c.num_attention_heads,
        kv_heads=c.num_key_value_heads,
        head_dim=getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads,
        vocab=c.vocab_size,
        position=_rope(c),
        norm=norms.rmsnorm(eps=c.rms_norm_eps),
        mlp=mlps.swiglu(hidden=c.intermediate_size),
        tied=c.tie_word_embeddings,
    )
    s = hf.state_dict()
    p = {"embed.tokens": s["model.embed_tokens.weight"]}
    for i in range(c.num_hidden_layers):
        theirs, mine = f"model.layers.{i}", f"blocks.{i}"
        p[f"{mine}.norm1.gain"] = s[f"{theirs}.input_layernorm.weight"]
        p[f"{mine}.norm2.gain"] = s[f"{theirs}.post_attention_layernorm.weight"]
        for name in "qkvo":
            p[f"{mine}.attn.{name}"] = s[f"{theirs}.self_attn.{name}_proj.weight"]
        for name in ("gate", "up", "down"):
            p[f"{mine}.mlp.{name}"] = s[f"{theirs}.mlp.{name}_proj.weight"]
    p["final_norm.gain"] = s["model.norm.weight"]
    if not c.tie_word_embeddings:
        p["head"] = s["lm_head.weight"]
    return _whole(model, p)


def _rope(c: Any) -> Any:
    """RoPE of a config, with its scaling."""
    rope = dict(getattr(c, "rope_parameters", None) or getattr(c, "rope_scaling", None) or {})
    kind = rope.get("rope_type", "default")
    extra = {"original": rope.get("original_max_position_embeddings", c.max_position_embeddings)}
    factor = rope.get("factor") or c.max_position_embeddings / extra["original"]
    taken = {
        "linear": ("pi", {}),
        "dynamic": ("dynamic_ntk", {"original": c.max_position_embeddings}),
        "yarn": ("yarn", extra | {
            ours: rope[theirs]
            for ours, theirs in {
                "beta_fast": "beta_fast", "beta_slow": "beta_slow", "truncate": "truncate",
                "temperature": "attention_factor", "mscale": "mscale",
                "mscale_all_dim": "mscale_all_dim",
            }.items()
            if rope.get(theirs) is not None
        }),
        "llama3": ("llama3", extra | {
            "low": rope.get("low_freq_factor"), "high": rope.get("high_freq_factor")
        }),
        "longrope": ("longrope", extra | {
            "long": rope.get("long_factor"), "short": rope.get("short_factor"),
            "temperature": rope.get("attention_factor"),
        }),
    }  # fmt: skip
    if kind not in ("default", *taken):
        raise Refused(f"Llama with {kind} RoPE has no counterpart here")
    scaling = None
    if kind != "default":
        name, fields = taken[kind]
        if ("mscale" in fields) != ("mscale_all_dim" in fields):  # either alone says nothing there
            fields = {k: v for k, v in fields.items() if not k.startswith("mscale")}
        scaling = getattr(scalings, name)(factor=factor, **fields)
    return positions.rope(
        base=rope.get("rope_theta") or getattr(c, "rope_theta", None) or 10000.0,
        fraction=rope.get("partial_rotary_factor", 1.0),
        scaling=scaling,
    )


def _whole(model: Model, p: Mapping[str, Tensor]) -> tuple[Model, dict[str, Tensor]]:
    """Copies [1, …] in the order of declaration; every parameter is there, in its shape."""
    declared = declare(model)
    assert declared.keys() == p.keys(), sorted(declared.keys() ^ p.keys())
    out = {}
    for path, mine in declared.items():
        assert tuple(p[path].shape) == mine.shape, path
        out[path] = p[path].detach().clone().contiguous()[None]
    return numbers(model), out
